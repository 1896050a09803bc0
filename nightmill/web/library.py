"""The HTTP library, named once: to move to its successor, change these two lines (docs/adr/0008-libraries.md)."""

import httpcore as httpcore
import httpx as httpx

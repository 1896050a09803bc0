"""What this process knows to be secret, so that no text that leaves it holds it: logs, failures, spans, messages.

The settings tell it (`nightmill.settings.load_settings`). This is the last line: whoever writes a text leaves secrets
out of it by himself, and `nightmill.telemetry.redaction` knows what looks like one.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable

HIDDEN = "***"
SHORTEST = 8
"""Characters; a shorter value stands in too many texts by chance."""

_WORD = re.compile(r"[a-z_-]+")  # a password such as `nightmill` is in every line, and hiding it would tell it

_adding = threading.Lock()
_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def keep_secret(values: Iterable[str]) -> None:
    """Let `concealed` hide these values from now on; a short one, or one that is a plain word, it cannot."""
    global _pattern
    with _adding:
        new = {value for value in values if len(value) >= SHORTEST and not _WORD.fullmatch(value)} - _known
        if new:
            _known.update(new, (json.dumps(value)[1:-1] for value in new))
            longest_first = sorted(_known, key=len, reverse=True)
            _pattern = re.compile("|".join(re.escape(value) for value in longest_first))


def concealed(text: str) -> str:
    """Return a text without the secrets that this process knows."""
    return text if _pattern is None else _pattern.sub(HIDDEN, text)

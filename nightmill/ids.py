"""Workflow ids and batch ids, and their inverse; the one place that builds or reads them."""

from __future__ import annotations

import re
import secrets
import time
import uuid

from nightmill.errors import InvalidInput

TASK_QUEUE = "nightmill"

_BATCH_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PREFIX = "batch/"


def new_batch_id() -> str:
    """Return a fresh UUIDv7: 36 characters, ordered by time of creation to the millisecond."""
    # RFC 9562, section 5.7: 48 bits of Unix milliseconds, version, 74 random bits; in the standard library from 3.14.
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def check_batch_id(batch_id: str) -> str:
    """Return `batch_id` if it is 1 to 64 letters, digits, `_` or `-`.

    Raises:
        InvalidInput: It is not.
    """
    if not _BATCH_ID.fullmatch(batch_id):
        raise InvalidInput(f"batch id {batch_id[:80]!r}: use 1 to 64 letters, digits, '_' or '-'")
    return batch_id


def batch_workflow_id(batch_id: str) -> str:
    """Return `batch/<batch id>`."""
    return f"{_PREFIX}{batch_id}"


def batch_id_of(workflow_id: str) -> str:
    """Return the batch id of `batch/<batch id>`; the inverse of `batch_workflow_id`.

    Raises:
        InvalidInput: The workflow id has another shape.
    """
    if not workflow_id.startswith(_PREFIX) or not _BATCH_ID.fullmatch(workflow_id.removeprefix(_PREFIX)):
        raise InvalidInput(f"workflow id {workflow_id[:80]!r}: a batch runs as batch/<batch id>, [A-Za-z0-9_-]{{1,64}}")
    return workflow_id.removeprefix(_PREFIX)


def part_workflow_id(batch_id: str, round_: int, part: int) -> str:
    """Return `batch/<batch id>/<round>/<part>`, the child that follows one provider batch."""
    return f"{_PREFIX}{batch_id}/{round_}/{part}"


def handler_workflow_id(batch_id: str) -> str:
    """Return `batch/<batch id>/handler`, the completion handler's workflow."""
    return f"{_PREFIX}{batch_id}/handler"


def part_tag(batch_id: str, round_: int, part: int, epoch: int) -> str:
    """Return the mark that a provider batch carries, unique for each time we mean to create one.

    At most 64 + 5 + 20 characters, which fits OpenAI's 512 for a metadata value and every provider's name.
    """
    return f"nm-{batch_id}-{round_}-{part}-{epoch}"

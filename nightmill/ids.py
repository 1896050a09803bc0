"""Workflow ids and the ids of what they work on, and their inverse; the one place that builds or reads them."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import uuid
from typing import NamedTuple

from nightmill.errors import InvalidInput

TASK_QUEUE = "nightmill"
SLICING_QUEUE = "nightmill-slicing"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TAG = re.compile(r"nm-([A-Za-z0-9_-]{1,64})-(0|[1-9]\d{0,8})-(0|[1-9]\d{0,8})-(0|[1-9]\d{0,8})", re.ASCII)
_PREFIX = "batch/"
_DOCUMENT = "document/"
_CRAWL = "crawl/"
_SLICE = "slice/"
_HEALTH = "slicer-health/"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PROFILE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

SYNC_SWEEP_SCHEDULE = "nightmill-sync-sweep"
CANARY_SCHEDULE = "nightmill-canary"
RECONCILER_SCHEDULE = "nightmill-reconciler"
EXPIRY_SCHEDULE = "nightmill-expiry"
AUDIT_SCHEDULE = "nightmill-audit"

ACCOUNT_ATTRIBUTE = "NightmillAccount"
TRIGGER_ATTRIBUTE = "NightmillTrigger"
"""Names of the search attributes that whoever starts a sync gives it."""

_LONGEST_FAIRNESS_KEY = 64  # bytes: docs.temporal.io/develop/task-queue-priority-fairness (read 2026-11)


def new_id() -> str:
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
    return _checked("batch", batch_id)


def batch_workflow_id(batch_id: str) -> str:
    """Return `batch/<batch id>`."""
    return f"{_PREFIX}{batch_id}"


def batch_id_of(workflow_id: str) -> str:
    """Return the batch id of `batch/<batch id>`; the inverse of `batch_workflow_id`.

    Raises:
        InvalidInput: The workflow id has another shape.
    """
    return _inner(workflow_id, _PREFIX, "a batch runs as batch/<batch id>")


def subject_of(workflow_id: str) -> tuple[str, str] | None:
    """Return what a workflow is about, and its id: of `batch/x/0/1` that is `("batch", "x")`; None if not known.

    A slicing's id is the SHA-256 of its PDF.
    """
    kind, _, rest = workflow_id.partition("/")
    name = {_PREFIX: "batch", _DOCUMENT: "document", _CRAWL: "crawl", _SLICE: "slicing"}.get(f"{kind}/")
    found = rest.partition("/")[0]
    return (name, found) if name and found else None


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


class TaggedPart(NamedTuple):
    """What a tag names: a provider batch of ours, the epoch-th time that we meant to create it."""

    batch_id: str
    round: int
    part: int
    epoch: int


def part_of_tag(tag: str) -> TaggedPart | None:
    """Return what a tag names, None where it is none of ours; the inverse of `part_tag`."""
    found = _TAG.fullmatch(tag)
    return None if found is None else TaggedPart(found[1], int(found[2]), int(found[3]), int(found[4]))


def check_document_id(document_id: str) -> str:
    """Return `document_id` if it is 1 to 64 letters, digits, `_` or `-`.

    Raises:
        InvalidInput: It is not.
    """
    return _checked("document", document_id)


def document_workflow_id(document_id: str) -> str:
    """Return `document/<document id>`: the mutex of a document's syncs."""
    return f"{_DOCUMENT}{document_id}"


def document_id_of(workflow_id: str) -> str:
    """Return the document id of `document/<document id>`; the inverse of `document_workflow_id`.

    Raises:
        InvalidInput: The workflow id has another shape.
    """
    return _inner(workflow_id, _DOCUMENT, "a document sync runs as document/<document id>")


def change_handler_workflow_id(document_id: str, number: int) -> str:
    """Return `document/<document id>/handler/<number>`, the handler's workflow for the document's n-th change."""
    return f"{_DOCUMENT}{document_id}/handler/{number}"


def check_crawl_id(crawl_id: str) -> str:
    """Return `crawl_id` if it is 1 to 64 letters, digits, `_` or `-`.

    Raises:
        InvalidInput: It is not.
    """
    return _checked("crawl", crawl_id)


def crawl_workflow_id(crawl_id: str) -> str:
    """Return `crawl/<crawl id>`."""
    return f"{_CRAWL}{crawl_id}"


def crawl_id_of(workflow_id: str) -> str:
    """Return the crawl id of `crawl/<crawl id>`; the inverse of `crawl_workflow_id`.

    Raises:
        InvalidInput: The workflow id has another shape.
    """
    return _inner(workflow_id, _CRAWL, "a crawl runs as crawl/<crawl id>")


def slicing_workflow_id(sha256: str, profile: str) -> str:
    """Return `slice/<SHA-256>/<profile>`: the same document given twice at once is one run."""
    return f"{_SLICE}{sha256}/{profile}"


def slicing_of(workflow_id: str) -> tuple[str, str]:
    """Return the SHA-256 and the profile of `slice/<SHA-256>/<profile>`; the inverse of `slicing_workflow_id`.

    Raises:
        InvalidInput: The workflow id has another shape.
    """
    sha256, _, profile = workflow_id.removeprefix(_SLICE).partition("/")
    if not workflow_id.startswith(_SLICE) or not _SHA256.fullmatch(sha256) or not _PROFILE.fullmatch(profile):
        raise InvalidInput(
            f"workflow id {workflow_id[:160]!r}: a slicing runs as slice/<SHA-256 of the PDF, 64 hexadecimal "
            "digits>/<profile>; `sha256sum FILE` prints it"
        )
    return sha256, profile


def health_workflow_id(profile: str) -> str:
    """Return `slicer-health/<profile>`: one canary at a time for a profile."""
    return f"{_HEALTH}{profile}"


def by_hand_workflow_id(schedule_id: str, task_queue: str, *, dry_run: bool) -> str:
    """Return the id of what somebody starts by hand in place of a schedule: `<schedule>/manual/<task queue>`.

    A run that only reports is `<schedule>/dry-run/<task queue>`: nobody who wants repairs may be given its answer, and
    nobody the answer of another queue's worker.
    """
    return f"{schedule_id}/{'dry-run' if dry_run else 'manual'}/{task_queue}"


def programs_queue(slicing_queue: str) -> str:
    """Return the task queue of the slots for programs, which belongs to a task queue of slicing.

    It has slots of its own, so that a few programs that take long do not keep the short steps waiting.
    """
    return f"{slicing_queue}-programs"


def _checked(what: str, given: object) -> str:
    if not isinstance(given, str) or not _ID.fullmatch(given):  # not a str: from a program that nobody type-checks
        raise InvalidInput(f"{what} id {repr(given)[:82]}: use 1 to 64 letters, digits, '_' or '-'")
    return given


def _inner(workflow_id: str, prefix: str, rule: str) -> str:
    if not workflow_id.startswith(prefix) or not _ID.fullmatch(workflow_id.removeprefix(prefix)):
        raise InvalidInput(f"workflow id {workflow_id[:80]!r}: {rule}, [A-Za-z0-9_-]{{1,64}}")
    return workflow_id.removeprefix(prefix)


def fairness_key(account: str) -> str:
    """Return Temporal's fairness key for an account: its name, or a hash of one that is too long in UTF-8."""
    if len(account.encode()) <= _LONGEST_FAIRNESS_KEY:
        return account
    return hashlib.sha256(account.encode()).hexdigest()

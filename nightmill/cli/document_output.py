"""How documents and what their syncs came to are printed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import ago, length_of, note, print_facts, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nightmill.contracts import SyncOutcome
    from nightmill.storage.document_models import VersionRow
    from nightmill.storage.documents import StoredDocument

RECORD = (
    "document_id", "account", "collection", "link", "result", "reason", "error_code", "exception_class", "attempt",
    "duration_ms",
)  # fmt: skip
"""The fields of an outcome that are printed."""

_KINDS = {"+ ": "added", "- ": "removed", "~ ": "changed", "  ": "kept"}


def outcome_json(outcome: SyncOutcome) -> dict[str, Any]:
    """Return an outcome in the shape that programs rely on."""
    return {name: getattr(outcome, name) for name in RECORD}


def diff_json(document_id: str, old: VersionRow | None, new: VersionRow | None, lines: Iterable[str]) -> dict[str, Any]:
    """Return what changed between two texts in the shape that programs rely on; a text that is none is None.

    Args:
        document_id: The document.
        old: The text before.
        new: The present text.
        lines: What `nightmill.documents.differences.shown` says of the two.
    """
    return {
        "document_id": document_id,
        "old": _version_json(old),
        "new": _version_json(new),
        "pieces": [_piece_json(line) for line in lines],
    }


def _version_json(version: VersionRow | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {"fingerprint": version.fingerprint, "name": version.name, "stored_at": version.stored_at}


def _piece_json(line: str) -> dict[str, Any]:
    mark, rest = line[:2], line[2:]
    if mark == "@@":
        return {"kind": "left_out", "paragraphs": int(rest.split()[0])}
    return {"kind": _KINDS[mark], "text": rest}


def document_json(stored: StoredDocument) -> dict[str, Any]:
    """Return a document in the shape that programs rely on."""
    row = stored.row
    return {
        "document_id": row.id,
        "account": stored.account.name,
        "collection": row.collection,
        "link": row.external_link,
        "canonical_link": row.link,
        "name": row.name,
        "enabled": row.enabled,
        "source_type": row.source_type,
        "sync_status": row.sync_status,
        "sync_step": row.sync_step,
        "error_code": row.last_sync_error_code,
        "error_reason": row.last_sync_error_reason,
        "needs_attention": row.needs_attention,
        "content_fingerprint": row.content_fingerprint,
        "handled_fingerprint": row.handled_fingerprint,
        "content_length": row.content_length,
        "content_cut": row.content_cut,
        "interval": row.interval,
        "last_synced_at": row.last_synced_at,
        "last_sync_attempted_at": row.last_sync_attempted_at,
        "next_sync_at": row.next_sync_at,
        "next_attempt_at": row.next_attempt_at,
        "queued_until": row.queued_until,
        "consecutive_failures": row.consecutive_failures,
        "consecutive_unchanged": row.consecutive_unchanged,
        "resolved_link": row.resolved_link,
        "page_link": row.page_link,
        "created_at": row.created_at,
    }


def print_documents(found: Sequence[StoredDocument]) -> None:
    """Print a table of documents."""
    print_table(
        ["document", "account", "collection", "status", "synced", "next", "link"],
        [
            [
                stored.row.id,
                stored.account.name,
                stored.row.collection,
                status_of(stored),
                ago(stored.row.last_synced_at),
                ago(stored.row.next_sync_at),
                stored.row.external_link,
            ]
            for stored in found
        ],
    )


def status_of(stored: StoredDocument) -> str:
    """Return how a document stands, in a few words."""
    row = stored.row
    if not row.enabled:
        return "disabled"
    if row.sync_status is None:
        return "never synced"
    more = row.sync_step or row.last_sync_error_code
    return f"{row.sync_status.value} ({more.value})" if more else row.sync_status.value


def print_document(stored: StoredDocument) -> None:
    """Print all of a document but its text."""
    from datetime import timedelta

    row = stored.row
    handler = stored.handler
    told: str | None = None
    if handler is not None:
        told = "told of the present text" if row.handled_fingerprint == row.content_fingerprint else "not told yet"
        told = f"{handler.kind}, {told}"
    print_facts(
        [
            ("document", row.id),
            ("link", row.external_link),
            ("canonical link", row.link if row.link != row.external_link else None),
            ("redirects to", row.resolved_link),
            ("says it is", row.page_link),
            ("name", row.name),
            ("account", f"{stored.account.name}, plan {stored.account.plan or 'none'}"),
            ("collection", row.collection),
            ("status", status_of(stored)),
            ("reason", row.last_sync_error_reason),
            ("needs attention", row.needs_attention),
            ("content", f"{row.content_length:,} characters" if row.content_length is not None else "none yet"),
            ("", "cut: only the beginning is stored" if row.content_cut else None),
            ("fingerprint", row.content_fingerprint),
            ("handler", told),
            ("interval", length_of(timedelta(seconds=row.interval)) if row.interval else None),
            ("last synced", ago(row.last_synced_at)),
            ("last attempt", ago(row.last_sync_attempted_at)),
            ("next attempt", ago(row.next_attempt_at)),
            ("next sync", ago(row.next_sync_at)),
            ("failed in a row", f"{row.consecutive_failures}" if row.consecutive_failures else None),
            ("added", ago(row.created_at)),
        ]
    )


class Outcomes:
    """Prints outcomes as they come, counts them, and knows the exit code."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._counts: Counter[str] = Counter()
        self.failed = 0

    @property
    def total(self) -> int:
        """How many there were."""
        return self._counts.total()

    def add(self, outcome: SyncOutcome) -> None:
        """Print one: for people only if it is news."""
        self._counts[outcome.result.value] += 1
        self.failed += outcome.result.is_failure
        if self._as_json:
            print_json(outcome_json(outcome))
        elif outcome.result.value not in ("unchanged", "not_modified", "baseline"):
            why = " ".join(filter(None, (outcome.error_code and outcome.error_code.value, outcome.reason)))
            about = outcome.link or outcome.document_id
            say(f"{outcome.result.value}: {about}{f' ({why})' if why else ''}")

    def finish(self) -> ExitCode:
        """Print the counts for people; return 0 where none failed, 3 where some did, 1 where all did."""
        if not self._as_json:
            if self.total:
                say(", ".join(f"{number:,} {result}" for result, number in sorted(self._counts.items())))
            else:
                note("No documents to sync.")
        if not self.failed:
            return ExitCode.FINE
        return ExitCode.FAILED if self.failed == self.total else ExitCode.PARTIAL

"""How sliced documents, their slices and what ran for them are printed."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import ago, print_facts, print_table, say, shortened, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightmill.contracts import SlicingSummary
    from nightmill.storage.slices import SliceHead
    from nightmill.storage.slicing_models import SlicingAttemptRow, SlicingNoticeRow, SlicingRow

TAIL_LINES = 12
"""Lines of a program's standard error that are shown of each failed attempt."""


def id_of(sha256: str, profile: str) -> str:
    """Return a document's name as the commands take it: short enough for a line, and with the profile."""
    return f"{sha256[:12]}/{profile}"


def summary_json(summary: SlicingSummary) -> dict[str, Any]:
    """Return what a slicing came to in the shape that programs rely on."""
    duration = summary.duration
    return summary.model_dump() | {"duration": None if duration is None else duration.total_seconds()}


def slicing_json(row: SlicingRow) -> dict[str, Any]:
    """Return a document in the shape that programs rely on; of webhooks only scheme and host."""
    from nightmill.notify import shown
    from nightmill.slicing.notices import summary_of

    names = (
        "run_id", "source", "size", "text_source", "description", "reasons", "needs_attention", "attempts", "queued_at",
        "started_at", "parked_at", "ended_at", "created_at",
    )  # fmt: skip
    values = summary_json(summary_of(row)) | {name: getattr(row, name) for name in names}
    return values | {"metadata": row.user_metadata, "notify": [shown(target) for target in row.notify]}


def head_json(head: SliceHead) -> dict[str, Any]:
    """Return a slice without its text in the shape that programs rely on; pages count from 0, ends included."""
    return asdict(head)


def attempt_json(attempt: SlicingAttemptRow) -> dict[str, Any]:
    """Return a program that ran in the shape that programs rely on."""
    return attempt.model_dump(exclude={"key", "slicing_key"})


def notice_json(notice: SlicingNoticeRow) -> dict[str, Any]:
    """Return who was told in the shape that programs rely on."""
    return notice.model_dump(exclude={"key", "slicing_key"})


def print_slicings(rows: Sequence[SlicingRow]) -> None:
    """Print a table of documents."""
    print_table(
        ["document", "status", "pages", "slices", "flagged", "asked", "name"],
        [
            [
                id_of(row.sha256, row.profile),
                row.status.value,
                _number(row.page_count),
                _number(row.slice_count),
                _number(row.flagged_count or None),
                ago(row.queued_at),
                shortened(row.name) + (f" ({row.error_code.value})" if row.error_code else ""),
            ]
            for row in rows
        ],
        numbers=["pages", "slices", "flagged"],
    )


def print_summaries(summaries: Sequence[SlicingSummary]) -> None:
    """Print a table of what slicings came to."""
    print_table(
        ["name", "document", "status", "pages", "slices", "flagged", "number", "date", "message"],
        [
            [
                shortened(each.name, 40),
                id_of(each.sha256, each.profile),
                each.status.value,
                _number(each.page_count),
                _number(each.slices),
                _number(each.flagged or None),
                each.number or "",
                each.issued_on.isoformat() if each.issued_on else "",
                shortened(each.message, 200),
            ]
            for each in summaries
        ],
        numbers=["pages", "slices", "flagged"],
    )


def print_slicing(row: SlicingRow) -> None:
    """Print all of a document but its slices and what ran for it."""
    from nightmill.contracts import duration_text
    from nightmill.notify import shown
    from nightmill.slicing.notices import summary_of

    summary = summary_of(row)
    status = row.status.value
    if row.error_code is not None:
        status += f" ({row.error_code.value})"
    kept = summary.status.value in ("failed", "canceled") and row.slice_count
    print_facts(
        [
            ("name", row.name),
            ("document", f"{row.sha256}/{row.profile}"),
            ("status", status),
            ("reason", row.error),
            ("waits since", ago(row.parked_at)),
            ("needs attention", row.needs_attention),
            ("number", row.number),
            ("date", row.issued_on.isoformat() if row.issued_on else None),
            ("description", row.description),
            ("pages", _number(row.page_count) + (f", {row.text_source}" if row.text_source else "")),
            ("slices", f"{row.slice_count:,}" + (f", {row.flagged_count:,} with a problem" * bool(row.flagged_count))),
            ("", "of an earlier run, which are kept" if kept else None),
            ("size", size_of(row.size) if row.size is not None else None),
            ("source", row.source),
            ("metadata", json.dumps(row.user_metadata, ensure_ascii=False) if row.user_metadata else None),
            ("notify", ", ".join(shown(target) for target in row.notify)),
            ("attempts", f"{row.attempts}" if row.attempts > 1 else None),
            ("took", duration_text(summary.duration) if summary.duration is not None else None),
            ("asked for", ago(row.queued_at)),
            ("ended", ago(row.ended_at)),
        ]
    )
    if row.reasons:
        say("")
        say("To be looked at:")
        for reason in row.reasons:
            say(f"- {reason}")


def print_heads(heads: Sequence[SliceHead]) -> None:
    """Print a table of slices; pages count from 1 here, as in every viewer."""
    print_table(
        ["position", "pages", "characters", "problem", "name"],
        [
            [
                f"{head.position}",
                pages_of(head.start_page, head.end_page),
                f"{head.characters:,}",
                (head.problem or "").partition(":")[0],
                name_of(head) + (f" - {shortened(head.issuer, 60)}" if head.issuer else ""),
            ]
            for head in heads
        ],
        numbers=["position", "characters"],
    )


def name_of(head: SliceHead) -> str:
    """Return what a slice is called."""
    return shortened(head.issue_id or head.name or head.short_description, 80) or "without a name"


def pages_of(start: int, end: int) -> str:
    """Return pages as people count them."""
    return f"{start + 1}" if start == end else f"{start + 1}-{end + 1}"


def print_attempts(attempts: Sequence[SlicingAttemptRow]) -> None:
    """Print a table of the programs that ran, and the end of what the failed ones wrote to standard error."""
    from nightmill.contracts import duration_text

    print_table(
        ["when", "step", "attempt", "pages", "took", "cpu", "memory", "ended", "command"],
        [
            [
                ago(each.started_at),
                each.step,
                f"{each.attempt}",
                _number(each.pages or None),
                duration_text(timedelta(milliseconds=each.duration_ms)),
                duration_text(timedelta(milliseconds=each.cpu_ms)),
                size_of(each.peak_memory),
                _end_of(each),
                shortened(each.command, 200),
            ]
            for each in attempts
        ],
        numbers=["attempt", "pages", "took", "cpu", "memory"],
    )
    for each in attempts:
        if each.error_code is not None and each.stderr_tail.strip():
            print_tail(each)


def print_tail(attempt: SlicingAttemptRow) -> None:
    """Print the last lines that a program wrote to standard error."""
    lines = attempt.stderr_tail.strip().splitlines()
    say(f"Standard error of {attempt.step}, attempt {attempt.attempt}:")
    if len(lines) > TAIL_LINES:
        say(f"  … {len(lines) - TAIL_LINES:,} lines before")
    for line in lines[-TAIL_LINES:]:
        say(f"  {shortened(line, 500)}")


def print_notices(notices: Sequence[SlicingNoticeRow]) -> None:
    """Print a table of who was told."""
    print_table(
        ["told", "level", "sent", "tries", "error"],
        [
            [each.target, each.level, ago(each.sent_at) or "not yet", f"{each.tries}", shortened(each.error, 200)]
            for each in notices
        ],
        numbers=["tries"],
    )


def exit_code_of(summaries: Sequence[SlicingSummary], *, refused: int = 0) -> ExitCode:
    """Return 0 where all documents have slices, 3 where some have none, 1 where no one has.

    What a person has to look at is cut all the same; a document that failed is not, whatever an earlier run has left.
    """
    failed = refused + sum(each.status.value in ("failed", "canceled") for each in summaries)
    if not failed:
        return ExitCode.FINE
    return ExitCode.FAILED if failed == refused + len(summaries) else ExitCode.PARTIAL


def _end_of(attempt: SlicingAttemptRow) -> str:
    if attempt.signal is not None:
        end = f"signal {attempt.signal}"
    else:
        end = f"exit {attempt.exit_code}" if attempt.exit_code is not None else "?"
    return f"{end}, {attempt.error_code.value}" if attempt.error_code else end


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"

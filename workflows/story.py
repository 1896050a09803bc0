"""What the Temporal UI shows of a running batch: search attributes to filter by, and the current details."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate

with workflow.unsafe.imports_passed_through():
    from nightmill import ids
    from nightmill.contracts import (
        AuditKind,
        AuditSummary,
        BatchStatus,
        BatchSummary,
        Counts,
        CrawlProgress,
        Progress,
        ReconcileSummary,
        SlicingProgress,
        SlicingStatus,
        SlicingSummary,
        SweepSummary,
        SyncOutcome,
        duration_text,
    )
    from nightmill.recovery.audit_notices import finding_line

if TYPE_CHECKING:
    from workflows.following import ProviderBatchFollower

PROVIDER = SearchAttributeKey.for_keyword("NightmillProvider")
MODEL = SearchAttributeKey.for_keyword("NightmillModel")
STATUS = SearchAttributeKey.for_keyword("NightmillStatus")
ACCOUNT = SearchAttributeKey.for_keyword(ids.ACCOUNT_ATTRIBUTE)
TRIGGER = SearchAttributeKey.for_keyword(ids.TRIGGER_ATTRIBUTE)
NEEDS_ATTENTION = SearchAttributeKey.for_bool("NightmillNeedsAttention")

_MOST_AUDIT_LINES = 10  # findings, and failures, that the current details show: more than a screen nobody reads

SEARCH_ATTRIBUTES = (PROVIDER, MODEL, STATUS, ACCOUNT, TRIGGER, NEEDS_ATTENTION)


def progress_of(batch_id: str, round_: int, parts: int, follower: ProviderBatchFollower) -> Progress:
    """Return the query's answer for one provider batch."""
    return Progress(
        batch_id=batch_id,
        status=follower.status,
        round=round_,
        parts=parts,
        counts=follower.counts,
        polls=follower.polls,
        next_poll_at=follower.next_poll_at,
        deadline=follower.deadline,
        provider_batch_id=follower.provider_batch_id,
        needs_attention=follower.attention,
    )


def progress_of_parts(
    batch_id: str, round_: int, total: int, parts: Sequence[Progress], status: BatchStatus
) -> Progress:
    """Return the query's answer for several provider batches: sums, earliest times, the first that needs attention."""
    counts = {
        name: sum(getattr(part.counts, name) or 0 for part in parts)
        for name in Counts.model_fields
        if any(getattr(part.counts, name) is not None for part in parts)
    }
    return Progress(
        batch_id=batch_id,
        status=status,
        round=round_,
        parts=total,
        counts=Counts(**counts),
        polls=sum(part.polls for part in parts),
        next_poll_at=min((part.next_poll_at for part in parts if part.next_poll_at), default=None),
        deadline=min((part.deadline for part in parts if part.deadline), default=None),
        needs_attention=next((part.needs_attention for part in parts if part.needs_attention), None),
    )


def show(progress: Progress) -> None:
    """Write the current details, as Markdown."""
    rows = [("status", str(progress.status))]
    if progress.needs_attention:
        rows.append(("needs attention", progress.needs_attention))
    rows.append(("counts", _counts(progress.counts) or "not known yet"))
    rows.append(("polls", str(progress.polls)))
    # One that waits for somebody is not polled before that; of several parts, the others are.
    is_polled = not progress.status.is_terminal and (progress.needs_attention is None or progress.parts > 1)
    if progress.next_poll_at is not None and is_polled:
        rows.append(("next poll", f"{progress.next_poll_at:%Y-%m-%d %H:%M:%S} UTC"))
    if progress.deadline is not None:
        rows.append(("max age reached", f"{progress.deadline:%Y-%m-%d %H:%M:%S} UTC"))
    if progress.provider_batch_id is not None:
        rows.append(("provider batch", f"`{progress.provider_batch_id}`"))
    if progress.round:
        rows.append(("round", str(progress.round)))
    if progress.parts > 1:
        rows.append(("provider batches", str(progress.parts)))
    _write(rows)


def show_summary(summary: BatchSummary, handler: str) -> None:
    """Write how the batch ended, as Markdown."""
    cost = "not known" if summary.cost is None else f"${summary.cost}{'' if summary.cost_complete else ' or more'}"
    failed = ", ".join(f"{count:,} {code}" for code, count in sorted(summary.failed_by_code.items()))
    rows = [
        ("status", str(summary.status) + (" (not one completed)" if summary.all_failed else "")),
        ("completed", f"{summary.completed:,} of {summary.total:,}"),
        ("failed", failed or "0"),
        ("tokens", f"{summary.tokens.input:,} in, {summary.tokens.output:,} out"),
        ("cost", cost),
        ("handler", handler),
    ]
    if summary.reason:
        rows.append(("reason", summary.reason))
    _write(rows)


def show_sync(outcome: SyncOutcome) -> None:
    """Write what came of a document's sync, as Markdown."""
    rows = [("result", outcome.result.value)]
    if outcome.error_code is not None:
        rows.append(("error", outcome.error_code.value))
    if outcome.reason is not None:
        rows.append(("reason", outcome.reason))
    if outcome.link is not None:
        rows.append(("link", outcome.link))
    rows += [("account", outcome.account or ""), ("attempts", str(outcome.attempt))]
    _write(rows)


def show_tick(summary: ReconcileSummary) -> None:
    """Write what a reconciler or an expiry sweep has found and done, as Markdown."""
    found = ", ".join(f"{count:,} {finding}" for finding, count in sorted(summary.findings.items()))
    rows = [
        ("candidates", f"{summary.candidates:,}"),
        ("found", found or "nothing"),
        ("would be repaired" if summary.dry_run else "repaired", f"{summary.repaired:,}"),
        ("failed", f"{summary.failed:,}"),
    ]
    if summary.queues_without_worker:
        rows.append(("no worker on", ", ".join(summary.queues_without_worker)))
    rows += [(f"{each.subject} {each.id}", f"{each.finding}: {each.action}") for each in summary.repairs[:20]]
    _write(rows)


def show_sweep(summary: SweepSummary, *, of: int) -> None:
    """Write how far a sweep has come, as Markdown."""
    rows = [
        ("started", f"{summary.enqueued:,} of {of:,}"),
        ("skipped", f"{summary.skipped:,}"),
        ("accounts", f"{summary.accounts_scheduled:,} of {summary.accounts_enabled:,}"),
    ]
    if summary.cap_hit:
        rows.append(("left for the next sweep", "yes"))
    _write(rows)


def show_crawl(progress: CrawlProgress) -> None:
    """Write how a crawl stands, as Markdown."""
    rows = [
        (name, f"{getattr(progress, name):,}") for name in ("found", "visited", "added", "known", "failed", "refused")
    ]
    if progress.limit_hit:
        rows.append(("ended by its bound of", progress.limit_hit))
    _write(rows)


def show_slicing_progress(progress: SlicingProgress) -> None:
    """Write how a slicing stands, as Markdown."""
    is_parked = progress.status is SlicingStatus.WAITING
    rows = [("status", progress.status.value)]
    if not is_parked:
        rows.append(("phase", progress.phase))
    if progress.of:
        rows.append(("pages", f"{min(progress.page, progress.of):,} of {progress.of:,}"))
    if progress.started_at is not None:
        rows.append(("slicer started", f"{progress.started_at:%Y-%m-%d %H:%M:%S} UTC, attempt {progress.attempt}"))
    if progress.estimate is not None:
        rows.append(("estimate", duration_text(progress.estimate)))
    if progress.message:
        rows.append(("waits, because the breaker is open" if is_parked else "message", progress.message))
    _write(rows)


def show_slicing(summary: SlicingSummary) -> None:
    """Write what came of a slicing, as Markdown."""
    rows = [("status", summary.status.value), ("document", summary.name or summary.sha256)]
    if summary.number or summary.issued_on:
        rows.append(("gazette", " of ".join(str(part) for part in (summary.number, summary.issued_on) if part)))
    flagged = f", {summary.flagged:,} of them with a problem" if summary.flagged else ""
    rows.append(("slices", f"{summary.slices:,}{flagged}"))
    if summary.page_count is not None:
        rows.append(("pages", f"{summary.page_count:,}"))
    if summary.duration is not None:
        rows.append(("took", duration_text(summary.duration)))
    if summary.message:
        rows.append(("reason" if summary.error_code is not None else "to be looked at", summary.message))
    _write(rows)


def show_audit(summary: AuditSummary, *, of: int) -> None:
    """Write how far an audit has come and what it found, as Markdown."""
    rows = [
        ("keys", f"{summary.keys:,} of {of:,}"),
        ("provider batches", f"{summary.listed:,}, {summary.owned:,} of them in our rows"),
        *((kind.value, f"{summary.counts.get(kind, 0):,}") for kind in AuditKind),
    ]
    if summary.on_their_way:
        rows.append(("being created just now", f"{summary.on_their_way:,}"))
    if summary.untagged_suspects:
        rows.append(("without a tag, perhaps ours", f"{summary.untagged_suspects:,}"))
    if summary.unclear:
        rows.append(("not told by the provider", f"{summary.unclear:,}"))
    rows += [(one.kind.value, finding_line(one)) for one in summary.findings[:_MOST_AUDIT_LINES]]
    rows += [
        ("failed", f"{one.provider} {one.account or ''}: {one.message}") for one in summary.failures[:_MOST_AUDIT_LINES]
    ]
    _write(rows)


def _write(rows: list[tuple[str, str]]) -> None:
    workflow.set_current_details("\n".join(f"- **{name}**: {value}" for name, value in rows))


def _counts(counts: Counts) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in counts.model_dump(exclude_none=True).items())


def upsert(*updates: SearchAttributeUpdate[Any]) -> None:
    """Write search attributes, only those that change anything: each call is an event."""
    current = workflow.info().typed_search_attributes
    changes = [update for update in updates if current.get(update.key) != update.value]
    if changes:
        workflow.upsert_search_attributes(changes)


def has(key: SearchAttributeKey[Any]) -> bool:
    """Return whether the run has a value for the search attribute."""
    return any(pair.key == key for pair in workflow.info().typed_search_attributes)

"""What operators are told of an audit."""

from __future__ import annotations

from nightmill.contracts import AuditFinding, AuditKind, AuditNotice
from nightmill.notify import Notification

MOST_LINES = 20
"""Findings of one kind that a notification lists; the workflow's result lists more."""

_HEADS = {
    AuditKind.ORPHAN: "Provider batches that carry our tag and that no row owns",
    AuditKind.MISSING: "Provider batches that a row owns and the provider does not know",
    AuditKind.DUPLICATE: "Provider batches that carry the same tag as another one",
}


def audit_notification(notice: AuditNotice) -> Notification:
    """Return what operators are told of new findings; the same for the same audit."""
    lines: list[str] = []
    for kind, head in _HEADS.items():
        found = [one for one in notice.findings if one.kind is kind]
        if found:
            lines += [f"{head}: {len(found)} new, {notice.counts.get(kind, len(found))} in all"]
            lines += [f"  {finding_line(one)}" for one in found[:MOST_LINES]]
            lines += [f"  and {len(found) - MOST_LINES} more"] if len(found) > MOST_LINES else []
    if notice.failures:
        lines += ["Keys that could not be looked at:"]
        lines += [f"  {_key_of(one.provider, one.account)}: {one.message}" for one in notice.failures[:MOST_LINES]]
    lines += ["", "Nothing was canceled or deleted. Look there with the provider's own means, and cancel what you can."]
    counted = [(len(notice.findings), "provider batch", "es"), (len(notice.failures), "key", "s")]
    what = " and ".join(f"{count} {word}{ending if count > 1 else ''}" for count, word, ending in counted if count)
    return Notification(
        subject=f"Nightmill: {what} to be looked at",
        body="\n".join(lines),
        component="audit",
        level="error",
        details={
            "findings": [one.model_dump(mode="json") for one in notice.findings[:MOST_LINES]],
            "failures": [one.model_dump(mode="json") for one in notice.failures[:MOST_LINES]],
        },
        message_id=f"audit-{notice.audit}",
    )


def finding_line(one: AuditFinding) -> str:
    """Return a finding in one line: where, which, whose, what it costs."""
    parts = [f"{_key_of(one.provider, one.account)} {one.provider_batch_id}"]
    if one.batch_id is not None:
        parts.append(f"batch {one.batch_id}")
    if one.twin is not None:
        parts.append(f"same tag as {one.twin}")
    if one.requests is not None:
        parts.append(f"{one.requests:,} requests")
    if one.created_at is not None:
        parts.append(f"{one.created_at:%Y-%m-%d %H:%M} UTC")
    return ", ".join([*parts, _cost_of(one)])


def _key_of(provider: str, account: str | None) -> str:
    return provider if account is None else f"{provider} ({account})"


def _cost_of(one: AuditFinding) -> str:
    if one.cost is None:
        return "cost not known"
    return f"${one.cost:f}" if one.cost_is_exact else f"about ${one.cost:f}"

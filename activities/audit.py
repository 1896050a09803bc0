"""The steps of an audit. They only read, here and at providers; each may run more than once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio import activity

from activities.boundary import temporal_errors
from activities.heartbeats import tell
from nightmill.contracts import AuditNotice, AuditOutcome, AuditSummary, AuditTarget, AuditTargets
from nightmill.notify import Notifier
from nightmill.recovery.audit import Auditor
from nightmill.recovery.audit_notices import audit_notification
from nightmill.telemetry.audits import record_audit


@dataclass(frozen=True)
class AuditActivities:
    """Compare providers and rows, and tell what differs.

    Attributes:
        auditor: Compares.
        notifier: Tells operators.
    """

    auditor: Auditor
    notifier: Notifier

    @activity.defn
    def find_audit_targets(self, since: datetime) -> AuditTargets:
        """Return the keys to look at."""
        with temporal_errors():
            return self.auditor.targets(since)

    @activity.defn
    def audit_provider(self, target: AuditTarget) -> AuditOutcome:
        """Look at one key; a second run looks again from the beginning."""
        with temporal_errors():
            return self.auditor.audit(target, now=datetime.now(UTC), heartbeat=tell)

    @activity.defn
    def tell_audit(self, notice: AuditNotice) -> None:
        """Tell operators; a second run tells them again, under the same message id."""
        with temporal_errors():
            self.notifier.notify(audit_notification(notice))

    @activity.defn
    def record_audit(self, summary: AuditSummary) -> None:
        """Write the audit's one log record and its metrics."""
        record_audit(summary)

"""The audit: what providers have of ours and no row owns, and what rows own and no provider has."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar

from pydantic import AwareDatetime, Field

from nightmill.contracts.base import Contract, Dollars, Outcome

MOST_FINDINGS_SHOWN = 100
"""Findings of one kind that a summary lists one by one."""

MOST_REMEMBERED = 1_000
"""Findings that operators were told of and that the next audit knows of."""

LONGEST_AUDIT_DAYS = 30
"""How far back an audit looks at most.

Anthropic keeps results for 29 days, OpenAI files for 30: docs.claude.com/en/docs/build-with-claude/batch-processing,
platform.openai.com/docs/api-reference/batch (read 2026-11). None says how long it lists a batch; what is older is paid.
"""


class AuditKind(StrEnum):
    """What is wrong with a provider batch."""

    ORPHAN = "orphan"
    """It carries our tag and no row owns it."""
    MISSING = "missing"
    """A row owns it and the provider does not know it."""
    DUPLICATE = "duplicate"
    """No row owns it, and another one carries the same tag."""


class AuditInput(Contract):
    """Input of the workflow `ProviderAudit`.

    Attributes:
        days: How far back to look; what has not been settled is looked at whatever its age.
        notify: Tell operators of what they have not been told of.
    """

    days: int = Field(default=LONGEST_AUDIT_DAYS, ge=1, le=LONGEST_AUDIT_DAYS)
    notify: bool = True


class AuditTarget(Contract):
    """One key at one provider; input of `audit_provider`.

    Attributes:
        provider: The provider.
        account: The account whose key it is, in lower case; None: the default key.
        since: Batches created since then are looked at.
    """

    provider: str
    account: str | None = None
    since: AwareDatetime


class AuditTargets(Outcome):
    """What there is to look at: every key that is set, and every one that rows were made with."""

    targets: tuple[AuditTarget, ...] = ()


class AuditFinding(Outcome):
    """A provider batch with which something is wrong.

    Attributes:
        kind: What.
        provider: The provider.
        account: The account whose key found it, or whose row it is.
        provider_batch_id: The provider's id.
        tag: The mark that it carries, where it was listed.
        twin: Of a duplicate: another provider batch with the same tag.
        batch_id: The batch that the tag names or that owns it, if there is one.
        created_at: When it was created.
        requests: How many requests it holds, where that is known.
        ended: Whether it costs nothing more: the provider is through with it, or our row is settled.
        cost: US dollars; None: not known.
        cost_is_exact: Whether the cost is that of our outcomes, all of them priced; else it is estimated.
    """

    kind: AuditKind
    provider: str
    account: str | None = None
    provider_batch_id: str
    tag: str | None = None
    twin: str | None = None
    batch_id: str | None = None
    created_at: datetime | None = None
    requests: int | None = None
    ended: bool = False
    cost: Dollars | None = None
    cost_is_exact: bool = False

    @property
    def key(self) -> str:
        """What makes it the same finding in another audit."""
        return f"{self.kind}/{self.provider}/{self.provider_batch_id}"


class AuditOutcome(Outcome):
    """What was found with one key.

    Attributes:
        listed: Provider batches that were listed, ours or not.
        owned: Of these, those that a row owns.
        on_their_way: Of these, those whose create's answer is being waited or looked for.
        untagged_suspects: Of those without tags and without a row (Anthropic), those that were created while a create
            of ours of the same size was on its way: one of them may be ours.
        unclear: Rows of which the provider did not say whether it knows their batch.
        counts: How many findings of each kind there are.
        findings: The findings, newest first, up to `MOST_FINDINGS_SHOWN` of each kind.
    """

    listed: int = 0
    owned: int = 0
    on_their_way: int = 0
    untagged_suspects: int = 0
    unclear: int = 0
    counts: dict[AuditKind, int] = Field(default_factory=dict)
    findings: tuple[AuditFinding, ...] = ()


class AuditFailure(Outcome):
    """A key with which nothing could be found out.

    Attributes:
        PREFIX: What keys of failures begin with.
        provider: The provider.
        account: The account whose key it is; None: the default key.
        message: Why, one line.
    """

    PREFIX: ClassVar[str] = "failure/"

    provider: str
    account: str | None = None
    message: str = ""

    @property
    def key(self) -> str:
        """What makes it the same failure in another audit."""
        return f"{self.PREFIX}{self.provider}/{self.account or ''}"


class AuditSummary(AuditOutcome):
    """Result of the workflow `ProviderAudit`: what was found with all keys.

    Keys of one organisation show the same batches, which are then listed twice and found once.

    Attributes:
        keys: Keys that were looked at, those that failed included.
        failures: Those that failed.
        since: How far back it looked.
        started_at: When it began.
        duration: How long it took.
        news: Findings and failures that operators had not been told of.
        told: Keys of the findings and failures that they have been told of, the present ones first, up to
            `MOST_REMEMBERED`; the next audit's memory.
    """

    keys: int = 0
    failures: tuple[AuditFailure, ...] = ()
    since: datetime | None = None
    started_at: datetime | None = None
    duration: timedelta = timedelta(0)
    news: int = 0
    told: tuple[str, ...] = ()


class AuditNotice(Contract):
    """Input of `tell_audit`: what operators have not been told of.

    Attributes:
        audit: The audit's run, by which a notification that comes twice is known.
        findings: New findings.
        failures: New failures.
        counts: How many findings of each kind there are, old ones included.
    """

    audit: str
    findings: tuple[AuditFinding, ...] = ()
    failures: tuple[AuditFailure, ...] = ()
    counts: dict[AuditKind, int] = Field(default_factory=dict)

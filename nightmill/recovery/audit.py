"""The audit: what a provider has of ours and no row owns, and what our rows own and the provider does not have.

One key at a time. The provider's list is read page by page and each page compared with the rows by one query, or two
where something is not owned; what is kept of a page are eight bytes for each batch that a row owns. Then the rows are
read page by page, and the provider is asked for those that its list did not have. Nothing is written anywhere.

Anthropic keeps no tags. Its batches are known by their ids alone, so one that nobody owns cannot be told from somebody
else's under the same key; those that may be ours are counted (`AuditOutcome.untagged_suspects`). Elsewhere, too, an
orphan may be another installation's that works with the same key, or of a batch whose rows were deleted.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from nightmill.completions.submission import CLOCK_SKEW, MATCH_WINDOW, SLOWEST_UPLOAD, ProviderFor
from nightmill.contracts import (
    MOST_FINDINGS_SHOWN,
    AuditFinding,
    AuditKind,
    AuditOutcome,
    AuditTarget,
    AuditTargets,
)
from nightmill.errors import NotFound, PermanentError, TransientError
from nightmill.ids import TaggedPart, part_of_tag

if TYPE_CHECKING:
    from nightmill.providers.base import BatchProvider, Candidate
    from nightmill.recovery.audit_costs import AuditCosts
    from nightmill.storage.audit_reads import AuditReads, OwnedPart
    from nightmill.storage.models import ProviderBatchRow

logger = logging.getLogger(__name__)

COMPARED = 100
"""Listed batches that are compared with the rows at a time."""

FRESH = timedelta(minutes=10)
"""How young a provider batch may be without being missed: a provider may show it late."""

MOST_ASKED = 1_000
"""Batches that are asked for one by one; more than a few are missing from a list only where the list is wrong."""

FAILURES_IN_A_ROW = 3
"""Questions that fail one after the other before it is the provider that is away, and not a batch that is odd."""


@dataclass(frozen=True)
class Auditor:
    """Compares rows and providers. Any thread may use it.

    Attributes:
        provider_for: Gives a provider by name and account.
        reads: Reads the rows.
        costs: Says what is lost.
        keys: Provider and account of every key that is set; accounts in lower case.
    """

    provider_for: ProviderFor
    reads: AuditReads
    costs: AuditCosts
    keys: Sequence[tuple[str, str | None]]

    def targets(self, since: datetime) -> AuditTargets:
        """Return the keys to audit: those that are set, and those that rows were made with, set or not."""
        used = [(provider, _folded(account)) for provider, account in self.reads.keys_used(since)]
        found = sorted({*self.keys, *used}, key=lambda key: (key[0], key[1] or ""))
        return AuditTargets(
            targets=tuple(AuditTarget(provider=name, account=account, since=since) for name, account in found)
        )

    def audit(self, target: AuditTarget, *, now: datetime, heartbeat: Callable[[dict[str, Any]], None]) -> AuditOutcome:
        """Return what is found with one key. A second run looks again.

        Raises:
            TransientError: The provider or the database is away.
            PermanentError: The provider does not accept the key, or there is none.
        """
        run = _Audit(self.reads, self.provider_for(target.provider, target.account), target)
        listed = run.provider.listed(since=target.since)
        while page := list(islice(listed, COMPARED)):
            run.compare([one for one in page if one.created_at is None or one.created_at >= target.since])
            heartbeat({"listed": run.listed})
        for asked in run.ask_for_unlisted(until=now - FRESH):
            heartbeat({"listed": run.listed, "asked": asked})
        return AuditOutcome(
            listed=run.listed,
            owned=run.owned,
            on_their_way=run.on_their_way,
            untagged_suspects=run.suspects,
            unclear=run.unclear,
            counts=run.counts,
            findings=tuple(self._priced(*one) for one in run.shown()),
        )

    def _priced(self, finding: AuditFinding, row: OwnedPart | None) -> AuditFinding:
        if row is None:
            return finding
        if finding.kind is AuditKind.MISSING:
            cost, is_exact = self.costs.of_row(*row)
        else:
            cost, is_exact = self.costs.estimated(*row), False
        return finding.model_copy(update={"cost": cost, "cost_is_exact": is_exact})


@dataclass
class _Audit:
    """One key's audit, as far as it has come."""

    reads: AuditReads
    provider: BatchProvider
    target: AuditTarget
    listed: int = 0
    owned: int = 0
    on_their_way: int = 0
    suspects: int = 0
    unclear: int = 0
    counts: dict[AuditKind, int] = field(default_factory=dict)
    _found: dict[AuditKind, deque[tuple[AuditFinding, OwnedPart | None]]] = field(default_factory=dict)
    _seen: array[int] = field(default_factory=lambda: array("q"))  # keys of the rows whose batch was listed
    _tags: dict[str, str] = field(default_factory=dict)  # of what no row owns: the first id by tag

    def compare(self, page: Sequence[Candidate]) -> None:
        """Compare some listed batches with the rows."""
        name = self.target.provider
        owners = self.reads.owners(name, [one.provider_batch_id for one in page])
        self._seen.extend(owners.values())
        self.listed += len(page)
        self.owned += len(owners)
        unowned = [one for one in page if one.provider_batch_id not in owners]
        if not self.provider.keeps_tags:
            self.suspects += self._may_be_ours(unowned)
            return
        tagged = [(one, named) for one in unowned if one.tag and (named := part_of_tag(one.tag))]
        rows = self.reads.tagged(name, [named for _, named in tagged]) if tagged else {}
        for one, named in tagged:
            self._judge(one, named, rows.get((named.batch_id, named.round, named.part)))

    def _judge(self, one: Candidate, named: TaggedPart, row: OwnedPart | None) -> None:
        """Say what a batch is that carries our tag and was not found by its id."""
        assert one.tag is not None  # noqa: S101 - the caller has read it
        part = None if row is None else row[1]
        twin = None if part is None else _id_at(part, named.epoch)
        if one.provider_batch_id == twin or (part is not None and _is_forgotten(part, named.epoch)):
            self.owned += 1  # by an earlier create, or since a moment ago
            return
        listed_before = self._tags.get(one.tag)
        if listed_before == one.provider_batch_id:
            return  # a page that shifted while it was read shows it again
        if listed_before is not None:
            twin = twin or listed_before
        else:
            self._tags[one.tag] = one.provider_batch_id
        if twin is None and part is not None and _awaits_answer(part, named.epoch):
            self.on_their_way += 1
            return
        kind = AuditKind.ORPHAN if twin is None else AuditKind.DUPLICATE
        self._add(
            AuditFinding(
                kind=kind,
                provider=self.target.provider,
                account=self.target.account,
                provider_batch_id=one.provider_batch_id,
                tag=one.tag,
                twin=twin,
                batch_id=None if row is None else row[0].id,
                created_at=one.created_at,
                requests=one.requests if one.requests is not None or part is None else part.requests,
                ended=one.ended,
            ),
            row,
        )

    def ask_for_unlisted(self, *, until: datetime) -> Iterator[int]:
        """Ask the provider for what it did not list and a row owns; yield how often it was asked so far.

        Raises:
            TransientError: It is away.
        """
        seen = array("q", sorted(self._seen))
        used = self.reads.keys_used(self.target.since)
        accounts = {name for provider, name in used if provider == self.target.provider} | {self.target.account}
        mine = [name for name in accounts if _folded(name) == self.target.account]
        asked = failed = 0
        for key in self.reads.expected(self.target.provider, mine, since=self.target.since, until=until):
            place = bisect_left(seen, key)
            if place < len(seen) and seen[place] == key:
                continue
            row = self.reads.owned(key)
            if row is None:
                continue
            if asked == MOST_ASKED:
                self.unclear += 1
                continue
            asked += 1
            failed = failed + 1 if self._ask(row, failed) is None else 0
            yield asked

    def _ask(self, row: OwnedPart, failed: int) -> bool | None:
        """Return whether the provider knows a row's batch; None where it does not say."""
        batch, part = row
        assert part.provider_batch_id is not None  # noqa: S101 - only such rows are expected
        try:
            self.provider.status(part.provider_batch_id)
        except NotFound:
            finding = AuditFinding(
                kind=AuditKind.MISSING,
                provider=part.provider,
                account=part.account,
                provider_batch_id=part.provider_batch_id,
                batch_id=batch.id,
                created_at=part.created_at,
                requests=part.requests,
                ended=part.settled_at is not None,
            )
            self._add(finding, row)
            return False
        except (PermanentError, TransientError) as error:
            if isinstance(error, TransientError) and failed + 1 == FAILURES_IN_A_ROW:
                raise
            self.unclear += 1
            what = {"provider": part.provider, "provider_batch_id": part.provider_batch_id, "error": str(error)}
            logger.warning("audit: a batch could not be asked for", extra=what)
            return None
        return True

    def _add(self, finding: AuditFinding, row: OwnedPart | None) -> None:
        self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
        found = self._found.setdefault(finding.kind, deque())
        if len(found) < MOST_FINDINGS_SHOWN:
            found.append((finding, row))
        elif finding.kind is AuditKind.MISSING:  # rows come oldest first, lists newest first
            found.popleft()
            found.append((finding, row))

    def shown(self) -> list[tuple[AuditFinding, OwnedPart | None]]:
        """Return the newest findings of each kind, newest first."""
        if missing := self._found.get(AuditKind.MISSING):
            missing.reverse()
        return [one for kind in AuditKind for one in self._found.get(kind, ())]

    def _may_be_ours(self, unowned: Sequence[Candidate]) -> int:
        """Return how many untagged batches were created while a create of ours of their size was on its way."""
        ordered = sorted(
            (one.created_at, one.requests) for one in unowned if one.created_at is not None and one.requests is not None
        )
        if not ordered:
            return 0
        times = [created for created, _ in ordered]
        longest = MATCH_WINDOW + timedelta(seconds=self.provider.limits.max_bytes / SLOWEST_UPLOAD)
        suspects: set[int] = set()
        for part in self.reads.creates(
            self.target.provider, earliest=times[0] - longest, latest=times[-1] + CLOCK_SKEW
        ):  # fmt: skip
            if _folded(part.account) == self.target.account and (window := _on_its_way(part)):
                places = range(bisect_left(times, window[0]), bisect_right(times, window[1]))
                suspects.update(place for place in places if ordered[place][1] == part.requests)
        return len(suspects)


def _folded(account: str | None) -> str | None:
    """Return an account's name as `Settings.api_key` compares it."""
    return None if account is None else account.lower()


def _requeued(part: ProviderBatchRow) -> list[str]:
    """Return the provider batches that a part had before, oldest first."""
    past = part.refs.get("requeued", [])
    return list(past) if isinstance(past, list) else []


def _id_at(part: ProviderBatchRow, epoch: int) -> str | None:
    """Return the provider batch that a part owns, or owned, as its create of that epoch."""
    if epoch == part.epoch:
        return part.provider_batch_id
    past, age = _requeued(part), part.epoch - epoch
    return past[-age] if 0 < age <= len(past) else None


def _is_forgotten(part: ProviderBatchRow, epoch: int) -> bool:
    """Whether a part no longer knows what it owned as its create of that epoch: it keeps the last twenty."""
    return part.epoch - epoch > len(_requeued(part))


def _awaits_answer(part: ProviderBatchRow, epoch: int) -> bool:
    """Whether a create of that epoch was sent whose answer is not known yet: what it made will be adopted."""
    return (
        part.epoch == epoch
        and part.provider_batch_id is None
        and part.create_sent_at is not None
        and part.settled_at is None
    )


def _on_its_way(part: ProviderBatchRow) -> tuple[datetime, datetime] | None:
    """Return from when to when a create of a part's was on its way, first try to answer."""
    if part.submitted_at is None or part.create_sent_at is None:
        return None
    end = part.create_sent_at + MATCH_WINDOW + timedelta(seconds=part.bytes / SLOWEST_UPLOAD)
    if part.created_at is not None:
        end = min(end, part.created_at + CLOCK_SKEW)
    return part.submitted_at - CLOCK_SKEW, end

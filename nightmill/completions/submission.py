"""Submit a provider batch exactly once, as far as a provider allows it.

The intent is stored before every call, so whoever runs this next (after a crash, a lost answer, a second worker) knows
what may have happened. A create whose answer was lost is looked for by its tag; only the workflow, after looking
several times in vain, allows another one. Anthropic keeps no tag: there a batch is ours if it is the only unowned one
of the right size and time, or, once it has ended, if it answers our ids.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import PartRef, Submission, SubmitState
from nightmill.errors import (
    AccessDenied,
    BatchNotFound,
    NotConfigured,
    PermanentError,
    ProviderUnreachable,
    RateLimited,
    RunSuperseded,
    TransientError,
)
from nightmill.failpoints import fail_point
from nightmill.ids import part_tag
from nightmill.providers.base import Candidate, Created, MalformedEntry
from nightmill.storage.submission_records import CreateTurn
from nightmill.telemetry.batches import record_created

if TYPE_CHECKING:
    from nightmill.providers.base import BatchProvider, RequestLines
    from nightmill.storage.models import BatchRow, ProviderBatchRow
    from nightmill.storage.provider_batches import ProviderBatchRepository
    from nightmill.storage.requests import RequestRepository

logger = logging.getLogger(__name__)

MATCH_WINDOW = timedelta(minutes=15)
"""How long after our create call an untagged batch may have been created to be taken for ours."""

SLOWEST_UPLOAD = 100_000
"""Bytes a second; a create that carries its requests may be under way for as long as they take at this rate."""

CLOCK_SKEW = timedelta(minutes=2)
"""How far the provider's clock may be behind ours."""

PAST_QUOTA_PAUSE = timedelta(minutes=1)
"""How long to wait for a free place when all are taken."""

LONGEST_PAUSE = timedelta(seconds=30)
"""A longer `Retry-After` is left to the workflow, which a cancel can wake; a waiting activity hears of none."""

COMPARED_ENTRIES = 100
"""How many results of an ended candidate are compared with our ids; one of ours among them decides."""

ProviderFor = Callable[[str, str | None], "BatchProvider"]
"""Gives the provider by name and account; raises `NotConfigured` where a key is missing."""


@dataclass(frozen=True)
class Submitter:
    """Submits parts and finds lost ones.

    Attributes:
        provider_for: Gives a provider by name and account.
        parts: The records of provider batches.
        requests: The stored requests.
        max_open: Provider batches per model that may be open at once, by provider.
    """

    provider_for: ProviderFor
    parts: ProviderBatchRepository
    requests: RequestRepository
    max_open: Mapping[str, int]

    def submit(self, ref: PartRef, *, now: datetime, looked_for: datetime | None) -> Submission:
        """Upload and create, unless that was done before. A second call of a submitted part makes no network call.

        Raises:
            TransientError: Nothing was created; the same call may succeed within a minute.
        """
        fail_point("submit.start")
        try:
            return self._submit(ref, now=now, looked_for=looked_for)
        except BatchNotFound:  # at any point: rows can be deleted meanwhile
            return Submission(state=SubmitState.LOST)

    def _submit(self, ref: PartRef, *, now: datetime, looked_for: datetime | None) -> Submission:
        batch, part = self.parts.get(ref)
        if part.settled_at is not None or part.provider_batch_id is not None:
            return self._submitted(ref)
        if part.create_sent_at is not None and part.create_sent_at != looked_for:
            return self._uncertain(ref)
        if batch.cancel_requested_at is not None:
            return Submission(state=SubmitState.CANCELED, submitted_at=part.submitted_at)
        try:
            provider = self.provider_for(batch.provider, batch.account)
            if self.parts.is_full(ref, self.max_open[batch.provider]):  # a file that waits for days may be deleted
                return self._full(batch)
            file_id = self._upload(ref, part, provider)
            return self._create(ref, batch, part, provider, file_id, now=now, looked_for=looked_for)
        except (BatchNotFound, RunSuperseded):
            raise
        except PermanentError as error:
            return self._refused(ref, error)
        except TransientError as error:
            if error.retry_after is None or error.retry_after <= LONGEST_PAUSE:
                raise
            return Submission(state=SubmitState.WAIT, retry_after=error.retry_after, message=str(error)[:1000])

    def _upload(self, ref: PartRef, part: ProviderBatchRow, provider: BatchProvider) -> str | None:
        if part.input_file_id is not None:
            return part.input_file_id
        tag = self._tag(ref, part)
        may_exist = self.parts.begin_upload(ref, now=datetime.now(UTC))
        fail_point("upload.intent_saved")
        file_id = provider.find_upload(tag=tag) if may_exist else None
        if file_id is None:
            file_id = provider.upload(self._lines(part), tag=tag)
        fail_point("upload.sent")
        if file_id is not None:
            self.parts.record_upload(ref, file_id)
        fail_point("upload.saved")
        return file_id

    def _create(
        self,
        ref: PartRef,
        batch: BatchRow,
        part: ProviderBatchRow,
        provider: BatchProvider,
        file_id: str | None,
        *,
        now: datetime,
        looked_for: datetime | None,
    ) -> Submission:
        sent_at = datetime.now(UTC)
        max_open = self.max_open[batch.provider]
        turn = self.parts.begin_create(ref, now=now, sent_at=sent_at, looked_for=looked_for, max_open=max_open)
        fail_point("create.intent_saved")
        match turn:
            case CreateTurn.CREATED:
                return self._submitted(ref)
            case CreateTurn.UNCERTAIN:
                return self._uncertain(ref)
            case CreateTurn.CANCELED:
                return Submission(state=SubmitState.CANCELED)
            case CreateTurn.FULL:
                return self._full(batch)
            case CreateTurn.CREATE:
                pass
        tag = self._tag(ref, part)
        try:
            created = provider.create(
                self._lines(part), tag=tag, file_id=file_id, model=batch.model, endpoint=batch.endpoint
            )
        except (TransientError, PermanentError) as error:
            if _is_without_effect(error):
                self.parts.withdraw_create(ref, sent_at)
                raise
            logger.warning("create's answer lost", extra={**_names(ref), "error": str(error)})
            return self._uncertain(ref, str(error)[:1000])
        record_created(batch.provider)
        fail_point("create.sent")
        # Said before it is stored: what cannot be stored, as the run is superseded, is found by this line or the audit.
        logger.info("created", extra={**_names(ref), "provider_batch_id": created.provider_batch_id})
        if not self.parts.record_created(ref, created, now=datetime.now(UTC), sent_at=sent_at):
            logger.error(
                "a provider batch belongs to nobody: another one was adopted",
                extra={**_names(ref), "provider_batch_id": created.provider_batch_id},
            )
        fail_point("create.saved")
        logger.info(
            "submitted",
            extra={**_names(ref), "provider": batch.provider, "provider_batch_id": created.provider_batch_id},
        )
        return self._submitted(ref)

    def _full(self, batch: BatchRow) -> Submission:
        message = f"waiting for a free place: {self.max_open[batch.provider]} batches of {batch.model} are open"
        return Submission(state=SubmitState.WAIT, retry_after=PAST_QUOTA_PAUSE, message=message)

    def _refused(self, ref: PartRef, error: PermanentError) -> Submission:
        """Delete what was uploaded and say what the provider said; nothing was created."""
        batch, part = self.parts.get(ref)
        logger.error("submission refused", extra={**_names(ref), "error": str(error)})
        if part.input_file_id is not None and not isinstance(error, AccessDenied):
            self.parts.insist()  # the file may be what another run is about to submit
            try:
                self.provider_for(batch.provider, batch.account).clean_up(None, part.refs, file_id=part.input_file_id)
                self.parts.forget_upload(ref)
            except (TransientError, PermanentError) as failure:
                logger.warning("uploaded file not deleted", extra={**_names(ref), "error": str(failure)})
        kind = SubmitState.DENIED if isinstance(error, AccessDenied | NotConfigured) else SubmitState.REFUSED
        return Submission(state=kind, submitted_at=part.submitted_at, message=str(error)[:1000])

    def find(self, ref: PartRef) -> Submission:
        """Look for a create whose answer was lost, and adopt it if it is there.

        Raises:
            TransientError: The provider could not be asked; this does not count as a look.
        """
        try:
            return self._find(ref)
        except BatchNotFound:
            return Submission(state=SubmitState.LOST)

    def _find(self, ref: PartRef) -> Submission:
        batch, part = self.parts.get(ref)
        if part.provider_batch_id is not None or part.create_sent_at is None:
            return self._submitted(ref) if part.provider_batch_id else Submission(state=SubmitState.NOT_FOUND)
        provider = self.provider_for(batch.provider, batch.account)
        since = part.create_sent_at - CLOCK_SKEW
        candidates = provider.find(tag=self._tag(ref, part), since=since)
        candidates = self.parts.unowned(candidates, ref)
        if not provider.keeps_tags:
            candidates = [c for c in candidates if self._may_be_ours(c, part)]
            chosen = self._only_one(ref, part, provider, candidates)
            if chosen is None and candidates:
                return Submission(
                    state=SubmitState.AMBIGUOUS,
                    submitted_at=part.submitted_at,
                    message=f"{len(candidates)} batches at {batch.provider} could be ours; waiting until they end",
                )
        else:
            chosen = min(candidates, key=_age, default=None)
            if len(candidates) > 1:
                logger.error("several batches carry one tag", extra={**_names(ref), "found": len(candidates)})
        if chosen is None:
            return self._not_found(part)
        fail_point("find.found")
        adopted = self.parts.record_created(
            ref, Created(provider_batch_id=chosen.provider_batch_id), now=datetime.now(UTC)
        )
        if not adopted:
            return self._not_found(part)
        record_created(batch.provider)
        logger.info("adopted", extra={**_names(ref), "provider_batch_id": chosen.provider_batch_id})
        return self._submitted(ref)

    @staticmethod
    def _may_be_ours(candidate: Candidate, part: ProviderBatchRow) -> bool:
        if candidate.requests not in (None, part.requests) or part.create_sent_at is None:
            return False
        created = candidate.created_at
        sending = timedelta(seconds=part.bytes / SLOWEST_UPLOAD)
        return created is None or -CLOCK_SKEW <= created - part.create_sent_at <= MATCH_WINDOW + sending

    def _only_one(
        self, ref: PartRef, part: ProviderBatchRow, provider: BatchProvider, candidates: list[Candidate]
    ) -> Candidate | None:
        """Return the candidate that is ours beyond doubt, and drop from the list those that certainly are not."""
        if len(candidates) == 1 and self.parts.rivals(ref, window=MATCH_WINDOW) == 0:
            return candidates[0]
        for candidate in [c for c in candidates if c.ended]:
            ours = self._answers_our_ids(part, provider, candidate)
            if ours:
                return candidate
            if ours is not None:
                candidates.remove(candidate)
        return None

    def _answers_our_ids(self, part: ProviderBatchRow, provider: BatchProvider, candidate: Candidate) -> bool | None:
        """Whether a candidate's results are of our requests; None where it has no results to tell by."""
        status = provider.status(candidate.provider_batch_id)
        ids: set[str] = set()
        for source in provider.results(candidate.provider_batch_id, status.refs):
            buffer = b""
            for chunk in source.chunks:
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    try:
                        wire_id = provider.read_entry(line).wire_id
                    except MalformedEntry:
                        continue
                    if wire_id is not None:
                        ids.add(wire_id)
                if len(ids) >= COMPARED_ENTRIES:
                    break
        assert part.key is not None  # noqa: S101 - a loaded row has its key
        return self.requests.count_of_ours(part.key, sorted(ids)) == len(ids) if ids else None

    def _uncertain(self, ref: PartRef, message: str | None = None) -> Submission:
        _, part = self.parts.get(ref)
        return Submission(
            state=SubmitState.UNCERTAIN,
            submitted_at=part.submitted_at,
            create_sent_at=part.create_sent_at,
            message=message,
        )

    @staticmethod
    def _not_found(part: ProviderBatchRow) -> Submission:
        return Submission(
            state=SubmitState.NOT_FOUND, submitted_at=part.submitted_at, create_sent_at=part.create_sent_at
        )

    def _submitted(self, ref: PartRef) -> Submission:
        _, part = self.parts.get(ref)
        return Submission(
            state=SubmitState.SUBMITTED,
            submitted_at=part.submitted_at,
            provider_batch_id=part.provider_batch_id,
            polls=part.polls,
            next_poll_at=part.next_poll_at,
            settled=part.settled_at is not None,
        )

    def _lines(self, part: ProviderBatchRow) -> RequestLines:
        assert part.key is not None  # noqa: S101 - a loaded row has its key
        return self.requests.lines(part.key)

    @staticmethod
    def _tag(ref: PartRef, part: ProviderBatchRow) -> str:
        return part_tag(ref.batch_id, ref.round, ref.part, part.epoch)


def _is_without_effect(error: TransientError | PermanentError) -> bool:
    """Whether a failed create certainly made nothing: never connected, or refused by a status below 500."""
    if isinstance(error, ProviderUnreachable | RateLimited):
        return True
    return isinstance(error, PermanentError) and (error.http_status or 0) < 500


def _age(candidate: Candidate) -> datetime:
    return candidate.created_at or datetime.max.replace(tzinfo=UTC)


def _names(ref: PartRef) -> dict[str, object]:
    return {"batch": ref.batch_id, "round": ref.round, "part": ref.part}

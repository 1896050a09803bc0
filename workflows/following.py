"""Follow one provider batch from its submission to its stored results. Used inline and by `ProviderBatch`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.batches import BatchActivities
    from nightmill.contracts import (
        Attention,
        BatchStatus,
        Counts,
        ErrorCode,
        FollowInput,
        PartOutcome,
        PollInput,
        PollOutcome,
        SettleInput,
        Submission,
        SubmitInput,
        SubmitState,
        duration_text,
    )

from workflows import policies
from workflows.failures import is_about_access, is_permanent, pause_asked_for, reason_of


class ProviderBatchFollower:
    """Submit → (sleep → poll)* → harvest, for one provider batch.

    All that must survive a crash or a reset is in the provider batch's row: where it stands, when it was submitted, how
    often it was polled and when the next poll is due. So the story can start again from the top at any time.

    Attributes:
        status: As last read.
        counts: As last read.
        polls: Polls made.
        next_poll_at: When the next poll is due.
        deadline: When max age is reached; None before the submission.
        provider_batch_id: The provider's id, once there is one.
        attention: What this provider batch waits for an operator for.
    """

    def __init__(self, asked: FollowInput, *, on_change: Callable[[], None], start_afresh: Callable[[], None]) -> None:
        self._asked = asked
        self._on_change = on_change
        self._start_afresh = start_afresh
        self._cancels = int(asked.cancel_requested)
        self._cancel_sent = False
        self._polls_since_cancel = 0
        self._poked = False
        self._requeues = 0
        self._wait_since = workflow.now()
        self.status = BatchStatus.PENDING
        self.counts = Counts()
        self.polls = 0
        self.next_poll_at: datetime | None = None
        self.deadline: datetime | None = None
        self.provider_batch_id: str | None = None
        self.attention: str | None = None

    def poke(self) -> None:
        """Do at once what would be done next."""
        self._poked = True

    def cancel(self) -> None:
        """Cancel at the provider; the intent is stored in the batch's row already. Asked again, it is sent again."""
        self._cancels += 1
        self._cancel_sent = False

    @property
    def _cancel_is_due(self) -> bool:
        return self._cancels > 0 and not self._cancel_sent

    async def run(self) -> PartOutcome:
        """Return when the results are stored and the provider batch has its final status."""
        while True:
            submission = await self._submit()
            end = self._end_without_batch(submission)
            if end is None and not submission.settled:
                end = await self._follow(submission)
                if end is None and workflow.now() - self._wait_since < self._asked.pending_ttl:
                    # The provider took it back for lack of quota.
                    await self._pause(_nth(policies.BACK_OFF, self._requeues), "out of quota")
                    self._requeues += 1
                    continue
                end = end or SettleInput(
                    part=self._asked.part,
                    status=BatchStatus.FAILED,
                    reason="not submitted in time: out of quota",
                    code=ErrorCode.NOT_SUBMITTED,
                )
            return await self._harvest(end or SettleInput(part=self._asked.part, status=BatchStatus.ENDED))

    # --- submission

    async def _submit(self) -> Submission:
        """Return when there is a provider batch, or it is certain that there will be none."""
        looked_for: datetime | None = None
        tries = 0
        while True:
            submission = await self._try_to_submit(looked_for)
            if submission.state is SubmitState.UNCERTAIN:
                self._show(BatchStatus.PENDING)
                submission = await self._find()
                if submission.state is SubmitState.NOT_FOUND:
                    looked_for = submission.create_sent_at
                    continue
            if submission.state is not SubmitState.WAIT:
                await self._clear_attention()
                return submission
            if workflow.now() - self._wait_since >= self._asked.pending_ttl:
                return Submission(state=SubmitState.DENIED, message=f"not submitted in time: {submission.message}")
            pause = max(submission.retry_after or timedelta(0), _nth(policies.BACK_OFF, tries))
            await self._pause(pause, submission.message or "submit again")
            tries += 1

    async def _try_to_submit(self, looked_for: datetime | None) -> Submission:
        asked = SubmitInput(part=self._asked.part, now=workflow.now(), looked_for=looked_for)
        try:
            return await workflow.execute_activity_method(
                BatchActivities.submit_part,
                asked,
                **policies.titled(policies.SUBMISSION, f"submit to {self._asked.provider}"),
            )
        except ActivityError as error:
            return Submission(state=SubmitState.WAIT, message=reason_of(error))

    async def _find(self) -> Submission:
        """Look for a create whose answer was lost; only answers of the provider count as looks."""
        looks = 0
        given_up_at = workflow.now() + self._asked.max_age
        while workflow.now() < given_up_at:
            await workflow.sleep(_nth(self._asked.find_delays, looks), summary="look for the lost create")
            try:
                found = await workflow.execute_activity_method(
                    BatchActivities.find_part,
                    self._asked.part,
                    **policies.titled(policies.PROVIDER_CALL, "look for the lost create"),
                )
            except ActivityError as error:
                if is_permanent(error):
                    await self._wait_for_operator(reason_of(error), at_most=given_up_at)
                continue
            if found.state is SubmitState.AMBIGUOUS:
                later = workflow.now() + self._asked.poll_schedule[-1]
                await self._wait_for_operator(found.message or "several candidates", at_most=min(later, given_up_at))
                continue
            looks += 1
            if found.state is not SubmitState.NOT_FOUND or looks >= len(self._asked.find_delays):
                return found
        return Submission(
            state=SubmitState.UNCERTAIN, message="max age exceeded: the lost create could not be looked for"
        )

    def _end_without_batch(self, submission: Submission) -> SettleInput | None:
        """Return how it ends where nothing was created."""
        part, message = self._asked.part, submission.message
        match submission.state:
            case SubmitState.REFUSED:
                return SettleInput(part=part, status=BatchStatus.FAILED, reason=message, code=ErrorCode.REJECTED)
            case SubmitState.DENIED:
                return SettleInput(part=part, status=BatchStatus.FAILED, reason=message, code=ErrorCode.NOT_SUBMITTED)
            case SubmitState.CANCELED | SubmitState.LOST:
                reason = "canceled before it was submitted"
                return SettleInput(part=part, status=BatchStatus.CANCELED, reason=reason, code=ErrorCode.CANCELED)
            case SubmitState.UNCERTAIN:
                return SettleInput(part=part, status=BatchStatus.EXPIRED, reason=message)
            case _:
                return None

    # --- polling

    async def _follow(self, submission: Submission) -> SettleInput | None:
        """Poll along the schedule until the provider batch is terminal or past its max age; None: submit it again."""
        submitted_at = submission.submitted_at or workflow.now()
        deadline = self.deadline = submitted_at + self._asked.max_age
        self.polls = submission.polls
        self.provider_batch_id = submission.provider_batch_id
        self._show(BatchStatus.SUBMITTED)
        self.next_poll_at = submission.next_poll_at or submitted_at + self._delay()
        while True:
            if workflow.info().is_continue_as_new_suggested() and not self._poked and not self._cancel_is_due:
                await workflow.wait_condition(workflow.all_handlers_finished)
                self._start_afresh()
            await self._sleep_until(min(self.next_poll_at, deadline))
            if self._cancel_is_due:
                answer = await self._send_cancel()
                if answer is not None and answer.status.is_terminal:
                    return SettleInput(part=self._asked.part, status=answer.status, reason=answer.reason)
            if workflow.now() >= deadline:
                return await self._expire(submitted_at)
            outcome = await self._poll()
            if outcome is None:
                continue
            if outcome.requeue:
                self._show(BatchStatus.PENDING)
                return None
            if outcome.status.is_terminal:
                return SettleInput(part=self._asked.part, status=outcome.status, reason=outcome.reason)

    def _delay(self) -> timedelta:
        """Return the pause before the next poll: schedule[N-1] before the N-th one, tight after a cancel."""
        if self._cancel_sent:
            self._polls_since_cancel += 1
            return _nth(policies.TIGHT, self._polls_since_cancel - 1)
        return _nth(self._asked.poll_schedule, self.polls)

    async def _sleep_until(self, when: datetime) -> None:
        """Sleep on a durable timer, computed from an absolute instant so that a reset does not start it anew."""
        left = when - workflow.now()
        if left > timedelta(0):
            # A signal or an update may run while we wait here; both only set flags.
            with suppress(asyncio.TimeoutError):
                await workflow.wait_condition(
                    lambda: self._poked or self._cancel_is_due,
                    timeout=left,
                    timeout_summary=f"wait {duration_text(left)} for poll {self.polls + 1}",
                )
        self._poked = False

    async def _poll(self) -> PollOutcome | None:
        """Ask once; None where the provider could not be asked, which ends nothing."""
        self.polls += 1
        self.next_poll_at = workflow.now() + self._delay()
        asked = PollInput(part=self._asked.part, next_poll_at=self.next_poll_at, attempt=self.polls)
        try:
            outcome = await workflow.execute_activity_method(
                BatchActivities.poll_part, asked, **policies.titled(policies.PROVIDER_CALL, f"poll {self.polls}")
            )
        except ActivityError as error:
            if is_permanent(error):
                await self._wait_for_operator(reason_of(error), at_most=self.deadline)
            else:
                self.next_poll_at = max(self.next_poll_at, workflow.now() + pause_asked_for(error))
            return None
        await self._clear_attention()
        if outcome.cancel_requested and not self._cancels:
            self.cancel()  # its signal or update was lost on the way
        self.counts = outcome.counts
        if not outcome.status.is_terminal:
            self._show(BatchStatus.CANCELING if self._cancels else outcome.status)
        return outcome

    async def _send_cancel(self) -> PollOutcome | None:
        """Ask the provider to cancel and return its answer; a failure is a warning, and polling goes on."""
        answer = None
        try:
            answer = await workflow.execute_activity_method(
                BatchActivities.cancel_part,
                self._asked.part,
                **policies.titled(policies.PROVIDER_CALL, "cancel at the provider"),
            )
        except ActivityError as error:
            workflow.logger.warning("cancel failed", extra={"error": reason_of(error)})
            # It stays due, and is sent with the next poll, unless the provider will never take it.
            self._cancel_sent = is_permanent(error) and not is_about_access(error)
            if is_about_access(error):
                await self._wait_for_operator(f"cancel: {reason_of(error)}", at_most=self.deadline)
        else:
            self._cancel_sent = True
        self._show(BatchStatus.CANCELING)
        return answer

    async def _expire(self, submitted_at: datetime) -> SettleInput:
        """End at max age: ask a last time, cancel, and leave the provider time to hand over what it finished."""
        last = await self._ask_quietly()
        if last is not None and last.status.is_terminal and not last.requeue:
            return SettleInput(part=self._asked.part, status=last.status, reason=last.reason)
        since = submitted_at.isoformat(timespec="seconds")
        reason = f"max age {duration_text(self._asked.max_age)} exceeded: submitted at {since}"
        workflow.logger.warning(
            "max age exceeded",
            extra={"submitted_at": submitted_at.isoformat(), "max_age": str(self._asked.max_age)},
        )
        end = SettleInput(
            part=self._asked.part, status=BatchStatus.EXPIRED, reason=reason, at_max_age=not self._cancels
        )
        if last is not None and last.requeue:
            return end  # the provider took it back: there is nothing to cancel
        last = await self._send_cancel()
        given_up_at = workflow.now() + policies.CANCEL_PATIENCE
        looks = 0
        while workflow.now() < given_up_at and (last is None or not last.status.is_terminal):
            await workflow.sleep(_nth(policies.TIGHT, looks), summary="wait for the cancel at max age")
            last = await self._ask_quietly()
            looks += 1
        return end

    async def _ask_quietly(self) -> PollOutcome | None:
        """Poll without waiting for anybody where the provider refuses: the deadline has passed."""
        self.polls += 1
        asked = PollInput(part=self._asked.part, next_poll_at=workflow.now() + timedelta(minutes=1), attempt=self.polls)
        try:
            return await workflow.execute_activity_method(
                BatchActivities.poll_part, asked, **policies.titled(policies.PROVIDER_CALL, "poll at max age")
            )
        except ActivityError as error:
            workflow.logger.warning("last poll failed", extra={"error": reason_of(error)})
            return None

    # --- results

    async def _harvest(self, end: SettleInput) -> PartOutcome:
        """Store what results there are; as long as the provider may still give them, a failure is not the end.

        A cancel only tries again at once: what the provider has is paid for.
        """
        given_up_at = max(self.deadline or workflow.now(), workflow.now()) + policies.HARVEST_PATIENCE
        end = end.model_copy(update={"ended_at": workflow.now()})
        tries = 0
        while True:
            try:
                outcome = await workflow.execute_activity_method(
                    BatchActivities.harvest_part,
                    end,
                    **policies.titled(policies.LONG_FILE_WORK, f"harvest: {end.status}"),
                )
            except ActivityError as error:
                wait_until = workflow.now() + _nth(policies.BACK_OFF, tries)
                if is_permanent(error) and tries >= len(policies.BACK_OFF):
                    wait_until = given_up_at
                if is_permanent(error):
                    await self._wait_for_operator(f"results: {reason_of(error)}", at_most=wait_until)
                else:
                    await self._pause(wait_until - workflow.now(), "fetch the results again", or_cancel=False)
                tries += 1
                if workflow.now() >= given_up_at:
                    end = end.model_copy(update={"without_results": True, "reason": reason_of(error)})
                continue
            await self._clear_attention()
            self._show(outcome.status)
            return outcome

    # --- waiting and showing

    async def _pause(self, pause: timedelta, why: str, *, or_cancel: bool = True) -> None:
        """Wait, unless somebody pokes, or cancels where that changes what is next."""
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(
                lambda: self._poked or (or_cancel and self._cancels > 0), timeout=pause, timeout_summary=why[:200]
            )
        self._poked = False

    async def _wait_for_operator(self, message: str, *, at_most: datetime | None = None) -> None:
        """Show that somebody must act, and wait until somebody did, or the time is up."""
        if self.attention != message:
            self.attention = message
            await self._set_attention(message)
        known_cancels = self._cancels
        timeout = max(at_most - workflow.now(), timedelta(0)) if at_most else None
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(
                lambda: self._poked or self._cancels != known_cancels,
                timeout=timeout,
                timeout_summary="wait for an operator",
            )
        self._poked = False

    async def _clear_attention(self) -> None:
        if self.attention is not None:
            self.attention = None
            await self._set_attention(None)

    async def _set_attention(self, message: str | None) -> None:
        await workflow.execute_activity_method(
            BatchActivities.set_attention,
            Attention(batch_id=self._asked.part.batch_id, part=self._asked.part, message=message and message[:2000]),
            **policies.DATABASE_WRITE,
        )
        self._on_change()

    def _show(self, status: BatchStatus) -> None:
        self.status = status
        self._on_change()


def _nth(delays: Sequence[timedelta], n: int) -> timedelta:
    """Return the n-th delay, from 0; the last one repeats."""
    return delays[min(n, len(delays) - 1)]

"""Slice PDFs from a program: start, watch, wait, read what was found, and look after the slicers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from nightmill import ids
from nightmill.client.failures import Timeout, checked, failure_of, innermost, unreachable, within
from nightmill.client.streams import streamed
from nightmill.contracts import (
    CanaryOutcome,
    HealthInput,
    SlicerBeat,
    SlicingInput,
    SlicingProgress,
    SlicingSummary,
)
from nightmill.contracts.slicing import STORED
from nightmill.errors import InvalidInput, SlicingConflict, SlicingNotFound, TemporalUnreachable
from nightmill.slicing.faults import DocumentFault
from nightmill.slicing.notices import summary_of
from nightmill.slicing.originals import name_of
from nightmill.slicing.profiles import find_profile

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.storage.slices import SliceHead
    from nightmill.storage.slicing_models import SlicerBreakerRow, SliceRow, SlicingRow

SLICING = "DocumentSlicing"
HEALTH = "SlicerHealth"


@dataclass(frozen=True)
class Slicings:
    """PDFs that are cut into their single documents. From `Nightmill.slicings`.

    A document is named by the SHA-256 of its PDF and the profile that slices it.

    Attributes:
        temporal: The Temporal client, with Nightmill's data converter.
        assembly: The database, the file storage, and what reads them.
    """

    temporal: Client
    assembly: Assembly

    async def slice(
        self,
        path: Path | str,
        *,
        profile: str = "gazette",
        notify: str | Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Store a PDF of this machine, start slicing it, and return its SHA-256.

        One that is being sliced already goes on undisturbed; one that was sliced before is sliced again, and its slices
        are replaced when that has succeeded.

        Args:
            path: The PDF.
            profile: The slicer profile.
            notify: Who is told when it has ended: `mailto:…`, `https://…`, `channel:NAME`.
            metadata: Yours; kept with the document.

        Raises:
            InvalidInput: The file cannot be read, or an argument cannot be used; nothing was started.
            TemporalUnreachable: It is stored and could not be started; the same call does it later.
            StorageUnavailable: The file storage or the database is away.
        """
        path = Path(path)
        given = self._checked(source=f"{STORED}{path.name}", profile=profile, notify=notify, metadata=metadata)
        try:
            sha256 = await asyncio.to_thread(self.assembly.slicing.originals.put, path)
            await self._start(sha256, given, path)
        except DocumentFault as error:
            raise InvalidInput(str(error)) from error
        return sha256

    async def slice_from(
        self,
        source: str,
        sha256: str,
        *,
        profile: str = "gazette",
        notify: str | Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Start slicing a PDF that the worker finds by itself, as a path under its input roots or an `https:` URL.

        Args:
            source: Where it is.
            sha256: The SHA-256 of its content, which the worker compares.
            profile: See `slice`.
            notify: See `slice`.
            metadata: See `slice`.

        Raises:
            InvalidInput: An argument cannot be used; nothing was started.
            TemporalUnreachable: It could not be started.
        """
        ids.slicing_of(ids.slicing_workflow_id(sha256, profile))
        await self._start(sha256, self._checked(source=source, profile=profile, notify=notify, metadata=metadata))

    def _checked(self, **given: Any) -> SlicingInput:
        try:
            asked = SlicingInput(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            text = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'input'}: {item['msg']}" for item in found[:10])
            raise InvalidInput(text) from None
        find_profile(self.assembly.settings.slicing, asked.profile)
        return asked

    async def _start(self, sha256: str, asked: SlicingInput, path: Path | None = None) -> None:
        row = await asyncio.to_thread(
            self.assembly.slicing.slicings.add,
            sha256,
            asked.profile,
            name=name_of(asked.source),
            source=asked.source,
            notify=asked.notify,
            metadata=asked.metadata,
            now=datetime.now(UTC),
        )
        if path is not None:  # before there was a row, a prune may have taken away what was stored
            await asyncio.to_thread(self.assembly.slicing.originals.put_again, path, sha256)
        # Whom to tell is in the row: a webhook's address may hold a token, which has no place in a history.
        given = SlicingInput(source=asked.source, profile=asked.profile)
        try:
            await self.temporal.start_workflow(
                SLICING,
                given.model_dump(exclude_unset=True),
                id=ids.slicing_workflow_id(sha256, asked.profile),
                task_queue=self.assembly.settings.slicing.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                static_summary=f"{row.name[:150]} by {asked.profile}",
            )
        except RPCError as error:
            raise TemporalUnreachable(
                f"{row.name} is stored but could not be started ({error.message}): the same command starts it later"
            ) from error

    async def wait(self, sha256: str, profile: str = "gazette", *, timeout: Timeout = None) -> SlicingSummary:
        """Return what the slicing came to once it has ended and those who asked were told.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
            SlicingNotFound: Nothing is known of it.
            InvalidInput: The workflow could not use its input.
            WorkflowFailed: It failed by a bug; documents that cannot be sliced are outcomes.
            TemporalUnreachable: Temporal went away; waiting again goes on.
        """
        handle = self._handle(sha256, profile)
        try:
            async with within(timeout, f"slicing {sha256[:12]}"):
                return await handle.result()
        except WorkflowFailureError as error:
            if isinstance(error.cause, CancelledError):
                return await self.summary(sha256, profile)
            if isinstance(innermost(error), ApplicationError):
                raise failure_of(f"slicing {sha256[:12]}", error) from error
            return await self.summary(sha256, profile)  # terminated or timed out: the row knows how it stands
        except RPCError as error:
            raise self._error(sha256, error) from error

    async def summary(self, sha256: str, profile: str = "gazette") -> SlicingSummary:
        """Return how the document stands, from the database.

        Raises:
            SlicingNotFound: There is no such document.
        """
        return summary_of(await asyncio.to_thread(self.assembly.slicing.slicings.get, sha256, profile))

    async def progress(self, sha256: str, profile: str = "gazette") -> SlicingProgress:
        """Return how far the slicing is, to the second: the workflow's own view, and its programs' heartbeats.

        Raises:
            SlicingNotFound: No workflow has worked on it.
            TemporalUnreachable: Temporal, or a worker, does not answer.
        """
        handle = self._handle(sha256, profile)
        try:
            progress: SlicingProgress = await handle.query("progress", result_type=SlicingProgress)
            if progress.status.is_terminal:
                return progress
            described = await handle.describe()
        except RPCError as error:
            raise self._error(sha256, error) from error
        beats = [await _beat(self.temporal, each) for each in described.raw_description.pending_activities]
        counted = [beat for beat in beats if beat is not None and beat.step == "slice"]
        if counted and counted[0].phase == "running":
            beat = counted[0]
            return progress.model_copy(update={"page": max(beat.page, progress.page), "of": progress.of or beat.of})
        return progress

    async def find(self, name: str, profile: str | None = None) -> SlicingRow:
        """Return a document by the beginning of its SHA-256 (8 digits at least), or by `<SHA-256>/<profile>`.

        Raises:
            SlicingNotFound: There is none.
            InvalidInput: There are several.
        """
        return await asyncio.to_thread(self.assembly.slicing.slicings.find, name, profile)

    def slices(self, slicing: SlicingRow | str, profile: str = "gazette") -> AsyncGenerator[SliceRow, None]:
        """Yield a document's slices with their texts, in order, a few megabytes in memory at a time.

        Args:
            slicing: What `find` returns, which means the run of then, or a SHA-256, which means the present one.
            profile: Of a SHA-256; a row names its own.

        Raises:
            SlicingNotFound: There is no such document.
            SlicingSuperseded: It was sliced again since its row was read; what came before is to be dropped.
        """
        stored = self.assembly.slicing

        def read() -> Iterator[SliceRow]:
            row = stored.slicings.get(slicing, profile) if isinstance(slicing, str) else slicing
            return stored.slices.stream(row)

        return streamed(read)

    async def heads(self, row: SlicingRow, *, after: int = -1, limit: int = 100) -> list[SliceHead]:
        """Return some of a document's slices without their texts, in order; `after` goes on after that position."""
        return await asyncio.to_thread(self.assembly.slicing.slices.page, row, after=after, limit=limit)

    def read_file(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield a slice's PDF, by its `file_key`, in pieces of about a megabyte.

        Raises:
            FileMissing: There is none.
        """
        return streamed(partial(self.assembly.files.read, key), at_once=1)

    async def cancel(self, sha256: str, profile: str = "gazette") -> None:
        """Ask for a cancel; the program's processes are gone some seconds later, slices of an earlier run stay.

        Raises:
            SlicingNotFound: No workflow works on it.
            SlicingConflict: It has ended.
            TemporalUnreachable: Temporal does not answer.
        """
        row = await asyncio.to_thread(self.assembly.slicing.slicings.get, sha256, profile)
        handle = self._handle(sha256, profile)
        try:
            # Not the row: of a run that no worker has begun yet it says how the one before has ended.
            if (await handle.describe()).close_time is not None:
                raise SlicingConflict(f"{row.name} is {row.status} already: there is nothing to cancel")
            await handle.cancel()
        except RPCError as error:
            raise self._error(sha256, error) from error

    async def breakers(self) -> list[SlicerBreakerRow]:
        """Return all breakers that ever counted a fault or tried a canary."""
        return await asyncio.to_thread(self.assembly.slicing.breakers.all)

    async def open_breaker(self, profile: str, *, reason: str, by: str) -> None:
        """Park all new slicings of a profile until somebody closes its breaker by hand; operators are told.

        Raises:
            InvalidInput: There is no such profile.
            TemporalUnreachable: It is open, but nobody could be told.
        """
        find_profile(self.assembly.settings.slicing, profile)
        breaker = self.assembly.slicing.breaker
        await asyncio.to_thread(breaker.hold_open, profile, reason, by, datetime.now(UTC))
        await self._settle(profile)

    async def close_breaker(self, profile: str, *, reason: str, by: str) -> None:
        """Let a profile slice again; what was parked goes on in order, and operators are told.

        Raises:
            InvalidInput: There is no such profile.
            TemporalUnreachable: It is closed; what was parked notices in five minutes, after a long wait in an hour.
        """
        find_profile(self.assembly.settings.slicing, profile)
        breaker = self.assembly.slicing.breaker
        await asyncio.to_thread(breaker.close, profile, reason, by, datetime.now(UTC))
        await self._settle(profile)

    async def _settle(self, profile: str) -> None:
        try:
            await self.temporal.start_workflow(
                HEALTH,
                HealthInput(profile=profile, canary=False),
                id=f"{ids.health_workflow_id(profile)}/settle",
                task_queue=self.assembly.settings.slicing.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
                static_summary=f"the breaker of {profile} was changed by hand",
            )
        except RPCError as error:
            raise unreachable(f"breaker of {profile}", error) from error

    async def check_health(self, profile: str = "gazette", *, timeout: Timeout = None) -> CanaryOutcome | None:
        """Slice the canary now and return what came of it; None where another canary is being sliced.

        Over an open breaker the cool-down is not waited for, and one that passes closes it.

        Raises:
            InvalidInput: There is no such profile.
            TimeoutError: It has not ended in time.
            WorkflowFailed: It failed by a bug.
            TemporalUnreachable: Temporal does not answer.
        """
        patience = checked(timeout)
        find_profile(self.assembly.settings.slicing, profile)
        try:
            handle = await self.temporal.start_workflow(
                HEALTH,
                HealthInput(profile=profile, once=True),
                id=f"{ids.health_workflow_id(profile)}/check",
                task_queue=self.assembly.settings.slicing.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                result_type=CanaryOutcome,
                static_summary=f"is the slicer of {profile} well?",
            )
            async with within(patience, f"the canary of {profile}"):
                outcome: CanaryOutcome | None = await handle.result()
                return outcome
        except WorkflowFailureError as error:
            raise failure_of(f"health of {profile}", error) from error
        except RPCError as error:
            raise unreachable(f"health of {profile}", error) from error

    def _handle(self, sha256: str, profile: str) -> WorkflowHandle[Any, SlicingSummary]:
        return self.temporal.get_workflow_handle(ids.slicing_workflow_id(sha256, profile), result_type=SlicingSummary)

    @staticmethod
    def _error(sha256: str, error: RPCError) -> SlicingNotFound | TemporalUnreachable:
        if error.status is RPCStatusCode.NOT_FOUND:
            return SlicingNotFound(f"no slicing of {sha256[:12]} is known to Temporal")
        return unreachable(f"slicing {sha256[:12]}", error)


async def _beat(temporal: Client, pending: Any) -> SlicerBeat | None:
    if not pending.HasField("heartbeat_details") or not pending.heartbeat_details.payloads:
        return None
    found = await temporal.data_converter.decode(pending.heartbeat_details.payloads, [SlicerBeat])
    return found[0] if found else None

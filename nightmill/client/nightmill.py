"""Start, watch and steer batches from a program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, CancelledError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from nightmill import ids
from nightmill.assembly import Assembly, assembled
from nightmill.client.connection import connect
from nightmill.client.failures import Timeout, failure_of, innermost, unreachable, within
from nightmill.client.streams import streamed
from nightmill.completions.requests import RequestReader, read_request_objects, read_requests
from nightmill.contracts import BatchInput, BatchStatus, BatchSummary, Progress, duration_text
from nightmill.errors import BatchConflict, BatchNotFound, InvalidInput, TemporalUnreachable
from nightmill.settings import Settings, load_settings
from nightmill.storage import schema
from nightmill.storage.retries import failed_requests

if TYPE_CHECKING:
    from nightmill.client.documents import Documents
    from nightmill.client.options import BatchOptions
    from nightmill.client.recovery import Recovery
    from nightmill.client.retention import Retention
    from nightmill.client.slicings import Slicings
    from nightmill.storage.models import BatchRow
    from nightmill.storage.results import Result

_T = TypeVar("_T")

WORKFLOW = "ModelCompletionBatch"

UPDATE_ANSWERS_WITHIN = timedelta(seconds=20)
"""How long an update waits for a worker to take it."""


@dataclass(frozen=True)
class Nightmill:
    """A connection to Temporal and to the database. Made by `connect`.

    Attributes:
        temporal: The Temporal client, with Nightmill's data converter.
        assembly: The database and what reads it.
    """

    temporal: Client
    assembly: Assembly

    @staticmethod
    @asynccontextmanager
    async def connect(settings: Settings | None = None) -> AsyncIterator[Nightmill]:
        """Connect as the settings say, or those of the environment; closes the database at the end.

        Raises:
            TemporalUnreachable: No Temporal server answers.
            SchemaOutdated: The database is of another version.
            StorageUnavailable: The database does not answer.
            NotConfigured: A setting cannot be used.
        """
        settings = settings or load_settings()
        with assembled(settings) as assembly:
            await asyncio.to_thread(schema.check, assembly.database)
            yield Nightmill(await connect(settings), assembly)

    @property
    def documents(self) -> Documents:
        """Pages that are kept fresh: add, sync, read and purge them."""
        from nightmill.client.documents import Documents

        return Documents(self.temporal, self.assembly)

    @property
    def slicings(self) -> Slicings:
        """PDFs that are cut into their single documents: slice, watch and read them."""
        from nightmill.client.slicings import Slicings

        return Slicings(self.temporal, self.assembly)

    @property
    def recovery(self) -> Recovery:
        """What is stuck: find and repair it, see what was repaired, and keep the schedules."""
        from nightmill.client.recovery import Recovery

        return Recovery(self.temporal, self.assembly)

    @property
    def retention(self) -> Retention:
        """What is not needed any more: delete a batch, or what ended long ago."""
        from nightmill.client.retention import Retention

        return Retention(self.assembly)

    async def submit(
        self,
        requests: Iterable[Mapping[str, Any]],
        *,
        provider: str,
        model: str,
        batch_id: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> str:
        """Store requests, start their batch, and return its id.

        Args:
            requests: Objects of the shapes that a JSONL file may hold; see docs/requests.md.
            provider: `openai`, `anthropic`, `google` or `xai`.
            model: The provider's model name.
            batch_id: 1 to 64 letters, digits, `_` or `-`; default a new UUIDv7. An id that is taken is refused, so
                an id of your own makes submitting safe to repeat.
            **options: See `nightmill.client.options.BatchOptions`.

        Raises:
            InvalidInput: An argument or a request cannot be used; the message names it. Nothing was stored.
            BatchConflict: The id is taken.
            TemporalUnreachable: The batch is stored, but could not be started; `start` does it later.
        """
        given = read_input(provider=provider, model=model, **options)
        render = self.assembly.renderer(provider)
        reader = read_request_objects(requests, provider=render, model=model, endpoint=given.endpoint)
        return await self._submit(given, reader, batch_id)

    async def submit_file(
        self,
        chunks: Iterable[bytes],
        *,
        name: str,
        provider: str,
        model: str,
        batch_id: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> str:
        """Do as `submit` does, with the bytes of a JSONL file; `name` is its name in messages."""
        given = read_input(provider=provider, model=model, **options)
        render = self.assembly.renderer(provider)
        reader = read_requests(chunks, provider=render, model=model, endpoint=given.endpoint, source=name)
        return await self._submit(given, reader, batch_id)

    async def _submit(self, given: BatchInput, reader: RequestReader, batch_id: str | None) -> str:
        batch_id = ids.check_batch_id(batch_id) if batch_id is not None else ids.new_id()
        row = await asyncio.to_thread(self.assembly.preparer.store, batch_id, given, reader)
        await self._start(row)
        return batch_id

    async def start(self, batch_id: str) -> None:
        """Start a stored batch whose workflow does not run; one that runs goes on undisturbed.

        Raises:
            BatchNotFound: There is no such batch.
            BatchConflict: It has ended and its handler was told.
        """
        row = await asyncio.to_thread(self.assembly.batches.get, batch_id)
        if row.status.is_terminal and row.handler_dispatched_at is not None:
            raise BatchConflict(f"batch {batch_id} is {row.status} already")
        await self._start(row)

    async def _start(self, row: BatchRow) -> None:
        try:
            await self.temporal.start_workflow(
                WORKFLOW,
                BatchInput(batch_id=row.id).model_dump(exclude_unset=True),  # the rest would be eleven nulls in the UI
                id=ids.batch_workflow_id(row.id),
                task_queue=self.assembly.settings.worker.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                static_summary=f"{row.provider} {row.model}: {row.requests:,} requests",
                static_details=_details(row),
            )
        except WorkflowAlreadyStartedError:
            raise BatchConflict(f"batch {row.id} has been completed") from None
        except RPCError as error:
            raise TemporalUnreachable(
                f"batch {row.id} is stored but could not be started ({error.message}): "
                f"`nightmill batch submit --resume {row.id}` starts it"
            ) from error

    async def retry_failed(self, batch_id: str, *, only_retriable: bool = False) -> str:
        """Make and start a new batch of an ended one's failed completions; return its id. `retry_of` is the old one.

        Raises:
            BatchNotFound: There is no such batch.
            BatchConflict: It has not ended.
            InvalidInput: Nothing failed.
        """
        row = await asyncio.to_thread(self.assembly.batches.get, batch_id)
        if not row.status.is_terminal:
            raise BatchConflict(f"batch {batch_id} is {row.status}: wait until it has ended, or cancel it")
        new_id = ids.new_id()
        failed = failed_requests(self.assembly.database, batch_id, only_retriable=only_retriable)
        new = await asyncio.to_thread(self.assembly.preparer.store_retry, new_id, row, failed)
        await self._start(new)
        return new_id

    def _handle(self, batch_id: str) -> WorkflowHandle[Any, BatchSummary]:
        return self.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id), result_type=BatchSummary)

    async def wait(self, batch_id: str, *, timeout: Timeout = None) -> BatchSummary:
        """Return the summary once the batch has ended and its handler has succeeded.

        Args:
            batch_id: The batch.
            timeout: Give up waiting after this long; the batch goes on.

        Raises:
            TimeoutError: It has not ended in time.
            BatchNotFound: There is no such batch.
            BatchConflict: It has not ended, and no workflow runs it; the message says how it goes on.
            InvalidInput: The workflow could not use its input.
            WorkflowFailed: The workflow failed by a bug.
            TemporalUnreachable: Temporal went away; waiting again goes on.
        """
        try:
            async with within(timeout, f"batch {batch_id}"):
                return await self._handle(batch_id).result()
        except WorkflowFailureError as error:
            if isinstance(error.cause, CancelledError):
                return await self.summary(batch_id)
            if isinstance(innermost(error), ApplicationError):
                raise failure_of(f"batch {batch_id}", error) from error
            return await self._ended(batch_id)  # terminated or timed out: the rows know how it stands
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return await self._ended(batch_id)
            raise self._steering_error(batch_id, error) from error

    async def _ended(self, batch_id: str) -> BatchSummary:
        """Return the summary of a batch whose workflow is gone."""
        summary = await self.summary(batch_id)
        if not summary.status.is_terminal:
            raise BatchConflict(
                f"batch {batch_id} is {summary.status} and no workflow runs it: "
                f"`nightmill batch submit --resume {batch_id}` goes on with it"
            )
        return summary

    async def summary(self, batch_id: str) -> BatchSummary:
        """Return how the batch stands, or what became of it.

        Raises:
            BatchNotFound: There is no such batch.
        """
        return await asyncio.to_thread(self.assembly.outcomes.summarize, batch_id)

    async def progress(self, batch_id: str) -> Progress:
        """Ask the running workflow how it stands.

        Raises:
            BatchNotFound: No workflow has this id.
        """
        try:
            answer: Progress = await self._handle(batch_id).query("progress", result_type=Progress)
        except RPCError as error:
            raise self._steering_error(batch_id, error) from error
        return answer

    def results(self, batch_id: str) -> AsyncGenerator[Result, None]:
        """Yield each completion in the order of the requests, also while the batch is running.

        Raises:
            BatchNotFound: There is no such batch.
            BatchDeleted: It was deleted, perhaps while it was read.
        """
        return streamed(partial(self.assembly.outcomes.results, batch_id))

    async def cancel(self, batch_id: str) -> BatchStatus:
        """Ask for a cancel and return the status from now on; what is finished already is kept.

        Raises:
            BatchNotFound: There is no such batch.
            BatchConflict: It has ended.
        """
        row = await asyncio.to_thread(self.assembly.batches.get, batch_id)
        if row.status.is_terminal:
            raise BatchConflict(f"batch {batch_id} is {row.status} already: there is nothing to cancel")
        # The intent is stored first, so that it holds even if no worker is there to take the update.
        status = await asyncio.to_thread(self.assembly.batches.request_cancel, batch_id, now=datetime.now(UTC))
        try:
            return await self._update(batch_id, "cancel", BatchStatus)
        except BatchNotFound:
            await self._start(row)  # ends it without a call to the provider, and tells the handler
            return status

    async def poll_now(self, batch_id: str) -> None:
        """Let the batch ask its provider now; also goes on where it waits for an operator.

        Raises:
            BatchNotFound: No workflow of this batch runs.
        """
        try:
            await self._handle(batch_id).signal("poll_now")
        except RPCError as error:
            raise self._steering_error(batch_id, error) from error

    async def redispatch(self, batch_id: str) -> str:
        """Call a completion handler that has failed again, and return what happens.

        Raises:
            BatchNotFound: No workflow of this batch runs.
            BatchConflict: The handler has succeeded, is being called, or the batch has not ended.
        """
        return await self._update(batch_id, "redispatch", str)

    async def _update(self, batch_id: str, name: str, result_type: type[_T]) -> _T:
        try:
            answer: _T = await self._handle(batch_id).execute_update(
                name, result_type=result_type, rpc_timeout=UPDATE_ANSWERS_WITHIN
            )
        except WorkflowUpdateFailedError as error:
            message = error.cause.message if isinstance(error.cause, ApplicationError) else str(error.cause)
            raise BatchConflict(message) from error
        except WorkflowUpdateRPCTimeoutOrCancelledError as error:
            raise TemporalUnreachable(
                f"batch {batch_id}: no worker took the {name} within {UPDATE_ANSWERS_WITHIN.seconds} s; is one running?"
            ) from error
        except RPCError as error:
            raise self._steering_error(batch_id, error) from error
        return answer

    @staticmethod
    def _steering_error(batch_id: str, error: RPCError) -> BatchNotFound | TemporalUnreachable:
        if error.status is RPCStatusCode.NOT_FOUND:
            return BatchNotFound(f"no workflow of batch {batch_id} is running")
        return unreachable(f"batch {batch_id}", error)


def _details(row: BatchRow) -> str:
    """Return what the UI shows of a batch from its start on, as Markdown."""
    handler = row.completion_handler or {}
    facts = {
        "requests": f"{row.requests:,}" + (f" of those that failed in {row.retry_of}" if row.retry_of else ""),
        "account": row.account or "default",
        "polls after": ", ".join(duration_text(timedelta(seconds=delay)) for delay in row.poll_schedule) + " and so on",
        "max age": duration_text(timedelta(seconds=row.max_age)),
        "handler": " ".join(filter(None, (handler.get("kind"), handler.get("type")))) or "none",
        "results": f"`nightmill batch results {row.id}`",
    }
    return "\n".join(f"- **{name}**: {value}" for name, value in facts.items())


def read_input(*, provider: str, model: str, **options: Unpack[BatchOptions]) -> BatchInput:
    """Return the checked input of a batch whose requests come from elsewhere.

    Raises:
        InvalidInput: An argument cannot be used; the message names it.
    """
    from pydantic import ValidationError

    unknown = options.keys() & {"requests_uri", "batch_id"}
    if unknown:
        raise InvalidInput(f"{', '.join(sorted(unknown))}: not an option here")
    given: dict[str, Any] = {"provider": provider, "model": model, "requests_uri": "-", **options}
    if isinstance(handler := options.get("completion_handler"), Mapping):
        given["completion_handler"] = dict(handler)
    try:
        return BatchInput.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        text = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'input'}: {item['msg']}" for item in found[:10])
        raise InvalidInput(text) from None

"""Changes of documents are told to hosts that fail, dawdle or vanish: by one run each, and never by two at once.

The host's worker and ours are this test's own. `Sync` stands for the sync of a document, which ends by telling.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import RetryPolicy, WorkerDeploymentVersion
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from activities.changes import ChangeActivities
from nightmill.client.converter import DATA_CONVERTER
from nightmill.contracts import (
    GONE,
    ActivityHandler,
    ChangePayload,
    ChangeRef,
    CompletionHandler,
    WebhookHandler,
    WorkflowHandler,
)
from nightmill.documents.alerts import Alerts
from nightmill.documents.delivery import ChangeDeliverer
from nightmill.notify import Notifier, SmtpServer
from nightmill.storage.document_syncs import SyncRepository
from nightmill.storage.documents import DocumentRepository
from nightmill.storage.engine import open_database
from nightmill.web.outgoing import Outgoing
from tests.changes import ChangingDocument
from tests.conftest import QUICK
from tests.stack import SECRET, TemporalServer, WebhookSink
from workflows import handler_call, policies
from workflows.change_delivery import deliver_change

pytestmark = pytest.mark.server

NO_RETRY = RetryPolicy(maximum_attempts=1)
# Without a build id the SDK makes one of the code of all modules that are loaded, which takes seconds.
BUILD = WorkerDeploymentConfig(version=WorkerDeploymentVersion("changes", "1"), use_worker_versioning=False)
PATIENCE = 30  # seconds; a loaded machine is slow

_queues = itertools.count()


@workflow.defn
class Sync:
    """A sync that has found a change; it cleans up when it is canceled."""

    def __init__(self) -> None:
        self._is_clean = False

    @workflow.run
    async def run(self, change: ChangeRef) -> bool:
        try:
            return await deliver_change(change)
        except asyncio.CancelledError:
            self._is_clean = True
            raise

    @workflow.query
    def is_clean(self) -> bool:
        """Whether it heard of the cancel."""
        return self._is_clean


@dataclass
class Host:
    """The host application.

    Attributes:
        calls: What it was told of: numbers and fingerprints.
        failures: What to raise first, one a call, after the effect.
        at_work: How many calls go on.
        may_end: Set while calls may end.
    """

    calls: list[tuple[int, str]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    at_work: int = 0
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    @activity.defn
    async def take_note(self, payload: ChangePayload) -> None:
        """Write down what was told."""
        self.calls.append((payload.number, payload.new_fingerprint))
        self.at_work += 1
        assert self.at_work == 1, "two calls at once"
        try:
            await self.may_end.wait()
            if self.failures:
                raise self.failures.pop(0)
        finally:
            self.at_work -= 1


@workflow.defn
class OnChange:
    """A handler workflow with one effect."""

    @workflow.run
    async def run(self, payload: ChangePayload) -> None:
        await workflow.execute_activity_method(
            Host.take_note, payload, start_to_close_timeout=timedelta(minutes=1), retry_policy=NO_RETRY
        )


@dataclass
class Scene:
    """One test's document, host and workers."""

    client: Client
    queue: str
    document: ChangingDocument
    host: Host
    sink: WebhookSink

    async def begin_sync(self, fingerprint: str) -> WorkflowHandle[Any, bool]:
        """Start a sync that finds this change; only one runs at a time."""
        change = self.document.change(fingerprint)
        return await self.client.start_workflow(Sync.run, change, id=self.sync_id, task_queue=self.queue)

    async def sync(self, fingerprint: str) -> bool:
        """Sync, find this change, and return whether the host knows the present content."""
        return await asyncio.wait_for((await self.begin_sync(fingerprint)).result(), PATIENCE)

    @property
    def sync_id(self) -> str:
        return f"sync/{self.queue}"

    async def is_called(self, times: int = 1) -> None:
        """Wait until the host has been called so often."""
        async with asyncio.timeout(PATIENCE):
            while len(self.host.calls) < times:
                await asyncio.sleep(0.02)


Act = Callable[[Scene], Awaitable[None]]


def on_stage(act: Act) -> Callable[[TemporalServer, str, str], None]:
    """Make a test of what happens in a scene."""

    def run(temporal_server: TemporalServer, sqlite_url: str, kind: str) -> None:
        async def go() -> None:
            async with staged(temporal_server, sqlite_url, kind) as scene:
                await act(scene)

        asyncio.run(go())

    run.__doc__ = act.__doc__
    return run


@asynccontextmanager
async def staged(server: TemporalServer, url: str, kind: str) -> AsyncIterator[Scene]:
    """Give a document with a handler of this kind, and the workers."""
    client = await Client.connect(server.address, data_converter=DATA_CONVERTER)
    queue = f"changes-{next(_queues)}"
    sink, host = WebhookSink(), Host()
    host.may_end.set()
    handlers: dict[str, CompletionHandler] = {
        "webhook": WebhookHandler(kind="webhook", url=sink.url),
        "activity": ActivityHandler(kind="activity", type="take_note", task_queue=f"{queue}-host"),
        "workflow": WorkflowHandler(kind="workflow", type="OnChange", task_queue=f"{queue}-host"),
    }
    database = open_database(url, QUICK)
    outgoing = Outgoing(secret=SecretStr(SECRET), allow_private=True)
    syncs = SyncRepository(database)
    changes = ChangeActivities(
        ChangeDeliverer(DocumentRepository(database), syncs, outgoing.post_signed),
        Alerts(syncs, Notifier([], SmtpServer(), post_signed=outgoing.post_signed)),
    )
    with ThreadPoolExecutor(5) as threads:
        ours = Worker(
            client,
            task_queue=queue,
            workflows=[Sync],
            activities=[
                changes.begin_change,
                changes.deliver_change,
                changes.record_change_delivered,
                changes.set_document_attention,
                changes.find_change_told,
            ],
            activity_executor=threads,
            workflow_runner=UnsandboxedWorkflowRunner(),
            deployment_config=BUILD,
        )
        theirs = Worker(
            client,
            task_queue=f"{queue}-host",
            workflows=[OnChange],
            activities=[host.take_note],
            workflow_runner=UnsandboxedWorkflowRunner(),
            deployment_config=BUILD,
        )
        async with ours, theirs:
            yield Scene(client, queue, ChangingDocument(database, handlers[kind], queue), host, sink)
            host.may_end.set()
    outgoing.close()
    database.close()
    sink.close()


KINDS = pytest.mark.parametrize("kind", ["webhook", "activity", "workflow"])
ON_QUEUES = pytest.mark.parametrize("kind", ["activity", "workflow"])


@pytest.fixture
def kind() -> str:
    """The handler's kind, where a test does not say."""
    return "workflow"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler workflow's quarter of an hour is a second here."""
    monkeypatch.setattr(policies, "HANDLER_PATIENCE", timedelta(seconds=1))
    monkeypatch.setattr(handler_call, "EARLIER_RUN_LOOKS", timedelta(seconds=0.2))


def told(scene: Scene) -> list[tuple[int, str]]:
    """Return what the host was told of, whichever way."""
    posted = [ChangePayload.model_validate_json(body) for _, body in scene.sink.received]
    return scene.host.calls + [(payload.number, payload.new_fingerprint) for payload in posted]


@KINDS
@on_stage
async def test_each_change_is_told_once_also_one_back_to_an_earlier_content(scene: Scene) -> None:
    scene.document.has("aaa")
    for fingerprint in ("aaa", "bbb", "aaa"):
        scene.document.becomes(content_fingerprint=fingerprint)
        assert await scene.sync(fingerprint)
        assert await scene.sync(fingerprint), "there is nothing to tell any more"
    scene.document.becomes(gone_days=3)
    assert await scene.sync(GONE)
    assert told(scene) == [(1, "aaa"), (2, "bbb"), (3, "aaa"), (4, GONE)]
    assert scene.document.row.handled_fingerprint == GONE


@KINDS
@on_stage
async def test_a_handler_that_fails_needs_attention_until_the_next_sync_has_told_it(scene: Scene) -> None:
    scene.document.has("aaa")
    scene.host.failures[:] = [ApplicationError("no such customer", non_retryable=True)]
    scene.sink.answers[:] = [410]
    assert not await scene.sync("aaa")
    complaint = scene.document.row.needs_attention or ""
    assert complaint.startswith("handler: ")
    assert "410" in complaint or "no such customer" in complaint
    assert scene.document.row.handled_fingerprint is None
    assert await scene.sync("aaa")
    row = scene.document.row
    assert (row.handled_fingerprint, row.needs_attention) == ("aaa", None)


def test_of_a_handler_that_fails_in_the_same_way_people_are_told_once(
    temporal_server: TemporalServer, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    @on_stage
    async def fail_twice(scene: Scene) -> None:
        scene.document.has("aaa")
        scene.sink.answers[:] = [410, 410]
        assert not await scene.sync("aaa")
        assert not await scene.sync("aaa")

    with caplog.at_level(logging.WARNING, "nightmill.documents"):
        fail_twice(temporal_server, sqlite_url, "webhook")
    assert [record.message for record in caplog.records].count("needs attention") == 1


@pytest.mark.usefixtures("impatient")
@on_stage
async def test_a_handler_workflow_that_takes_long_is_left_alone_and_no_other_is_started(scene: Scene) -> None:
    """Not for the same content, and not for one that comes meanwhile: that is told afterwards."""
    scene.document.has("aaa")
    scene.host.may_end.clear()
    assert not await scene.sync("aaa")
    assert "has not finished" in (scene.document.row.needs_attention or "")
    assert not await scene.sync("aaa")
    scene.document.becomes(content_fingerprint="bbb")
    assert not await scene.sync("bbb")
    assert scene.host.calls == [(1, "aaa")]
    scene.host.may_end.set()
    await scene.client.get_workflow_handle(f"document/{scene.document.id}/handler/1").result()
    assert await scene.sync("bbb")
    assert scene.host.calls == [(1, "aaa"), (2, "bbb")]
    row = scene.document.row
    assert (row.handled_fingerprint, row.changes_told, row.needs_attention) == ("bbb", 2, None)


@on_stage
async def test_a_handler_workflow_that_outlives_its_sync_is_not_started_again(scene: Scene) -> None:
    scene.document.has("aaa")
    scene.host.may_end.clear()
    lost = await scene.begin_sync("aaa")
    await scene.is_called()
    await lost.terminate("on purpose")
    scene.host.may_end.set()
    await scene.client.get_workflow_handle(f"document/{scene.document.id}/handler/1").result()
    assert scene.document.row.handled_fingerprint is None
    assert await scene.sync("aaa")
    assert scene.host.calls == [(1, "aaa")]
    assert scene.document.row.handled_fingerprint == "aaa"


@on_stage
async def test_a_handler_workflow_that_fails_after_its_sync_is_started_anew_by_the_next_one(scene: Scene) -> None:
    scene.document.has("aaa")
    scene.host.may_end.clear()
    scene.host.failures[:] = [ApplicationError("no such customer", non_retryable=True)]
    lost = await scene.begin_sync("aaa")
    await scene.is_called()
    await lost.terminate("on purpose")
    scene.host.may_end.set()
    with pytest.raises(WorkflowFailureError):
        await scene.client.get_workflow_handle(f"document/{scene.document.id}/handler/1").result()
    assert await scene.sync("aaa")
    assert scene.host.calls == [(1, "aaa"), (1, "aaa")]


@ON_QUEUES
@on_stage
async def test_a_sync_that_is_canceled_while_it_tells_ends_canceled(scene: Scene) -> None:
    scene.document.has("aaa")
    scene.host.may_end.clear()
    sync = await scene.begin_sync("aaa")
    await scene.is_called()
    await sync.cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await sync.result()
    assert isinstance(caught.value.cause, CancelledError)
    assert (await sync.describe()).status is WorkflowExecutionStatus.CANCELED
    assert await sync.query(Sync.is_clean)
    assert scene.document.row.needs_attention is None


@on_stage
async def test_a_handler_workflow_that_its_owner_cancels_counts_as_failed(scene: Scene) -> None:
    scene.document.has("aaa")
    scene.host.may_end.clear()
    sync = await scene.begin_sync("aaa")
    await scene.is_called()
    await scene.client.get_workflow_handle(f"document/{scene.document.id}/handler/1").cancel()
    assert not await sync.result()
    assert "handler: " in (scene.document.row.needs_attention or "")


@on_stage
async def test_nobody_is_told_of_a_document_that_was_deleted(scene: Scene) -> None:
    scene.document.has("aaa")
    DocumentRepository(scene.document.database).delete(scene.document.id)
    assert await scene.sync("aaa")
    assert scene.host.calls == []

"""What Temporal's server gets to see, while there is a key, while keys change, and by its own programs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import QueryRejectCondition
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.workflowservice.v1 import (
    DescribeScheduleRequest,
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
    QueryWorkflowRequest,
)
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    ScheduleState,
    WorkflowFailureError,
    WorkflowUpdateFailedError,
)
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from nightmill.client.codec import KEY_ID, codec_of
from nightmill.client.codec_server import CodecServer
from nightmill.client.connection import connect
from nightmill.serving import served
from tests.lanes import HOST_DEPLOYMENT, PATIENCE, Lane, in_a_lane
from tests.stack import _environment as whole_environment
from tests.stack import environment, temporal_binary

pytestmark = pytest.mark.server

CANARY = "canary-7c41e0"


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


A, B = new_key(), new_key()


# --- what the server stores and answers


@activity.defn
async def stumble(text: str) -> str:
    activity.heartbeat(text)
    if activity.info().attempt < 3:
        raise ApplicationError(text, {"detail": text}, type="Stumbled")
    return text


@activity.defn
async def nearby(text: str) -> str:
    return text


@workflow.defn
class Child:
    @workflow.run
    async def run(self, text: str) -> str:
        return text


@workflow.defn
class Everything:
    """Puts a text wherever a workflow can put one."""

    def __init__(self) -> None:
        self.done = False

    @workflow.signal
    def finish(self, text: str) -> None:
        self.done = True

    @workflow.query
    def echo(self, text: str) -> str:
        if text.endswith("!"):
            raise ValueError(text)
        return text

    @workflow.update
    async def change(self, text: str) -> str:
        if text.endswith("!"):
            raise ApplicationError(text, text, type="Refused")
        return text

    @workflow.run
    async def run(self, text: str, again: bool) -> str:
        workflow.set_current_details(text)
        if again:
            raise ApplicationError(text, {"detail": text}, type="Ended")
        workflow.upsert_memo({"second": text})
        await workflow.sleep(0.01, summary=text)
        soon = timedelta(seconds=10)
        at_once = RetryPolicy(initial_interval=timedelta(seconds=0.5), backoff_coefficient=1)
        await workflow.execute_activity(
            stumble, text, start_to_close_timeout=soon, heartbeat_timeout=soon, retry_policy=at_once, summary=text
        )
        await workflow.execute_local_activity(nearby, text, start_to_close_timeout=soon, summary=text)
        await workflow.execute_child_workflow(
            Child.run,
            text,
            id=f"{workflow.info().workflow_id}-child",
            memo={"child": text},
            static_summary=text,
            static_details=text,
        )
        await workflow.wait_condition(lambda: self.done)
        workflow.continue_as_new(args=[text, True], memo={"next": text})


@dataclass
class Scene:
    """A client as the settings make it, a worker of its own, and what the server stores, as it stores it."""

    client: Client
    queue: str
    seen: dict[str, bytes]

    async def history(self, what: str, workflow_id: str, run_id: str = "") -> None:
        request = GetWorkflowExecutionHistoryRequest(
            namespace="default", execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
        )
        answer = await self.client.workflow_service.get_workflow_execution_history(request)
        for event in answer.history.events:
            kind = event.WhichOneof("attributes") or ""
            self.seen[f"{what} {kind.removesuffix('_event_attributes')}"] = event.SerializeToString()

    async def described(self, what: str, workflow_id: str) -> Any:
        request = DescribeWorkflowExecutionRequest(
            namespace="default", execution=WorkflowExecution(workflow_id=workflow_id)
        )
        answer = await self.client.workflow_service.describe_workflow_execution(request)
        for name, message in (
            ("memo", answer.workflow_execution_info.memo),
            ("metadata", answer.execution_config.user_metadata),
            *((f"pending {n}", pending) for n, pending in enumerate(answer.pending_activities)),
        ):
            self.seen[f"{what} {name}"] = message.SerializeToString()
        return answer

    async def queried(self, what: str, workflow_id: str, query: str, *given: str) -> None:
        request = QueryWorkflowRequest(
            namespace="default",
            execution=WorkflowExecution(workflow_id=workflow_id),
            query=WorkflowQuery(query_type=query),
            query_reject_condition=QueryRejectCondition.QUERY_REJECT_CONDITION_NONE,
        )
        request.query.query_args.payloads.extend(await self.client.data_converter.encode(given))
        try:
            answer = await self.client.workflow_service.query_workflow(request)
        except RPCError as error:
            self.seen[what] = error.message.encode() + error.raw_grpc_status
        else:
            self.seen[what] = answer.SerializeToString()


@asynccontextmanager
async def scene(lane: Lane) -> AsyncIterator[Scene]:
    settings = lane.stack.settings()
    with whole_environment, environment({"TEMPORAL_ADDRESS": lane.stack.server.address}):
        client = await connect(settings)
    queue = f"{lane.stack.task_queue}-everything"
    async with Worker(
        client,
        task_queue=queue,
        workflows=[Everything, Child],
        activities=[stumble, nearby],
        workflow_runner=UnsandboxedWorkflowRunner(),  # this module imports what the sandbox refuses
        deployment_config=HOST_DEPLOYMENT,
    ):
        yield Scene(client, queue, {})


PLACES = {
    "child workflow_execution_completed",
    "child workflow_execution_started",
    "current details",
    "first run activity_task_completed",
    "first run activity_task_scheduled",
    "first run activity_task_started",
    "first run child_workflow_execution_completed",
    "first run marker_recorded",
    "first run start_child_workflow_execution_initiated",
    "first run timer_started",
    "first run workflow_execution_continued_as_new",
    "first run workflow_execution_signaled",
    "first run workflow_execution_started",
    "first run workflow_execution_update_accepted",
    "first run workflow_execution_update_completed",
    "first run workflow_properties_modified",
    "list",
    "query",
    "query that fails",
    "run memo",
    "run metadata",
    "run pending 0",
    "schedule",
    "schedule memo",
    "second run workflow_execution_failed",
    "second run workflow_execution_started",
}


@pytest.mark.parametrize("key", ["", A], ids=["without a key all of it", "with a key nothing"])
@in_a_lane
async def test_the_server_sees(lane: Lane, key: str) -> None:
    """Without a key it must be found in every place: else the places are not those that matter."""
    lane.set(ENCRYPTION_KEY=key)
    async with scene(lane) as here:
        workflow_id = f"everything-{uuid.uuid4()}"
        handle = await here.client.start_workflow(
            Everything.run,
            args=[CANARY, False],
            id=workflow_id,
            task_queue=here.queue,
            memo={"first": CANARY},
            static_summary=CANARY,
            static_details=CANARY,
        )
        async with asyncio.timeout(60):
            while not (await here.described("run", workflow_id)).pending_activities or "failure" not in str(
                (await here.described("run", workflow_id)).pending_activities[0]
            ):
                await asyncio.sleep(0.02)
        assert await handle.execute_update(Everything.change, CANARY) == CANARY
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update(Everything.change, f"{CANARY}!")
        assert CANARY in str(refused.value.cause)
        await here.queried("query", workflow_id, "echo", CANARY)
        await here.queried("query that fails", workflow_id, "echo", f"{CANARY}!")
        await here.queried("current details", workflow_id, "__temporal_workflow_metadata")
        await handle.signal(Everything.finish, CANARY)
        first = str(handle.first_execution_run_id)
        with pytest.raises(WorkflowFailureError) as ended:
            await handle.result()
        assert CANARY in str(ended.value.cause), "who has the key reads it"

        schedule = Schedule(
            ScheduleActionStartWorkflow(
                "Child", CANARY, id="x", task_queue=here.queue, memo={"a": CANARY}, static_summary=CANARY
            ),
            ScheduleSpec(),
            state=ScheduleState(paused=True),
        )
        made = await here.client.create_schedule(f"schedule-{workflow_id}", schedule, memo={"schedule": CANARY})
        request = DescribeScheduleRequest(namespace="default", schedule_id=made.id)
        stored = await here.client.workflow_service.describe_schedule(request)
        here.seen["schedule"] = stored.schedule.SerializeToString()
        here.seen["schedule memo"] = stored.memo.SerializeToString()
        await made.delete()

        await here.history("first run", workflow_id, first)
        await here.history("second run", workflow_id)
        await here.history("child", f"{workflow_id}-child")
        listed = await here.client.workflow_service.list_workflow_executions(
            ListWorkflowExecutionsRequest(namespace="default", query=f"WorkflowId = '{workflow_id}'")
        )
        here.seen["list"] = listed.SerializeToString()

    holding = {place for place, stored in here.seen.items() if CANARY.encode() in stored}
    assert holding == (set() if key else PLACES)


# --- Temporal's own programs


def temporal(lane: Lane, *arguments: str) -> str:
    command = [temporal_binary(), *arguments, "--address", lane.stack.server.address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@in_a_lane
async def test_temporals_command_line_shows_and_starts_what_is_encrypted_by_the_codec_server(lane: Lane) -> None:
    lane.set(ENCRYPTION_KEY=B, ENCRYPTION_OLD_KEYS=f'["{A}"]')
    settings = lane.stack.settings()
    codec = codec_of(settings.encryption_key, settings.encryption_old_keys)
    assert codec is not None
    assert codec.present is not None
    server = CodecServer(codec, SecretStr("let-me-in"), ())
    async with lane.running() as nightmill, served(server.app(), "127.0.0.1", 0, setting="x") as address:
        batch_id = await lane.submit(nightmill, metadata={"customer": CANARY})
        await nightmill.wait(batch_id, timeout=PATIENCE)
        show = ("workflow", "show", "--workflow-id", f"batch/{batch_id}", "--output", "json")
        by_codec = ("--codec-endpoint", address, "--codec-auth", "Bearer let-me-in")
        assert CANARY not in plain(await asyncio.to_thread(temporal, lane, *show))
        assert CANARY in plain(await asyncio.to_thread(temporal, lane, *show, *by_codec))

        again = ("workflow", "start", "--type", "ModelCompletionBatch", "--task-queue", lane.stack.task_queue)
        given = json.dumps({"batch_id": batch_id, "metadata": {"customer": CANARY}})
        started = await asyncio.to_thread(
            temporal, lane, *again, "--workflow-id", f"batch/{batch_id}", "--input", given, *by_codec
        )
        assert batch_id in started
        history = await nightmill.temporal.get_workflow_handle(f"batch/{batch_id}").fetch_history()
        [payload] = history.events[0].workflow_execution_started_event_attributes.input.payloads
        assert payload.metadata[KEY_ID].decode() == codec.present.id


def plain(shown: str) -> str:
    """Return a history as the command line shows it, with its payloads in the clear where they are not encrypted."""
    found: list[str] = [shown]

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("data"), str):
                found.append(base64.b64decode(node["data"]).decode(errors="replace"))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(json.loads(shown))
    return "".join(found)

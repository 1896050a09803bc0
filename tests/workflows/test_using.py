"""Batches as their users meet them: accounts, retries, hosts of their own, notifications, and what leaks nowhere."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from datetime import timedelta
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import text
from temporalio import activity, workflow
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.worker import Worker

from nightmill.client.converter import data_converter
from nightmill.contracts import BatchInput, BatchStatus, BatchSummary, HandlerPayload
from nightmill.errors import BatchConflict, InvalidInput, NotConfigured
from nightmill.sandbox import Fault
from tests.lanes import HOST_DEPLOYMENT, PATIENCE, Lane, in_a_lane, shown, until
from tests.stack import free_port, requests

pytestmark = pytest.mark.server


@in_a_lane
async def test_an_account_s_key_is_used_and_recorded_with_the_provider_batch(lane: Lane) -> None:
    lane.set(ACCOUNTS__ACME__OPENAI__API_KEY="acme-key")
    async with lane.running() as nightmill:
        ours = await lane.submit(nightmill, prefix="a")
        theirs = await lane.submit(nightmill, prefix="b", account="acme")
        for batch_id in (ours, theirs):
            await nightmill.wait(batch_id, timeout=PATIENCE)
        [part] = nightmill.assembly.batches.parts(theirs)
    assert part.account == "acme"
    assert len({batch["key_hash"] for batch in lane.sandbox.batches()}) == 2


@in_a_lane
async def test_an_account_without_a_key_fails_the_batch_and_names_the_variable(lane: Lane) -> None:
    summary = await lane.run(account="nobody")
    assert summary.status is BatchStatus.FAILED
    assert "NIGHTMILL_ACCOUNTS__NOBODY__OPENAI__API_KEY" in (summary.reason or "")
    assert summary.failed_by_code == {"not_submitted": 5}


@in_a_lane
async def test_what_failed_is_sent_again_as_a_batch_of_its_own(lane: Lane) -> None:
    lane.sandbox.set_profile(fail_ids=["r1", "r4"])
    async with lane.running() as nightmill:
        first = await lane.submit(nightmill, metadata={"job": "x"})
        await nightmill.wait(first, timeout=PATIENCE)
        lane.sandbox.set_profile(fail_ids=[])
        second = await nightmill.retry_failed(first)
        summary = await nightmill.wait(second, timeout=PATIENCE)
        assert nightmill.assembly.batches.get(second).retry_of == first
        results = [result.custom_id async for result in nightmill.results(second)]
        with pytest.raises(InvalidInput, match="nothing to send again"):
            await nightmill.retry_failed(second)
    assert (summary.total, summary.completed, summary.metadata) == (2, 2, {"job": "x"})
    assert results == ["r1", "r4"]


@in_a_lane
async def test_a_batch_whose_rows_are_gone_says_so_and_ends(lane: Lane) -> None:
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        await until(lambda: lane.asked("batches.get"))
        with nightmill.assembly.database.transaction() as session:
            session.execute(text("DELETE FROM batches"))
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
    assert summary.reason == "batch not found"


@in_a_lane
async def test_a_stored_batch_is_started_later_and_a_pending_one_is_simply_closed(lane: Lane) -> None:
    async with lane.running() as nightmill:
        from nightmill.client.nightmill import read_input
        from nightmill.completions.requests import read_request_objects

        for batch_id in ("later", "never"):
            given = read_input(provider="openai", model="gpt-5-mini")
            reader = read_request_objects(
                requests(3), provider=nightmill.assembly.renderer("openai"), model="gpt-5-mini"
            )
            await asyncio.to_thread(nightmill.assembly.preparer.store, batch_id, given, reader)
        await nightmill.cancel("never")
        closed = await nightmill.wait("never", timeout=PATIENCE)
        assert (closed.status, closed.failed_by_code) == (BatchStatus.CANCELED, {"canceled": 3})
        assert lane.sandbox.log() == []
        with pytest.raises(BatchConflict):
            await nightmill.start("never")
        await nightmill.start("later")
        await nightmill.start("later")  # runs already: goes on undisturbed
        assert (await nightmill.wait("later", timeout=PATIENCE)).completed == 3
    assert len(lane.sandbox.batches()) == 1


@in_a_lane
async def test_a_terminated_batch_is_started_again_and_adopts_what_it_had(lane: Lane) -> None:
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        await until(lambda: lane.asked("batches.get"))
        await nightmill.temporal.get_workflow_handle(f"batch/{batch_id}").terminate("by mistake")
        with pytest.raises(BatchConflict, match=f"--resume {batch_id}"):
            await nightmill.wait(batch_id, timeout=PATIENCE)
        lane.sandbox.advance(lane.sandbox.batches()[0]["id"], "completed")
        await nightmill.start(batch_id)
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
    assert summary.completed == 5
    lane.assert_once()


# --- a host application's own workflows


@workflow.defn(sandboxed=False)
class HostJob:
    """A host's workflow that runs a batch as its child."""

    @workflow.run
    async def run(self, batch_id: str) -> BatchSummary:
        queue = workflow.info().task_queue.removesuffix("-host")
        return await workflow.execute_child_workflow(
            "ModelCompletionBatch",
            BatchInput(batch_id=batch_id),
            id=f"batch/{batch_id}",
            task_queue=queue,
            result_type=BatchSummary,
            cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        )


async def store(lane: Lane, nightmill: Any, batch_id: str) -> None:
    from nightmill.client.nightmill import read_input
    from nightmill.completions.requests import read_request_objects

    given = read_input(provider="openai", model="gpt-5-mini", completion_handler=lane.handler)
    reader = read_request_objects(requests(5), provider=nightmill.assembly.renderer("openai"), model="gpt-5-mini")
    await asyncio.to_thread(nightmill.assembly.preparer.store, batch_id, given, reader)


@in_a_lane
async def test_a_batch_runs_as_the_child_of_a_host_s_workflow(lane: Lane) -> None:
    queue = f"{lane.stack.task_queue}-host"
    async with lane.running() as nightmill:
        await store(lane, nightmill, "child")
        async with Worker(nightmill.temporal, task_queue=queue, workflows=[HostJob], deployment_config=HOST_DEPLOYMENT):
            summary = await nightmill.temporal.execute_workflow(
                HostJob.run, "child", id=f"host-{queue}", task_queue=queue
            )
    assert (summary.batch_id, summary.completed) == ("child", 5)


@in_a_lane
async def test_canceling_the_host_s_workflow_cancels_its_batch_at_the_provider_and_harvests(lane: Lane) -> None:
    lane.sandbox.set_profile(finish_after=None, partial_share=0.4)
    queue = f"{lane.stack.task_queue}-host"
    async with lane.running() as nightmill:
        await store(lane, nightmill, "child-canceled")
        async with Worker(nightmill.temporal, task_queue=queue, workflows=[HostJob], deployment_config=HOST_DEPLOYMENT):
            host = await nightmill.temporal.start_workflow(
                HostJob.run, "child-canceled", id=f"host-{queue}", task_queue=queue
            )
            await until(lambda: lane.asked("batches.get"))
            await host.cancel()
            with pytest.raises(WorkflowFailureError):
                await host.result()
        assert (await host.describe()).status is WorkflowExecutionStatus.CANCELED
        summary = await nightmill.summary("child-canceled")
    assert summary.status is BatchStatus.CANCELED
    assert summary.completed == 2
    lane.assert_once()


HEARD: list[HandlerPayload] = []


@workflow.defn(sandboxed=False)
class HostDone:
    """A host's completion handler as a workflow."""

    @workflow.run
    async def run(self, payload: HandlerPayload) -> None:
        HEARD.append(payload)


@activity.defn
async def host_done(payload: HandlerPayload) -> None:
    """A host's completion handler as an activity."""
    HEARD.append(payload)


@pytest.mark.parametrize("kind", ["workflow", "activity"])
@in_a_lane
async def test_a_host_s_own_workflow_or_activity_is_told_once(lane: Lane, kind: str) -> None:
    queue = f"{lane.stack.task_queue}-host"
    handler = {"kind": kind, "type": "HostDone" if kind == "workflow" else "host_done", "task_queue": queue}
    async with lane.running() as nightmill:
        async with Worker(
            nightmill.temporal,
            task_queue=queue,
            workflows=[HostDone],
            activities=[host_done],
            deployment_config=HOST_DEPLOYMENT,
        ):
            batch_id = await lane.submit(nightmill, completion_handler=handler, metadata={"kind": kind})
            await nightmill.wait(batch_id, timeout=PATIENCE)
        assert nightmill.assembly.batches.get(batch_id).handler_dispatched_at is not None
    [payload] = [heard for heard in HEARD if heard.batch_id == batch_id]
    assert payload.summary.completed == 5
    assert payload.summary.metadata == {"kind": kind}


# --- what is seen, and what is not


CANARY_PROMPT = "canary-prompt-5b1f"
CANARY_KEY = "sk-canary-77aa31"


@in_a_lane
async def test_no_key_no_prompt_and_no_answer_is_in_history_or_log(lane: Lane) -> None:
    lane.set(OPENAI__API_KEY=CANARY_KEY)
    lane.sandbox.set_profile(rejected_keys=())
    worker = lane.stack.fork_worker()
    lane.sandbox.add_faults(
        Fault("status", operation="batches.get", status=500, body={"error": {"message": f"bad key {CANARY_KEY}"}})
    )
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        given = [{"custom_id": "one", "prompt": CANARY_PROMPT, "system": CANARY_PROMPT}]
        batch_id = await nightmill.submit(given, provider="openai", model="gpt-5-mini", completion_handler=lane.handler)
        await nightmill.wait(batch_id, timeout=PATIENCE)
        [result] = [each async for each in nightmill.results(batch_id)]
        history = (await nightmill.temporal.get_workflow_handle(f"batch/{batch_id}").fetch_history()).to_json()
    worker.terminate()
    await asyncio.to_thread(worker.wait, 30)
    decoded = _payloads(json.loads(history))
    log = lane.stack.worker_log()
    assert "transient error" in log, "the fault was not met"
    for secret in (CANARY_PROMPT, CANARY_KEY, str(result.text)[:60]):
        assert secret not in log
        assert secret not in decoded
        assert secret not in history


def _payloads(node: Any) -> str:
    """Return every payload of a history, decoded."""
    if isinstance(node, dict):
        own = base64.b64decode(node["data"]).decode(errors="replace") if isinstance(node.get("data"), str) else ""
        return own + "".join(_payloads(value) for value in node.values())
    if isinstance(node, list):
        return "".join(_payloads(value) for value in node)
    return ""


@in_a_lane
async def test_with_an_encryption_key_temporal_sees_nothing_of_a_batch(lane: Lane) -> None:
    lane.set(ENCRYPTION_KEY=base64.b64encode(os.urandom(32)).decode())
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, metadata={"customer": "canary-customer"})
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
        history = (await nightmill.temporal.get_workflow_handle(f"batch/{batch_id}").fetch_history()).to_json()
    assert summary.metadata == {"customer": "canary-customer"}
    assert "canary-customer" not in _payloads(json.loads(history))
    assert "canary-customer" not in history


def test_an_encryption_key_of_the_wrong_size_is_refused() -> None:
    from pydantic import SecretStr

    with pytest.raises(NotConfigured, match="32 bytes"):
        data_converter(SecretStr("c2hvcnQ="))


class _Mailbox:
    """Keeps the mails that a loopback SMTP server gets."""

    def __init__(self) -> None:
        self.mails: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append(envelope.content.decode())
        return "250 OK"


@in_a_lane
async def test_what_needs_attention_is_mailed_once_and_cleared_when_it_is_over(lane: Lane) -> None:
    mailbox = _Mailbox()
    smtp = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    smtp.start()
    try:
        lane.set(
            NOTIFY__URLS='["mailto:ops@example.org"]', NOTIFY__SMTP_HOST="127.0.0.1", NOTIFY__SMTP_PORT=str(smtp.port)
        )
        lane.sandbox.add_faults(Fault("status", operation="batches.get", status=403, times=2))
        async with lane.running() as nightmill:
            batch_id = await lane.submit(nightmill)
            attention = await shown(nightmill, batch_id)
            assert "403" in attention
            progress = await nightmill.progress(batch_id)
            assert progress.needs_attention == attention
            await nightmill.poll_now(batch_id)  # refused again, for the same reason: no second mail
            await until(lambda: len(lane.asked("batches.get")) == 2)
            await nightmill.poll_now(batch_id)
            await nightmill.wait(batch_id, timeout=PATIENCE)
            assert nightmill.assembly.batches.get(batch_id).needs_attention is None
    finally:
        smtp.stop()
    assert len(mailbox.mails) == 1
    assert batch_id in mailbox.mails[0]


@in_a_lane
async def test_the_ui_can_filter_batches_by_what_they_are(lane: Lane) -> None:
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, provider="anthropic", account=None)
        await nightmill.wait(batch_id, timeout=PATIENCE)
        query = f"NightmillProvider='anthropic' AND NightmillStatus='ended' AND WorkflowId='batch/{batch_id}'"

        async def found() -> list[str]:
            return [run.id async for run in nightmill.temporal.list_workflows(query)]

        async with asyncio.timeout(10):
            while not await found():
                await asyncio.sleep(0.2)
        description = await nightmill.temporal.get_workflow_handle(f"batch/{batch_id}").describe()
        assert "anthropic claude-haiku-4-5: 5 requests" in str(await description.static_summary())


@in_a_lane
async def test_a_wait_that_runs_out_leaves_the_batch_alone(lane: Lane) -> None:
    lane.sandbox.set_profile(finish_after=3.0)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        with pytest.raises(TimeoutError):
            await nightmill.wait(batch_id, timeout=timedelta(seconds=0.5))
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 5

"""Whole batches: a real Temporal server, a worker, and the sandbox as provider."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError

from nightmill.contracts import BatchStatus
from nightmill.errors import BatchConflict, BatchNotFound, InvalidInput
from nightmill.sandbox import Fault
from tests.lanes import MODELS, PATIENCE, Lane, in_a_lane, shown, until
from tests.stack import SECRET, Stack, eventually, requests, temporal_binary

pytestmark = pytest.mark.server


@pytest.mark.parametrize("provider", MODELS)
@in_a_lane
async def test_a_batch_goes_from_requests_to_results_with_every_provider(lane: Lane, provider: str) -> None:
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, 25, provider=provider, metadata={"job": 7})
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
        results = [result async for result in nightmill.results(batch_id)]
    assert (summary.status, summary.total, summary.completed) == (BatchStatus.ENDED, 25, 25)
    assert summary.metadata == {"job": 7}
    assert summary.tokens.output > 0
    assert [result.custom_id for result in results] == [f"r{n}" for n in range(25)]
    assert all(result.text for result in results)
    lane.assert_once(requests=25)


@pytest.mark.parametrize("endpoint", ["/v1/responses", "/v1/chat/completions"])
@in_a_lane
async def test_each_endpoint_answers_with_output_of_the_asked_schema(lane: Lane, endpoint: str) -> None:
    lane.in_the_workflow_sandbox()
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    given = [{**request, "response_schema": schema} for request in requests(3)]
    async with lane.running() as nightmill:
        batch_id = await nightmill.submit(given, provider="openai", model="gpt-5-mini", endpoint=endpoint)
        await nightmill.wait(batch_id, timeout=PATIENCE)
        outputs = [json.loads(result.to_json())["output"] async for result in nightmill.results(batch_id)]
    assert all(isinstance(output["n"], int) for output in outputs)
    assert [batch["endpoint"] for batch in lane.sandbox.batches()] == [endpoint]


@in_a_lane
async def test_the_webhook_is_signed_and_called_once_with_the_summary(lane: Lane) -> None:
    summary = await lane.run(3)
    [(headers, body)] = lane.webhook.received
    assert headers["webhook-id"] == summary.batch_id
    payload = Webhook(SECRET).verify(body, headers)
    assert payload["summary"]["completed"] == 3
    assert "text" not in json.dumps(payload)
    with lane.stack.assembly() as assembly:
        assert assembly.batches.get(summary.batch_id).handler_dispatched_at is not None


@in_a_lane
async def test_a_webhook_that_fails_at_first_is_called_again(lane: Lane) -> None:
    lane.webhook.answers[:] = [503]
    await lane.run()
    lane.assert_once()


@in_a_lane
async def test_a_handler_that_wants_failures_only_is_not_told_of_success(lane: Lane) -> None:
    await lane.run(completion_handler={**lane.handler, "on": ["failed", "expired"]})
    assert lane.webhook.received == []


@in_a_lane
async def test_a_batch_over_the_limits_is_split_and_looks_like_one(lane: Lane) -> None:
    lane.set(OPENAI__MAX_REQUESTS="10")
    summary = await lane.run(35)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 35)
    assert sorted(batch["requests"] for batch in lane.sandbox.batches()) == [5, 10, 10, 10]
    assert len({batch["tag"] for batch in lane.sandbox.batches()}) == 4
    assert len(lane.webhook.received) == 1


@in_a_lane
async def test_a_cancel_reaches_every_part_of_a_split_batch(lane: Lane) -> None:
    lane.set(OPENAI__MAX_REQUESTS="2")
    lane.sandbox.set_profile(finish_after=None, partial_share=0.5)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, 6)
        await until(lambda: len(lane.sandbox.batches()) == 3)
        await nightmill.cancel(batch_id)
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
    assert (summary.status, summary.completed, summary.failed_by_code) == (BatchStatus.CANCELED, 3, {"canceled": 3})
    assert [batch["state"] for batch in lane.sandbox.batches()] == ["cancelled"] * 3
    assert len(lane.webhook.received) == 1


@in_a_lane
async def test_retriable_failures_are_sent_again_in_a_round_of_their_own(lane: Lane) -> None:
    lane.sandbox.set_profile(fail_ids=["r1", "r3"], failure="server_error")
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, 6, retry_rounds=1)
        await until(lane.sandbox.batches)
        lane.sandbox.set_profile(fail_ids=[])
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
    assert (summary.status, summary.completed, summary.failed) == (BatchStatus.ENDED, 6, 0)
    assert sorted(batch["requests"] for batch in lane.sandbox.batches()) == [2, 6]


@in_a_lane
async def test_failures_that_would_recur_are_not_sent_again(lane: Lane) -> None:
    lane.sandbox.set_profile(fail_ids=["r1"], failure="invalid_request")
    summary = await lane.run(retry_rounds=3)
    assert (summary.completed, summary.failed) == (4, 1)
    lane.assert_once()


@in_a_lane
async def test_an_ended_batch_without_a_single_success_says_so(lane: Lane) -> None:
    lane.sandbox.set_profile(fail_share=1.0, failure="invalid_request")
    summary = await lane.run(4)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 0)
    assert summary.all_failed
    assert summary.failed_by_code == {"provider_error": 4}


@pytest.mark.parametrize("provider", MODELS)
@in_a_lane
async def test_a_cancel_keeps_what_was_finished_and_calls_the_handler_once(lane: Lane, provider: str) -> None:
    lane.sandbox.set_profile(finish_after=60.0, partial_share=0.5)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, 10, provider=provider)
        await until(lane.sandbox.batches)
        assert await nightmill.cancel(batch_id) in (BatchStatus.CANCELING, BatchStatus.PENDING)
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
        with pytest.raises(BatchConflict, match="canceled already"):
            await nightmill.cancel(batch_id)
    assert summary.status is BatchStatus.CANCELED
    assert summary.partial
    assert 0 < summary.completed < 10
    assert summary.failed_by_code == {"canceled": 10 - summary.completed}
    lane.assert_once(requests=10)


@in_a_lane
async def test_cancelling_the_workflow_cancels_at_the_provider_and_ends_canceled(lane: Lane) -> None:
    lane.sandbox.set_profile(finish_after=60.0)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, provider="anthropic")
        await until(lane.sandbox.batches)
        handle = nightmill.temporal.get_workflow_handle(f"batch/{batch_id}")
        await handle.cancel()
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
        description = await handle.describe()
    assert summary.status is BatchStatus.CANCELED
    assert description.status is not None
    assert description.status.name == "CANCELED"
    assert [batch["state"] for batch in lane.sandbox.batches()] == ["cancelled"]
    lane.assert_once()


@in_a_lane
async def test_a_wrong_key_fails_the_batch_with_the_provider_s_words_and_nothing_is_billed(lane: Lane) -> None:
    lane.set(OPENAI__API_KEY="invalid")
    summary = await lane.run(2)
    assert summary.status is BatchStatus.FAILED
    assert summary.failed_by_code == {"not_submitted": 2}
    assert "401" in (summary.reason or "")
    assert lane.sandbox.batches() == []


@in_a_lane
async def test_a_refused_create_deletes_the_upload_and_shows_the_reason(lane: Lane) -> None:
    lane.sandbox.add_faults(
        Fault("status", operation="batches.create", status=400, body={"error": {"message": "no such endpoint"}})
    )
    summary = await lane.run(2)
    assert summary.status is BatchStatus.FAILED
    assert summary.failed_by_code == {"rejected": 2}
    assert "no such endpoint" in (summary.reason or "")
    assert [file["deleted"] for file in lane.sandbox.files()] == [True]


@in_a_lane
async def test_our_files_at_the_provider_are_deleted_after_the_harvest(lane: Lane) -> None:
    await lane.run()
    uploads = [file for file in lane.sandbox.files() if file["filename"].startswith("nm-")]
    assert [file["deleted"] for file in uploads] == [True]


@in_a_lane
async def test_a_budget_below_the_estimate_refuses_the_batch_before_anything_is_stored(lane: Lane) -> None:
    async with lane.running() as nightmill:
        with pytest.raises(InvalidInput, match="over the budget"):
            await lane.submit(nightmill, budget="0.0000001", batch_id="dear")
        assert nightmill.assembly.batches.find("dear") is None
    assert lane.sandbox.log() == []


@in_a_lane
async def test_poll_now_does_not_wait_for_the_schedule(lane: Lane) -> None:
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, poll_schedule=[timedelta(hours=1)])
        await until(lambda: nightmill.assembly.batches.get(batch_id).status is not BatchStatus.PENDING)
        await asyncio.sleep(1.0)
        await nightmill.poll_now(batch_id)
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
    assert summary.status is BatchStatus.ENDED
    assert len(lane.asked("batches.get")) == 1


@in_a_lane
async def test_a_key_that_stops_working_needs_attention_and_a_poll_goes_on_after_the_fix(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("status", operation="batches.get", status=401, times=None))
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        await shown(nightmill, batch_id)
        asked = len(lane.asked("batches.get"))
        await asyncio.sleep(1.5)
        assert len(lane.asked("batches.get")) == asked, "a hot loop"
        lane.sandbox.clear_faults()
        await nightmill.poll_now(batch_id)
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
        assert nightmill.assembly.batches.get(batch_id).needs_attention is None
    assert summary.completed == 5


@in_a_lane
async def test_a_duplicate_id_is_refused_and_leaves_the_first_alone(lane: Lane) -> None:
    async with lane.running() as nightmill:
        await lane.submit(nightmill, 1, batch_id=lane.stack.task_queue)
        with pytest.raises(BatchConflict, match=lane.stack.task_queue):
            await lane.submit(nightmill, 2, batch_id=lane.stack.task_queue)
        summary = await nightmill.wait(lane.stack.task_queue, timeout=PATIENCE)
    assert summary.total == 1


@in_a_lane
async def test_nothing_is_stored_of_a_batch_with_a_bad_line(lane: Lane) -> None:
    async with lane.running() as nightmill:
        with pytest.raises(InvalidInput, match=r"requests\[1\].*duplicate"):
            await nightmill.submit([*requests(1), *requests(1)], provider="openai", model="gpt-5-mini", batch_id="half")
        assert nightmill.assembly.batches.find("half") is None


# --- from the Temporal CLI


@in_a_lane
async def test_the_temporal_cli_starts_a_batch_from_plain_json(lane: Lane) -> None:
    path = lane.stack.folder / "requests.jsonl"
    path.write_text("".join(json.dumps(request) + "\n" for request in requests(3)), encoding="utf-8")
    given = {"provider": "openai", "model": "gpt-5-mini", "requests_uri": str(path), "poll_schedule": [0.5, "PT1S"]}
    async with lane.running():
        done = await asyncio.to_thread(start_by_cli, lane.stack, "batch/from-cli", given)
    assert done["batch_id"] == "from-cli"
    assert done["completed"] == 3


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"provider": "openai", "requests_uri": "/x"}, "model"),
        ({"provider": "openai", "model": "gpt-5-mini"}, "requests_uri, batch_id"),
        ({"batch_id": "bad-input", "poll_schedule": ["soon"]}, "poll_schedule"),
        ({"batch_id": "bad-input", "modell": "x"}, "modell"),
        ({"batch_id": "other"}, "batch_id"),
        ({"batch_id": "bad-input"}, "batch_id"),
        ({"provider": "openai", "model": "gpt-5-mini", "requests_uri": "/etc/passwd"}, "NIGHTMILL_INPUT_ROOTS"),
        ({"provider": "nobody", "model": "m", "requests_uri": "/x"}, "nobody"),
        ([], "BatchInput"),
        (None, "input"),
    ],
)
@in_a_lane
async def test_bad_input_fails_the_workflow_at_once_and_names_the_field(lane: Lane, given: Any, named: str) -> None:
    async with lane.running():
        own = f"batch/{lane.stack.task_queue}"
        given = json.loads(json.dumps(given).replace("bad-input", lane.stack.task_queue))
        message = await asyncio.to_thread(start_by_cli, lane.stack, own, given, fails=True)
    assert named in message
    assert "InvalidInput" in message or "BatchNotFound" in message


@in_a_lane
async def test_a_workflow_id_of_another_shape_is_refused(lane: Lane) -> None:
    async with lane.running():
        given = {"provider": "openai", "model": "gpt-5-mini", "requests_uri": "/x"}
        message = await asyncio.to_thread(start_by_cli, lane.stack, "my-batch", given, fails=True)
    assert "a batch runs as batch/" in message


def start_by_cli(stack: Stack, workflow_id: str, given: Any, *, fails: bool = False) -> Any:
    """Run a workflow with the Temporal CLI; return its result, or what the CLI says of its failure."""
    command = [
        temporal_binary(), "workflow", "execute", "--address", stack.server.address, "--type", "ModelCompletionBatch",
        "--task-queue", stack.task_queue, "--workflow-id", workflow_id,
    ]  # fmt: skip
    if given is not None:
        command += ["--input", json.dumps(given)]
    ran = subprocess.run([*command, "--output", "json"], capture_output=True, text=True, timeout=60, check=False)
    if fails:
        assert ran.returncode != 0
        return ran.stdout + ran.stderr
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)["result"]


def test_the_worker_ends_with_0_on_sigterm(stack: Stack) -> None:
    worker = stack.start_worker()
    eventually(lambda: "worker ready" in stack.worker_log())
    worker.terminate()
    assert worker.wait(30) == 0


def test_a_worker_on_an_empty_database_ends_with_1_and_says_what_to_do(stack: Stack) -> None:
    stack.database_url = f"sqlite:///{stack.folder / 'empty.db'}"
    worker = stack.start_worker()
    assert worker.wait(30) == 1
    assert "nightmill db upgrade" in stack.worker_log()


# --- split batches, steered while their parts come and go


@in_a_lane
async def test_a_storm_of_poll_now_while_parts_end_harms_nothing(lane: Lane) -> None:
    lane.set(OPENAI__MAX_REQUESTS="1")
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, 8)
        waiting = asyncio.create_task(nightmill.wait(batch_id, timeout=PATIENCE))
        while not waiting.done():
            with suppress(BatchNotFound):  # it has ended in the meantime
                await nightmill.poll_now(batch_id)
            await asyncio.sleep(0.1)
        summary = await waiting
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 8)
    assert len(lane.webhook.received) == 1


@in_a_lane
async def test_a_split_batch_shows_the_sums_of_its_parts_and_the_part_that_waits(lane: Lane) -> None:
    lane.set(OPENAI__MAX_REQUESTS="2")
    lane.sandbox.set_profile(finish_after=None)
    lane.sandbox.add_faults(Fault("status", operation="batches.get", status=403))
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, 6)
        attention = await shown(nightmill, batch_id)
        async with asyncio.timeout(20):
            while (progress := await nightmill.progress(batch_id)).needs_attention is None:
                await asyncio.sleep(0.1)
        assert progress.needs_attention == attention
        assert (progress.parts, progress.status) == (3, BatchStatus.IN_PROGRESS)
        # The parts that go on do not hide the one that waits.
        await until(lambda: len(lane.asked("batches.get")) > 6)
        assert nightmill.assembly.batches.get(batch_id).needs_attention == attention
        for batch in lane.sandbox.batches():
            lane.sandbox.advance(batch["id"], "completed")
        await nightmill.poll_now(batch_id)
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 6
        assert nightmill.assembly.batches.get(batch_id).needs_attention is None


@in_a_lane
async def test_a_reset_of_a_split_batch_waits_for_the_parts_of_the_run_before(lane: Lane) -> None:
    lane.set(OPENAI__MAX_REQUESTS="2")
    lane.sandbox.set_profile(finish_after=None)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, 4)
        await until(lambda: len(lane.sandbox.batches()) == 2)
        handle = nightmill.temporal.get_workflow_handle(f"batch/{batch_id}")
        history = await handle.fetch_history()
        started = [e for e in history.events if e.HasField("workflow_task_completed_event_attributes")]
        await nightmill.temporal.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=nightmill.temporal.namespace,
                workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=(await handle.describe()).run_id),
                workflow_task_finish_event_id=started[0].event_id,
                request_id=batch_id,
                reason="test",
            )
        )
        for batch in lane.sandbox.batches():
            lane.sandbox.advance(batch["id"], "completed")
        summary = await nightmill.wait(batch_id, timeout=timedelta(seconds=100))
    assert summary.completed == 4
    assert len({batch["tag"] for batch in lane.sandbox.batches()}) == len(lane.sandbox.batches()) == 2
    assert len(lane.webhook.received) == 1


# --- cancels that meet trouble


@in_a_lane
async def test_a_cancel_whose_key_is_refused_waits_for_the_fix_and_is_sent_then(lane: Lane) -> None:
    lane.sandbox.set_profile(finish_after=None, partial_share=0.4)
    lane.sandbox.add_faults(Fault("status", operation="batches.cancel", status=401))
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        await until(lambda: lane.asked("batches.get"))
        await nightmill.cancel(batch_id)
        assert "401" in await shown(nightmill, batch_id)
        await nightmill.poll_now(batch_id)
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
    assert (summary.status, summary.completed) == (BatchStatus.CANCELED, 2)
    assert len(lane.asked("batches.cancel")) == 2


@in_a_lane
async def test_a_cancel_while_results_are_refused_still_fetches_them(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("status", operation="results.get", status=403))
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        assert "403" in await shown(nightmill, batch_id)
        await nightmill.cancel(batch_id)
        await nightmill.poll_now(batch_id)
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@in_a_lane
async def test_canceling_a_workflow_that_cannot_be_prepared_ends_it(lane: Lane) -> None:
    async with lane.running() as nightmill:
        handle = await nightmill.temporal.start_workflow(
            "ModelCompletionBatch",
            {"batch_id": lane.stack.task_queue},
            id=f"batch/{lane.stack.task_queue}",
            task_queue=lane.stack.task_queue,
            start_delay=timedelta(seconds=1),
        )
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await asyncio.wait_for(handle.result(), 30)

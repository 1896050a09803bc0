"""Whole batches: a real Temporal server, worker processes, and the sandbox as provider."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BatchStatus, BatchSummary
from nightmill.errors import BatchConflict, InvalidInput
from nightmill.sandbox import Fault, Sandbox
from tests.stack import SECRET, Stack, WebhookSink, eventually, requests, temporal_binary

pytestmark = pytest.mark.server

PROVIDERS = {
    "openai": "gpt-5-mini",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
    "xai": "grok-4-fast",
}


def with_nightmill(stack: Stack, use: Callable[[Nightmill], Awaitable[Any]]) -> Any:
    """Run `use` with a client of the stack."""

    async def run() -> Any:
        with stack.assembly() as assembly:
            return await use(await stack.nightmill(assembly))

    return asyncio.run(run())


def run_batch(stack: Stack, given: list[dict[str, Any]], **options: Any) -> BatchSummary:
    """Submit and wait."""
    options = {"provider": "openai", "model": "gpt-5-mini", **options}

    async def use(nightmill: Nightmill) -> BatchSummary:
        batch_id = await nightmill.submit(given, **options)
        return await nightmill.wait(batch_id, timeout=timedelta(seconds=60))

    summary: BatchSummary = with_nightmill(stack, use)
    return summary


def provider_batches_by_tag(sandbox: Sandbox) -> Counter[str]:
    return Counter(str(batch["tag"]) for batch in sandbox.batches())


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_goes_from_requests_to_results_with_every_provider(stack: Stack, provider: str) -> None:
    stack.start_worker()
    summary = run_batch(stack, requests(25), provider=provider, model=PROVIDERS[provider], metadata={"job": 7})
    assert (summary.status, summary.total, summary.completed) == (BatchStatus.ENDED, 25, 25)
    assert summary.metadata == {"job": 7}
    assert summary.tokens.output > 0
    with stack.assembly() as assembly:
        results = list(assembly.outcomes.results(summary.batch_id))
    assert [result.custom_id for result in results] == [f"r{n}" for n in range(25)]
    assert all(result.text for result in results)
    assert len(stack.sandbox.batches()) == 1


def test_the_webhook_is_signed_and_called_once_with_the_summary(stack: Stack, webhook: WebhookSink) -> None:
    stack.start_worker()
    summary = run_batch(stack, requests(3), completion_handler={"kind": "webhook", "url": webhook.url})
    [(headers, body)] = webhook.received
    assert headers["webhook-id"] == summary.batch_id
    payload = Webhook(SECRET).verify(body, headers)
    assert payload["summary"]["completed"] == 3
    assert "text" not in json.dumps(payload)
    with stack.assembly() as assembly:
        assert assembly.batches.get(summary.batch_id).handler_dispatched_at is not None


def test_a_webhook_that_fails_at_first_is_called_again(stack: Stack, webhook: WebhookSink) -> None:
    webhook.answers[:] = [503]
    stack.start_worker()
    run_batch(stack, requests(2), completion_handler={"kind": "webhook", "url": webhook.url})
    assert len(webhook.received) == 1


def test_a_handler_that_wants_failures_only_is_not_told_of_success(stack: Stack, webhook: WebhookSink) -> None:
    stack.start_worker()
    handler = {"kind": "webhook", "url": webhook.url, "on": ["failed", "expired"]}
    run_batch(stack, requests(2), completion_handler=handler)
    assert webhook.received == []


def test_a_batch_over_the_limits_is_split_and_looks_like_one(stack: Stack) -> None:
    stack.extra = {"NIGHTMILL_OPENAI__MAX_REQUESTS": "10"}
    stack.start_worker()
    summary = run_batch(stack, requests(35))
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 35)
    assert sorted(batch["requests"] for batch in stack.sandbox.batches()) == [5, 10, 10, 10]
    assert max(provider_batches_by_tag(stack.sandbox).values()) == 1


def test_retriable_failures_are_sent_again_in_a_round_of_their_own(stack: Stack) -> None:
    stack.sandbox.set_profile(fail_ids=["r1", "r3"], failure="server_error")
    stack.start_worker()

    async def use(nightmill: Nightmill) -> BatchSummary:
        batch_id = await nightmill.submit(requests(6), provider="openai", model="gpt-5-mini", retry_rounds=1)
        while not stack.sandbox.batches():
            await asyncio.sleep(0.05)
        stack.sandbox.set_profile(fail_ids=[])
        return await nightmill.wait(batch_id, timeout=timedelta(seconds=60))

    summary = with_nightmill(stack, use)
    assert (summary.status, summary.completed, summary.failed) == (BatchStatus.ENDED, 6, 0)
    assert sorted(batch["requests"] for batch in stack.sandbox.batches()) == [2, 6]


def test_an_ended_batch_without_a_single_success_says_so(stack: Stack) -> None:
    stack.sandbox.set_profile(fail_share=1.0, failure="invalid_request")
    stack.start_worker()
    summary = run_batch(stack, requests(4))
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 0)
    assert summary.all_failed
    assert summary.failed_by_code == {"provider_error": 4}


def test_a_cancel_keeps_what_was_finished_and_calls_the_handler_once(stack: Stack, webhook: WebhookSink) -> None:
    stack.sandbox.set_profile(finish_after=60.0, partial_share=0.5)
    stack.start_worker()

    async def use(nightmill: Nightmill) -> BatchSummary:
        batch_id = await nightmill.submit(
            requests(10), provider="openai", model="gpt-5-mini",
            completion_handler={"kind": "webhook", "url": webhook.url},
        )  # fmt: skip
        while not stack.sandbox.batches():
            await asyncio.sleep(0.05)
        assert await nightmill.cancel(batch_id) in (BatchStatus.CANCELING, BatchStatus.PENDING)
        summary = await nightmill.wait(batch_id, timeout=timedelta(seconds=60))
        with pytest.raises(BatchConflict, match="canceled already"):
            await nightmill.cancel(batch_id)
        return summary

    summary = with_nightmill(stack, use)
    assert summary.status is BatchStatus.CANCELED
    assert summary.partial
    assert 0 < summary.completed < 10
    assert summary.failed_by_code == {"canceled": 10 - summary.completed}
    assert len(webhook.received) == 1


def test_cancelling_the_workflow_cancels_at_the_provider_and_ends_canceled(stack: Stack, webhook: WebhookSink) -> None:
    stack.sandbox.set_profile(finish_after=60.0)
    stack.start_worker()

    async def use(nightmill: Nightmill) -> str:
        batch_id = await nightmill.submit(
            requests(4), provider="anthropic", model="claude-haiku-4-5",
            completion_handler={"kind": "webhook", "url": webhook.url},
        )  # fmt: skip
        while not stack.sandbox.batches():
            await asyncio.sleep(0.05)
        handle = nightmill.temporal.get_workflow_handle(f"batch/{batch_id}")
        await handle.cancel()
        summary = await nightmill.wait(batch_id, timeout=timedelta(seconds=60))
        assert summary.status is BatchStatus.CANCELED
        description = await handle.describe()
        return str(description.status.name if description.status else None)

    assert with_nightmill(stack, use) == "CANCELED"
    assert len(webhook.received) == 1
    assert [batch["state"] for batch in stack.sandbox.batches()] == ["cancelled"]


def test_a_wrong_key_fails_the_batch_with_the_provider_s_words_and_nothing_is_billed(stack: Stack) -> None:
    stack.extra = {"NIGHTMILL_OPENAI__API_KEY": "invalid"}
    stack.start_worker()
    summary = run_batch(stack, requests(2))
    assert summary.status is BatchStatus.FAILED
    assert summary.failed_by_code == {"not_submitted": 2}
    assert "401" in (summary.reason or "")
    assert stack.sandbox.batches() == []


def test_a_refused_create_deletes_the_upload_and_shows_the_reason(stack: Stack) -> None:
    stack.sandbox.add_faults(
        Fault("status", operation="batches.create", status=400, body={"error": {"message": "no such endpoint"}})
    )
    stack.start_worker()
    summary = run_batch(stack, requests(2))
    assert summary.status is BatchStatus.FAILED
    assert summary.failed_by_code == {"rejected": 2}
    assert "no such endpoint" in (summary.reason or "")
    assert [file["deleted"] for file in stack.sandbox.files()] == [True]


def test_a_lost_create_answer_is_found_by_its_tag_and_adopted(stack: Stack) -> None:
    stack.sandbox.add_faults(Fault("drop", operation="batches.create", when="after"))
    stack.start_worker()
    summary = run_batch(stack, requests(5))
    assert summary.completed == 5
    assert list(provider_batches_by_tag(stack.sandbox).values()) == [1]


def test_poll_now_does_not_wait_for_the_schedule(stack: Stack) -> None:
    stack.start_worker()

    async def use(nightmill: Nightmill) -> BatchSummary:
        batch_id = await nightmill.submit(
            requests(2), provider="openai", model="gpt-5-mini", poll_schedule=[timedelta(hours=1)]
        )
        while (await nightmill.summary(batch_id)).status is BatchStatus.PENDING:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.5)
        await nightmill.poll_now(batch_id)
        return await nightmill.wait(batch_id, timeout=timedelta(seconds=30))

    assert with_nightmill(stack, use).status is BatchStatus.ENDED


def test_a_key_that_stops_working_needs_attention_and_a_poll_goes_on_after_the_fix(stack: Stack) -> None:
    stack.sandbox.set_profile(finish_after=3.0)
    stack.sandbox.add_faults(Fault("status", operation="batches.get", status=401, times=None))
    stack.start_worker()

    async def use(nightmill: Nightmill) -> BatchSummary:
        batch_id = await nightmill.submit(requests(2), provider="openai", model="gpt-5-mini")
        while not nightmill.assembly.batches.get(batch_id).needs_attention:
            await asyncio.sleep(0.1)
        asked = len(stack.sandbox.log(operation="batches.get"))
        await asyncio.sleep(1.5)
        assert len(stack.sandbox.log(operation="batches.get")) == asked, "no hot loop"
        stack.sandbox.clear_faults()
        await nightmill.poll_now(batch_id)
        summary = await nightmill.wait(batch_id, timeout=timedelta(seconds=30))
        assert nightmill.assembly.batches.get(batch_id).needs_attention is None
        return summary

    assert with_nightmill(stack, use).completed == 2


def test_the_temporal_cli_starts_a_batch_from_plain_json(stack: Stack) -> None:
    (stack.folder / "requests.jsonl").write_text(
        "".join(json.dumps(request) + "\n" for request in requests(3)), encoding="utf-8"
    )
    stack.start_worker()
    given = {"provider": "openai", "model": "gpt-5-mini", "requests_uri": str(stack.folder / "requests.jsonl")}
    done = start_by_cli(stack, "batch/from-cli", given)
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
def test_bad_input_fails_the_workflow_at_once_and_names_the_field(stack: Stack, given: Any, named: str) -> None:
    stack.start_worker()
    message = start_by_cli(stack, "batch/bad-input", given, fails=True)
    assert named in message
    assert "InvalidInput" in message or "BatchNotFound" in message


def start_by_cli(stack: Stack, workflow_id: str, given: Any, *, fails: bool = False) -> Any:
    """Run a workflow with the Temporal CLI; return its result, or what the CLI says of its failure."""
    command = [
        temporal_binary(), "workflow", "execute", "--address", stack.server.address, "--type", "ModelCompletionBatch",
        "--task-queue", stack.task_queue, "--workflow-id", workflow_id, "--id-reuse-policy", "AllowDuplicate",
    ]  # fmt: skip
    if given is not None:
        command += ["--input", json.dumps(given)]
    ran = subprocess.run([*command, "--output", "json"], capture_output=True, text=True, timeout=60, check=False)
    if fails:
        assert ran.returncode != 0
        return ran.stdout + ran.stderr
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    return answer["result"]


def test_a_duplicate_id_is_refused_and_leaves_the_first_alone(stack: Stack) -> None:
    stack.start_worker()

    async def use(nightmill: Nightmill) -> None:
        await nightmill.submit(requests(1), provider="openai", model="gpt-5-mini", batch_id="mine")
        with pytest.raises(BatchConflict, match="mine"):
            await nightmill.submit(requests(2), provider="openai", model="gpt-5-mini", batch_id="mine")
        summary = await nightmill.wait("mine", timeout=timedelta(seconds=30))
        assert summary.total == 1

    with_nightmill(stack, use)


def test_nothing_is_stored_of_a_batch_with_a_bad_line(stack: Stack) -> None:
    async def use(nightmill: Nightmill) -> None:
        with pytest.raises(InvalidInput, match=r"requests\[1\].*duplicate"):
            await nightmill.submit(
                [*requests(1), *requests(1)], provider="openai", model="gpt-5-mini", batch_id="half"
            )
        assert nightmill.assembly.batches.find("half") is None

    with_nightmill(stack, use)


def test_the_worker_ends_with_0_on_sigterm(stack: Stack) -> None:
    worker = stack.start_worker()
    eventually(lambda: "worker ready" in stack.worker_log())
    worker.terminate()
    assert worker.wait(30) == 0

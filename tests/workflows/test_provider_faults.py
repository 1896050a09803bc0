"""Providers that break, lie and stall: the batch still ends with each request answered once, and the host told once.

What happened is judged by the sandbox's own log and by what the webhook received, not by our tables.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BatchStatus
from nightmill.errors import NightmillError
from nightmill.providers.registry import open_provider
from nightmill.sandbox import Fault
from tests.lanes import PATIENCE, Lane, in_a_lane, long, shown, until

pytestmark = pytest.mark.server

# --- submission


@pytest.mark.parametrize(
    ("provider", "times"),
    [("openai", 1), long("openai", 2), ("openai", 3), ("anthropic", 1), ("google", 2), long("xai", 3)],
)
@in_a_lane
async def test_a_create_whose_answer_is_lost_again_and_again_is_adopted(lane: Lane, provider: str, times: int) -> None:
    lane.sandbox.add_faults(
        Fault("drop", operation="batches.create", when="after", times=times),
        Fault("drop", operation="batches.list", times=times - 1),
    )
    summary = await lane.run(provider=provider)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    assert len(lane.asked("batches.create")) == 1
    lane.assert_once()


@in_a_lane
async def test_a_create_that_appears_late_is_waited_for_and_never_repeated(lane: Lane) -> None:
    lane.set(BATCH__FIND_DELAYS="[0,0.5,1,1.5,2]")
    lane.sandbox.add_faults(
        Fault("hide", operation="batches.create", seconds=2.5),
        Fault("drop", operation="batches.create", when="after"),
    )
    summary = await lane.run()
    assert summary.completed == 5
    assert len(lane.asked("batches.list")) >= 3
    lane.assert_once()


@in_a_lane
async def test_a_create_that_never_took_effect_is_sent_again_once_all_looks_were_in_vain(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("drop", operation="batches.create", when="before"))
    summary = await lane.run()
    assert summary.completed == 5
    assert len(lane.asked("batches.create")) == 2
    assert len(lane.asked("batches.list")) == 3, "as many looks as there are delays"
    lane.assert_once()


@pytest.mark.parametrize("body", ["html", long("garbage"), long("empty"), "huge"])
@in_a_lane
async def test_a_create_with_an_unreadable_answer_is_adopted(lane: Lane, body: str) -> None:
    lane.sandbox.add_faults(Fault("status", operation="batches.create", when="after", status=200, body=body))
    summary = await lane.run()
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
    lane.assert_once()


@in_a_lane
async def test_two_lost_creates_without_tag_are_told_apart_by_their_ids_once_they_end(lane: Lane) -> None:
    lane.sandbox.set_profile(finish_after=4.0)
    lane.sandbox.add_faults(Fault("drop", operation="batches.create", when="after", times=2))
    async with lane.running() as nightmill:
        ids = [await lane.submit(nightmill, provider="anthropic", prefix=prefix) for prefix in ("a", "b")]
        for batch_id in ids:
            assert "could be ours" in await shown(nightmill, batch_id)
        assert [batch["state"] for batch in lane.sandbox.batches()] == ["in_progress"] * 2
        for batch_id, prefix in zip(ids, ("a", "b"), strict=True):
            summary = await nightmill.wait(batch_id, timeout=PATIENCE)
            assert summary.completed == 5
            texts = {result.custom_id: result.text async for result in nightmill.results(batch_id)}
            assert set(texts) == {f"{prefix}{n}" for n in range(5)}
            assert nightmill.assembly.batches.get(batch_id).needs_attention is None
    assert len(lane.asked("batches.create")) == 2
    lane.assert_once(batches=2)


@in_a_lane
async def test_an_upload_that_meets_a_cloud_error_is_sent_again(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("status", operation="files.create", status=520, body="html"))
    assert (await lane.run()).completed == 5
    assert len(lane.asked("files.create")) == 2
    lane.assert_once()


@in_a_lane
async def test_a_batch_that_is_not_known_right_after_its_creation_is_asked_for_again(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("hide", operation="batches.create", seconds=6))
    assert (await lane.run()).completed == 5
    assert 404 in [entry["status"] for entry in lane.asked("batches.get")]
    lane.assert_once()


@in_a_lane
async def test_a_cancel_between_the_create_and_its_answer_cancels_at_the_provider(lane: Lane) -> None:
    lane.sandbox.set_profile(finish_after=60.0, partial_share=0.0)
    async with lane.running() as nightmill:
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            asyncio.run_coroutine_threadsafe(nightmill.cancel(lane.stack.task_queue), loop).result(30)

        lane.sandbox.add_faults(Fault("call", operation="batches.create", when="after", call=cancel))
        await lane.submit(nightmill, batch_id=lane.stack.task_queue)
        summary = await nightmill.wait(lane.stack.task_queue, timeout=PATIENCE)
    assert summary.status is BatchStatus.CANCELED
    assert summary.failed_by_code == {"canceled": 5}
    [batch] = lane.sandbox.batches()
    assert batch["state"] == "cancelled"
    assert [entry["batch_id"] for entry in lane.asked("batches.cancel")] == [batch["id"]]
    lane.assert_once()


@in_a_lane
async def test_a_batch_out_of_quota_is_queued_again_under_a_tag_of_its_own(lane: Lane) -> None:
    lane.sandbox.add_faults(
        Fault("fail", operation="batches.create", code="token_limit_exceeded", message="Enqueued token limit reached")
    )
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        await until(lambda: [batch["state"] for batch in lane.sandbox.batches()] == ["failed"])
        assert len(lane.sandbox.batches()) == 1
        await poke_until_done(nightmill, batch_id)
    assert [batch["state"] for batch in lane.sandbox.batches()] == ["failed", "completed"]
    assert len({batch["tag"] for batch in lane.sandbox.batches()}) == 2
    assert len(lane.webhook.received) == 1


@in_a_lane
async def test_no_more_batches_are_open_at_the_provider_than_allowed(lane: Lane) -> None:
    lane.set(OPENAI__MAX_OPEN_BATCHES="1")
    lane.sandbox.set_profile(finish_after=2.0)
    async with lane.running() as nightmill:
        ids = [await lane.submit(nightmill, prefix=prefix) for prefix in ("a", "b")]
        most = 0
        waits = asyncio.gather(*(poke_until_done(nightmill, batch_id) for batch_id in ids))
        while not waits.done():
            most = max(most, sum(batch["state"] == "in_progress" for batch in lane.sandbox.batches()))
            await asyncio.sleep(0.1)
        await waits
    assert most == 1
    lane.assert_once(batches=2)


async def poke_until_done(nightmill: Nightmill, batch_id: str) -> None:
    """Cut the long pauses short, as an operator would."""
    done = asyncio.create_task(nightmill.wait(batch_id, timeout=PATIENCE))
    while not done.done():
        await asyncio.wait([done], timeout=0.5)
        if not done.done():
            try:
                await nightmill.poll_now(batch_id)
            except NightmillError:  # it has just ended
                break
    assert (await done).completed == 5


# --- rate limits and outages


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [(2, 2.0, 4.5), (None, 5.0, 9.0), long("soon", 5.0, 9.0), long(0, 5.0, 9.0)],
    ids=["seconds", "absent", "garbage", "zero"],
)
@in_a_lane
async def test_the_pause_that_a_provider_asks_for_is_kept(lane: Lane, given: Any, least: float, most: float) -> None:
    lane.sandbox.add_faults(Fault("status", operation="batches.get", status=429, retry_after=given))
    assert (await lane.run()).completed == 5
    first, second = (entry["time"] for entry in lane.asked("batches.get")[:2])
    assert least <= second - first < most
    lane.assert_once()


@in_a_lane
async def test_a_pause_until_a_date_is_kept(lane: Lane) -> None:
    date = int(time.time()) + 6
    pause = email.utils.formatdate(date, usegmt=True)
    lane.sandbox.add_faults(Fault("status", operation="batches.get", status=429, retry_after=pause))
    assert (await lane.run()).completed == 5
    assert date <= lane.asked("batches.get")[1]["time"] < date + 30
    lane.assert_once()


@in_a_lane
async def test_a_poll_told_to_come_back_in_an_hour_does_not_come_back_at_once(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("status", operation="batches.get", status=429, retry_after=3600))
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        await until(lambda: lane.asked("batches.get"))
        await asyncio.sleep(2)
        assert len(lane.asked("batches.get")) == 1
        told, stored = (await nightmill.progress(batch_id)).next_poll_at, nightmill.assembly.batches.get(batch_id)
        for due in (told, stored.next_poll_at):  # in the row too, or it would look stuck
            assert due is not None
            assert timedelta(minutes=59) < due - datetime.now(UTC) <= timedelta(hours=1)
        await nightmill.poll_now(batch_id)  # an operator need not wait
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 5


@pytest.mark.parametrize("operation", [long("files.create"), "batches.create"])
@in_a_lane
async def test_a_submission_told_to_come_back_in_an_hour_can_be_canceled_meanwhile(lane: Lane, operation: str) -> None:
    lane.sandbox.add_faults(Fault("status", operation=operation, status=429, retry_after=7200, times=None))
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        await until(lambda: lane.asked(operation))
        await asyncio.sleep(1)
        await nightmill.cancel(batch_id)
        summary = await nightmill.wait(batch_id, timeout=timedelta(seconds=15))
    assert summary.status is BatchStatus.CANCELED
    assert len(lane.asked(operation)) == 1
    assert lane.sandbox.batches() == []


@pytest.mark.parametrize("operation", ["files.create", long("batches.create"), "batches.get", long("results.get")])
@in_a_lane
async def test_a_burst_of_server_errors_costs_time_only(lane: Lane, operation: str) -> None:
    # With a short `Retry-After`, which is obeyed, so that the test is short as well.
    burst = [Fault("status", operation=operation, status=s, retry_after=0.3) for s in (500, 502, 503, 529)]
    lane.sandbox.add_faults(*(replace(fault, skip=n) for n, fault in enumerate(burst)))
    assert (await lane.run()).completed == 5
    assert sorted(entry["status"] or 0 for entry in lane.asked(operation))[-4:] == [500, 502, 503, 529]
    lane.assert_once()


@pytest.mark.parametrize("body", ["html", long("garbage"), long("empty"), '{"id": '])
@in_a_lane
async def test_a_status_that_cannot_be_read_is_asked_for_again(lane: Lane, body: str) -> None:
    lane.sandbox.add_faults(Fault("status", operation="batches.get", status=200, body=body))
    assert (await lane.run()).completed == 5
    assert len(lane.asked("batches.get")) >= 2
    lane.assert_once()


@in_a_lane
async def test_an_unknown_status_word_reads_as_in_progress(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("patch", operation="batches.get", body={"status": "pondering"}, times=2))
    assert (await lane.run()).completed == 5
    assert len(lane.asked("batches.get")) >= 3
    lane.assert_once()


@pytest.mark.slow
@in_a_lane
async def test_a_huge_status_does_not_fill_the_worker_s_memory(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("status", operation="batches.get", status=200, body="huge"))
    worker = lane.stack.start_worker()
    with lane.stack.assembly() as assembly:
        nightmill = await lane.stack.nightmill(assembly)
        batch_id = await lane.submit(nightmill)
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 5
    status = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii")
    [peak] = [int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    assert peak < 250  # the answer is read up to 64 MiB; without one the worker takes 100


@in_a_lane
async def test_a_key_that_is_rotated_stops_the_polls_until_the_new_one_is_set(lane: Lane) -> None:
    lane.sandbox.set_profile(finish_after=3.0)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        await until(lambda: lane.asked("batches.create"))
        lane.sandbox.set_profile(rejected_keys=["sandbox-key"])
        assert "401" in await shown(nightmill, batch_id)
        asked = len(lane.asked("batches.get"))
        await asyncio.sleep(2)
        assert len(lane.asked("batches.get")) == asked, "no hot loop"
    lane.set(OPENAI__API_KEY="the-new-key")
    async with lane.running() as nightmill:
        await nightmill.poll_now(batch_id)
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 5
        assert nightmill.assembly.batches.get(batch_id).needs_attention is None
    lane.assert_once()


# --- results


@in_a_lane
async def test_results_that_are_not_there_yet_right_after_the_end_are_asked_for_again(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("status", operation="results.get", status=404, times=2))
    assert (await lane.run()).completed == 5
    lane.assert_once()


@pytest.mark.parametrize("provider", ["openai", long("anthropic"), "google", long("xai")])
@in_a_lane
async def test_entries_that_never_come_are_failed_as_missing_and_never_completed(lane: Lane, provider: str) -> None:
    lane.sandbox.add_faults(Fault("missing", operation="results.get", ids=("r1", "r3"), times=None))
    summary = await lane.run(provider=provider)
    assert (summary.status, summary.completed, summary.failed_by_code) == (BatchStatus.ENDED, 3, {"entry_missing": 2})
    assert summary.partial
    lane.assert_once()


@in_a_lane
async def test_counts_that_promise_too_much_are_asked_about_again_and_then_not_believed(lane: Lane) -> None:
    lane.sandbox.add_faults(
        Fault("patch", operation="batches.get", body={"request_counts": {"completed": 5, "total": 5}}, times=None),
        Fault("missing", operation="results.get", count=2, times=None),
    )
    summary = await lane.run()
    assert (summary.completed, summary.failed_by_code) == (3, {"entry_missing": 2})
    assert len(lane.asked("results.get")) > 1
    lane.assert_once()


@in_a_lane
async def test_a_batch_with_an_error_file_only_keeps_each_request_s_error(lane: Lane) -> None:
    lane.sandbox.set_profile(fail_share=1.0, failure="invalid_request")
    lane.sandbox.add_faults(Fault("patch", operation="batches.get", body={"output_file_id": ""}, times=None))
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
        errors = [result.error async for result in nightmill.results(batch_id)]
    assert summary.status is BatchStatus.ENDED
    assert summary.all_failed
    assert all(error is not None and error.code == "provider_error" and error.message for error in errors)
    lane.assert_once()


@in_a_lane
async def test_a_slow_drip_of_results_ends_at_the_deadline_and_is_fetched_again(lane: Lane) -> None:
    lane.sandbox.add_faults(Fault("drip", operation="results.get", size=1, seconds=0.5))
    async with lane.running() as nightmill:
        assembly = nightmill.assembly
        config = assembly.provider_config("openai", assembly.settings.api_key("openai", None))
        quick = replace(config, download_deadline=timedelta(seconds=2))
        assembly._providers["openai", None] = open_provider("openai", quick)
        batch_id = await lane.submit(nightmill)
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 5
    first, second = (entry["time"] for entry in lane.asked("results.get")[:2])
    assert 2 <= second - first < 8
    lane.assert_once()


@pytest.mark.parametrize("provider", [long("openai"), "anthropic", "google", long("xai")])
@in_a_lane
async def test_a_connection_cut_in_the_middle_of_the_results_is_made_again(lane: Lane, provider: str) -> None:
    operation = "batches.get" if provider == "google" else "results.get"
    lane.sandbox.set_profile(answer_chars=2_000)
    lane.sandbox.add_faults(*(Fault("cut", operation=operation, at=at, skip=n) for n, at in enumerate((100, 7_000))))
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, 10, provider=provider)
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).completed == 10
        assert [result.custom_id async for result in nightmill.results(batch_id)] == [f"r{n}" for n in range(10)]
    lane.assert_once(requests=10)


@pytest.mark.parametrize(
    ("provider", "status"),
    [
        *((provider, BatchStatus.EXPIRED) for provider in ("openai", "google")),
        *(long(provider, BatchStatus.EXPIRED) for provider in ("anthropic", "xai")),
        ("openai", BatchStatus.CANCELED),
    ],
)
@in_a_lane
async def test_what_an_expired_or_canceled_batch_had_finished_is_kept(
    lane: Lane, provider: str, status: BatchStatus
) -> None:
    lane.sandbox.set_profile(finish_after=60.0, partial_share=0.4)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, provider=provider)
        [batch] = await until(lane.sandbox.batches)
        lane.sandbox.advance(batch["id"], "expired" if status is BatchStatus.EXPIRED else "cancelled")
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
        kept = [result.custom_id async for result in nightmill.results(batch_id) if result.text]
    assert summary.status is status
    assert summary.completed == len(kept) == 2
    assert summary.failed_by_code == {status.value: 3}
    lane.assert_once()

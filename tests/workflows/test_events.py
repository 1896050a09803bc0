"""A provider's event ends the wait for the next poll; whatever is wrong with events, polls go on as planned."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from nightmill import ids
from nightmill.client.converter import data_converter
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import BatchStatus
from nightmill.errors import BatchNotFound
from tests.events import ACME_SECRET, GOOGLE_SECRET, SECRET, event, post, receiving, signed
from tests.lanes import CuttableProxy, Lane, in_a_lane, long, until

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

SECRETS = {"openai": SECRET, "google": GOOGLE_SECRET}
RARELY = [timedelta(hours=1)]
SOON = timedelta(minutes=1)
"""Of an hour's wait; the machine may be busy."""


@asynccontextmanager
async def listening(lane: Lane) -> AsyncIterator[tuple[Nightmill, str]]:
    """Run a worker and a receiver."""
    lane.set(OPENAI__WEBHOOK_SECRET=SECRET, GOOGLE__WEBHOOK_SECRET=GOOGLE_SECRET)
    async with lane.running() as nightmill:
        assembly = nightmill.assembly
        async with receiving(nightmill.temporal, assembly.database, assembly.settings) as address:
            yield nightmill, address


def told(lane: Lane, address: str, provider: str) -> None:
    """Let the sandbox tell the receiver of the batches to come."""
    lane.sandbox.set_profile(events_url=address, events_secret=SECRETS[provider])


async def created(lane: Lane, nightmill: Nightmill, batch_id: str, count: int = 1) -> list[str]:
    """Return the provider's ids, once our rows have them and the runs sleep."""

    def known() -> bool:
        waits = nightmill.assembly.batches.get(batch_id)
        return waits.next_poll_at is not None and len(lane.sandbox.batches()) == count

    await until(known)
    await asyncio.sleep(0.5)
    return [batch["id"] for batch in lane.sandbox.batches()]


@pytest.mark.parametrize(("provider", "parts"), [("openai", 1), long("openai", 3), long("google", 1), ("google", 3)])
@in_a_lane
async def test_a_batch_ends_soon_after_its_provider_says_so(lane: Lane, provider: str, parts: int) -> None:
    lane.set(**{f"{provider.upper()}__MAX_REQUESTS": "2"})
    lane.sandbox.set_profile(finish_after=3.0)
    async with listening(lane) as (nightmill, address):
        told(lane, address, provider)
        batch_id = await lane.submit(nightmill, 2 * parts, provider=provider, poll_schedule=RARELY)
        summary = await nightmill.wait(batch_id, timeout=SOON)
    assert (summary.status, summary.completed) == (BatchStatus.ENDED, 2 * parts)
    # At Google the results come with the same question, asked once more.
    assert len(lane.asked("batches.get")) <= parts * (2 if provider == "google" else 1)


@pytest.mark.parametrize(
    ("word", "status"), [long("failed", "failed"), ("expired", "expired"), long("cancelled", "canceled")]
)
@in_a_lane
async def test_the_other_ends_are_told_of_as_well(lane: Lane, word: str, status: str) -> None:
    lane.sandbox.set_profile(finish_after=None)
    async with listening(lane) as (nightmill, address):
        told(lane, address, "openai")
        batch_id = await lane.submit(nightmill, 2, poll_schedule=RARELY)
        (provider_batch_id,) = await created(lane, nightmill, batch_id)
        lane.sandbox.advance(provider_batch_id, word)
        summary = await nightmill.wait(batch_id, timeout=SOON)
    assert summary.status == status


@in_a_lane
async def test_an_event_that_says_too_much_is_not_believed_and_one_that_comes_again_costs_a_poll(lane: Lane) -> None:
    lane.sandbox.set_profile(finish_after=None)
    async with listening(lane) as (nightmill, address):
        batch_id = await lane.submit(nightmill, poll_schedule=RARELY)
        (provider_batch_id,) = await created(lane, nightmill, batch_id)
        body = event(provider_batch_id)
        again = signed(body)
        for _ in range(2):
            assert (await post(f"{address}/openai", body, again)).status == 204
        await until(lambda: lane.asked("batches.get"))
        await asyncio.sleep(1.5)
        assert 1 <= len(lane.asked("batches.get")) <= 2
        assert nightmill.assembly.batches.get(batch_id).status is BatchStatus.IN_PROGRESS
        lane.sandbox.advance(provider_batch_id, "completed")
        assert (await post(f"{address}/openai", body)).status == 204
        assert (await nightmill.wait(batch_id, timeout=SOON)).status is BatchStatus.ENDED
    assert len(lane.asked("batches.get")) <= 3


@in_a_lane
async def test_a_forged_event_polls_nothing(lane: Lane) -> None:
    lane.set(ACCOUNTS__ACME__OPENAI__API_KEY="sandbox-key", ACCOUNTS__ACME__OPENAI__WEBHOOK_SECRET=ACME_SECRET)
    lane.sandbox.set_profile(finish_after=None)
    async with listening(lane) as (nightmill, address):
        batch_id = await lane.submit(nightmill, poll_schedule=RARELY)
        (provider_batch_id,) = await created(lane, nightmill, batch_id)
        body = event(provider_batch_id)
        forged = [("/openai", signed(body, "whsec_" + "A" * 40)), ("/openai/acme", signed(body))]
        stale = ("/openai", signed(body, ago=timedelta(minutes=6)))
        for path, headers in (*forged, stale):
            assert (await post(address + path, body, headers)).status == 401
        # Signed, by an account whose batch it is not.
        assert (await post(f"{address}/openai/acme", body, signed(body, ACME_SECRET))).status == 204
        await asyncio.sleep(1.0)
        assert lane.asked("batches.get") == []
        assert (await post(f"{address}/openai", body)).status == 204
        await until(lambda: lane.asked("batches.get"))


@in_a_lane
async def test_an_accounts_batch_is_told_of_at_the_accounts_path(lane: Lane) -> None:
    lane.set(ACCOUNTS__ACME__OPENAI__API_KEY="sandbox-key", ACCOUNTS__ACME__OPENAI__WEBHOOK_SECRET=ACME_SECRET)
    async with listening(lane) as (nightmill, address):
        batch_id = await lane.submit(nightmill, account="acme", poll_schedule=RARELY)
        (provider_batch_id,) = await created(lane, nightmill, batch_id)
        body = event(provider_batch_id)
        assert (await post(f"{address}/openai", body)).status == 204  # the same project told the default key's path
        await asyncio.sleep(1.0)
        assert lane.asked("batches.get") == []
        assert (await post(f"{address}/openai/acme", body, signed(body, ACME_SECRET))).status == 204
        assert (await nightmill.wait(batch_id, timeout=SOON)).status is BatchStatus.ENDED


@in_a_lane
async def test_an_event_for_a_batch_that_nobody_follows_is_taken(lane: Lane) -> None:
    async with listening(lane) as (nightmill, address):
        batch_id = await lane.submit(nightmill, poll_schedule=RARELY)
        (provider_batch_id,) = await created(lane, nightmill, batch_id)
        handle = nightmill.temporal.get_workflow_handle(ids.batch_workflow_id(batch_id))
        await handle.terminate()
        assert (await post(f"{address}/openai", event(provider_batch_id))).status == 204
        assert (await handle.describe()).status is WorkflowExecutionStatus.TERMINATED
        await nightmill.start(batch_id)
        ended = asyncio.create_task(nightmill.wait(batch_id, timeout=SOON))
        while not ended.done():
            with suppress(BatchNotFound):  # it has ended in the meantime
                await nightmill.poll_now(batch_id)
            await asyncio.sleep(0.5)
        assert (await ended).status is BatchStatus.ENDED
        assert (await post(f"{address}/openai", event(provider_batch_id))).status == 204  # late, or once more


@in_a_lane
async def test_an_event_that_came_while_temporal_was_away_is_asked_for_again(lane: Lane) -> None:
    """The receiver itself has no encryption key: its signals hold nothing."""
    lane.set(OPENAI__WEBHOOK_SECRET=SECRET, ENCRYPTION_KEY=base64.b64encode(bytes(32)).decode())
    host, _, port = lane.stack.server.address.partition(":")
    async with lane.running() as nightmill, CuttableProxy((host, int(port))) as proxy:
        assembly = nightmill.assembly
        client = await Client.connect(proxy.address, data_converter=data_converter(None))
        async with receiving(client, assembly.database, assembly.settings) as address:
            batch_id = await lane.submit(nightmill, poll_schedule=RARELY)
            (provider_batch_id,) = await created(lane, nightmill, batch_id)
            proxy.silent = True
            began = asyncio.get_running_loop().time()
            away = await post(f"{address}/openai", event(provider_batch_id))
            assert (away.status, away.headers["retry-after"]) == (503, "30")
            assert asyncio.get_running_loop().time() - began < 8
            assert lane.asked("batches.get") == []
            proxy.silent = False
            proxy.cut()
            assert (await post(f"{address}/openai", event(provider_batch_id))).status == 204
            assert (await nightmill.wait(batch_id, timeout=SOON)).status is BatchStatus.ENDED

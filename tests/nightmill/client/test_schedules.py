"""The schedules that workers make, on a real Temporal server: made once, brought up to date, looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, ScheduleActionStartWorkflow, ScheduleOverlapPolicy
from temporalio.service import RPCError

from nightmill import ids
from nightmill.client.connection import register_search_attributes
from nightmill.client.schedule_looks import ScheduleLook, ScheduleState, look_at_schedules
from nightmill.client.schedules import PLANNED, apply_schedule, planned
from nightmill.errors import InvalidInput, NotConfigured, TemporalUnreachable
from nightmill.settings import Settings, WorkerSettings
from tests.stack import TemporalServer
from workflows.story import SEARCH_ATTRIBUTES

NOBODYS = "nobody-serves-this"
NAMES = [each.id for each in PLANNED]


def settings(**given: Any) -> Settings:
    slicing = {"task_queue": NOBODYS} | given.pop("slicing", {})
    return Settings(_env_file=None, worker=WorkerSettings(task_queue=NOBODYS), slicing=slicing, **given)


def asked_for(given: Settings) -> set[str]:
    return {each.id for each in PLANNED if each.is_asked_for(given)}


def action_of(name: str, **given: Any) -> ScheduleActionStartWorkflow:
    action = planned(name).schedule(settings(**given)).action
    assert isinstance(action, ScheduleActionStartWorkflow)
    return action


def test_all_schedules_are_asked_for_unless_a_setting_says_otherwise() -> None:
    assert asked_for(settings()) == set(NAMES)
    assert asked_for(settings(reconciler={"schedules": False})) == {
        ids.SYNC_SWEEP_SCHEDULE,
        ids.CANARY_SCHEDULE,
    }
    assert ids.SYNC_SWEEP_SCHEDULE not in asked_for(settings(documents={"sweep": False}))
    assert ids.CANARY_SCHEDULE not in asked_for(settings(slicing={"canary": False}))


@pytest.mark.parametrize("name", NAMES)
def test_none_overlaps_itself_is_made_up_for_or_stopped_by_its_own_failure(name: str) -> None:
    schedule = planned(name).schedule(settings())
    [interval] = schedule.spec.intervals
    assert schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert schedule.policy.catchup_window == interval.every
    assert not schedule.policy.pause_on_failure
    assert schedule.spec.jitter is not None
    assert timedelta(0) < schedule.spec.jitter <= interval.every / 10
    assert action_of(name).retry_policy is None


@pytest.mark.parametrize(
    ("name", "workflow", "every", "longest"),
    [
        (ids.RECONCILER_SCHEDULE, "Reconciler", timedelta(minutes=5), timedelta(minutes=30)),
        (ids.EXPIRY_SCHEDULE, "ExpirySweep", timedelta(hours=1), timedelta(minutes=50)),
        (ids.AUDIT_SCHEDULE, "ProviderAudit", timedelta(days=1), timedelta(hours=6)),
        (ids.SYNC_SWEEP_SCHEDULE, "DocumentSyncSweep", timedelta(hours=1), timedelta(hours=1)),
        (ids.CANARY_SCHEDULE, "SlicerHealth", timedelta(minutes=10), None),
    ],
)
def test_each_starts_its_workflow_and_ends_one_that_hangs(
    name: str, workflow: str, every: timedelta, longest: timedelta | None
) -> None:
    action = action_of(name)
    assert (action.workflow, action.id, action.execution_timeout) == (workflow, name, longest)
    assert planned(name).schedule(settings()).spec.intervals[0].every == every


def test_the_intervals_are_those_of_the_settings() -> None:
    given = settings(reconciler={"interval": "PT1M", "expiry_interval": "PT30M"})
    assert planned(ids.RECONCILER_SCHEDULE).schedule(given).spec.intervals[0].every == timedelta(minutes=1)
    assert planned(ids.EXPIRY_SCHEDULE).schedule(given).spec.intervals[0].every == timedelta(minutes=30)


def test_another_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        InvalidInput, match=r"no schedule 'nightly'; there are nightmill-reconciler, .*nightmill-canary"
    ):
        planned("nightly")


# --- on a server


Story = Callable[[Client], Awaitable[None]]


def play(server: TemporalServer, story: Story) -> None:
    """Run a story with a client, and delete the schedules that it has made."""

    async def work() -> None:
        client = await Client.connect(server.address)
        try:
            await story(client)
        finally:
            for name in NAMES:
                with suppress(RPCError):
                    await client.get_schedule_handle(name).delete()

    asyncio.run(work())


async def looks(client: Client, given: Settings | None = None) -> dict[str, ScheduleLook]:
    return {look.id: look for look in await look_at_schedules(client, given or settings())}


async def applied(client: Client, name: str, **given: Any) -> None:
    await apply_schedule(client, planned(name), settings(**given))


@pytest.mark.server
def test_a_pause_survives_being_brought_up_to_date_and_is_shown_with_its_reason(
    temporal_server: TemporalServer,
) -> None:
    async def story(client: Client) -> None:
        await asyncio.gather(*(applied(client, ids.RECONCILER_SCHEDULE) for _ in range(4)))
        made = (await looks(client))[ids.RECONCILER_SCHEDULE]
        assert (made.state, made.every, made.note) == (ScheduleState.ON, timedelta(minutes=5), "")
        assert made.next_at is not None
        assert (made.last_at, made.last_run, made.last_result) == (None, None, None)

        await client.get_schedule_handle(ids.RECONCILER_SCHEDULE).pause(note="the database is being moved")
        await applied(client, ids.RECONCILER_SCHEDULE, reconciler={"interval": "PT2M"})
        kept = (await looks(client))[ids.RECONCILER_SCHEDULE]
        assert (kept.state, kept.every, kept.next_at) == (ScheduleState.PAUSED, timedelta(minutes=2), None)
        assert kept.note == "the database is being moved"

    play(temporal_server, story)


@pytest.mark.server
def test_one_that_is_not_there_is_missing_or_off_as_the_settings_say(temporal_server: TemporalServer) -> None:
    async def story(client: Client) -> None:
        found = await looks(client, settings(slicing={"canary": False}))
        assert list(found) == NAMES
        assert {look.state for name, look in found.items() if name != ids.CANARY_SCHEDULE} == {ScheduleState.MISSING}
        assert found[ids.CANARY_SCHEDULE].state is ScheduleState.OFF

    play(temporal_server, story)


@pytest.mark.server
def test_the_last_run_is_shown_with_what_became_of_it(temporal_server: TemporalServer) -> None:
    async def story(client: Client) -> None:
        await applied(client, ids.EXPIRY_SCHEDULE)
        await client.get_schedule_handle(ids.EXPIRY_SCHEDULE).trigger()
        async with asyncio.timeout(20):
            while (running := (await looks(client))[ids.EXPIRY_SCHEDULE]).last_run is None:
                await asyncio.sleep(0.1)
        assert running.last_result == "running"
        assert running.last_at is not None
        assert running.last_run.startswith(f"{ids.EXPIRY_SCHEDULE}-")
        await client.get_workflow_handle(running.last_run).terminate()
        assert (await looks(client))[ids.EXPIRY_SCHEDULE].last_result == "terminated"

    play(temporal_server, story)


@pytest.mark.server
@pytest.mark.parametrize("name", NAMES)
def test_one_that_cannot_be_made_names_its_own_setting_and_the_way_around(
    temporal_server: TemporalServer, name: str
) -> None:
    async def story(_: Client) -> None:
        elsewhere = await Client.connect(temporal_server.address, namespace="there-is-no-such-namespace")
        with pytest.raises(NotConfigured) as refused:
            await applied(elsewhere, name)
        assert f"set {planned(name).setting}=false" in str(refused.value)
        assert f"nightmill schedules apply {name}" in str(refused.value)
        with pytest.raises(TemporalUnreachable, match="there-is-no-such-namespace"):
            await looks(elsewhere)

    play(temporal_server, story)


@pytest.mark.server
def test_a_server_that_goes_away_is_away_and_no_fault_of_the_settings() -> None:
    """A worker that starts at such a moment ends by the code after which it is worth another start."""
    server = TemporalServer()
    server.start()

    async def work() -> None:
        client = await Client.connect(server.address)
        await asyncio.to_thread(server.stop)
        found = await asyncio.gather(
            applied(client, ids.EXPIRY_SCHEDULE),
            register_search_attributes(client, SEARCH_ATTRIBUTES),
            return_exceptions=True,
        )
        assert [type(each) for each in found] == [TemporalUnreachable] * 2
        assert ids.EXPIRY_SCHEDULE in str(found[0])

    try:
        asyncio.run(work())
    finally:
        server.stop()

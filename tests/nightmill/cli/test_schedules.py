"""Schedules from the command line, on a real Temporal server, without a database and without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from nightmill import ids
from nightmill.cli.checks import Finding, State
from nightmill.cli.recovery_checks import schedule_finding
from nightmill.client.schedule_looks import look_at_schedule
from nightmill.client.schedules import EXPIRY, PLANNED, planned
from nightmill.settings import load_settings
from tests.nightmill.cli.conftest import Cli
from tests.stack import TemporalServer

pytestmark = pytest.mark.server

NAMES = [each.id for each in PLANNED]


@pytest.fixture
def scheduling(cli: Cli, temporal_server: TemporalServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs a command on a server whose schedules nobody's worker serves; they are deleted at the end."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", "sqlite:////there/is/no/such/folder/x.db")
    monkeypatch.setenv("NIGHTMILL_WORKER__TASK_QUEUE", "nobody-serves-this")
    monkeypatch.setenv("NIGHTMILL_SLICING__TASK_QUEUE", "nobody-slices-here")
    yield cli

    async def delete() -> None:
        client = await Client.connect(temporal_server.address)
        for name in NAMES:
            with suppress(RPCError):
                await client.get_schedule_handle(name).delete()

    asyncio.run(delete())


def pause(server: TemporalServer, name: str, note: str) -> None:
    async def work() -> None:
        await (await Client.connect(server.address)).get_schedule_handle(name).pause(note=note)

    asyncio.run(work())


def run_and_terminate(server: TemporalServer, name: str) -> None:
    """Let a schedule start its workflow now, and terminate that."""

    async def work() -> None:
        client = await Client.connect(server.address)
        await client.get_schedule_handle(name).trigger()
        async with asyncio.timeout(20):
            while (look := await look_at_schedule(client, load_settings(), planned(name))).last_run is None:
                await asyncio.sleep(0.1)
        await client.get_workflow_handle(look.last_run).terminate()

    asyncio.run(work())


def states(cli: Cli) -> dict[str, str]:
    return {line["schedule"]: line["state"] for line in cli("schedules", "list", "--json").lines}


def test_what_the_settings_ask_for_is_made_and_listed(scheduling: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_SLICING__CANARY", "false")
    assert states(scheduling) == {name: "off" if name == ids.CANARY_SCHEDULE else "missing" for name in NAMES}
    applied = scheduling("schedules", "apply", "--json")
    assert applied.code == 0
    assert [line["schedule"] for line in applied.lines] == [name for name in NAMES if name != ids.CANARY_SCHEDULE]
    listed = {line["schedule"]: line for line in scheduling("schedules", "list", "--json").lines}
    made = listed[ids.RECONCILER_SCHEDULE]
    assert (made["state"], made["every"], made["last_at"], made["last_result"]) == ("on", 300, None, None)
    assert made["next_at"].endswith("Z")
    assert listed[ids.CANARY_SCHEDULE]["state"] == "off"


def test_one_that_is_named_is_made_whatever_the_settings_say(scheduling: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_RECONCILER__SCHEDULES", "false")
    assert scheduling("schedules", "apply", ids.AUDIT_SCHEDULE, "--no-json").out.startswith(
        "nightmill-audit is up to date, and runs next in "
    )
    assert states(scheduling)[ids.AUDIT_SCHEDULE] == "on"
    assert states(scheduling)[ids.RECONCILER_SCHEDULE] == "off"
    refused = scheduling("schedules", "apply", ids.EXPIRY_SCHEDULE, "nightly")
    assert refused.code == 2
    assert refused.message.startswith("no schedule 'nightly'; there are nightmill-reconciler, ")
    assert states(scheduling)[ids.EXPIRY_SCHEDULE] == "off", "nothing is done where one name is wrong"


def test_a_pause_is_shown_with_its_reason_and_kept(scheduling: Cli, temporal_server: TemporalServer) -> None:
    scheduling("schedules", "apply")
    pause(temporal_server, ids.EXPIRY_SCHEDULE, "ana: until the provider's invoice is clear")
    again = scheduling("schedules", "apply", ids.EXPIRY_SCHEDULE, "--no-json")
    assert again.out == (
        "nightmill-expiry is up to date, and stays paused: ana: until the provider's invoice is clear\n"
    )
    table = scheduling("schedules", "list", "--no-json").out
    [line] = [line for line in table.splitlines() if "nightmill-expiry" in line]
    assert "paused: ana: until the provider's invoice is clear" in line
    assert "find what is stuck and repair it" in table


def test_a_server_that_is_away_is_exit_code_5(cli: Cli) -> None:
    for command in ("list", "apply"):
        ended = cli("schedules", command)
        assert ended.code == 5
        assert ended.message.startswith("no Temporal server at 127.0.0.1:")


# --- what the doctor says of them


def finding_of(server: TemporalServer) -> Finding:
    async def work() -> Finding:
        client = await Client.connect(server.address)
        return await schedule_finding(client, load_settings(), EXPIRY)

    return asyncio.run(work())


def test_the_doctor_says_whether_a_schedule_is_there_paused_and_well(
    scheduling: Cli, temporal_server: TemporalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = finding_of(temporal_server)
    assert (missing.state, missing.message) == (State.WARN, f"nightmill-expiry does not exist: {EXPIRY.otherwise}")
    assert "`nightmill schedules apply nightmill-expiry`" in str(missing.fix)
    monkeypatch.setenv("NIGHTMILL_RECONCILER__SCHEDULES", "false")
    off = finding_of(temporal_server)
    assert (off.state, off.message) == (
        State.OK,
        f"no schedule, as NIGHTMILL_RECONCILER__SCHEDULES says: {EXPIRY.otherwise}",
    )
    scheduling("schedules", "apply", ids.EXPIRY_SCHEDULE)
    assert finding_of(temporal_server).message == "nightmill-expiry has not run yet"
    with monkeypatch.context() as another:
        another.setenv("NIGHTMILL_WORKER__TASK_QUEUE", "another")
        taken = finding_of(temporal_server)
    assert taken.state is State.WARN, "two Nightmills in one namespace have one schedule, and one of them no recovery"
    assert taken.message.endswith(
        f" starts its runs on task queue nobody-serves-this, not on another: {EXPIRY.otherwise}"
    )

    run_and_terminate(temporal_server, ids.EXPIRY_SCHEDULE)
    ended = finding_of(temporal_server)
    assert ended.state is State.WARN
    assert ended.message.startswith("nightmill-expiry ran last ")
    assert ended.message.endswith(" ago: terminated")
    assert "nightmill-expiry-20" in str(ended.fix), "the run is named"

    pause(temporal_server, ids.EXPIRY_SCHEDULE, "ana: until Monday")
    paused = finding_of(temporal_server)
    assert (paused.state, paused.message) == (State.WARN, "nightmill-expiry is paused: ana: until Monday")
    assert "toggle --unpause --schedule-id nightmill-expiry" in str(paused.fix)

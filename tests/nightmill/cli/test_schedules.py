"""Schedules from the command line, on a real Temporal server, without a database and without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from nightmill import ids
from nightmill.client.schedules import WHAT
from tests.nightmill.cli.conftest import Cli
from tests.stack import TemporalServer

pytestmark = pytest.mark.server


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
        for name in WHAT:
            with suppress(RPCError):
                await client.get_schedule_handle(name).delete()

    asyncio.run(delete())


def pause(server: TemporalServer, name: str, note: str) -> None:
    async def work() -> None:
        await (await Client.connect(server.address)).get_schedule_handle(name).pause(note=note)

    asyncio.run(work())


def states(cli: Cli) -> dict[str, str]:
    return {line["schedule"]: line["state"] for line in cli("schedules", "list", "--json").lines}


def test_what_the_settings_ask_for_is_made_and_listed(scheduling: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_SLICING__CANARY", "false")
    assert states(scheduling) == {name: "off" if name == ids.CANARY_SCHEDULE else "missing" for name in WHAT}
    applied = scheduling("schedules", "apply", "--json")
    assert applied.code == 0
    assert [line["schedule"] for line in applied.lines] == [name for name in WHAT if name != ids.CANARY_SCHEDULE]
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

"""`nightmill replay`: which workflows the code that is installed here could not go on with."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from nightmill.client.converter import DATA_CONVERTER
from tests.lanes import HOST_DEPLOYMENT
from tests.nightmill.cli.conftest import Cli
from tests.stack import ROOT, TemporalServer

HISTORIES = ROOT / "tests" / "replay" / "histories"
SIMPLE = HISTORIES / "0.1.0-simple-0.json"


@workflow.defn(name="ExpirySweep", sandboxed=False)
class _OtherSweep:
    """A sweep of another version: it waits before anything else."""

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)
        await workflow.sleep(1)


@workflow.defn(name="ProviderAudit", sandboxed=False)
class _Sleeper:
    """An audit of another version: its first command is another one."""

    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(3_600)


@pytest.fixture
def left_running(temporal_server: TemporalServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two workflows of another version on a task queue of Nightmill's, which its command line is told of."""
    queue = "nightmill-rehearsed"
    started = asyncio.run(_start(temporal_server.address, queue))
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("NIGHTMILL_WORKER__TASK_QUEUE", queue)
    monkeypatch.setenv("NIGHTMILL_SLICING__TASK_QUEUE", f"{queue}-slicing")
    yield queue
    asyncio.run(_end(temporal_server.address, started))


async def _start(address: str, queue: str) -> list[str]:
    client = await Client.connect(address, data_converter=DATA_CONVERTER)
    started = ["rehearsed-sweep", "rehearsed-audit"]
    async with Worker(
        client,
        task_queue=queue,
        workflows=[_OtherSweep, _Sleeper],
        workflow_runner=UnsandboxedWorkflowRunner(),
        deployment_config=HOST_DEPLOYMENT,
    ):
        await client.start_workflow("ExpirySweep", id=started[0], task_queue=queue)
        await client.start_workflow("ProviderAudit", id=started[1], task_queue=queue)
        async with asyncio.timeout(30):
            for each in started:
                handle = client.get_workflow_handle(each)
                while (await handle.describe()).history_length < 4:
                    await asyncio.sleep(0.05)
            # Visibility follows.
            while len([one async for one in client.list_workflows(f'TaskQueue = "{queue}"')]) < len(started):
                await asyncio.sleep(0.1)
    return started


async def _end(address: str, started: list[str]) -> None:
    client = await Client.connect(address)
    for each in started:
        await client.get_workflow_handle(each).terminate()


@pytest.mark.server
def test_what_runs_is_replayed_and_the_exit_code_says_whether_one_would_fail(cli: Cli, left_running: str) -> None:
    ended = cli("replay", "--running", "--json")
    # The core of other tests' workers may still be talking to the same standard output.
    lines = [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]
    found = {line["workflow_id"]: line for line in lines}
    assert ended.code == 1
    assert set(found) == {"rehearsed-sweep", "rehearsed-audit"}
    assert found["rehearsed-audit"]["replays"] is False
    assert "Nondeterminism" in found["rehearsed-audit"]["reason"]


def test_a_stored_history_is_replayed_without_a_server(cli: Cli) -> None:
    ended = cli("replay", str(SIMPLE))
    assert (ended.code, json.loads(ended.out)["replays"]) == (0, True)


def test_an_open_run_is_replayed_up_to_where_it_stands(cli: Cli, tmp_path: Path) -> None:
    history = json.loads(SIMPLE.read_text())
    history["events"] = history["events"][:-3]
    (tmp_path / "open.json").write_text(json.dumps(history))
    assert cli("replay", "open.json").code == 0


def test_a_history_of_other_commands_fails_and_is_named(cli: Cli, tmp_path: Path) -> None:
    text = SIMPLE.read_text()
    assert "prepare_batch" in text
    (tmp_path / "changed.json").write_text(text.replace("prepare_batch", "prepare_otherwise"))
    shutil.copy(SIMPLE, tmp_path / "same.json")
    ended = cli("replay", "changed.json", "same.json")
    assert ended.code == 1
    changed, same = ended.lines
    assert (changed["replays"], same["replays"]) == (False, True)
    assert "Nondeterminism" in changed["reason"]


def test_a_type_that_this_version_does_not_have_fails(cli: Cli, tmp_path: Path) -> None:
    text = SIMPLE.read_text().replace('"ModelCompletionBatch"', '"Retired"')
    (tmp_path / "retired.json").write_text(text)
    ended = cli("replay", "retired.json")
    assert (ended.code, ended.lines[0]["reason"]) == (1, "there is no workflow Retired in this version")


@pytest.mark.parametrize(
    ("arguments", "content", "said"),
    [
        ([], None, "nothing to replay"),
        (["h.json", "--running"], "{}", "files, or --running"),
        (["h.json"], None, "No such file"),
        (["h.json"], "{}", "h.json: no history"),
        (["h.json"], "[]", "h.json: no history"),
        (["h.json"], "no JSON", "h.json: no history"),
        (["h.json"], '{"events": []}', "h.json: no history"),
        (["h.json"], '{"events": [{"eventId": "1"}]}', "it does not begin with the start of a workflow"),
        (["h.json"], '{"events": [{"eventType": 7.5}]}', "h.json: no history"),
    ],
)
def test_what_is_no_history_is_refused_in_a_line(
    cli: Cli, tmp_path: Path, arguments: list[str], content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "h.json").write_text(content)
    ended = cli("replay", *arguments)
    assert ended.code == 2
    assert said in ended.message

"""R3: what it costs to find the last point of a history that the code replays, before a run is reset for failing tasks.

    .venv/bin/python -m bench.r3_replay [--events 150 4000]

The histories are those of a batch that a provider keeps busy, polled as fast as it goes. Of one activity the name is
changed, as by a deploy that broke determinism, so that the code replays the history up to there and no further: at its
beginning, in its middle, and at its end. CPU of this process, which reads the history, replays it whole (the look at
whether it fails at all) and then searches, as the reconciler does.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client, WorkflowHistory
from temporalio.runtime import Runtime, TelemetryConfig

from activities import histories
from activities.reset_points import Outline, last_that
from bench.system import System, start_worker, store, system
from nightmill.client.converter import data_converter
from nightmill.ids import batch_workflow_id
from worker import SLICING_WORKFLOWS, WORKFLOWS
from workflows.replaying import replays_with

PLACES = (0.1, 0.5, 0.95)
CHANGED = "poll_part_as_it_was"


@dataclass
class Spent:
    """CPU and wall seconds since it was made."""

    def __post_init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def __str__(self) -> str:
        return f"{(time.process_time() - self._cpu):.2f} CPU-s, {time.perf_counter() - self._wall:.2f} s"


def long_history(around: System, length: int) -> str:
    """Let a batch be polled until its history is so long; return its workflow's id."""
    stack = around.stack(f"replay-{length}")
    start_worker(stack)

    async def run() -> str:
        nightmill = await stack.nightmill(assembly)
        [batch_id] = store(assembly, 1, poll_schedule=(timedelta(milliseconds=10),))
        await nightmill.start(batch_id)
        handle = nightmill.temporal.get_workflow_handle(batch_workflow_id(batch_id))
        while (await handle.describe()).history_length < length:
            await asyncio.sleep(0.05)
        return handle.id

    with stack.assembly() as assembly:
        workflow_id = asyncio.run(run())
    stack.stop()
    return workflow_id


def changed(whole: Outline, place: float) -> Outline:
    """Return the outline with another name for one of its polls."""
    taken = Outline(whole.workflow_id)
    wanted = int(whole.last * place)
    is_done = False
    for event in whole.events or ():
        copy = type(event)()
        copy.CopyFrom(event)
        scheduled = copy.activity_task_scheduled_event_attributes
        if not is_done and copy.event_id >= wanted and scheduled.activity_type.name == "poll_part":
            scheduled.activity_type.name, is_done = CHANGED, True
        taken.take(copy)
    assert is_done
    return taken


async def search(around: System, workflow_id: str) -> None:
    """Read, replay and search, and say what each took."""
    client = await Client.connect(around.server.address, data_converter=data_converter(None))
    replays = replays_with([*WORKFLOWS, *SLICING_WORKFLOWS], client)
    run_id = (await client.get_workflow_handle(workflow_id).describe()).run_id
    assert run_id
    spent = Spent()
    whole = await histories.outline(client, workflow_id, run_id)
    print(f"{whole.last:,} events, {len(whole.tasks):,} tasks: read in {spent}")
    spent = Spent()
    kept = whole.whole()
    assert kept
    assert await replays(kept)
    print(f"    one replay of all of it: {spent}")
    for place in PLACES:
        broken, tried = changed(whole, place), [0, 0]

        async def holds(point: int, broken: Outline = broken, tried: list[int] = tried) -> bool:
            cut: WorkflowHistory | None = broken.cut_at(point)
            assert cut
            tried[0], tried[1] = tried[0] + 1, tried[1] + len(cut.events)
            return bool(await replays(cut))

        spent = Spent()
        point = await last_that(broken.points_up_to(broken.tasks[-1]), holds)
        print(
            f"    broken at {place:.0%}: cut at {point:,} after {tried[0]} replays of {tried[1]:,} events together: "
            f"{spent}",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"    memory of this process at most so far: {peak:.0f} MB")


def main() -> None:
    """Make histories, and search each."""
    parser = argparse.ArgumentParser(description="R3: what a replay search costs.")
    parser.add_argument("--events", type=int, nargs="+", default=[150, 4_000])
    asked = parser.parse_args()
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=None)))  # it warns of each replay that fails
    with system({"finish_after": None, "expires_after": 30 * 86_400.0}) as around:
        for length in asked.events:
            asyncio.run(search(around, long_history(around, length)))


if __name__ == "__main__":
    main()

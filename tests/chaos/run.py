"""The chaos test: `python -m tests.chaos.run --seed 1`. Prints its plan, then its ledger; exits 0 if that balances."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import fields
from pathlib import Path
from typing import Any

from sqlalchemy import text
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig

from nightmill.errors import NightmillError
from tests.chaos.calm import ask_again, helped, is_calm
from tests.chaos.judge import judge_batches, judge_documents, judge_slicings
from tests.chaos.ledger import Ledger
from tests.chaos.leftovers import connections_to, errors_in, files_of, none_left, open_runs, processes_of
from tests.chaos.plan import PER_BATCH, PER_KILL, Plan, Scale, draw
from tests.chaos.scene import Scene, scene
from tests.chaos.storm import Storm
from tests.chaos.work import Work, settled

TICK = 60.0
"""Seconds for a last tick of the reconciler, when there is nothing to do."""


async def run(plan: Plan, folder: Path, patience: float) -> Ledger:
    """Let a plan happen in a new folder, and return its ledger.

    Args:
        plan: What happens.
        folder: Where; it must not exist.
        patience: Seconds after the storm in which all must have ended.

    Raises:
        TimeoutError: Users were not even done with asking.
    """
    ledger = Ledger()
    began = time.monotonic()
    async with scene(plan, folder) as built:
        work = Work(built)
        storm = Storm(built, lambda: len(work.accepted) + len(work.documents) + len(work.slicings))
        try:
            await built.start_workers()
            start = asyncio.get_running_loop().time()
            async with asyncio.timeout(plan.scale.storm + patience), asyncio.TaskGroup() as group:
                group.create_task(work.do(start))
                group.create_task(storm.rage(start))
            stormed = time.monotonic() - began
            async with helped(work):
                calm = await settled(lambda: is_calm(work), patience)
            await work.guarded(asyncio.wait_for(ask_again(work), patience), "asked again")
            settled_after = time.monotonic() - began - stormed
            tick = asyncio.wait_for(built.nightmill.recovery.reconcile(dry_run=True), TICK)
            idle = await work.guarded(tick, "the last tick")
            left = await open_runs(built.nightmill.temporal)
        finally:
            await built.stop_workers()
        ledger.head("the storm")
        _tell_storm(ledger, storm, stormed, settled_after)
        ledger.check("all settled", "yes" if calm else "no", [] if calm else [f"not within {patience:.0f} s"])
        ledger.check("errors that users should not see", len(work.surprises), work.surprises)
        for name, count in sorted(work.retries.items()):
            ledger.count(f"calls that users made again: {name}", count)
        judge_batches(ledger, work)
        await judge_documents(ledger, work)
        await judge_slicings(ledger, work)
        _tell_repairs(ledger, built)
        if idle is not None:
            needless = [f"{one.subject} {one.id}: {one.finding}, {one.action}" for one in idle.repairs]
            needless += ["not everything could be looked at"] if idle.failed else []
            ledger.check("would be repaired when all is settled", idle.repaired + idle.failed, needless)
        _judge_leftovers(ledger, built, [one for one in left if "nightmill-" not in one])
    return ledger


def _tell_storm(ledger: Ledger, storm: Storm, stormed: float, settled_after: float) -> None:
    ledger.count("seconds of storm, and until all was settled", f"{stormed:.0f}, {settled_after:.0f}")
    for name, count in sorted(storm.done.items()):
        ledger.count(name, count if name != "kill" else f"{count}, of them {storm.busy_kills} while work was under way")
    for name, count in sorted(storm.missed.items()):
        ledger.count(f"{name}: met nothing", count)
    for reason, count in sorted(storm.in_vain.items()):
        ledger.count(f"  {reason}", count)
    wrong = [f"{count} workers ended by {code}" for code, count in storm.scene.ends.items() if code in (1, -6, -11)]
    ledger.check("workers by how they ended", dict(storm.scene.ends), wrong)
    for message, count in sorted(errors_in(storm.scene.folder / "worker.log").items()):
        ledger.count(f"logged as an error: {message}", count)
    unkilled = storm.scene.plan.scale.kills - storm.done["kill"]
    ledger.check("kills that were planned and missed", unkilled, ["not as planned"] * (unkilled > 0))


def _tell_repairs(ledger: Ledger, built: Scene) -> None:
    ledger.head("repairs")
    with built.nightmill.assembly.database.reading() as session:
        rows = session.connection().execute(text("SELECT finding, action, state, workflow_id, epoch FROM repairs"))
        repairs = [tuple(row) for row in rows]
    for (finding, action, state), count in sorted(Counter(row[:3] for row in repairs).items()):
        ledger.count(f"{finding}: {action}", f"{count} {state}")
    twice = Counter((row[3], row[4]) for row in repairs if row[2] == "done")
    ledger.check(
        "repaired twice for one thing",
        sum(count > 1 for count in twice.values()),
        [f"{workflow} {epoch}" for (workflow, epoch), count in twice.items() if count > 1],
    )


def _judge_leftovers(ledger: Ledger, built: Scene, runs: list[str]) -> None:
    """Look for what is left, now that the workers have ended in good order."""
    ledger.head("left behind")
    workers = [pid for slot in built.slots for pid in slot.pids]
    server = built.server.process
    besides = [server.pid] if server else []
    processes = none_left(lambda: processes_of(built.folder, workers, besides))
    ledger.check("processes", len(processes), processes)
    files = files_of(built.folder)
    ledger.check("temporary files", len(files), files)
    ports = [built.sandbox.port, built.host.port, *(int(site.host.rpartition(":")[2]) for site in built.sites)]
    connections = none_left(lambda: connections_to(ports))
    ledger.check("connections to providers, sites and the host", len(connections), connections)
    ledger.check("workflow runs that go on", len(runs), runs)
    if built.postgres is not None:
        built.nightmill.assembly.database.close()
        query = text("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")
        with built.nightmill.assembly.database.reading() as session:
            count = session.connection().execute(query).scalar_one()
        ledger.check("connections to the database", count, [f"{count} of workers that have ended"] if count else [])


async def until_told(work: Coroutine[Any, Any, Ledger]) -> Ledger:
    """Return what the work comes to; SIGTERM cancels it, so that no server or worker is left."""
    task = asyncio.create_task(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="draws the plan")
    for name, default in (
        ("batches", 1000), ("documents", 100), ("versions", 3), ("slicings", 20), ("gazettes", 10), ("workers", 3),
        ("kills", 100), ("restarts", 3), ("outages", 5), ("terminations", 60), ("ticks", 10),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lost", type=float, default=0.1, help="share of creates whose answer is lost (0.1)")
    parser.add_argument("--errors", type=float, default=0.05, help="share of other requests that fail (0.05)")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--storm", type=float, help="seconds of trouble; default 3.3 a kill, 0.45 a batch")
    parser.add_argument("--minutes", type=float, default=12, help="after which all must be settled (default 12)")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and databases")
    return parser.parse_args()


def main() -> None:
    """Run, print, and exit: 0 if the books balance, 1 if not."""
    asked = parse()
    asked.storm = asked.storm or max(10.0, asked.kills * PER_KILL, asked.batches * PER_BATCH)
    scale = Scale(**{each.name: getattr(asked, each.name) for each in fields(Scale)})
    plan = draw(asked.seed, scale)
    for line in plan.lines():
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    # The SDK would say of each call that the server is away, and of each of the host's that the database is.
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter="error"))))
    folder = Path(tempfile.mkdtemp(prefix="nightmill-chaos-"))
    try:
        ledger = asyncio.run(until_told(run(plan, folder / "run", max(60.0, asked.minutes * 60 - asked.storm))))
    except (NightmillError, TimeoutError, asyncio.CancelledError) as error:
        sys.stdout.write(f"the run itself failed: {type(error).__name__} {error}; see {folder}\n")
        sys.exit(1)
    replay = shlex.join(["python", "-m", "tests.chaos.run", *sys.argv[1:]])
    for line in ledger.text(replay):
        sys.stdout.write(f"{line}\n")
    if ledger.balances and not asked.keep:
        shutil.rmtree(folder)
    else:
        sys.stdout.write(f"kept: {folder}\n")
    sys.exit(0 if ledger.balances else 1)


if __name__ == "__main__":
    main()

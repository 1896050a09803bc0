"""R4: what the fence costs a write of a batch's rows.

    .venv/bin/python -m bench.r4_fence [--writes 1000]

The write that a poll makes (`record_poll`), as a run that is asked about and as nobody, in turns; with an empty table
of repairs and with 100,000 in it. CPU of this process, and time, which has the server's share; medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import insert

from bench.stuck import batch_ids, scene, seed
from nightmill.contracts import Action, BatchStatus, Finding, PartRef, RepairState, Subject
from nightmill.providers.base import ProviderStatus
from nightmill.settings import DatabaseSettings
from nightmill.storage.engine import Database, open_database
from nightmill.storage.fence import running_as
from nightmill.storage.provider_batches import ProviderBatchRepository
from nightmill.storage.recovery_models import RepairRow

REPAIRS = 100_000
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def fill(database: Database) -> None:
    """Record repairs, each of a run of its own."""
    rows = (
        {
            "subject": Subject.BATCH, "subject_id": batch_id, "workflow_id": f"batch/{batch_id}",
            "epoch": f"reset/{batch_id}", "finding": Finding.TERMINATED, "action": Action.RESET,
            "state": RepairState.DONE, "reason": "", "run_id": f"run-{batch_id}", "new_run_id": f"new-{batch_id}",
            "build": "b", "tick": "t", "asked_at": NOON, "ended_at": NOON,
        }
        for batch_id in batch_ids(REPAIRS, 0, "repaired")
    )  # fmt: skip
    with database.transaction() as session:
        session.connection().execute(insert(RepairRow), list(rows))


def write(parts: ProviderBatchRepository, number: int, run: str | None) -> tuple[float, float]:
    """Write as this run; return CPU-ms and ms."""
    status = ProviderStatus(status=BatchStatus.IN_PROGRESS, raw="in_progress")
    ref = PartRef(batch_id=batch_ids(1, number % 100)[0], round=0, part=0)
    due = NOON + timedelta(seconds=number)
    with running_as(run):
        used, began = time.process_time(), time.perf_counter()
        parts.record_poll(ref, status, next_poll_at=due, attempt=1)
        return (time.process_time() - used) * 1000, (time.perf_counter() - began) * 1000


def main() -> None:
    """Write in turns."""
    parser = argparse.ArgumentParser(description="R4: what the fence costs a write.")
    parser.add_argument("--writes", type=int, default=1_000)
    asked = parser.parse_args()
    with scene(temporal=False) as around:
        for kind in ("SQLite", "PostgreSQL"):
            database = open_database(around.migrated(kind, kind), DatabaseSettings())
            seed(str(database.engine.url.render_as_string(hide_password=False)), batch_ids(100), due=NOON)
            for repairs in (0, REPAIRS):
                if repairs:
                    fill(database)
                parts = ProviderBatchRepository(database)
                found: dict[str | None, list[tuple[float, float]]] = {None: [], "run-that-goes-on": []}
                for number in range(0, 2 * (100 + asked.writes), 2):
                    for place, run in enumerate(sorted(found, key=str, reverse=number % 4 == 0)):
                        found[run].append(write(parts, number + place, run))
                (bare, bare_wall), (fenced, wall) = (
                    [statistics.median(each[which] for each in took[100:]) for which in (0, 1)]
                    for took in found.values()
                )
                print(
                    f"{kind}, {repairs:,} repairs: {bare:.2f} CPU-ms a write without, {fenced:.2f} with the fence: "
                    f"+{fenced - bare:.2f} ({(fenced / bare - 1) * 100:+.0f} %); {bare_wall:.2f} and {wall:.2f} ms "
                    f"({(wall / bare_wall - 1) * 100:+.0f} %)",
                    flush=True,
                )
            database.close()


if __name__ == "__main__":
    main()

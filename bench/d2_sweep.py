"""D2: what it costs a sweep to take what is due, and in which order accounts are served.

    .venv/bin/python -m bench.d2_sweep [--rounds 3]

20,000 documents of 500 accounts are due: 5,000 of one, five of each of 150, some 40 of each of the rest. A sweep takes
them (`Sweeper.take`) and reads them back by the hundred, as it does to start them; Temporal has no part in this. On
SQLite and PostgreSQL, with bounds that let everything through and with the default ones. Each sweep is a process of its
own on a copy of the same database: CPU of that process, without its imports, and of PostgreSQL's server; memory is the
peak beyond what the process had before.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench.system import Child, answer, cpu, questions
from nightmill.assembly import assembled
from nightmill.contracts import TakeInput
from nightmill.documents.links import read_link
from nightmill.documents.sweeping import Sweeper
from nightmill.settings import DatabaseSettings, load_settings
from nightmill.storage import schema
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.documents import DocumentRepository, NewDocument
from nightmill.storage.engine import open_database
from nightmill.storage.sweeps import SweepRepository

ROOT = Path(__file__).parent.parent
DOCUMENTS, ACCOUNTS, SMALL = 20_000, 500, 150
LARGE = 5_000
BOUNDS = {"all": (DOCUMENTS, DOCUMENTS), "default": (1_000, 50)}
"""Documents of a sweep, and of an account in a sweep."""


def sizes() -> dict[str, int]:
    """Return how many documents each account has."""
    rest = ACCOUNTS - SMALL - 1
    share, more = divmod(DOCUMENTS - LARGE - 5 * SMALL, rest)
    middle = {f"middle-{n}": share + (n < more) for n in range(rest)}
    return {"large": LARGE} | middle | {f"small-{n}": 5 for n in range(SMALL)}


def seed(url: str) -> None:
    """Fill a database. The large account's documents come first."""
    database = open_database(url, DatabaseSettings())
    schema.upgrade(database)
    now = datetime.now(UTC)
    accounts, documents = AccountRepository(database), DocumentRepository(database)
    for name in sizes():
        accounts.add(name, "daily", auto_sync=True, change_handler=None, now=now)
    documents.add_many(
        (
            NewDocument(name, "bench", read_link(f"https://{name}.example/{n}"))
            for name, count in sizes().items()
            for n in range(count)
        ),
        now,
    )
    database.close()


def run_sweep() -> None:
    """Sweep when asked to; answer with what it took."""
    with assembled(load_settings()) as assembly:
        sweeper = Sweeper(sweeps=SweepRepository(assembly.database), settings=assembly.settings.documents)
        with assembly.database.reading() as session:
            session.connection().execute(text("SELECT 1"))
        answer(None)
        for limit in questions():
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start, used = time.monotonic(), time.process_time()
            taken = sweeper.take(TakeInput(sweep_id="one", limit=limit), datetime.now(UTC))
            after_take = time.process_time()
            order = [
                pick.account
                for first in range(0, taken.taken, 100)
                for pick in sweeper.picks("one", first=first, count=100)
            ]
            answer(
                {
                    "take": after_take - used,
                    "picks": time.process_time() - after_take,
                    "wall": time.monotonic() - start,
                    "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024,
                    "order": order,
                    "cap_hit": taken.cap_hit,
                }
            )


def sweep(url: str, bound: str, folder: Path) -> dict[str, Any]:
    limit, of_account = BOUNDS[bound]
    environment = {
        "NIGHTMILL_DATABASE_URL": url,
        "NIGHTMILL_DOCUMENTS__SWEEP_LIMIT": str(limit),
        "NIGHTMILL_DOCUMENTS__ACCOUNT_LIMIT": str(of_account),
        "NIGHTMILL_STORAGE_URL": str(folder),
    }
    child = Child("bench.d2_sweep", "--child", environment=environment, log=folder / "child.log")
    try:
        return dict(child.ask(limit))
    finally:
        child.stop()


def served(order: Sequence[str]) -> str:
    """Say how far the accounts got, and who came when."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, account in enumerate(order, 1):
        first.setdefault(account, place)
        last[account] = place
    small = [name for name in last if name.startswith("small")]
    whole = sum(order.count(name) == 5 for name in small)
    return (
        f"{len(first)} of {ACCOUNTS} accounts, the last one first at place {max(first.values()):,}; "
        f"{whole} of {SMALL} small ones wholly, the last at place {max((last[name] for name in small), default=0):,}; "
        f"{order.count('large'):,} of the large one's {LARGE:,}, the last at place {last.get('large', 0):,}"
    )


def report(results: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    for (kind, bound), found in results.items():
        figures = {
            name: statistics.median(each[name] for each in found) for name in ("take", "picks", "server", "memory")
        }
        taken = len(found[0]["order"])
        a_document = (figures["take"] + figures["picks"] + figures["server"]) / taken * 1000
        print(
            f"{kind}, {bound}: {taken:,} taken, take {figures['take']:.2f} + read back {figures['picks']:.2f} + server "
            f"{figures['server']:.2f} CPU-s, {a_document:.3f} CPU-ms a document, "
            f"+{figures['memory']:.0f} MB, {statistics.median(each['wall'] for each in found):.1f} s"
        )
        print(f"    {served(found[0]['order'])}; work left behind: {'yes' if found[0]['cap_hit'] else 'no'}")


def main() -> None:
    """Seed once, then sweep copies in turns."""
    if sys.argv[1:] == ["--child"]:
        run_sweep()
        return
    parser = argparse.ArgumentParser(description="D2: a sweep over 20,000 documents of 500 accounts.")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    # The tests' own PostgreSQL server.
    found = importlib.util.spec_from_file_location("conftest", ROOT / "tests" / "conftest.py")
    assert found is not None
    assert found.loader is not None
    conftest = importlib.util.module_from_spec(found)
    sys.modules["conftest"] = conftest
    found.loader.exec_module(conftest)
    postgres = Path(tempfile.mkdtemp(prefix="nightmill-d2-pg-"))
    server = conftest.PostgresServer(postgres)
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="nightmill-bench-") as name:
        folder = Path(name)
        try:
            server.initialize()
            server.start()
            seed(f"sqlite:///{folder}/seeded.db")
            template = server.new_database()
            seed(server.url(template))
            for number in range(asked.rounds):
                for bound in BOUNDS:
                    copy = folder / f"{bound}-{number}.db"
                    with (
                        closing(sqlite3.connect(folder / "seeded.db")) as seeded,
                        closing(sqlite3.connect(copy)) as new,
                    ):
                        seeded.backup(new)
                    results.setdefault(("SQLite", bound), []).append(
                        sweep(f"sqlite:///{copy}", bound, folder) | {"server": 0.0}
                    )
                    database = server.new_database(template)
                    pid = int((postgres / "data" / "postmaster.pid").read_text().split()[0])
                    before = server_cpu(pid)
                    swept = sweep(server.url(database), bound, folder)
                    results.setdefault(("PostgreSQL", bound), []).append(swept | {"server": server_cpu(pid) - before})
                    server.execute(f"DROP DATABASE {database} WITH (FORCE)")
            report(results)
        finally:
            server.stop()
            shutil.rmtree(postgres)


def server_cpu(pid: int) -> float:
    """Return the CPU seconds of PostgreSQL's processes, those that have ended included."""
    seconds = cpu(pid)
    for child in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(child.read_text().rsplit(")", 1)[1].split()[1])
            seconds += cpu(int(child.parent.name)) if parent == pid else 0.0
        except OSError:  # it has ended meanwhile
            continue
    return seconds


if __name__ == "__main__":
    main()

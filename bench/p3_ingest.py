"""P3: what it costs to bring results into the database, beside what could not be cheaper.

    python bench/p3_ingest.py --entries 20000 100000 --repeats 3

For each size one file of OpenAI results in random order is made. Then, round by round, side by side:

    orjson    read the file, `orjson.loads` on each line: the yardstick of SQLite
    copy      read the file, decode with msgspec, psycopg binary COPY of the same rows into the same table, in
              transactions of 1,000: the yardstick of PostgreSQL
    orm       on a tenth of the rows, scaled: decode with json, load each row by SQLModel, change it, commit per 1,000
    harvest   `Harvester.harvest`: download into the file store, read back, decode, match, judge, price, store

CPU is user + system of the client, in a process of its own, plus for PostgreSQL that of the whole server. RSS is the
peak over what the process had before the harvest. Then a harvest is killed inside a transaction half-way and run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import shutil
import statistics
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson
import psycopg
from pydantic import SecretStr
from sqlalchemy import text
from sqlmodel import col, select

from nightmill.completions.ingest import Harvester
from nightmill.completions.requests import StoredRequest
from nightmill.providers.base import ResultSource
from nightmill.providers.config import ProviderConfig
from nightmill.providers.openai import OpenAIProvider
from nightmill.settings import DatabaseSettings
from nightmill.storage import schema
from nightmill.storage.engine import Database, open_database
from nightmill.storage.files import LocalFileStore
from nightmill.storage.models import BatchRow, OutcomeRow, ProviderBatchRow
from nightmill.storage.outcomes import _COPY, _POSTGRES_TYPES, NewOutcome, OutcomeRepository
from nightmill.storage.requests import RequestRepository

ROOT = Path(__file__).parent.parent
PRICES = {"input": "0.000000125", "output": "0.000001", "cached": "0.0000000125", "cache_write": "0.000000125"}
TICKS = os.sysconf("SC_CLK_TCK")


class FromFile(OpenAIProvider):
    """OpenAI, whose results come from a file in pieces of 64 KiB, as from a socket."""

    source: Path

    def results(self, provider_batch_id: str, refs: Any) -> Iterator[ResultSource]:
        def chunks() -> Iterator[bytes]:
            with self.source.open("rb", buffering=0) as file:
                while chunk := file.read(65_536):
                    yield chunk

        yield ResultSource(name="output", chunks=chunks())


# What a child process does ------------------------------------------------------------------------------------------


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def rss(name: str) -> float:
    """Return VmRSS or VmHWM in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return 0.0


def run_orjson(source: Path, _url: str, _folder: Path) -> dict[str, Any]:
    with source.open("rb") as file:
        for line in file:
            orjson.loads(line)
    return {}


def run_harvest(source: Path, url: str, folder: Path) -> dict[str, Any]:
    db = open_database(url, DatabaseSettings())
    with db.reading() as session:
        batch = session.exec(select(BatchRow)).one()
        part = session.exec(select(ProviderBatchRow)).one()
    provider = FromFile(ProviderConfig(api_key=SecretStr("key"), base_url="http://127.0.0.1:1"))
    provider.source = source
    die_at = int(os.environ.get("P3_DIE_AT", "0"))
    seen = 0

    def fail_point(name: str) -> None:
        nonlocal seen
        seen += name == "harvest.in_transaction"
        if die_at and seen == die_at:
            print(json.dumps({"cpu": cpu() - before}), flush=True)
            os._exit(9)

    before, base = cpu(), rss("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    harvester = Harvester(OutcomeRepository(db), LocalFileStore(folder))
    report = harvester.harvest(provider, part, batch, heartbeat=lambda _: None, fail_point=fail_point)
    return {"rss": rss("VmHWM") - base, "lines": report.lines, "applied": report.applied}


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str


class _Body(msgspec.Struct):
    choices: list[_Choice]
    usage: dict[str, int]
    model: str


class _Response(msgspec.Struct):
    body: _Body


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response


def rows(source: Path, limit: int = sys.maxsize) -> Iterator[NewOutcome]:
    decoder = msgspec.json.Decoder(_Line)
    with source.open("rb") as file:
        for number, line in enumerate(file):
            if number >= limit:
                return
            entry = decoder.decode(line)
            body = entry.response.body
            yield NewOutcome(
                1, int(entry.custom_id[2:]), 0, True, body.choices[0].finish_reason, body.model,
                body.usage["prompt_tokens"], body.usage["completion_tokens"], 0, 0, 350_000_000,
                text=body.choices[0].message.content,
            )  # fmt: skip


def run_copy(source: Path, url: str, _folder: Path) -> dict[str, Any]:
    with psycopg.connect(url) as connection:
        page: list[NewOutcome] = []
        for row in rows(source):
            page.append(row)
            if len(page) == 1_000:
                copy_page(connection, page)
                page.clear()
        copy_page(connection, page)
    return {}


def copy_page(connection: psycopg.Connection[Any], page: list[NewOutcome]) -> None:
    with connection.transaction(), connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_POSTGRES_TYPES)
        for row in page:
            copy.write_row(row)


def run_orm(source: Path, url: str, _folder: Path) -> dict[str, Any]:
    """Load and change a tenth of the rows, which were put there empty."""
    db = open_database(url, DatabaseSettings())
    entries = []
    with source.open("rb") as file:
        for number, line in enumerate(file):
            entries.append(line)
            if len(entries) == 1_000:
                mutate(db, [json.loads(entry) for entry in entries])
                entries.clear()
            if number + 1 >= int(os.environ["P3_ORM_ROWS"]):
                break
    return {}


def mutate(db: Database, entries: list[dict[str, Any]]) -> None:
    by_seq = {int(entry["custom_id"][2:]): entry["response"]["body"] for entry in entries}
    with db.transaction() as session:
        for row in session.exec(select(OutcomeRow).where(col(OutcomeRow.seq).in_(by_seq))):
            body = by_seq[row.seq]
            row.ok = True
            row.text = body["choices"][0]["message"]["content"]
            row.input_tokens = body["usage"]["prompt_tokens"]
            row.output_tokens = body["usage"]["completion_tokens"]
            row.cost_picodollars = 350_000_000
            session.add(row)


# What the parent process does ---------------------------------------------------------------------------------------


def child(what: str, source: Path, url: str, folder: Path, **environment: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", what, str(source), url, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | environment, check=False)
    if done.returncode not in (0, 9):
        raise SystemExit(f"{what} failed")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def server_cpu(server: Any) -> float:
    """Return the CPU seconds of the server's processes, those that are gone included."""
    postmaster = int((server.data / "postmaster.pid").read_text().splitlines()[0])
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(entry.name) == postmaster:
                total += sum(map(int, fields[11:15]))
            elif int(fields[1]) == postmaster:
                total += int(fields[11]) + int(fields[12])
    return total / TICKS


def make_results(path: Path, entries: int) -> None:
    random.seed(1)
    words = ["".join(random.choices(string.ascii_lowercase, k=random.randint(2, 9))) for _ in range(2_000)]
    # Prose as models write it: punctuation, quotes, lists, and some letters that are not ASCII.
    ends = [" "] * 12 + [", "] * 3 + [". ", "\n", "\n\n- ", ' "quoted" ', " \u2013 ", "\u00e9 "]
    pieces = [word + random.choice(ends) for word in words]
    order = list(range(entries))
    random.shuffle(order)
    with path.open("wb") as file:
        for seq in order:
            message = {"role": "assistant", "content": "".join(random.choices(pieces, k=random.randint(150, 330)))}
            usage = {"prompt_tokens": 400, "completion_tokens": 300, "total_tokens": 700}
            choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
            body = {"id": f"chatcmpl-{seq}", "object": "chat.completion", "created": 1_750_000_000, "model": "gpt-x"}
            response = {"status_code": 200, "request_id": "req", "body": body | {"choices": choices, "usage": usage}}
            line = {"id": f"batch_req_{seq}", "custom_id": f"r-{seq}", "response": response, "error": None}
            file.write(orjson.dumps(line) + b"\n")


def prepare(url: str, entries: int) -> None:
    db = open_database(url, DatabaseSettings())
    schema.upgrade(db)
    requests = (
        StoredRequest(
            seq=seq, custom_id=f"r-{seq}", wire_id=f"r-{seq}", line=b'{"custom_id":"r-%d","body":{}}' % seq * 40
        )
        for seq in range(entries)
    )
    given = {"provider": "openai", "model": "gpt-x", "poll_schedule": [60.0], "max_age": 1.0, "prices": PRICES}
    batch = RequestRepository(db).store(BatchRow(id="b1", created_at=datetime.now(UTC), **given), requests)
    part = ProviderBatchRow(
        batch_key=batch.key or 0, first=0, last=entries - 1, requests=entries, bytes=entries, provider="openai",
        model="gpt-x", provider_batch_id="pb1", counts={"succeeded": entries, "failed": 0},
    )  # fmt: skip
    with db.transaction() as session:
        session.add(part)
    db.close()


def put_empty_outcomes(url: str, entries: int) -> None:
    db = open_database(url, DatabaseSettings())
    with db.transaction() as session:
        insert = text(
            "INSERT INTO outcomes (batch_key, seq, round, ok) SELECT batch_key, seq, 0, false FROM completions"
        )
        session.connection().execute(insert)
    db.close()


class Bench:
    def __init__(self, folder: Path, server: Any, entries: int) -> None:
        self.folder, self.server, self.entries = folder, server, entries
        self.source = folder / f"results-{entries}.jsonl"
        make_results(self.source, entries)
        self.number = 0

    def fresh(self, kind: str) -> str:
        self.number += 1
        if kind == "sqlite":
            url = f"sqlite:///{self.folder}/{self.entries}-{self.number}.db"
        else:
            url = self.server.url(self.server.new_database())
        prepare(url, self.entries)
        return url

    def measure(self, what: str, url: str, **environment: str) -> dict[str, Any]:
        files = self.folder / f"files-{self.entries}-{self.number}"
        if url.startswith("postgresql"):
            self.server.execute("CHECKPOINT")
        before = server_cpu(self.server)
        result = child(what, self.source, url, files, **environment)
        result["server"] = server_cpu(self.server) - before if url.startswith("postgresql") else 0.0
        result["total"] = result["cpu"] + result["server"]
        return result

    def round(self) -> dict[str, dict[str, Any]]:
        tenth = self.entries // 10
        found = {"orjson": self.measure("orjson", "sqlite://")}
        for kind in ("sqlite", "postgresql"):
            found[f"harvest {kind}"] = self.measure("harvest", self.fresh(kind))
        found["copy"] = self.measure("copy", self.fresh("postgresql"))
        for kind in ("sqlite", "postgresql"):
            url = self.fresh(kind)
            put_empty_outcomes(url, self.entries)
            orm = self.measure("orm", url, P3_ORM_ROWS=str(tenth))
            found[f"orm {kind}"] = {name: value * 10 for name, value in orm.items()}
        return found

    def resume(self, kind: str, whole: float) -> str:
        url = self.fresh(kind)
        pages = self.entries // 1_000
        first = self.measure("harvest", url, P3_DIE_AT=str(pages // 2 + 1))
        second = self.measure("harvest", url)
        written = pages // 2 * 1_000 + 1_000 + second["applied"]
        cost = (first["total"] + second["total"]) / whole
        return f"killed half-way: {written / self.entries:.3f} x rows written, {cost:.2f} x CPU"


def report(bench: Bench, repeats: int) -> None:
    rounds = [bench.round() for _ in range(repeats)]
    size = bench.source.stat().st_size / 1e6
    print(f"\n{bench.entries:,} entries, {size:.0f} MB, median of {repeats}; CPU-s")
    print(f"{'':20} {'client':>8} {'server':>8} {'total':>8} {'ratio':>16} {'RSS':>9}")
    for name in rounds[0]:
        yardstick = "copy" if name in {"copy", "harvest postgresql", "orm postgresql"} else "orjson"
        ratio = statistics.median(each[name]["total"] / each[yardstick]["total"] for each in rounds)
        client, server, total = (
            statistics.median(each[name][column] for each in rounds) for column in ("cpu", "server", "total")
        )
        grown = f"{max(each[name]['rss'] for each in rounds):+6.1f} MB" if "harvest" in name else ""
        print(f"{name:20} {client:8.2f} {server:8.2f} {total:8.2f} {ratio:6.2f} x {yardstick:7} {grown:>9}")
    for kind in ("sqlite", "postgresql"):
        whole = statistics.median(each[f"harvest {kind}"]["total"] for each in rounds)
        print(f"{kind}: {bench.resume(kind, whole)}")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        what, source, url, folder = sys.argv[2:]
        runs = {"orjson": run_orjson, "harvest": run_harvest, "copy": run_copy, "orm": run_orm}
        before = cpu()
        result = runs[what](Path(source), url, Path(folder))
        print(json.dumps(result | {"cpu": cpu() - before}))
        return
    parser = argparse.ArgumentParser(description="P3: ingesting results")
    parser.add_argument("--entries", type=int, nargs="+", default=[20_000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    # The tests' own PostgreSQL server.
    spec = importlib.util.spec_from_file_location("conftest", ROOT / "tests" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    folder = Path(tempfile.mkdtemp(prefix="nightmill-p3-"))
    postgres = Path(tempfile.mkdtemp(prefix="nightmill-p3-pg-"))
    server = conftest.PostgresServer(postgres)
    try:
        server.initialize()
        server.start()
        for entries in options.entries:
            report(Bench(folder, server, entries), options.repeats)
    finally:
        server.stop()
        shutil.rmtree(folder)
        shutil.rmtree(postgres)


if __name__ == "__main__":
    main()

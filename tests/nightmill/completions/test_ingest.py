"""Results come into the database once each, whatever the provider sends and whenever the worker dies."""

from __future__ import annotations

import json
import logging
import random
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from nightmill.completions import ingest
from nightmill.completions.ingest import Harvester, HarvestReport
from nightmill.contracts import BatchStatus, Counts
from nightmill.errors import BatchConflict, ProviderUnavailable, ResultsIncomplete, StorageFull
from nightmill.providers.base import Entry, ProviderStatus, ResultSource
from nightmill.providers.config import ProviderConfig
from nightmill.providers.openai import OpenAIProvider
from nightmill.settings import DatabaseSettings
from nightmill.storage.engine import Database, open_database
from nightmill.storage.files import LocalFileStore
from nightmill.storage.outcomes import OutcomeRepository
from nightmill.storage.results import Result

OPENAI = OpenAIProvider(ProviderConfig(api_key=SecretStr("key"), base_url="http://127.0.0.1:1"))


class Scripted:
    """A provider whose results are given: one mapping of sources a fetch, the last one for all further fetches."""

    cached_is_extra = False

    def __init__(self, *fetches: Mapping[str, bytes], counts: Counts | None = None, cut: int = 1_000) -> None:
        self.fetches = list(fetches)
        self.counts = counts or Counts()
        self.cut = cut
        self.opened: list[str] = []

    def results(self, provider_batch_id: str, refs: Mapping[str, Any]) -> Iterator[ResultSource]:
        sources = self.fetches.pop(0) if len(self.fetches) > 1 else self.fetches[0]
        for name, data in sources.items():
            yield ResultSource(name=name, chunks=self.chunks(name, data))

    def chunks(self, name: str, data: bytes) -> Iterator[bytes]:
        self.opened.append(name)
        for start in range(0, len(data), self.cut):
            yield data[start : start + self.cut]

    def status(self, provider_batch_id: str) -> ProviderStatus:
        return ProviderStatus(status=BatchStatus.ENDED, raw="completed", counts=self.counts)

    def read_entry(self, line: bytes) -> Entry:
        return OPENAI.read_entry(line)


def answer(name: str, words: str | None = None, **body: Any) -> bytes:
    message = {"role": "assistant", "content": words if words is not None else f"answer to {name}"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    given = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage, "model": "gpt-x"} | body
    return json.dumps({"custom_id": name, "response": {"status_code": 200, "body": given}, "error": None}).encode()


def refusal(name: str, message: str = "too busy", status: int = 429) -> bytes:
    error = {"error": {"message": message, "type": "rate_limit", "code": "busy"}}
    return json.dumps({"custom_id": name, "response": {"status_code": status, "body": error}}).encode()


def lines(*entries: bytes) -> bytes:
    return b"".join(entry + b"\n" for entry in entries)


NAMES = [f"r-{n}" for n in range(30)]
ALL = lines(*(answer(name) for name in NAMES))

Harvest = Callable[..., HarvestReport]


@pytest.fixture
def files(tmp_path: Path) -> LocalFileStore:
    return LocalFileStore(tmp_path / "files")


@pytest.fixture
def harvest(database: Database, files: LocalFileStore) -> Harvest:
    """Harvests with the row as it is in the database now."""

    def run(provider: Any, stored: Any, *, fail_point: Any = lambda _: None, **options: Any) -> HarvestReport:
        batch, part = stored
        with database.reading() as session:
            part = session.get(type(part), part.key)
        harvester = Harvester(OutcomeRepository(database), files, **options)
        return harvester.harvest(provider, part, batch, heartbeat=lambda _: None, fail_point=fail_point)

    return run


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "PAGE_ROWS", 8)


def results(db: Database) -> dict[str, Result]:
    return {result.custom_id: result for result in OutcomeRepository(db).results("b1")}


def codes(db: Database) -> dict[str, str]:
    return {name: result.error.code if result.error else result.status for name, result in results(db).items()}


def raw_of(db: Database, seq: int) -> str | None:
    with db.reading() as session:
        query = text("SELECT raw FROM outcomes WHERE seq = :seq")
        found: str | None = session.connection().execute(query, {"seq": seq}).scalar_one()
        return found


def test_answers_and_failures_of_several_sources_find_their_requests(
    database: Database, store_part: Any, harvest: Harvest
) -> None:
    prices = {"input": "0.000001", "output": "0.000002", "cached": "0.000001", "cache_write": "0"}
    stored = store_part(database, *NAMES)
    stored[0].prices = prices
    shuffled = [answer(name) for name in NAMES[:20]]
    random.Random(4).shuffle(shuffled)
    provider = Scripted({"output": lines(*shuffled), "errors": lines(*(refusal(name) for name in NAMES[20:]))})
    report = harvest(provider, stored)
    assert (report.lines, report.applied, report.unknown, report.malformed) == (30, 30, 0, 0)
    found = results(database)
    assert all(found[name].text == f"answer to {name}" for name in NAMES[:20])
    assert found["r-3"].cost == "0.00002"
    assert found["r-3"].usage == {"input": 10, "output": 5, "cached": 0, "reasoning": 0}
    error = found["r-25"].error
    assert error is not None
    assert (error.code, error.http_status, error.retryable, error.message) == ("provider_error", 429, True, "too busy")
    assert "too busy" in str(raw_of(database, 25))


def test_a_second_harvest_fetches_and_writes_nothing(database: Database, store_part: Any, harvest: Harvest) -> None:
    stored = store_part(database, *NAMES)
    provider = Scripted({"output": ALL})
    harvest(provider, stored)
    report = harvest(provider, stored)
    assert (report.lines, report.applied, report.downloaded) == (0, 0, 0)
    assert provider.opened == ["output"]


@pytest.mark.parametrize("seed", range(12))
def test_a_file_cut_at_any_byte_is_fetched_again_and_ends_complete(
    database: Database, store_part: Any, harvest: Harvest, seed: int
) -> None:
    stored = store_part(database, *NAMES, counts={"succeeded": 30, "failed": 0})
    at = random.Random(seed).randrange(len(ALL) - 1)
    provider = Scripted({"output": ALL[:at]}, {"output": ALL}, counts=Counts(succeeded=30, failed=0))
    whole = ALL[:at].count(b"\n") + (ALL[at : at + 1] == b"\n")
    if whole < 30:
        with pytest.raises(ResultsIncomplete, match=f"{whole} results found"):
            harvest(provider, stored)
        assert list(codes(database).values()).count("completed") == whole
    report = harvest(provider, stored)
    assert set(codes(database).values()) == {"completed"}
    assert report.conflicts == 0
    assert report.applied == (30 - whole if whole < 30 else 30)


def test_counts_that_lie_are_believed_three_times_and_then_no_more(
    database: Database, store_part: Any, harvest: Harvest, caplog: pytest.LogCaptureFixture
) -> None:
    stored = store_part(database, *NAMES, counts={"succeeded": 30, "failed": 0})
    provider = Scripted({"output": lines(*(answer(name) for name in NAMES[:28]))}, counts=Counts(succeeded=30))
    for _ in range(3):
        with pytest.raises(ResultsIncomplete):
            harvest(provider, stored)
    assert harvest(provider, stored).incomplete
    assert provider.opened == ["output"] * 4
    assert "results stay incomplete" in caplog.text
    assert [name for name, code in codes(database).items() if code == "pending"] == ["r-28", "r-29"]


def test_a_cut_last_line_is_kept_as_malformed_once_nothing_better_comes(
    database: Database, store_part: Any, harvest: Harvest
) -> None:
    stored = store_part(database, "a", "b")
    provider = Scripted({"output": lines(answer("a")) + answer("b")[:-20]})
    for _ in range(3):
        with pytest.raises(ResultsIncomplete, match="a whole last line"):
            harvest(provider, stored)
    harvest(provider, stored)
    assert codes(database) == {"a": "completed", "b": "malformed_entry"}
    assert str(raw_of(database, 1)).startswith('{"custom_id": "b"')


def test_a_last_line_without_its_end_counts(database: Database, store_part: Any, harvest: Harvest) -> None:
    stored = store_part(database, "a", "b")
    harvest(Scripted({"output": b"\xef\xbb\xbf" + answer("a") + b"\r\n\n  \n" + answer("b")}), stored)
    assert set(codes(database).values()) == {"completed"}


def test_of_two_results_the_first_one_stays(
    database: Database, store_part: Any, harvest: Harvest, caplog: pytest.LogCaptureFixture
) -> None:
    stored = store_part(database, *NAMES)
    twice = [answer(name) for name in NAMES] + [answer("r-1"), answer("r-2", "something else"), refusal("r-3")]
    same_page = [answer("r-0", "first"), answer("r-0", "second"), answer("r-0", "first")]
    report = harvest(Scripted({"output": lines(*same_page, *twice)}), stored)
    assert (report.applied, report.repeated, report.conflicts) == (30, 2, 4)
    found = results(database)
    assert found["r-0"].text == "first"
    assert found["r-2"].text == "answer to r-2"
    assert found["r-3"].status == "completed"
    assert "conflicting results" in caplog.text


def test_results_of_nobody_are_counted_and_change_nothing(
    database: Database, store_part: Any, harvest: Harvest, build: Any, caplog: pytest.LogCaptureFixture
) -> None:
    batch, _ = store_part(database, *NAMES)
    part = build.part(database, batch, 0, 1, round=0, part=1, provider_batch_id="pb2")
    data = lines(answer("stranger"), answer("r-0"), answer("r-9"), answer("r-1\0"), json.dumps({"id": "x"}).encode())
    report = harvest(Scripted({"output": data}), (batch, part))
    assert (report.applied, report.unknown) == (1, 2)
    assert report.malformed == 2
    assert [name for name, code in codes(database).items() if code != "pending"] == ["r-0"]
    assert "unknown request" in caplog.text
    assert "answer to" not in caplog.text


POISON = {
    "u2028": (answer("p", "line\u2028separator\x85next"), "completed"),
    "escaped nul": (answer("p", "nul \0 inside"), "malformed_entry"),
    "raw nul": (answer("p").replace(b"answer", b"ans\0wer"), "malformed_entry"),
    "surrogate": (answer("p").replace(b"answer", b"\\ud800"), "malformed_entry"),
    "nan": (answer("p").replace(b"10", b"NaN"), "malformed_entry"),
    "invalid utf-8": (answer("p").replace(b"answer", b"\xff\xfe"), "malformed_entry"),
    "deep": (answer("p")[:-1] + b', "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed_entry"),
    "huge number": (answer("p").replace(b"10", b"9" * 400), "malformed_entry"),
    "not an object": (b'{"custom_id": "p", "response": 7}', "malformed_entry"),
    "half": (answer("p")[:100], "malformed_entry"),
    "empty": (answer("p", ""), "empty_output"),
}


@pytest.mark.parametrize("kind", POISON)
def test_one_poisoned_entry_fails_alone(database: Database, store_part: Any, harvest: Harvest, kind: str) -> None:
    poison, expected = POISON[kind]
    stored = store_part(database, "a", "p", "b")
    harvest(Scripted({"output": lines(answer("a"), poison, answer("b"))}), stored)
    assert codes(database) == {"a": "completed", "p": expected, "b": "completed"}
    if expected != "completed":
        assert raw_of(database, 1)
    else:
        assert results(database)["p"].text == "line\u2028separator\x85next"


@pytest.mark.parametrize("words", ["nul \0 inside", "half a pair \ud800"])
def test_what_an_adapter_lets_through_fails_alone_on_both_databases(
    database: Database, store_part: Any, harvest: Harvest, words: str
) -> None:
    class Careless(Scripted):
        def read_entry(self, line: bytes) -> Entry:
            name = line.decode()
            return Entry(wire_id=name, text=words if name == "p" else "fine")

    stored = store_part(database, "a", "p", "b")
    harvest(Careless({"output": lines(b"a", b"p", b"b")}), stored)
    assert codes(database) == {"a": "completed", "p": "malformed_entry", "b": "completed"}


def test_an_answer_that_violates_its_schema_fails_and_is_kept(
    database: Database, store_part: Any, harvest: Harvest
) -> None:
    schema = '{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}'
    stored = store_part(database, "a", "b", "c", schema=schema)
    data = lines(answer("a", '{"age": 7}'), answer("b", '{"age": "seven"}'), answer("c", "about seven"))
    harvest(Scripted({"output": data}), stored)
    found = results(database)
    assert codes(database) == {"a": "completed", "b": "invalid_output", "c": "invalid_output"}
    assert found["a"].output == {"age": 7}
    assert found["c"].text == "about seven"
    assert found["c"].usage["input"] == 10  # it was paid for


def test_a_line_over_the_cap_is_refused_and_the_rest_applied(
    database: Database, store_part: Any, harvest: Harvest
) -> None:
    stored = store_part(database, "a", "huge", "b")
    data = lines(answer("a"), answer("huge", "x" * 300_000), answer("b"))
    report = harvest(Scripted({"output": data}), stored, max_line=100_000)
    assert report.too_long == 1
    assert codes(database) == {"a": "completed", "huge": "malformed_entry", "b": "completed"}
    assert len(str(raw_of(database, 1))) < 5_000


def test_a_line_over_the_cap_costs_no_more_memory_than_one_within(
    sqlite_url: str, store_part: Any, tmp_path: Path
) -> None:
    class Huge(Scripted):
        def chunks(self, name: str, data: bytes) -> Iterator[bytes]:
            yield answer("a") + b'\n{"custom_id": "huge", "response": "'
            for _ in range(128):
                yield b"x" * 1024 * 1024
            yield b'"}\n' + answer("b") + b"\n"

    db = open_database(sqlite_url, DatabaseSettings())
    batch, part = store_part(db, "a", "huge", "b")
    harvester = Harvester(OutcomeRepository(db), LocalFileStore(tmp_path / "files"))
    tracemalloc.start()
    try:
        harvester.harvest(Huge({"output": b""}), part, batch, heartbeat=lambda _: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert codes(db) == {"a": "completed", "huge": "malformed_entry", "b": "completed"}
    assert peak < 80 * 1024 * 1024  # twice the cap of 32 MiB, and change; a line within the cap costs as much
    db.close()


def test_a_later_round_takes_results_of_what_it_sent_again_only(
    database: Database, store_part: Any, harvest: Harvest, build: Any
) -> None:
    stored = store_part(database, "a", "b", "c")
    harvest(Scripted({"output": lines(answer("a"), refusal("b"), refusal("c", status=400))}), stored)
    part = build.part(database, stored[0], 0, 2, round=1, requests=1, provider_batch_id="pb2")
    data = lines(answer("a", "again"), answer("b", "at last"), answer("c", "never sent"))
    report = harvest(Scripted({"output": data}), (stored[0], part))
    assert (report.applied, report.unknown) == (1, 2)
    found = results(database)
    assert {name: found[name].text for name in "abc"} == {"a": "answer to a", "b": "at last", "c": None}
    assert found["b"].attempts == 2


class Died(Exception):
    pass


@pytest.mark.parametrize("point", ["harvest.downloaded", "harvest.in_transaction", "harvest.page", "harvest.end"])
@pytest.mark.parametrize("after", [1, 3])
def test_a_harvest_goes_on_where_the_last_one_stopped(
    database: Database, store_part: Any, harvest: Harvest, point: str, after: int
) -> None:
    stored = store_part(database, *NAMES)
    provider = Scripted({"output": lines(*map(answer, NAMES[:18])), "errors": lines(*map(refusal, NAMES[18:]))})
    seen = 0
    applied = 0

    def die(name: str) -> None:
        nonlocal seen
        seen += name == point
        if name == point and seen == after:
            raise Died

    for _ in range(3):
        try:
            applied += harvest(provider, stored, fail_point=die).lines
        except Died:
            continue
    expected = ["completed"] * 18 + ["provider_error"] * 12
    assert list(codes(database).values()) == expected
    assert provider.opened.count("output") == 1
    with database.reading() as session:
        assert session.connection().execute(text("SELECT count(*) FROM outcomes")).scalar() == 30


def test_two_workers_on_the_same_results_write_each_once(database: Database, store_part: Any, harvest: Harvest) -> None:
    stored = store_part(database, *NAMES)
    provider = Scripted({"output": ALL})
    inner: list[HarvestReport] = []

    def other_worker(name: str) -> None:
        if name == "harvest.page" and not inner:
            inner.append(HarvestReport())
            inner.append(harvest(provider, stored))

    harvest(provider, stored, fail_point=other_worker)
    assert set(codes(database).values()) == {"completed"}
    with database.reading() as session:
        assert session.connection().execute(text("SELECT count(*) FROM outcomes")).scalar() == 30


def test_a_download_that_breaks_off_leaves_nothing_and_is_done_again(
    database: Database, store_part: Any, harvest: Harvest, files: LocalFileStore
) -> None:
    class Breaking(Scripted):
        broken = False

        def chunks(self, name: str, data: bytes) -> Iterator[bytes]:
            yield data[:500]
            if not self.broken:
                self.broken = True
                raise ProviderUnavailable("connection lost")
            yield data[500:]

    stored = store_part(database, *NAMES)
    provider = Breaking({"output": ALL})
    with pytest.raises(ProviderUnavailable):
        harvest(provider, stored)
    assert files.size("batches/b1/0-0/output.jsonl") is None
    assert set(codes(database).values()) == {"pending"}
    harvest(provider, stored)
    assert set(codes(database).values()) == {"completed"}
    assert files.size("batches/b1/0-0/output.jsonl") == len(ALL)


def test_a_full_disk_while_downloading_is_transient(
    database: Database, store_part: Any, harvest: Harvest, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = store_part(database, *NAMES)

    def full(*_: Any) -> int:
        raise StorageFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileStore, "write", full)
        with pytest.raises(StorageFull):
            harvest(Scripted({"output": ALL}), stored)
    harvest(Scripted({"output": ALL}), stored)
    assert set(codes(database).values()) == {"completed"}


def test_nothing_is_added_once_the_part_is_settled(database: Database, store_part: Any, harvest: Harvest) -> None:
    stored = store_part(database, *NAMES)
    with database.transaction() as session:
        session.connection().execute(text("UPDATE provider_batches SET settled_at = '2026-01-01 00:00:00+00:00'"))
    with pytest.raises(BatchConflict):
        harvest(Scripted({"output": ALL}), stored)


def test_a_file_full_of_strangers_is_logged_a_few_times_only(
    database: Database, store_part: Any, harvest: Harvest, caplog: pytest.LogCaptureFixture
) -> None:
    stored = store_part(database, "a")
    report = harvest(Scripted({"output": lines(*(answer(f"s-{n}") for n in range(100)))}), stored)
    assert report.unknown == 100
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 20

"""Requests are stored all or none, and read back exactly, in order, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from nightmill.completions.requests import StoredRequest
from nightmill.errors import BatchConflict, BatchNotFound, InvalidInput
from nightmill.storage import requests as module
from nightmill.storage.engine import Database
from nightmill.storage.outcomes import NewOutcome, OutcomeRepository, Position
from nightmill.storage.requests import RequestRepository


def count(db: Database, table: str) -> int:
    with db.reading() as session:
        return int(session.connection().execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_requests_come_back_as_they_were(database: Database, build: Any) -> None:
    repository = RequestRepository(database)
    lines = [b'{"body":"\xc3\xa9 \xe2\x80\xa8 \\u0000 %d"}' % seq for seq in range(2_500)]
    given = [
        StoredRequest(
            seq=seq, custom_id=f"é-{seq}", wire_id=f"r-{seq}", line=line, response_schema="{}" if seq else None
        )
        for seq, line in enumerate(lines)
    ]
    batch = repository.store(build.batch(), given)
    assert (batch.requests, count(database, "completions")) == (2_500, 2_500)
    part = build.part(database, batch, 0, 2_499, bytes=sum(map(len, lines)))
    stored = repository.lines(part.key)
    assert (stored.count, stored.total_bytes) == (2_500, sum(map(len, lines)))
    assert list(stored) == lines
    assert list(stored) == lines  # reading again reads the same
    assert repository.count_of_ours(part.key, ["r-7", "r-7", "r-2499", "other", "nul\0"]) == 2


def test_nothing_is_kept_when_the_source_of_requests_fails(database: Database, build: Any) -> None:
    def failing() -> Iterator[StoredRequest]:
        yield from build.requests([f"r-{n}" for n in range(1_500)])
        raise InvalidInput("line 1501: no JSON")

    with pytest.raises(InvalidInput, match="1501"):
        RequestRepository(database).store(build.batch(), failing())
    assert (count(database, "batches"), count(database, "completions")) == (0, 0)


def test_a_slow_source_of_requests_locks_nobody_out(sqlite_url: str, build: Any) -> None:
    from nightmill.settings import DatabaseSettings
    from nightmill.storage.engine import open_database

    db = open_database(sqlite_url, DatabaseSettings())
    repository = RequestRepository(db)

    def slow() -> Iterator[StoredRequest]:
        repository.store(build.batch("other"), build.requests(["a"]))
        yield from build.requests(["b"])

    repository.store(build.batch("slow"), slow())
    assert count(db, "batches") == 2
    db.close()


@pytest.mark.parametrize("wrong", ["id\0", "id\ud800"])
def test_an_id_that_no_database_takes_is_refused(database: Database, build: Any, wrong: str) -> None:
    with pytest.raises(InvalidInput):
        RequestRepository(database).store(build.batch(), build.requests(["fine", wrong]))
    assert count(database, "batches") == 0


def test_the_same_batch_cannot_be_stored_twice(database: Database, build: Any) -> None:
    repository = RequestRepository(database)
    repository.store(build.batch(), build.requests(["a"]))
    with pytest.raises(BatchConflict, match="b1 exists"):
        repository.store(build.batch(), build.requests(["b"]))
    with pytest.raises(InvalidInput, match="same id"):
        repository.store(build.batch("b2"), build.requests(["a", "a"]))
    assert (count(database, "batches"), count(database, "completions")) == (1, 1)


def test_deleting_a_batch_deletes_all_that_belongs_to_it(database: Database, store_part: Any) -> None:
    _, part = store_part(database, "a", "b")
    OutcomeRepository(database).fill_missing(part.key, code="expired", message="late", retryable=True)
    with database.transaction() as session:
        session.connection().execute(text("DELETE FROM batches"))
    assert [count(database, name) for name in ("completions", "provider_batches", "outcomes")] == [0, 0, 0]
    with pytest.raises(BatchNotFound):
        RequestRepository(database).lines(part.key)


def test_a_later_round_holds_what_failed_retryably_in_the_one_before(database: Database, build: Any) -> None:
    repository, outcomes = RequestRepository(database), OutcomeRepository(database)
    batch = repository.store(build.batch(), build.requests([f"r-{n}" for n in range(6)]))
    first = build.part(database, batch, 0, 5)

    def failed(seq: int, *, retryable: bool) -> NewOutcome:
        return NewOutcome(batch.key, seq, 0, ok=False, error_code="expired", error_retryable=retryable)

    rows = [
        NewOutcome(batch.key, 0, 0, ok=True, text="yes"),
        failed(1, retryable=True),
        failed(2, retryable=False),
        failed(4, retryable=True),
    ]
    outcomes.append(
        first.key, "output", rows, known=Position(), reached=Position(9, 4, done=True), instead=lambda row: row
    )
    assert [seq for seq, _ in repository.pending_sizes(batch.key, 0)] == [0, 1, 2, 3, 4, 5]
    assert [seq for seq, _ in repository.pending_sizes(batch.key, 1)] == [1, 4]
    second = build.part(database, batch, 1, 4, round=1, requests=2)
    assert list(repository.lines(second.key)) == [b'{"id":"1"}', b'{"id":"4"}']
    assert repository.count_of_ours(second.key, ["r-1", "r-2", "r-4"]) == 2
    assert outcomes.fill_missing(second.key, code="expired", message="late", retryable=True) == 2
    assert outcomes.fill_missing(second.key, code="expired", message="late", retryable=True) == 0


def test_huge_requests_do_not_fill_a_page(database: Database, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 10_000)
    big = [b"x" * 6_000, b"y" * 6_000, b"z" * 25_000, *[b"small"] * 3, b"w" * 6_000]
    given = [StoredRequest(seq=n, custom_id=str(n), wire_id=str(n), line=line) for n, line in enumerate(big)]
    batch = RequestRepository(database).store(build.batch(), given)
    part = build.part(database, batch, 0, len(big) - 1)
    assert list(RequestRepository(database).lines(part.key)) == big

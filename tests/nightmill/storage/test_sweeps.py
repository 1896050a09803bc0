"""What a sweep takes: what is due, marked in the same transaction, and never by two sweeps."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from nightmill.contracts import SweepTaken
from nightmill.storage import sweeps
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.documents import DocumentRepository, NewDocument
from nightmill.storage.engine import Database
from nightmill.storage.sweeps import DueAccount, SweepRepository, Wanted


def everything(due: Any) -> list[str]:
    """All turns of one account, then all of the next."""
    return [each.name for each in due for _ in range(each.due + each.ahead)]


@pytest.fixture
def take(database: Database, given: Any) -> Any:
    """Takes what is due and returns the ids in order."""
    repository = SweepRepository(database)

    def take(sweep_id: str = "s1", *, hours: float = 0, turns: Any = everything, **wanted: Any) -> list[str]:
        now = given.at(hours)
        looked_for = Wanted(
            **{
                "now": now,
                "until": now + timedelta(hours=1),
                "marked_until": now + timedelta(hours=2),
                "plans": frozenset({"daily"}),
            }
            | wanted
        )
        repository.take(sweep_id, looked_for, turns=turns, limit=1_000, scanned=SweepTaken())
        return [each.document_id for each in repository.picks(sweep_id, first=0, count=100_000)]

    return take


def set_columns(database: Database, document_id: str, given: Any, **columns: Any) -> None:
    """Set columns; numbers are hours after noon where the column is a time."""
    values = {
        name: given.at(value) if name.endswith(("_at", "_until")) and value is not None else value
        for name, value in columns.items()
    }
    row = DocumentRepository(database).get(document_id).row
    with database.transaction() as session:
        for name, value in values.items():
            setattr(row, name, value)
        session.add(row)


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "never tried": ({}, True),
    "never tried, due later": ({"next_sync_at": 30}, False),
    "synced and due": ({"sync_status": "synced", "next_sync_at": -0.1, "last_sync_attempted_at": -24}, True),
    "synced, without a time": ({"sync_status": "synced", "last_sync_attempted_at": -24}, True),
    "synced, due before the next sweep": ({"sync_status": "synced", "next_sync_at": 0.9}, True),
    "synced, due after it": ({"sync_status": "synced", "next_sync_at": 1.1}, False),
    "failed and due": ({"sync_status": "failed", "next_sync_at": 0, "last_sync_attempted_at": -24}, True),
    "failed, due later": ({"sync_status": "failed", "next_sync_at": 3, "content_fingerprint": "a"}, False),
    "syncing": ({"sync_status": "syncing", "last_sync_attempted_at": -0.1}, False),
    "syncing for long": ({"sync_status": "syncing", "last_sync_attempted_at": -0.2}, True),
    "syncing, without a time": ({"sync_status": "syncing"}, True),
    "syncing, waits between attempts": (
        {"sync_status": "syncing", "last_sync_attempted_at": -0.5, "next_attempt_at": 0.5},
        False,
    ),
    "syncing, waited too long": (
        {"sync_status": "syncing", "last_sync_attempted_at": -2, "next_attempt_at": -1},
        True,
    ),
    "syncing for long, though due later": (
        {"sync_status": "syncing", "last_sync_attempted_at": -0.2, "next_sync_at": 20},
        True,
    ),
    "change not delivered": (
        {"sync_status": "synced", "next_sync_at": 20, "last_sync_attempted_at": -0.2, "content_fingerprint": "a"},
        True,
    ),
    "change just tried to be delivered": (
        {"sync_status": "synced", "next_sync_at": 20, "last_sync_attempted_at": -0.1, "content_fingerprint": "a"},
        False,
    ),
    "synced by a clock that was years ahead": (
        {"sync_status": "synced", "next_sync_at": 9_024, "last_sync_attempted_at": 9_000},
        True,
    ),
    "syncing by a clock that was years ahead": (
        {"sync_status": "syncing", "last_sync_attempted_at": 9_000, "next_attempt_at": 9_001},
        True,
    ),
    "synced by a clock that is an hour ahead": (
        {"sync_status": "synced", "next_sync_at": 24, "last_sync_attempted_at": 1},
        False,
    ),
    "taken by a sweep whose clock was years ahead": ({"queued_until": 9_000}, True),
    "switched off": ({"enabled": False}, False),
    "taken by another sweep": ({"queued_until": 0.1}, False),
    "taken by a sweep that was lost": ({"queued_until": -0.1}, True),
}


def test_a_sweep_takes_what_is_due_and_nothing_else(
    database: Database, add_document: Any, given: Any, take: Any
) -> None:
    for number, (columns, _) in enumerate(CASES.values()):
        add_document(f"d{number:02}", account_handler=given.handler)
        set_columns(database, f"d{number:02}", given, **columns)
    taken = set(take())
    assert {name: f"d{number:02}" in taken for number, name in enumerate(CASES)} == {
        name: expected for name, (_, expected) in CASES.items()
    }
    again = take("s2", hours=0.01)
    assert again == []


def test_accounts_without_a_plan_are_left_alone_but_for_documents_with_their_own_interval(
    database: Database, add_document: Any, given: Any, take: Any
) -> None:
    for account, plan in (("planned", "daily"), ("unplanned", None), ("odd", "enterprise"), ("off", "daily")):
        add_document(f"{account}-1", account=account, plan=plan)
        add_document(f"{account}-2", account=account, plan=plan, interval=timedelta(hours=2))
    AccountRepository(database).add("off", "daily", auto_sync=False, now=given.noon)
    assert sorted(take(account="odd")) == ["odd-2"]
    assert sorted(take("s2")) == ["planned-1", "planned-2", "unplanned-2"]


def test_what_is_due_comes_first_then_the_never_tried_then_the_oldest(
    database: Database, add_document: Any, given: Any, take: Any
) -> None:
    for document_id, columns in {
        "ahead": {"sync_status": "synced", "next_sync_at": 0.5, "last_sync_attempted_at": -90},
        "b-old": {"sync_status": "synced", "next_sync_at": -1, "last_sync_attempted_at": -30},
        "a-old": {"sync_status": "failed", "next_sync_at": -1, "last_sync_attempted_at": -30},
        "older": {"sync_status": "synced", "next_sync_at": 0, "last_sync_attempted_at": -31},
        "never": {},
    }.items():
        add_document(document_id)
        set_columns(database, document_id, given, **columns)
    assert take(turns=lambda due: ["acme"] * 2) == ["never", "older"]
    assert take("s2") == ["a-old", "b-old", "ahead"]
    repository = SweepRepository(database)
    assert [pick.due_at for pick in repository.picks("s2", first=1, count=2)] == [given.at(0), given.at(0.5)]
    assert [pick.document_id for pick in repository.picks("s2", first=1, count=1)] == ["b-old"]


def test_a_sweep_that_asks_again_gets_what_it_took(database: Database, add_document: Any, given: Any) -> None:
    add_document("d1")
    repository = SweepRepository(database)
    now = given.noon
    wanted = Wanted(now=now, until=now, marked_until=given.at(2), plans=frozenset({"daily"}))
    seen: list[DueAccount] = []

    def turns(due: Any) -> list[str]:
        seen.extend(due)
        return everything(due)

    first = repository.take("s1", wanted, turns=turns, limit=7, scanned=SweepTaken(accounts_scanned=3))
    assert (first.accounts_scanned, first.accounts_scheduled, first.taken, first.capacity_left) == (3, 1, 1, 6)
    assert not first.cap_hit
    assert repository.take("s1", wanted, turns=turns, limit=7, scanned=SweepTaken()) == first
    assert [(each.name, each.due, each.ahead, each.last_served_at) for each in seen] == [("acme", 1, 0, None)]
    assert AccountRepository(database).get("acme").last_served_at == now
    DocumentRepository(database).delete("d1")
    assert repository.picks("s1", first=0, count=10) == []
    later = Wanted(now=given.at(25), until=now, marked_until=now, plans=frozenset())
    assert repository.take("s2", later, turns=everything, limit=7, scanned=SweepTaken()).taken == 0
    with database.reading() as session:
        assert session.connection().execute(text("SELECT id FROM sweeps")).scalars().all() == ["s2"]


def test_sweeps_at_the_same_moment_never_take_the_same_document(database: Database, given: Any, take: Any) -> None:
    AccountRepository(database).add("acme", "daily", now=given.noon)
    DocumentRepository(database).add_many(
        (NewDocument("acme", "help", given.link(number)) for number in range(200)), given.noon
    )
    barrier, taken = threading.Barrier(4), []

    def sweep(number: int) -> None:
        barrier.wait()
        taken.append(take(f"s{number}"))

    threads = [threading.Thread(target=sweep, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everyone = [document_id for ids in taken for document_id in ids]
    assert len(everyone) == len(set(everyone)) == 200


def test_what_another_sweep_has_taken_since_we_looked_is_passed_by(
    database: Database, monkeypatch: pytest.MonkeyPatch, given: Any
) -> None:
    """A second sweep may look, and whoever writes may write, while the first one is about to mark."""
    AccountRepository(database).add("acme", "daily", now=given.noon)
    DocumentRepository(database).add(NewDocument("acme", "help", given.link()), given.noon)
    repository, looked, taken = SweepRepository(database), threading.Event(), threading.Event()
    wanted = Wanted(now=given.noon, until=given.noon, marked_until=given.at(2), plans=frozenset({"daily"}))
    ranked, counts = sweeps._ranked, {}

    def slow(*arguments: Any) -> Any:
        found = list(ranked(*arguments))
        if threading.current_thread() is late:
            looked.set()
            assert taken.wait(10)
        return iter(found)

    def take(sweep_id: str) -> None:
        found = repository.take(sweep_id, wanted, turns=everything, limit=9, scanned=SweepTaken())
        counts[sweep_id] = found.taken

    monkeypatch.setattr(sweeps, "_ranked", slow)
    late = threading.Thread(target=take, args=("late",))
    late.start()
    assert looked.wait(10)
    take("early")
    taken.set()
    late.join()
    assert counts == {"early": 1, "late": 0}


def test_attempts_of_one_sweep_at_the_same_moment_take_once(database: Database, add_document: Any, take: Any) -> None:
    add_document("d1")
    barrier, taken = threading.Barrier(3), []

    def sweep() -> None:
        barrier.wait()
        taken.append(take("same"))

    threads = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [["d1"]] * 3


def test_a_row_that_cannot_be_read_stops_nobody_and_waits_for_the_mark_to_lapse(
    database: Database, add_document: Any, take: Any
) -> None:
    add_document("broken")
    add_document("good")
    with database.transaction() as session:
        statement = "UPDATE documents SET sync_status = 'no word of ours', next_sync_at = NULL WHERE id = 'broken'"
        session.connection().execute(text(statement))
    assert sorted(take()) == ["broken", "good"]
    assert take("s2", hours=1) == []
    assert "broken" in take("s3", hours=3)


def test_what_is_given_back_is_due_at_once_and_what_is_dropped_is_not(
    database: Database, add_document: Any, take: Any
) -> None:
    add_document("d1")
    add_document("d2")
    repository = SweepRepository(database)
    assert sorted(take()) == ["d1", "d2"]
    repository.drop_picks(["d1"])
    assert [pick.document_id for pick in repository.picks("s1", first=0, count=9)] == ["d2"]
    repository.give_back(["d2", "nothing"])
    assert take("s2") == ["d2"]


def test_a_row_that_cannot_be_read_does_not_keep_a_plans_new_interval_from_the_others(
    database: Database, add_document: Any, given: Any
) -> None:
    for name in ("a", "b"):
        add_document(name)
        set_columns(database, name, given, last_sync_attempted_at=0)
    with database.transaction() as session:
        session.connection().execute(text("UPDATE documents SET sync_status = 'no word of ours' WHERE id = 'a'"))
    account = AccountRepository(database).get("acme")
    assert SweepRepository(database).reschedule(account, 60.0, lambda _: given.at(5)) == 2


def test_a_plans_new_interval_moves_its_documents_a_page_at_a_time(database: Database, given: Any) -> None:
    accounts = AccountRepository(database)
    account = accounts.add("acme", "daily", now=given.noon)
    documents = DocumentRepository(database)
    documents.add_many((NewDocument("acme", "help", given.link(number)) for number in range(1_005)), given.noon)
    own, _ = documents.add(NewDocument("acme", "own", given.link(), interval=timedelta(hours=1)), given.noon)
    never, _ = documents.add(NewDocument("acme", "never", given.link()), given.noon)
    with database.transaction() as session:
        statement = text("UPDATE documents SET last_sync_attempted_at = created_at WHERE collection <> 'never'")
        session.connection().execute(statement)
    repository = SweepRepository(database)
    assert repository.reschedule(account, 60.0, lambda row: given.at(row.consecutive_failures + 5)) == 1_005
    assert accounts.get("acme").applied_interval == 60.0
    assert documents.get(own.id).row.next_sync_at is None
    assert documents.get(never.id).row.next_sync_at is None
    with database.reading() as session:
        query = text("SELECT count(*) FROM documents WHERE next_sync_at IS NOT NULL")
        assert session.connection().execute(query).scalar() == 1_005
    assert repository.reschedule(account, None, lambda row: None) == 0
    assert accounts.get("acme").applied_interval is None

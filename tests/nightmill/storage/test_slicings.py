"""A sliced document is moved along by one run at a time, and keeps what an earlier run found until there is more."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from nightmill.contracts import (
    Fault,
    FinishSlicing,
    ProgramOutcome,
    SlicingErrorCode,
    SlicingRef,
    SlicingStatus,
)
from nightmill.errors import InvalidInput, ResultsIncomplete, SlicingNotFound, SlicingSuperseded
from nightmill.storage.engine import Database
from nightmill.storage.slices import NewSlice, SliceRepository
from nightmill.storage.slicing_models import SlicingRow
from nightmill.storage.slicings import SlicingRepository

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
TIMED_OUT = Fault(code=SlicingErrorCode.TIMED_OUT, message="timed out after 15 min")


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def ref(run_id: str = "r1", digit: str = "a", profile: str = "gazette") -> SlicingRef:
    return SlicingRef(sha256=digit * 64, profile=profile, run_id=run_id)


def opened(slicings: SlicingRepository, which: SlicingRef, minutes: float = 0) -> SlicingRow:
    return slicings.open(which, name="g.pdf", source="g.pdf", size=9, notify=None, metadata=None, now=at(minutes))


def some_slices(number: int, text: str = "x") -> list[NewSlice]:
    return [NewSlice(position=place, start_page=place, end_page=place, full_text=text) for place in range(number)]


def a_result(which: SlicingRef, number: int, status: SlicingStatus = SlicingStatus.SLICED) -> FinishSlicing:
    result = ProgramOutcome(slices=number, page_count=30, number="35,205", issued_on=date(2020, 3, 1))
    return FinishSlicing(ref=which, status=status, result=result)


def a_failure(which: SlicingRef) -> FinishSlicing:
    return FinishSlicing(ref=which, status=SlicingStatus.FAILED, fault=TIMED_OUT)


@pytest.fixture
def slicings(database: Database) -> SlicingRepository:
    return SlicingRepository(database)


def texts(slicings: SlicingRepository, row: SlicingRow) -> list[str]:
    return [each.full_text for each in SliceRepository(slicings.database).stream(row)]


def test_what_a_client_stores_is_there_before_its_run_begins(slicings: SlicingRepository) -> None:
    given = {"notify": ["mailto:a@x.example"], "metadata": {"id": 7}, "now": NOON}
    source = "https://me:secret@x.example/g.pdf?signature=secret#p1"
    row = slicings.add("a" * 64, "gazette", name="Gaceta", source=source, **given)  # type: ignore[arg-type]
    assert (row.status, row.run_id, row.source) == (SlicingStatus.QUEUED, None, "https://x.example/g.pdf")
    row = slicings.open(ref(), name=None, source=source, size=9, notify=None, metadata=None, now=at(1))
    assert (row.name, row.notify, row.user_metadata, row.run_id) == ("Gaceta", ["mailto:a@x.example"], {"id": 7}, "r1")
    assert row.source == "https://x.example/g.pdf"
    row = slicings.open(ref("r2"), name="g", source="s", size=9, notify=[], metadata={}, now=at(2))
    assert (row.name, row.notify, row.user_metadata, row.created_at) == ("g", [], {}, NOON)


def test_asking_again_changes_nothing_of_how_a_document_stands(slicings: SlicingRepository) -> None:
    def add(name: str) -> SlicingRow:
        return slicings.add("a" * 64, "gazette", name=name, source="g.pdf", notify=[], metadata={}, now=at(9))

    opened(slicings, ref())
    slicings.started(ref(), attempt=1, now=at(1))
    assert (add("again").status, slicings.get("a" * 64, "gazette").name) == (SlicingStatus.SLICING, "again")
    slicings.finish(a_failure(ref()), [], now=at(2))
    row = add("once more")
    assert (row.status, row.error, row.queued_at) == (SlicingStatus.FAILED, "timed out after 15 min", NOON)


def test_who_asked_before_is_told_all_the_same_when_another_asks_for_what_is_being_sliced(
    slicings: SlicingRepository,
) -> None:
    def add(*notify: str, **metadata: int) -> SlicingRow:
        return slicings.add("a" * 64, "gazette", name="g", source="g.pdf", notify=notify, metadata=metadata, now=at(9))

    add("mailto:a@x.example", id=7)
    opened(slicings, ref())
    row = add("mailto:b@x.example", "mailto:a@x.example")
    assert (row.notify, row.user_metadata) == (["mailto:a@x.example", "mailto:b@x.example"], {"id": 7})
    with pytest.raises(InvalidInput, match="10 at most"):
        add(*(f"mailto:{number}@x.example" for number in range(9)))
    assert len(slicings.get("a" * 64, "gazette").notify) == 2
    slicings.finish(a_failure(ref()), [], now=at(2))
    row = add("mailto:c@x.example")
    assert (row.notify, row.user_metadata) == (["mailto:c@x.example"], {})


def test_a_new_run_starts_without_the_failure_of_the_last_one_and_with_its_slices(slicings: SlicingRepository) -> None:
    opened(slicings, ref("r1"))
    slicings.started(ref("r1"), attempt=1, now=at(1))
    review = a_result(ref("r1"), 3, SlicingStatus.NEEDS_REVIEW).model_copy(update={"reasons": ("no date", "a\0b")})
    row = slicings.finish(review, some_slices(3), description="one", now=at(2))
    assert (row.reasons, row.description) == (["no date", "ab"], "one")
    opened(slicings, ref("r2"), 3)
    slicings.park(ref("r2"), now=at(3))
    slicings.started(ref("r2"), attempt=2, now=at(4))
    assert slicings.attention(ref("r2"), "no mail server")
    slicings.finish(a_failure(ref("r2")), [], now=at(5))
    row = opened(slicings, ref("r3"), 6)
    assert (row.status, row.queued_at, row.attempts) == (SlicingStatus.QUEUED, at(6), 0)
    assert (row.error_code, row.error, row.needs_attention, row.reasons) == (None, None, None, [])
    assert (row.started_at, row.parked_at, row.ended_at) == (None, None, None)
    assert (row.result_run, row.slice_count, row.number) == ("r1", 3, "35,205")


def test_a_run_opens_once(slicings: SlicingRepository) -> None:
    opened(slicings, ref())
    slicings.started(ref(), attempt=1, now=at(1))
    row = opened(slicings, ref(), 2)
    assert (row.status, row.queued_at, row.started_at) == (SlicingStatus.SLICING, NOON, at(1))


def test_a_run_that_is_reset_after_its_end_begins_again_and_one_that_hung_does_not(slicings: SlicingRepository) -> None:
    def begin(asked: float) -> SlicingRow:
        return slicings.open(
            ref(), name="g", source="g", size=1, notify=None, metadata=None, now=at(9), scheduled_at=at(asked)
        )

    begin(0)
    slicings.finish(a_failure(ref()), [], now=at(2))
    assert begin(0).status is SlicingStatus.FAILED
    row = begin(5)
    assert (row.status, row.error, row.queued_at, row.ended_at) == (SlicingStatus.QUEUED, None, at(5), None)
    assert slicings.started(ref(), attempt=1, now=at(6)) == at(6)


def test_the_first_start_of_a_run_is_kept(slicings: SlicingRepository) -> None:
    opened(slicings, ref())
    assert slicings.started(ref(), attempt=1, now=at(1)) == at(1)
    assert slicings.started(ref(), attempt=2, now=at(5)) == at(1)
    assert slicings.started(ref(), attempt=1, now=at(6)) == at(1)
    assert slicings.get("a" * 64, "gazette").attempts == 2


def test_an_earlier_run_writes_nothing_any_more(slicings: SlicingRepository) -> None:
    opened(slicings, ref("r1"))
    opened(slicings, ref("r2"), 1)
    old = ref("r1")
    for write in (
        lambda: slicings.inspected(old, page_count=1, text_source="digital"),
        lambda: slicings.started(old, attempt=1, now=at(2)),
        lambda: slicings.park(old, now=at(2)),
        lambda: slicings.unpark(old),
        lambda: slicings.attention(old, "late"),
        lambda: slicings.finish(a_result(old, 1), some_slices(1), now=at(2)),
        lambda: slicings.finish(a_failure(old), [], now=at(2)),
    ):
        with pytest.raises(SlicingSuperseded):
            write()
    row = slicings.get("a" * 64, "gazette")
    assert (row.status, row.page_count, row.slice_count, row.needs_attention) == (SlicingStatus.QUEUED, None, 0, None)


@pytest.mark.parametrize("earlier", ["none", "stored", "sliced", "terminated"])
def test_a_run_that_is_canceled_before_it_begins_ends_and_begins_no_more(
    slicings: SlicingRepository, earlier: str
) -> None:
    if earlier == "stored":
        slicings.add("a" * 64, "gazette", name="g", source="g", notify=(), metadata={}, now=NOON)
    if earlier in ("sliced", "terminated"):
        opened(slicings, ref("r1"))
    if earlier == "sliced":
        slicings.finish(a_result(ref("r1"), 2), some_slices(2), now=at(1))
    canceled = FinishSlicing(ref=ref("r2"), status=SlicingStatus.CANCELED)
    slicings.finish(canceled, (), now=at(3), scheduled_at=at(2))
    row = slicings.open(
        ref("r2"), name="g", source="g", size=1, notify=(), metadata={}, now=at(4), scheduled_at=at(1.5)
    )
    assert (row.status, row.run_id, row.ended_at) == (SlicingStatus.CANCELED, "r2", at(3))
    assert row.slice_count == (2 if earlier == "sliced" else 0)
    assert opened(slicings, ref("r3"), 5).status is SlicingStatus.QUEUED


def test_a_cancel_that_comes_after_a_later_run_began_leaves_that_alone(slicings: SlicingRepository) -> None:
    opened(slicings, ref("r1"))
    opened(slicings, ref("r2"), 2)
    canceled = FinishSlicing(ref=ref("r1"), status=SlicingStatus.CANCELED)
    with pytest.raises(SlicingSuperseded):
        slicings.finish(canceled, (), now=at(3), scheduled_at=at(1))
    assert slicings.get("a" * 64, "gazette").run_id == "r2"


def test_a_worker_that_hung_does_not_begin_after_a_later_run(slicings: SlicingRepository) -> None:
    def begin(run_id: str, asked: float, now: float) -> SlicingRow:
        return slicings.open(
            ref(run_id), name="g", source="g", size=1, notify=(), metadata={}, now=at(now), scheduled_at=at(asked)
        )

    begin("r2", 5, 6)
    with pytest.raises(SlicingSuperseded):
        begin("r1", 0, 7)
    assert slicings.get("a" * 64, "gazette").run_id == "r2"
    # Of a clock that was put back by more than an hour nothing follows.
    assert begin("r3", -90, -80).run_id == "r3"


def test_after_its_end_a_run_writes_nothing_and_the_first_end_stays(slicings: SlicingRepository) -> None:
    opened(slicings, ref())
    slicings.started(ref(), attempt=1, now=at(1))
    slicings.finish(a_failure(ref()), [], now=at(2))
    row = slicings.finish(a_result(ref(), 1), some_slices(1), now=at(3))
    assert (row.status, row.ended_at, row.slice_count) == (SlicingStatus.FAILED, at(2), 0)
    for write in (
        lambda: slicings.inspected(ref(), page_count=1, text_source="digital"),
        lambda: slicings.started(ref(), attempt=2, now=at(4)),
        lambda: slicings.park(ref(), now=at(4)),
        lambda: slicings.unpark(ref()),
    ):
        with pytest.raises(SlicingSuperseded, match="ended as failed"):
            write()
    assert slicings.attention(ref(), "no mail server")
    assert not slicings.attention(ref(), "no mail server")
    assert not slicings.attention(ref(), None)
    assert slicings.get("a" * 64, "gazette").needs_attention is None


def test_a_result_takes_the_place_of_the_earlier_one_as_a_whole(slicings: SlicingRepository) -> None:
    opened(slicings, ref("r1"))
    slicings.inspected(ref("r1"), page_count=30, text_source="mixed")
    flagged = [*some_slices(2, "old"), NewSlice(position=2, start_page=2, end_page=1, problem="pages_out_of_range: 2")]
    row = slicings.finish(a_result(ref("r1"), 3), flagged, now=at(1))
    assert (row.slice_count, row.flagged_count, row.text_source, row.page_count) == (3, 1, "mixed", 30)
    opened(slicings, ref("r2"), 2)
    assert texts(slicings, slicings.get("a" * 64, "gazette")) == ["old", "old", ""]
    done = a_result(ref("r2"), 2).model_copy(update={"number": "35,206", "issued_on": date(2020, 3, 2)})
    row = slicings.finish(done, iter(some_slices(2, "new")), now=at(3))
    assert (row.status, row.result_run, row.ended_at) == (SlicingStatus.SLICED, "r2", at(3))
    assert (row.slice_count, row.flagged_count, row.number, row.issued_on) == (2, 0, "35,206", date(2020, 3, 2))
    assert texts(slicings, row) == ["new", "new"]


@pytest.mark.parametrize("status", [SlicingStatus.FAILED, SlicingStatus.CANCELED])
def test_a_run_that_finds_nothing_leaves_what_an_earlier_one_found(
    slicings: SlicingRepository, status: SlicingStatus
) -> None:
    opened(slicings, ref("r1"))
    slicings.finish(a_result(ref("r1"), 2), some_slices(2, "old"), now=at(1))
    opened(slicings, ref("r2"), 2)
    fault = TIMED_OUT if status is SlicingStatus.FAILED else None
    row = slicings.finish(FinishSlicing(ref=ref("r2"), status=status, fault=fault), some_slices(1), now=at(3))
    assert (row.status, row.error_code) == (status, fault and fault.code)
    assert (row.result_run, row.slice_count, row.number) == ("r1", 2, "35,205")
    assert texts(slicings, row) == ["old", "old"]


def test_an_end_that_cannot_be_written_as_a_whole_is_not_written_at_all(slicings: SlicingRepository) -> None:
    opened(slicings, ref("r1"))
    slicings.finish(a_result(ref("r1"), 1), some_slices(1, "old"), now=at(1))
    opened(slicings, ref("r2"), 2)

    def breaks() -> Iterator[NewSlice]:
        yield from some_slices(1)
        raise OSError("the file storage is away")

    with pytest.raises(OSError, match="away"):
        slicings.finish(a_result(ref("r2"), 2), breaks(), now=at(3))
    with pytest.raises(ResultsIncomplete, match="1 of 2"):
        slicings.finish(a_result(ref("r2"), 2), some_slices(1), now=at(3))
    with pytest.raises(ValueError, match="position is 1"):
        slicings.finish(a_result(ref("r2"), 2), some_slices(2)[1:], now=at(3))
    for status, result in ((SlicingStatus.SLICED, None), (SlicingStatus.SLICING, ProgramOutcome())):
        with pytest.raises(ValueError, match="cannot end as"):
            slicings.finish(FinishSlicing(ref=ref("r2"), status=status, result=result), [], now=at(3))
    row = slicings.get("a" * 64, "gazette")
    assert (row.status, row.slice_count, texts(slicings, row)) == (SlicingStatus.QUEUED, 1, ["old"])


def test_a_worker_killed_in_the_transaction_leaves_everything_as_it_was(
    slicings: SlicingRepository, database_url: str
) -> None:
    opened(slicings, ref("r1"))
    slicings.finish(a_result(ref("r1"), 1), some_slices(1, "old"), now=at(1))
    opened(slicings, ref("r2"), 2)
    program = """if True:
        import sys
        from datetime import UTC, datetime
        from nightmill.contracts import FinishSlicing
        from nightmill.settings import DatabaseSettings
        from nightmill.storage.engine import open_database
        from nightmill.storage.slices import NewSlice
        from nightmill.storage.slicings import SlicingRepository
        done, slice_ = FinishSlicing.model_validate_json(sys.argv[1]), NewSlice(position=0, start_page=0, end_page=0)
        slicings = SlicingRepository(open_database(sys.argv[2], DatabaseSettings()))
        slicings.finish(done, [slice_], now=datetime.now(UTC))
        """
    done = a_result(ref("r2"), 1)
    command = [sys.executable, "-c", program, done.model_dump_json(), database_url]
    killed = subprocess.run(command, env={"NIGHTMILL_FAIL_POINT": "slicing.in_transaction"}, check=False, timeout=60)
    assert killed.returncode == -9
    row = slicings.get("a" * 64, "gazette")
    assert (row.status, texts(slicings, row)) == (SlicingStatus.QUEUED, ["old"])
    assert slicings.finish(done, some_slices(1, "new"), now=at(3)).result_run == "r2"


def test_parked_documents_go_on_in_the_order_in_which_they_came(slicings: SlicingRepository) -> None:
    for digit in "abc":
        opened(slicings, ref(digit=digit))
    for minute, digit in enumerate("cab"):
        slicings.park(ref(digit=digit), now=at(minute))
    opened(slicings, ref(digit="d"), 0)
    opened(slicings, ref(digit="e", profile="other"), 0)
    slicings.park(ref(digit="e", profile="other"), now=NOON)
    assert [sha256[0] for sha256, _ in slicings.parked("gazette")] == ["c", "a", "b"]
    assert slicings.parked("other") == [("e" * 64, "r1")]
    for digit in "ca":
        slicings.unpark(ref(digit=digit))
    slicings.started(ref(digit="a"), attempt=1, now=at(4))
    slicings.unpark(ref(digit="a"))
    assert slicings.get("c" * 64, "gazette").status is SlicingStatus.QUEUED
    assert slicings.get("a" * 64, "gazette").status is SlicingStatus.SLICING
    assert [sha256[0] for sha256, _ in slicings.parked("gazette")] == ["b"]
    for digit in "ac":  # who has to wait again waits at its old place
        slicings.park(ref(digit=digit), now=at(9))
    assert [sha256[0] for sha256, _ in slicings.parked("gazette")] == ["c", "a", "b"]
    slicings.unpark(ref(digit="a"))
    assert slicings.get("a" * 64, "gazette").status is SlicingStatus.SLICING


def test_a_document_is_found_by_the_beginning_of_its_hash(slicings: SlicingRepository) -> None:
    first, second = "ab" * 32, "abababab" + "0" * 56
    for sha256, profile in ((first, "gazette"), (first, "other"), (second, "gazette")):
        which = SlicingRef(sha256=sha256, profile=profile, run_id="r1")
        opened(slicings, which)
    assert slicings.find("ABABABAB0").sha256 == second
    assert slicings.find(first[:9], "other").profile == slicings.find(f"{first}/other").profile == "other"
    with pytest.raises(InvalidInput, match=r"abababababab/gazette, abababababab/other, abababab0000/gazette"):
        slicings.find("abababab")
    with pytest.raises(InvalidInput, match="at least 8"):
        slicings.find("ababab%")
    for prefix, profile in (("00000000", "gazette"), (second, "other")):
        with pytest.raises(SlicingNotFound):
            slicings.find(prefix, profile)
    for unknown in (ref(digit="f"), ref(digit="a", profile="other")):
        with pytest.raises(SlicingNotFound):
            slicings.get(unknown.sha256, unknown.profile)
        with pytest.raises(SlicingNotFound):
            slicings.started(unknown, attempt=1, now=NOON)


def test_lists_go_page_by_page_from_what_was_asked_for_last(slicings: SlicingRepository) -> None:
    for minute, digit in enumerate("abcde"):
        opened(slicings, ref(digit=digit), minute // 2)
    opened(slicings, ref("r2", digit="a"), 9)
    slicings.park(ref(digit="b"), now=at(9))

    def digits(rows: list[SlicingRow]) -> str:
        return "".join(row.sha256[0] for row in rows)

    assert digits(slicings.page()) == "aedcb"
    for limit in (1, 2, 3):
        seen: list[SlicingRow] = []
        while some := slicings.page(limit=limit, before=seen[-1] if seen else None):
            seen += some
        assert digits(seen) == "aedcb"
    assert digits(slicings.page(status=[SlicingStatus.WAITING])) == "b"
    assert slicings.page(profile="other") == slicings.page(needs_attention=True) == []
    slicings.attention(ref(digit="d"), "no mail server")
    assert digits(slicings.page(needs_attention=True)) == "d"


def test_what_runs_for_long_is_seen(slicings: SlicingRepository) -> None:
    assert slicings.oldest_running(NOON) is None
    for minute, digit in enumerate("abcd"):
        opened(slicings, ref(digit=digit), minute)
    slicings.started(ref(digit="b"), attempt=1, now=at(20))
    slicings.started(ref(digit="c"), attempt=1, now=at(10))
    slicings.park(ref(digit="a"), now=at(15))
    slicings.finish(a_failure(ref(digit="d")), [], now=at(4))
    assert slicings.oldest_running(at(30)) == timedelta(minutes=20)
    assert slicings.oldest_running(at(5)) == timedelta(0)


def test_of_two_ends_at_the_same_moment_one_is_written(slicings: SlicingRepository) -> None:
    opened(slicings, ref())
    barrier, ends = threading.Barrier(2), []

    def end(done: FinishSlicing) -> None:
        barrier.wait()
        row = slicings.finish(done, some_slices(1), now=at(1))
        ends.append((row.status, row.slice_count))

    threads = [threading.Thread(target=end, args=(done,)) for done in (a_failure(ref()), a_result(ref(), 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends[0] == ends[1]
    assert ends[0] in {(SlicingStatus.FAILED, 0), (SlicingStatus.SLICED, 1)}

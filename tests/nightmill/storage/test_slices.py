"""Slices come back in their order and as they were given, their long texts a few at a time, all of one result."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nightmill.contracts import FinishSlicing, ProgramOutcome, SlicingRef, SlicingStatus
from nightmill.errors import SlicingNotFound, SlicingSuperseded
from nightmill.storage import slices as slices_module
from nightmill.storage.engine import Database
from nightmill.storage.slices import NewSlice, SliceRepository
from nightmill.storage.slicing_models import SlicingRow
from nightmill.storage.slicings import SlicingRepository

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def sliced(database: Database, run_id: str, slices: list[NewSlice], digit: str = "a") -> SlicingRow:
    ref, slicings = SlicingRef(sha256=digit * 64, profile="gazette", run_id=run_id), SlicingRepository(database)
    now = NOON + timedelta(hours=int(run_id[1:]))
    slicings.open(ref, name="g.pdf", source="g.pdf", size=9, notify=None, metadata=None, now=now)
    result = ProgramOutcome(slices=len(slices), page_count=9)
    done = FinishSlicing(ref=ref, status=SlicingStatus.SLICED, result=result)
    return slicings.finish(done, slices, now=now)


def texts(*given: str) -> list[NewSlice]:
    return [NewSlice(position=place, start_page=0, end_page=0, full_text=text) for place, text in enumerate(given)]


FULL = NewSlice(
    position=0,
    start_page=3,
    end_page=7,
    name="Avisos Legales",
    issue_id="ACUERDO No. 12",
    full_text="Óscar\0 y \ud800 Ñandú",
    short_description="short",
    description="long",
    tags=("Gaceta", "a\0b"),
    issuer="Varios",
    materia="Mercantil",
    institutions=("Secretaría de \udfffSalud",),
    file_key="slicings/a/gazette/r1/0000.pdf",
    file_size=2**33,
    file_sha256="b" * 64,
    details={"flags": ["x\0y", {"confidence": 0.5, "\0": None}]},
    problem="text_missing: null",
)


def test_a_slice_comes_back_as_it_was_given_but_for_what_no_database_takes(database: Database) -> None:
    slicing, slices = sliced(database, "r1", [FULL]), SliceRepository(database)
    row = slices.get(slicing, 0)
    assert row.full_text == "Óscar y \ufffd Ñandú"
    assert (row.tags, row.institutions) == (["Gaceta", "ab"], ["Secretaría de \ufffdSalud"])
    assert row.details == {"flags": ["xy", {"confidence": 0.5, "": None}]}
    (head,) = slices.page(slicing)
    assert head.characters == len(row.full_text) == 15
    for name in ("start_page", "end_page", "name", "issue_id", "short_description", "description", "issuer", "materia"):
        assert getattr(row, name) == getattr(head, name) == getattr(FULL, name)
    for name in ("position", "file_key", "file_size", "file_sha256", "problem"):
        assert getattr(row, name) == getattr(head, name) == getattr(FULL, name)
    assert (head.tags, head.institutions, head.details) == (row.tags, row.institutions, row.details)


def test_slices_are_listed_page_by_page(database: Database) -> None:
    sliced(database, "r1", texts("other"), digit="b")
    slicing, slices = sliced(database, "r1", texts(*"abcde")), SliceRepository(database)
    assert [head.position for head in slices.page(slicing, limit=3)] == [0, 1, 2]
    assert [head.position for head in slices.page(slicing, after=2)] == [3, 4]
    assert slices.get(slicing, 4).full_text == "e"
    with pytest.raises(SlicingNotFound, match="no slice 5 of aaaaaaaaaaaa, which has 5"):
        slices.get(slicing, 5)


def test_long_texts_are_written_and_read_some_at_a_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices_module, "_AT_ONCE_CHARACTERS", 100)
    monkeypatch.setattr(slices_module, "_AT_ONCE_ROWS", 3)
    given = ["x" * 150, "a", "b", "c", "d", "y" * 60, "z" * 60, "", "e"]
    slicing, slices = sliced(database, "r1", texts(*given)), SliceRepository(database)
    chunks, after = [], -1
    while chunk := slices._chunk(slicing, after):
        chunks.append([row.full_text for row in chunk])
        after = chunk[-1].position
    assert chunks == [["x" * 150], ["a", "b", "c"], ["d", "y" * 60], ["z" * 60, "", "e"]]
    assert [row.full_text for row in slices.stream(slicing)] == given


def test_who_reads_while_a_new_result_comes_never_gets_a_mixture(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices_module, "_AT_ONCE_ROWS", 1)
    old, slices = sliced(database, "r1", texts("old", "old")), SliceRepository(database)
    reading = slices.stream(old)
    assert next(reading).full_text == "old"
    new = sliced(database, "r2", texts("new", "new"))
    with pytest.raises(SlicingSuperseded, match="sliced again"):
        next(reading)
    assert [row.full_text for row in slices.stream(new)] == ["new", "new"]


def test_a_document_without_slices_has_none(database: Database) -> None:
    slicing = sliced(database, "r1", [])
    assert (slicing.slice_count, SliceRepository(database).page(slicing)) == (0, [])
    assert list(SliceRepository(database).stream(slicing)) == []

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from nightmill.contracts import EntryProblem
from nightmill.slicing.entries import Entry
from nightmill.slicing.faults import InvalidResult, SlicingFault, StorageFailed
from nightmill.slicing.institutions import InstitutionNames
from nightmill.slicing.results import (
    FileCheck,
    SlicerResult,
    new_slices,
    read_stored_result,
    with_checks,
    write_result,
)
from nightmill.slicing.rules import with_masthead
from nightmill.storage.slicing_models import MAX_FULL_TEXT
from tests.nightmill.slicing.results import MARKS, entry, folder_of, read, result


def test_an_act_has_an_identifier_and_no_name_and_its_texts_begin_with_letters(tmp_path: Path) -> None:
    found = read(tmp_path, result())

    assert (found.page_count, found.number, found.issued_on) == (3, "33,463", date(2014, 6, 26))
    assert found.reasons() == ()
    assert found.extras == {"schema_version": 1}
    assert found.description == "La Gaceta No. 33,463 del 26 de junio de 2014"
    assert found.entries[1] == Entry(
        position=1,
        name="",
        issue_id="DECRETO No. 1-2014",
        start_page=1,
        end_page=1,
        full_text="EL CONGRESO NACIONAL, número 1",
        short_description="Óscar",
        description="Ángel",
        tags=("Gaceta", "Decreto", "SEFIN"),
        issuer="Poder Legislativo",
        institutions=("SEFIN",),
        path="0001.pdf",
        details={"confidence": 0.9},
    )


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_section_keeps_its_name_and_has_fixed_tags(tmp_path: Path, form: Any) -> None:
    marks = entry(1, name=unicodedata.normalize(form, MARKS), materia="Comercio")
    notices = entry(2, name="Avisos Legales", tag=None, institutions=None, issuer="Juzgado")

    _, first, second = read(tmp_path, result(entry(0), marks, notices)).entries

    assert (first.name, first.issue_id, first.issuer, first.description) == (MARKS, "", "Varios", "")
    assert first.tags == ("Gaceta", "Marcas", "Mercantil", "Propiedad Intelectual", "Decreto", "Comercio", "SEFIN")
    assert first.short_description == "Marcas de Fábrica de La Gaceta No. 33,463 del 26 de junio de 2014"
    assert (second.name, second.issuer) == ("Avisos Legales", "Varios")
    assert second.tags == ("Gaceta", "Avisos Legales", "Licitaciones")
    assert with_masthead(second, number=None, issued_on=None).short_description == "Avisos Legales de La Gaceta"


@pytest.mark.parametrize("name", ["MARCAS DE FÁBRICA", "Marcas de Fabrica", "Aviso Legal"])
def test_what_only_resembles_a_section_is_an_act(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, result(entry(0, name=name))).entries[0].issue_id == name


def test_institutions_of_the_text_join_those_of_the_slicer(tmp_path: Path) -> None:
    names = InstitutionNames([("Congreso", "Congreso Nacional"), ("SEFIN", "SEFIN")])

    found = read(tmp_path, result(), institutions=names).entries[0]

    assert found.institutions == ("SEFIN", "Congreso")
    assert found.tags[-1] == "Congreso"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"full_text": None}, "text_missing: `full_text` is null"),
        ({"full_text": 7}, "text_missing: `full_text` is 7"),
        ({"full_text": ["a"]}, "text_missing: `full_text` is a list"),
        ({"name": None}, "text_missing: `name` is null"),
        ({"name": " \n"}, "text_missing: `name` is blank"),
        ({"name": "x" * 256}, "invalid: `name` has 256 characters; 255 are kept"),
        ({"tag": 5}, "invalid: `tag` is 5, where text is due"),
        ({"issuer": {}}, "invalid: `issuer` is an object"),
        ({"institutions": "SEFIN"}, 'invalid: `institutions` is "SEFIN", where a list is due'),
        ({"institutions": ["a", None]}, "invalid: `institutions` holds null"),
        ({"institutions": [str(n) for n in range(300)]}, "invalid: `institutions` holds more than 200"),
        ({"start_page": None}, "invalid: pages null to 1 (from 0) of 3"),
        ({"start_page": True}, "invalid: pages true to 1"),
        ({"start_page": 1.0}, "invalid: pages 1.0 to 1"),
        ({"end_page": 3}, "pages_out_of_range: pages 1 to 3 (from 0) of 3"),
        ({"end_page": 10**30}, "pages_out_of_range: pages 1 to 10"),
        ({"start_page": -1}, "pages_out_of_range: pages -1 to 1"),
        ({"start_page": 2}, "pages_out_of_range: pages 2 to 1"),
        ({"position": "1"}, 'position_invalid: `position` is "1"'),
        ({"position": -1}, "position_invalid: `position` is -1"),
        ({"position": True}, "position_invalid: `position` is true"),
        ({"position": 1.0}, "position_invalid: `position` is 1.0"),
        ({"path": None}, "file_missing: no `path`"),
        ({"path": ""}, "file_missing: no `path`"),
        ({"path": "none.pdf"}, "file_missing: none.pdf: No such file"),
        ({"path": "."}, "file_missing: .: no file name"),
        ({"path": "0000.pdf/x"}, "file_missing: 0000.pdf/x: Not a directory"),
        ({"path": "x" * 300}, "file_missing: xxx"),
        ({"path": "\ud800.pdf"}, "file_missing: "),
        ({"path": 3}, "invalid: `path` is 3"),
        ({"full_text": "a\ud800b"}, "invalid: `full_text` holds characters that are none"),
    ],
)
def test_a_bad_entry_is_flagged_and_the_others_are_kept(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    found = read(tmp_path, result(entry(0), entry(1, **changes), entry(2)))

    first, bad, last = found.entries
    assert (first.problem, last.problem) == (None, None)
    assert bad.problem is not None
    assert bad.problem.startswith(problem)
    assert found.flagged == 1
    assert found.reasons()[0] == "1 of 3 slices are flagged"
    assert problem in found.reasons()[1]
    assert 0 <= bad.start_page <= bad.end_page < 3
    assert [one.position for one in found.entries] == [0, 1, 2]


@pytest.mark.parametrize("name", ["tag", "issuer", "materia", "institutions", "description", "short_description"])
@pytest.mark.parametrize("is_null", [True, False])
def test_what_may_be_missing_may_be_null(tmp_path: Path, name: str, is_null: bool) -> None:
    one = entry(0, **{name: None})
    if not is_null:
        del one[name]

    found = read(tmp_path, result(one, entry(1), entry(2)))

    assert found.entries[0].problem is None
    assert not getattr(found.entries[0], {"tag": "details"}.get(name, name)) or name == "tag"


@pytest.mark.parametrize("one", [None, 5, "0000.pdf", [], True])
def test_an_entry_that_is_no_object_is_kept_as_one_that_says_nothing(tmp_path: Path, one: Any) -> None:
    found = read(tmp_path, result(entry(0), one, entry(2)))

    assert found.entries[1].problem is not None
    assert found.entries[1].problem.startswith("invalid: ")
    assert found.entries[2].path == "0002.pdf"
    assert "page 2 belongs to no slice" in found.reasons()


def test_a_file_that_is_no_pdf_is_flagged_and_not_used(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.pdf", "b.pdf")
    (folder / "a.pdf").write_bytes(b"")
    (folder / "b.pdf").write_text("<html>")
    (folder / "c.pdf").mkdir()

    entries = read(tmp_path, result(*(entry(n, path=f"{name}.pdf") for n, name in enumerate("abc")))).entries

    assert [one.problem and one.problem.split(":")[0] for one in entries] == [
        EntryProblem.NOT_A_PDF,
        EntryProblem.NOT_A_PDF,
        EntryProblem.FILE_MISSING,
    ]
    assert all(one.path is None for one in entries)


def test_files_in_folders_are_taken(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/b/c.pdf")

    assert read(tmp_path, result(entry(0, path="./a//b/c.pdf"))).entries[0].path == "a/b/c.pdf"


def test_one_file_for_two_slices_is_a_problem_of_both_unless_their_pages_are_the_same(tmp_path: Path) -> None:
    apart = read(tmp_path, result(entry(0), entry(1, path="./0000.pdf"), entry(2)))
    alike = read(tmp_path, result(entry(0), entry(1, path="0000.pdf", start_page=0, end_page=0), covers=False))

    assert [one.problem is not None for one in apart.entries] == [True, True, False]
    assert alike.reasons() == ()


@pytest.mark.parametrize(
    ("positions", "order", "flagged"),
    [
        ([0, 1, 2], [0, 1, 2], []),
        ([2, 0, 1], [1, 2, 0], []),
        ([1, 2, 3], [0, 1, 2], [0]),
        ([0, 0, 1], [0, 1, 2], [1]),
        ([0, 2, 3], [0, 1, 2], [1]),
        ([5, None, 0], [2, 0, 1], [1, 2]),
        ([None, None, None], [0, 1, 2], [0, 1, 2]),
        ([0, 10**40, 1], [0, 2, 1], [2]),
    ],
)
def test_positions_are_from_0_without_gaps_and_what_broke_the_order_is_flagged(
    tmp_path: Path, positions: list[Any], order: list[int], flagged: list[int]
) -> None:
    given = [entry(n, position=position) for n, position in enumerate(positions)]

    entries = read(tmp_path, result(*given)).entries

    assert [one.position for one in entries] == [0, 1, 2]
    assert [one.start_page for one in entries] == order
    assert [one.position for one in entries if one.problem] == flagged
    assert all((one.problem or "position_invalid").startswith("position_invalid") for one in entries)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"page_count": None}, "`page_count` is null"),
        ({"page_count": 2}, "`page_count` is 2, and the document has 3 pages"),
        ({"page_count": True}, "`page_count` is true"),
        ({"page_count": 3.0}, "`page_count` is 3.0"),
        ({"page_count": "3"}, '`page_count` is "3"'),
        ({"page_count": -3}, "`page_count` is -3"),
        ({"page_count": {}}, "`page_count` is an object"),
        ({"files": None}, "`files` is null"),
        ({"files": {}}, "`files` is an object"),
        ({"files": "[]"}, "`files` is "),
        ({"errors": "none"}, '`errors` is "none"'),
        ({"errors": {}}, "`errors` is an object"),
        ({"flags": 1}, "`flags` is 1"),
        ({"gazette": []}, "`gazette` is a list"),
        ({"gazette": "33,463"}, '`gazette` is "33,463"'),
    ],
)
def test_a_result_of_another_shape_is_refused_by_the_name_of_the_field(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidResult) as refused:
        read(tmp_path, result(**changes))

    assert named in str(refused.value)


@pytest.mark.parametrize("name", ["page_count", "files"])
def test_a_result_without_pages_or_files_is_refused(tmp_path: Path, name: str) -> None:
    said = result()
    del said[name]

    with pytest.raises(InvalidResult, match=f"`{name}`"):
        read(tmp_path, said)


def test_no_slices_are_a_reason_to_look_and_no_fault(tmp_path: Path) -> None:
    found = read(tmp_path, result(files=[]))

    assert (found.entries, found.reasons()) == ((), ("no slices were found",))


@pytest.mark.parametrize(
    ("gazette", "flags"),
    [
        (None, ()),
        ({"number": "35,205", "date": "26 DE JUNIO DEL 2014"}, ()),
        ({"number": " ", "date": None}, ("the gazette's number was not found", "the gazette's date was not found")),
        ({"number": 35205, "date": "yesterday"}, ("the gazette's number was not found", 'no date: "yesterday"')),
        ({}, ("the gazette's number was not found", "the gazette's date was not found")),
    ],
)
def test_a_number_or_date_that_is_missing_is_a_reason_to_look(tmp_path: Path, gazette: Any, flags: Any) -> None:
    found = read(tmp_path, result(gazette=gazette))

    assert found.flags == flags
    assert found.reasons() == flags


def test_what_the_slicer_reports_is_kept_within_bounds(tmp_path: Path) -> None:
    found = read(tmp_path, result(errors=["page 7:\nno text", {"page": 8}, "", *["x" * 900] * 200], flags=["odd"]))

    assert found.errors[:2] == ("page 7: no text", '{"page": 8}')
    assert found.errors[-1] == "and 103 more"
    assert max(map(len, found.errors)) == 500
    assert found.flags == ("odd",)
    assert found.reasons()[0] == "the slicer reports: page 7: no text"
    assert len(found.reasons()) == 10
    assert found.reasons()[-1] == "and 92 more"


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ([(0, 9)], []),
        ([(0, 3), (3, 9)], []),
        ([(0, 4), (6, 9)], ["page 6 belongs to no slice"]),
        ([(1, 8)], ["pages 1, 10 belong to no slice"]),
        ([(0, 0), (4, 5)], ["pages 2-4, 7-10 belong to no slice"]),
    ],
)
def test_pages_that_no_slice_has_are_a_reason_to_look(
    tmp_path: Path, ranges: list[tuple[int, int]], said: list[str]
) -> None:
    entries = [entry(n, start_page=start, end_page=end, path=f"000{n}.pdf") for n, (start, end) in enumerate(ranges)]

    assert list(read(tmp_path, result(*entries, page_count=10), page_count=10).reasons()) == said
    assert read(tmp_path, result(*entries, page_count=10, covers=False), page_count=10).reasons() == ()


def test_texts_and_details_are_fit_for_both_databases(tmp_path: Path) -> None:
    odd = entry(0, full_text="a\0b", tag="c\0", institutions=["d\0", "e"], more={"f\0": ["g\0", 0.5, 10**400]})
    said = json.dumps(result(odd, entry(1), entry(2))).replace("0.5", "1e400")

    first = read(tmp_path, said).entries[0]

    assert (first.full_text, first.institutions) == ("ab", ("d", "e"))
    assert "c" in first.tags
    assert first.details["more"] == {"f": ["g", None, "1" + "0" * 400]}


def test_a_text_over_the_bound_is_cut_and_flagged_and_too_many_details_are_left_out(tmp_path: Path) -> None:
    long = entry(0, full_text="é" * (MAX_FULL_TEXT + 1), boxes=[[0, 0, 1, 1]] * 5_000)

    first = read(tmp_path, result(long)).entries[0]

    assert len(first.full_text) == MAX_FULL_TEXT
    assert first.problem == "invalid: `full_text` has 2,000,001 characters; 2,000,000 are kept"
    assert first.details == {"left_out": "more than 16,384 bytes"}


def test_a_look_at_the_files_flags_those_that_are_not_what_they_say(tmp_path: Path) -> None:
    found = read(tmp_path, result(entry(0), entry(1), entry(2), entry(2, position=3, path="none.pdf")))

    checked = with_checks(found, {"0000.pdf": FileCheck(pages=1), "0001.pdf": FileCheck(pages=2)})

    first, second, third, fourth = checked.entries
    assert first.problem is None
    assert second.problem == "page_count_differs: 0001.pdf has 2 pages, where 1 are due"
    assert third.problem == "not_a_pdf: 0002.pdf: it was not looked at"
    assert fourth == found.entries[3]


def test_a_stored_result_is_read_again_whatever_chunks_it_comes_in(tmp_path: Path) -> None:
    found = read(tmp_path, result(entry(0, full_text="a\nb\u2028c\x85d"), entry(1, name=MARKS), entry(2, path=None)))
    stored = b"".join(write_result(found))

    for size in (1, 7, 64, len(stored)):
        head, entries = read_stored_result(stored[n : n + size] for n in range(0, len(stored), size))
        assert replace(head, entries=tuple(entries)) == found
    assert stored.count(b"\n") == 4


@pytest.mark.parametrize("cut", ["last line", "in a line", "all", "header"])
def test_a_stored_result_of_which_a_part_is_missing_is_refused(tmp_path: Path, cut: str) -> None:
    lines = list(write_result(read(tmp_path, result())))
    chunks: Iterable[bytes] = {
        "last line": lines[:-1],
        "in a line": [*lines[:-1], lines[-1][:30]],
        "all": [],
        "header": lines[1:],
    }[cut]

    with pytest.raises(StorageFailed):
        list(read_stored_result(chunks)[1])


def test_entries_become_rows(tmp_path: Path) -> None:
    first, *_ = read(tmp_path, result()).entries
    stored = replace(first, file_key="slicings/a/0001.pdf", file_size=9, file_sha256="0" * 64)

    row, *_ = new_slices([stored])

    assert (row.issue_id, row.file_key, row.file_size, row.tags) == (first.issue_id, stored.file_key, 9, first.tags)


def test_a_fault_of_a_result_is_not_tried_again_and_counts(tmp_path: Path) -> None:
    with pytest.raises(SlicingFault) as refused:
        read(tmp_path, "{}")

    fault = refused.value.fault()
    assert (fault.retried, fault.counts) == (False, True)


def test_an_empty_result_says_nothing_about_the_document() -> None:
    assert SlicerResult(page_count=1).description is None

from __future__ import annotations

import re
from pathlib import Path

import pikepdf
import pytest

from nightmill.slicer.model import Cut, Line, Page
from nightmill.slicer.modes import (
    Bookmark,
    Heading,
    cut_every,
    cut_headings,
    cut_outline,
    cut_ranges,
    read_outline,
    shortened,
)
from nightmill.slicer.ranges import NamedRange, RangeError, pages_as_text, parse_ranges, resolve
from nightmill.slicer.reading import read_pages
from tests.small_pdfs import body, text_pdf


def spans(cut: Cut) -> list[tuple[str, int, int]]:
    return [(piece.name, piece.start_page, piece.end_page) for piece in cut.pieces]


def a_page(index: int, *lines: str) -> Page:
    """A page of lines 20 points high; `# ` begins a bold and centred one of 14 points."""
    found = []
    for number, text in enumerate(lines):
        top = 100.0 + 20 * number
        if text.startswith("# "):
            found.append(Line(text[2:], 256, top, 356, top + 14, 14, bold=True))
        else:
            found.append(Line(text, 72, top, 540, top + 10, 10))
    return Page(index, 612, 792, found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", [("", 4, 4)]),
        ("1-3,4,7-", [("", 1, 3), ("", 4, 4), ("", 7, None)]),
        (" -3 , 5 - 6 ", [("", 1, 3), ("", 5, 6)]),
        ("Preface=1-3,The  law=4-", [("Preface", 1, 3), ("The law", 4, None)]),
        ("a=b=2", [("a=b", 2, 2)]),
    ],
)
def test_page_ranges_are_written_as_people_write_them(text: str, expected: list[tuple[str, int, int | None]]) -> None:
    assert parse_ranges(text) == [NamedRange(*each) for each in expected]


@pytest.mark.parametrize(
    "text", ["", "-", "a", "3-1", "0", "1-2-3", "1 2", "1,,2", "Name=", "9999999999", "٣", "1," * 10_001]
)
def test_what_is_no_page_range_is_refused_with_a_line_for_people(text: str) -> None:
    with pytest.raises(RangeError, match=r"page range|counted from 1"):
        parse_ranges(text)


def test_ranges_end_where_the_document_ends() -> None:
    assert resolve(NamedRange("", 7, None), 9) == (6, 8)
    with pytest.raises(RangeError, match="pages 7-10: the document has 9 pages"):
        resolve(NamedRange("", 7, 10), 9)
    with pytest.raises(RangeError, match="pages 10-: the document has 9 pages"):
        resolve(NamedRange("", 10, None), 9)


def test_pages_are_listed_as_people_do() -> None:
    assert pages_as_text([0, 1, 2, 6, 4, 4]) == "1-3, 5, 7"
    assert pages_as_text(range(0, 100, 2), at_most=2) == "1, 3, …"
    assert pages_as_text([]) == ""


def test_ranges_that_the_document_has_are_cut_and_the_others_are_flags() -> None:
    pages = [a_page(n, f"text of {n}") for n in range(5)]

    cut = cut_ranges(pages, parse_ranges("Start=1-2,2-3,5-,9"))

    assert spans(cut) == [("Start", 0, 1), ("Pages 2-3", 1, 2), ("Page 5", 4, 4)]
    assert cut.flags == ["pages 9: the document has 5 pages"]
    assert cut.pieces[0].full_text == "text of 0\ntext of 1"


def test_every_so_many_pages_the_last_slice_takes_what_is_left() -> None:
    cut = cut_every([a_page(n, "x") for n in range(7)], 3)

    assert spans(cut) == [("Pages 1-3", 0, 2), ("Pages 4-6", 3, 5), ("Page 7", 6, 6)]


def test_headings_cut_texts_exactly_and_share_a_page_only_when_they_begin_inside_it() -> None:
    pages = [
        a_page(0, "foreword"),
        a_page(1, "# DECREE No. 1", "one"),
        a_page(2, "end of one", "# DECREE No. 2", "two, by DECREE No. 1"),
        a_page(3, "# DECREE No. 3", "three"),
    ]

    cut = cut_headings(pages, Heading(re.compile("^DECREE No"), bold=True, centred=True))

    assert spans(cut) == [("Page 1", 0, 0), ("DECREE No. 1", 1, 2), ("DECREE No. 2", 2, 2), ("DECREE No. 3", 3, 3)]
    assert [piece.full_text for piece in cut.pieces] == [
        "foreword",
        "DECREE No. 1\none\nend of one",
        "DECREE No. 2\ntwo, by DECREE No. 1",
        "DECREE No. 3\nthree",
    ]


def test_a_running_header_does_not_make_a_page_shared() -> None:
    header = Line("La Gaceta", 72, 30, 540, 40, 10)
    pages = [a_page(0, "# A 1", "one"), a_page(1, "# A 2", "two")]
    pages[1].lines.insert(0, header)

    cut = cut_headings(pages, Heading(re.compile("^A ")))

    assert spans(cut) == [("A 1", 0, 0), ("A 2", 1, 1)]
    assert cut.pieces[1].full_text == "La Gaceta\nA 2\ntwo"


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        (Heading(re.compile("DECREE")), 3),
        (Heading(re.compile("DECREE"), min_size=12), 2),
        (Heading(re.compile("DECREE"), bold=True), 2),
        (Heading(re.compile("DECREE"), centred=True), 2),
        (Heading(re.compile("no such")), 0),
    ],
)
def test_a_heading_is_only_what_looks_like_one(heading: Heading, expected: int) -> None:
    pages = [a_page(0, "# DECREE 1", "under DECREE 9 it is said", "# DECREE 2")]

    cut = cut_headings(pages, heading)

    assert len(cut.pieces) == expected
    assert bool(cut.flags) == (expected == 0)


def test_centred_is_also_what_is_centred_in_one_of_two_columns() -> None:
    left = [Line(f"l{n}", 40, 100 + n, 290, 110 + n) for n in range(30)]
    right = [Line(f"r{n}", 320, 100 + n, 570, 110 + n) for n in range(30)]
    heads = [Line("H left", 130, 90, 200, 98), Line("H right", 410, 90, 480, 98), Line("H indented", 60, 90, 290, 98)]

    cut = cut_headings([Page(0, 612, 792, [*heads, *left, *right])], Heading(re.compile("^H"), centred=True))

    assert [piece.name for piece in cut.pieces] == ["H left", "H right"]


def test_a_group_of_the_pattern_names_the_slice() -> None:
    cut = cut_headings([a_page(0, "ACT Nº 12 of the council")], Heading(re.compile(r"Nº (?P<name>\d+)")))

    assert spans(cut) == [("12", 0, 0)]


def test_a_long_line_is_tried_only_at_its_beginning() -> None:
    cut = cut_headings([a_page(0, "x" * 600 + "END")], Heading(re.compile("END")))

    assert cut.pieces == []


def test_bookmarks_cut_where_they_lead_also_inside_a_page(tmp_path: Path) -> None:
    pages = [["# Title"], ["# One", *body()], [*body(3), "# Two", *body(2)], ["# Three", *body()]]
    source = text_pdf(tmp_path / "book.pdf", pages, [("One", 1, 0), ("Two", 2, 0), ("Three", 3, 0)])

    cut = cut_outline(list(read_pages(source)), read_outline(source), 1)

    assert spans(cut) == [("Page 1", 0, 0), ("One", 1, 2), ("Two", 2, 2), ("Three", 3, 3)]
    assert cut.pieces[2].full_text.startswith("Two\n")
    assert "Two" not in cut.pieces[1].full_text
    assert cut.flags == []


def test_deeper_bookmarks_know_what_is_above_them(tmp_path: Path) -> None:
    marks = [("Part", 0, 0), ("A", 0, 1), ("B", 1, 1), ("Other", 2, 0)]
    source = text_pdf(tmp_path / "book.pdf", [[f"# {n}", *body()] for n in range(3)], marks)
    pages, bookmarks = list(read_pages(source)), read_outline(source)

    assert spans(cut_outline(pages, bookmarks, 1)) == [("Part", 0, 1), ("Other", 2, 2)]
    deep = cut_outline(pages, bookmarks, 2)
    assert spans(deep) == [("A", 0, 0), ("B", 1, 1), ("Other", 2, 2)]
    assert [piece.extras["path"] for piece in deep.pieces] == [["Part", "A"], ["Part", "B"], ["Other"]]


def test_an_outline_that_runs_in_circles_or_out_of_the_document_ends(tmp_path: Path) -> None:
    source = text_pdf(tmp_path / "a.pdf", [["# a", *body()]] * 2, [("First", 0, 0), ("Second", 1, 0)])
    hostile = tmp_path / "hostile.pdf"
    with pikepdf.open(source) as pdf:
        first = pdf.Root.Outlines.First
        second = first.Next
        second.Next = first
        second.First = first
        pdf.Root.Outlines.Last = pdf.make_indirect(pikepdf.Dictionary(Title="lost", Parent=pdf.Root.Outlines))
        first.Dest = pikepdf.Array([99, pikepdf.Name.XYZ, 0, 1e30, 0])
        pdf.save(hostile)

    bookmarks = read_outline(hostile)

    assert len(bookmarks) < 10
    cut = cut_outline(list(read_pages(hostile)), bookmarks, 15)
    assert ("Second", 1, 1) in spans(cut)
    assert cut.flags == ["bookmarks that lead to no page: 1, such as 'First'"]


def test_a_document_without_bookmarks_has_no_slices_and_says_why() -> None:
    cut = cut_outline([a_page(0, "x")], [Bookmark("nowhere", 1, None)], 1)

    assert cut.pieces == []
    assert cut.flags[-1] == "the document has no bookmarks that lead to its pages"


def test_too_many_slices_are_none() -> None:
    pages = [a_page(0, *["H"] * 10_001)]

    cut = cut_headings(pages, Heading(re.compile("H")))

    assert (cut.pieces, cut.flags) == ([], ["10,001 slices, at most 10,000 are cut: nothing was cut"])


def test_descriptions_end_at_a_word() -> None:
    assert shortened("one  two\nthree", 250) == "one two three"
    assert shortened("one two three", 9) == "one two…"
    assert len(shortened("x" * 400, 250)) == 250

"""The whole engine on printed samples: what it cuts, what it says of them, and what it flags."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from io import BytesIO
from typing import Any

import pikepdf
import pytest

from nightmill.slicer.engine import cut_pages
from nightmill.slicer.model import Cut, Line, Page
from nightmill.slicer.naming import AVISOS, MARCAS
from nightmill.slicer.output import result_of
from nightmill.slicer.reading import read_pages
from nightmill.slicer.samples import Sample, SampleOptions, make_sample
from nightmill.slicer.writing import WrittenFile

OPTIONS = SampleOptions(seed=11, acts=4, pages=11)


def cut(sample: Sample) -> Cut:
    return cut_pages(list(read_pages(sample.pdf)))


def names(found: Cut) -> list[tuple[str, int, int]]:
    return [(piece.name, piece.start_page, piece.end_page) for piece in found.pieces]


def truth(sample: Sample) -> list[tuple[str, int, int]]:
    return [(piece.name, piece.start_page, piece.end_page) for piece in sample.truth.pieces]


def test_a_gazette_without_faults_is_cut_without_flags() -> None:
    sample = make_sample(OPTIONS)
    found = cut(sample)

    assert names(found) == truth(sample)
    assert (found.number, found.issued_on) == (sample.truth.number, sample.truth.issued_on)
    assert found.flags == []
    assert found.extras["sections"] == [
        {"name": each.name, "start_page": each.start_page, "end_page": each.end_page} for each in sample.truth.sections
    ]


def test_texts_end_where_the_next_begins_also_on_a_shared_page() -> None:
    sample = make_sample(replace(OPTIONS, short_acts=True))
    found = cut(sample)

    assert any(piece.on_shared_page for piece in sample.truth.pieces)
    for piece, true in zip(found.pieces, sample.truth.pieces, strict=True):
        assert all(mark in piece.full_text for mark in true.marks)
        others = [mark for other in sample.truth.pieces if other is not true for mark in other.marks]
        assert not [mark for mark in others if mark in piece.full_text]


def test_a_piece_says_what_it_is() -> None:
    found = cut(make_sample(OPTIONS))
    piece = found.pieces[0]

    assert piece.full_text.replace("\n", " ").startswith(f"{piece.issuer} {piece.name}")
    assert piece.tag == piece.name.split(" ")[0].capitalize()
    assert 0 < len(piece.short_description) <= 250 <= 1_250
    assert 0 < len(piece.description) <= 1_250
    assert piece.extras["text_source"] == "digital"
    assert piece.extras["confidence"] == 1.0
    assert "1" in piece.extras["printed_pages"]


def test_trademarks_are_one_piece_that_lists_them() -> None:
    sample = make_sample(OPTIONS)
    (marcas,) = [piece for piece in cut(sample).pieces if piece.name == MARCAS]

    assert [(each["number"], each["international_class"], each["page"]) for each in marcas.extras["records"]] == [
        (each.number, each.international_class, each.page) for each in sample.truth.trademarks
    ]


def test_heads_in_section_b_are_left_in_their_section() -> None:
    found = cut(make_sample(OPTIONS))
    (avisos,) = [piece for piece in found.pieces if piece.name == AVISOS]

    assert avisos.description == ""
    assert [piece.name for piece in found.pieces][-2:] == [AVISOS, MARCAS]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_pages_that_lie_on_their_side_are_cut_as_if_they_stood(rotation: int) -> None:
    sample = make_sample(OPTIONS)
    target = BytesIO()
    with pikepdf.open(BytesIO(sample.pdf)) as pdf:
        for page in pdf.pages:
            page.Rotate = rotation
        pdf.save(target)

    assert names(cut_pages(list(read_pages(target.getvalue())))) == truth(sample)


def test_an_act_that_the_sumario_does_not_have_is_kept_and_flagged() -> None:
    sample = make_sample(replace(OPTIONS, unlisted=True))
    found = cut(sample)
    (unlisted,) = [piece for piece in sample.truth.pieces if not piece.listed and piece.kind != "marcas"]

    assert names(found) == truth(sample)
    assert found.flags == [f"{unlisted.name} on page {unlisted.start_page + 1} is not in the SUMARIO"]


def test_an_act_without_a_head_begins_where_the_sumario_says_and_is_flagged() -> None:
    sample = make_sample(replace(OPTIONS, headless=True))
    found = cut(sample)
    (headless,) = [piece for piece in sample.truth.pieces if piece.headless]
    (inferred,) = [piece for piece in found.pieces if piece.extras.get("inferred")]

    assert inferred.start_page == headless.start_page
    assert inferred.extras["confidence"] < 0.5
    assert [flag for flag in found.flags if "has no head" in flag]


def test_pages_that_the_sumario_has_wrong_move_nothing_and_are_flagged() -> None:
    sample = make_sample(replace(OPTIONS, sumario="wrong"))
    found = cut(sample)

    assert names(found) == truth(sample)
    assert [flag for flag in found.flags if "the SUMARIO has it on" in flag]


def test_a_page_that_is_lost_is_flagged() -> None:
    pages = list(read_pages(make_sample(OPTIONS).pdf))
    lost = [*pages[:-1], replace(pages[-1], lines=[], source="none", problem="it cannot be opened")]
    found = cut_pages(lost)
    result = result_of(found, lost, [WrittenFile(f"{place}.pdf") for place in range(len(found.pieces))], [])

    assert result["flags"] == [f"1 page without usable text (it cannot be opened): {len(pages)}"]
    assert [flag for flag in cut_pages(pages[:-1]).flags if "no multiple of 4" in flag]


def test_a_document_that_is_no_gazette_has_no_pieces_and_says_why() -> None:
    lines = [
        Line(f"A sentence of a book, number {place}.", 72, 80 + 14 * place, 540, 90 + 14 * place, 10)
        for place in range(40)
    ]
    found = cut_pages([Page(0, 612, 792, lines), Page(1, 612, 792, [])])

    assert found.pieces == []
    assert "no heads were found" in found.flags
    assert cut_pages([]).flags == ["the document has no pages"]


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="there are auto, honduras, nicaragua"):
        cut_pages([], "peru")


def test_whatever_the_lines_are_the_engine_ends() -> None:
    chance = random.Random(4)
    words = [
        "DECRETO",
        "No.",
        "4-2014",
        "SUMARIO",
        "A. 1-",
        "Reg. 1",
        "MARCAS DE FÁBRICA",
        "1/ Solicitud: 1-2",
        "\ud83d\ude00",
        "I",
    ]

    def line() -> Line:
        left, top = chance.uniform(-50, 700), chance.uniform(-50, 900)
        text = " ".join(chance.choices(words, k=chance.randint(1, 6)))
        return Line(
            text,
            left,
            top,
            left + chance.uniform(-5, 400),
            top + chance.uniform(-5, 60),
            chance.uniform(0, 80),
            chance.random() < 0.5,
        )

    for profile in ("auto", "honduras", "nicaragua"):
        for _ in range(30):
            pages = [Page(place, 612, 792, [line() for _ in range(30)]) for place in range(5)]
            found: Any = cut_pages(pages, profile)
            assert all(0 <= piece.start_page <= piece.end_page < 5 for piece in found.pieces)


@pytest.mark.parametrize(
    "text", ["A" * 5_000, "DECRETO " * 700, "A. 1 " * 1_000, "." * 5_000, "No. " + "1-" * 2_000, "a a " * 1_500]
)
def test_a_line_made_to_hurt_is_read_in_no_time(text: str) -> None:
    lines = [Line("SUMARIO", 100, 200, 200, 212, 12, bold=True)]
    lines += [Line(text, 40, 215 + 12 * place, 296, 224 + 12 * place, 14, bold=True) for place in range(40)]

    for profile in ("honduras", "nicaragua"):
        cut_pages([Page(place, 612, 792, list(lines)) for place in range(3)], profile)


@pytest.mark.parametrize("country", ["honduras", "nicaragua"])
@pytest.mark.parametrize(
    ("order", "wrong"),
    [
        ((0, 1, 2, 3, 4, 5, 6, 8, 9), {7, 8}),
        ((0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9), {7, 8, 9, 10}),
        ((0, 1, 2, 4, 3, 5, 6, 7, 8, 9), {3, 4}),
    ],
    ids=["missing", "doubled", "out of order"],
)
def test_pages_out_of_their_order_are_flagged(country: Any, order: tuple[int, ...], wrong: set[int]) -> None:
    sample = make_sample(SampleOptions(seed=11, country=country, acts=3, pages=14))
    pages = list(read_pages(sample.pdf))[:10]
    found = cut_pages([replace(pages[page], index=index) for index, page in enumerate(order)])
    (flag,) = [flag for flag in found.flags if "do not add up" in flag]

    counted = {int(word) - 1 for word in re.findall(r"\d+", flag)}
    assert wrong & set(range(min(counted), max(counted) + 1))
    assert not [flag for flag in cut_pages(pages).flags if "do not add up" in flag]


def test_documents_that_only_a_sumario_would_tell_of_are_not_missed_in_silence() -> None:
    sample = make_sample(SampleOptions(seed=11, country="nicaragua", acts=3, pages=8, sumario="none"))

    assert [flag for flag in cut(sample).flags if "there is no SUMARIO" in flag]

"""Reading order: columns, bands, furniture and shadows, on pages made of lines."""

from __future__ import annotations

from nightmill.slicer.columns import ACROSS, Sheet, lay_out
from nightmill.slicer.furniture import sorted_out
from nightmill.slicer.model import Line, Page
from nightmill.slicer.profiles import HONDURAS
from nightmill.slicer.shadows import unshadowed

LEFT, RIGHT = (40.0, 296.0), (316.0, 572.0)


def line(text: str, left: float, top: float, right: float, size: float = 9.0, bold: bool = False) -> Line:
    return Line(text, left, top, right, top + size * 1.1, size, bold)


def column(name: str, edges: tuple[float, float], top: float = 80.0, count: int = 20) -> list[Line]:
    return [line(f"{name} {number} y más texto", edges[0], top + 12 * number, edges[1]) for number in range(count)]


def laid_out(*pages: list[Line]) -> list[Sheet]:
    sheets = sorted_out([Page(place, 612, 792, lines) for place, lines in enumerate(pages)], HONDURAS)
    lay_out(sheets)
    return sheets


def names(sheet: Sheet) -> list[str]:
    return [row.text.split(" ")[0] for row in sheet.rows]


def test_the_left_column_is_read_before_the_right_one() -> None:
    (sheet,) = laid_out([*column("b", RIGHT), *column("a", LEFT)])

    assert names(sheet) == ["a"] * 20 + ["b"] * 20
    assert sheet.gutter is not None
    assert 296 < sheet.gutter < 316


def test_a_wide_line_parts_what_is_above_it_from_what_is_below() -> None:
    above = [*column("a", LEFT, count=10), *column("b", RIGHT, count=10)]
    below = [*column("c", LEFT, 240, 10), *column("d", RIGHT, 240, 10)]
    (sheet,) = laid_out([*below, line("Cuadro de asignaciones", 60, 215, 550), *above])

    assert names(sheet) == ["a"] * 10 + ["b"] * 10 + ["Cuadro"] + ["c"] * 10 + ["d"] * 10
    assert sheet.rows[20].column == ACROSS


def test_a_page_with_one_column_filled_has_the_gutter_of_the_others() -> None:
    full = [*column("a", LEFT), *column("b", RIGHT)]
    first, last = laid_out(full, column("c", LEFT, count=4))

    assert last.gutter == first.gutter
    assert (last.rows[0].column_left, last.rows[0].column_right) == LEFT


def test_a_text_in_one_column_stays_one() -> None:
    (sheet,) = laid_out(column("a", (72.0, 540.0)))

    assert sheet.gutter is None
    assert {row.column for row in sheet.rows} == {0}


def test_parts_of_a_line_are_one_row_in_their_order() -> None:
    (sheet,) = laid_out(
        [*column("a", LEFT), *column("b", RIGHT), line("A. 4", 260, 400, 290), line("Decreto", 48, 401, 90)]
    )

    assert "Decreto A. 4" in [row.text for row in sheet.rows]


def test_only_what_stands_in_the_middle_is_centred() -> None:
    body = [*column("a", LEFT), *column("b", RIGHT)]
    (sheet,) = laid_out([*body, line("DECRETO No. 4-2014", 110, 400, 226), line("Decreto No. 5-2014.", 40, 420, 150)])

    row = {row.text: row for row in sheet.rows}
    assert row["DECRETO No. 4-2014"].is_inset
    assert not row["Decreto No. 5-2014."].is_centred


def test_running_headers_and_labels_are_furniture_and_heads_at_the_top_are_not() -> None:
    pages = [
        [
            line(f"LA GACETA, HOJA {page} DE LA REPÚBLICA", 150, 40, 460),
            line(f"A. {page + 1}", 290, 760, 320),
            line(f"DECRETO No. {page}4-2014" if page == 2 else "texto", 110, 60, 226),
            *column(f"a{page}", LEFT),
            *column(f"b{page}", RIGHT),
        ]
        for page in range(6)
    ]
    sheets = laid_out(*pages)

    assert [item.text for item in sheets[3].furniture] == ["LA GACETA, HOJA 3 DE LA REPÚBLICA", "A. 4", "texto"]
    assert "DECRETO No. 24-2014" in [row.text for row in sheets[2].rows]


def test_a_watermark_of_single_letters_is_furniture_and_numerals_over_paragraphs_are_not() -> None:
    body = [*column("a", LEFT), *column("b", RIGHT)]
    letters = [line(letter, 588, 90 + 12 * place, 593) for place, letter in enumerate("Procesa")]
    numerals = [line("I", 166, 400 + 30 * place, 170) for place in range(7)]
    (sheet,) = laid_out([*body, *letters, *numerals])

    assert [item.text for item in sheet.furniture] == list("Procesa")


def test_shadows_are_read_once() -> None:
    shadowed = [line("Poder Legislativo", 100 + 0.5 * copy, 90 + 0.4 * copy, 230, 16) for copy in range(4)]
    title = line("L L L L L a Gaceta a Gaceta a Gaceta", 100, 40, 300, 40)
    body = line("si si si no", 40, 200, 100)

    assert [item.text for item in unshadowed([*shadowed, title, body], 9.0)] == [
        "Poder Legislativo",
        "La Gaceta",
        "si si si no",
    ]

"""Number and date of a gazette, by the vote of its pages."""

from __future__ import annotations

from datetime import date

import pytest

from nightmill.slicer.checks import masthead_flags
from nightmill.slicer.columns import Sheet
from nightmill.slicer.masthead import Masthead, read_masthead
from nightmill.slicer.model import Line, Page
from nightmill.slicer.profiles import HONDURAS, NICARAGUA, GazetteProfile, profile_for


def sheets(front: str, *headers: str) -> list[Sheet]:
    pages = [Sheet(Page(0, 612, 792), 9.0, [Line(front, 40, 150, 570, 160, 9.0)])]
    for place, header in enumerate(headers, 1):
        pages.append(Sheet(Page(place, 612, 792), 9.0, [], [Line(header, 40, 44, 570, 53, 7.5)]))
    return pages


def read(profile: GazetteProfile, front: str, *headers: str) -> Masthead:
    return read_masthead(sheets(front, *headers), profile)


FRONT = "AÑO CXXXVII TEGUCIGALPA, M. D. C., HONDURAS, C. A. JUEVES 26 DE JUNIO DEL 2014. NUM. 33,463"
HEADER = "Sección A Acuerdos y Leyes REPÚBLICA DE HONDURAS - TEGUCIGALPA, M. D. C., 26 DE JUNIO DEL 2014 No. 33,463"


@pytest.mark.parametrize(
    "front",
    [
        FRONT,
        FRONT.replace("NUM.", "NÚM."),
        FRONT.replace("NUM.", "No."),
        FRONT.replace(" DEL 2014.", "  DE 2014."),
        FRONT.replace("33,463", "33.463"),
        FRONT.replace("33,463", "33463"),
    ],
)
def test_every_spelling_of_the_masthead_is_read(front: str) -> None:
    found = read(HONDURAS, front)

    assert (found.number, found.issued_on) == ("33,463", date(2014, 6, 26))
    assert found.weekday_agrees
    assert masthead_flags(found) == []


def test_the_majority_is_right_where_a_page_is_misprinted() -> None:
    found = read(HONDURAS, FRONT, HEADER, HEADER.replace("33,463", "36,643"), HEADER)

    assert found.number == "33,463"
    assert found.numbers == {"33,463": 3, "36,643": 1}
    assert masthead_flags(found) == []


def test_a_wrong_weekday_is_flagged() -> None:
    assert masthead_flags(read(HONDURAS, FRONT.replace("JUEVES", "MARTES"))) == [
        "the printed weekday is not that of 2014-06-26"
    ]


def test_a_number_that_no_issue_of_that_day_can_have_is_flagged() -> None:
    assert masthead_flags(read(HONDURAS, FRONT.replace("33,463", "34,463"))) == [
        "number 34,463 does not fit the date 2014-06-26"
    ]


@pytest.mark.parametrize(
    ("number", "day"), [("33,463", date(2014, 6, 26)), ("33,431", date(2014, 5, 20)), ("36,739", date(2025, 1, 11))]
)
def test_true_numbers_fit_their_dates(number: str, day: date) -> None:
    assert HONDURAS.is_plausible(number, day)


def test_pages_that_do_not_agree_are_flagged() -> None:
    headers = [HEADER.replace("33,463", f"33,46{digit}") for digit in (1, 5, 7)]

    assert "the pages do not agree on the gazette's number and date" in masthead_flags(read(HONDURAS, FRONT, *headers))


def test_what_is_missing_is_flagged() -> None:
    assert masthead_flags(read(HONDURAS, "nothing of it")) == [
        "the gazette's number was not found",
        "the gazette's date was not found",
    ]


def test_a_date_that_does_not_exist_is_none() -> None:
    assert read(HONDURAS, FRONT.replace("26 DE JUNIO", "31 DE JUNIO")).issued_on is None


def test_la_gaceta_of_nicaragua_has_short_headers() -> None:
    found = read(
        NICARAGUA,
        "AÑO CXVIII Managua, Martes 11 de Noviembre de 2014 No. 214",
        *["11-11-14 LA GACETA - DIARIO OFICIAL 214"] * 3,
    )

    assert (found.number, found.issued_on, found.numbers) == ("214", date(2014, 11, 11), {"214": 4})
    assert masthead_flags(found) == []


def test_the_masthead_tells_which_gazette_it_is() -> None:
    assert profile_for([FRONT]).name == "honduras"
    assert profile_for(["LA GACETA DIARIO OFICIAL", "Managua, Martes 11 de Noviembre de 2014"]).name == "nicaragua"

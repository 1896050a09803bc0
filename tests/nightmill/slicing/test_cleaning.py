from __future__ import annotations

import unicodedata
from datetime import date

import pytest

from nightmill.slicing.cleaning import clean, is_letter, shortened
from nightmill.slicing.dates import in_words, read_date


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("DECRETO No. 1", "DECRETO No. 1"),
        ("Óscar", "Óscar"),
        ("Ñacaome", "Ñacaome"),
        ("— Ángel", "Ángel"),
        ("¿Qué?", "Qué?"),
        ("“Índice”", "Índice”"),
        ("1.- Único", "Único"),
        ("3.º Émile", "Émile"),
        ("2ª Edición", "Edición"),
        ("378-A-2014", "A-2014"),
        ("\u0301Oscar", "Oscar"),
        ("O\u0301scar", "O\u0301scar"),
        ("\n\t 12.- Acuerdo \n", "Acuerdo"),
        ("Άρθρο", "Άρθρο"),
        ("12/34 …", ""),
        ("", ""),
    ],
)
def test_a_text_begins_with_its_first_letter_and_accented_ones_are_letters(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_cleaning_drops_nothing_but_what_stands_before_the_first_letter_whatever_the_characters() -> None:
    debris = [chr(code) for code in range(0x20, 0x3000) if not is_letter(chr(code))]
    letters = [chr(code) for code in range(0x20, 0x3000) if unicodedata.category(chr(code)) in {"Lu", "Ll"}]

    assert clean("".join(debris) + "Fin") == "Fin"
    assert all(clean(f"12. {letter}x1-") == f"{letter}x1-" for letter in letters)
    assert all(clean(clean(text)) == clean(text) for text in ("  1a ", "é", "…", "a\n"))


def test_what_is_too_long_ends_in_an_ellipsis() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abc defg", 6) == "abc d…"
    assert shortened("abcd efg", 6) == "abcd…"


@pytest.mark.parametrize(
    "printed",
    [
        "2014-06-26",
        "2014-06-26T00:00:00Z",
        "26 de junio de 2014",
        "26 de junio del 2014",
        "JUEVES 26 DE JUNIO DEL 2014.",
        "Jueves, 26 de  junio, de 2014",
        "26 de junio del año 2014",
        "26/06/2014",
        "26-6-2014",
        " 26 DE JUNIO\nDE 2014 ",
    ],
)
def test_a_date_is_read_as_gazettes_print_it(printed: str) -> None:
    assert read_date(printed) == date(2014, 6, 26)


@pytest.mark.parametrize("month", range(1, 13))
def test_a_date_in_words_is_read_again(month: int) -> None:
    day = date(2020, month, 9)

    assert read_date(in_words(day)) == day


def test_setiembre_is_september() -> None:
    assert read_date("1ro de setiembre de 1999") == date(1999, 9, 1)


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "26",
        "2014-02-30",
        "31 de abril de 2014",
        "26 de brumario de 2014",
        "0001-01-01",
        "26/06/14",
        "no date",
        "9" * 99,
    ],
)
def test_what_is_no_date_is_none(printed: str) -> None:
    assert read_date(printed) is None

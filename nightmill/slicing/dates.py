"""Dates as gazettes print them."""

from __future__ import annotations

import re
import unicodedata
from datetime import date

_MONTHS = (
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split()  # noqa: SIM905 - a table reads better on one line
)
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)} | {"setiembre": 9}
_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[t ].{0,40})?")
_IN_WORDS = re.compile(r"(?:[a-z]+,? )?(\d{1,2})(?:o|ro)? de ([a-z]+),? del? (?:ano )?(\d{4})\.?")
_IN_NUMBERS = re.compile(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})")
_FIRST_YEAR, _LAST_YEAR = 1800, 2199


def read_date(text: str) -> date | None:
    """Return the date that a short text is: `2014-06-26`, `JUEVES 26 DE JUNIO DEL 2014` or `26/06/2014`, day first.

    None for anything else, also for days that no calendar has and for years before 1800 or after 2199.
    """
    folded = "".join(c for c in unicodedata.normalize("NFKD", text[:100]) if not unicodedata.combining(c))
    folded = " ".join(folded.casefold().split())
    if found := _ISO.fullmatch(folded):
        year, month, day = map(int, found.groups())
    elif found := _IN_WORDS.fullmatch(folded):
        day, month, year = int(found[1]), _MONTH_NUMBERS.get(found[2], 0), int(found[3])
    elif found := _IN_NUMBERS.fullmatch(folded):
        day, month, year = map(int, found.groups())
    else:
        return None
    try:
        return date(year, month, day) if _FIRST_YEAR <= year <= _LAST_YEAR else None
    except ValueError:
        return None


def in_words(day: date) -> str:
    """Return a date in Spanish: `26 de junio de 2014`."""
    return f"{day.day} de {_MONTHS[day.month - 1]} de {day.year}"

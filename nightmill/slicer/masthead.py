"""Reads a gazette's number and date, which every page prints: the majority is right where one page is misprinted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date

from nightmill.slicer.columns import Sheet
from nightmill.slicer.furniture import EDGE
from nightmill.slicer.naming import fold
from nightmill.slicer.profiles import MONTHS, WEEKDAYS, WRITTEN_DATE, GazetteProfile

FRONT = 0.4
"""Of the first page's height: the masthead stands above."""


@dataclass(slots=True)
class Masthead:
    """What the pages agree on.

    Attributes:
        number: The number as it is printed.
        issued_on: The date.
        agreement: The share of the votes, from 0 to 1, that number and date have, the lesser of both.
        weekday_agrees: Whether the printed weekday is that of the date; None where none is printed.
        is_plausible: Whether the number can be that of the date; None where one of them is missing.
        numbers: The votes for each number.
        dates: The votes for each date, ISO 8601.
    """

    number: str | None = None
    issued_on: date | None = None
    agreement: float = 0.0
    weekday_agrees: bool | None = None
    is_plausible: bool | None = None
    numbers: dict[str, int] = field(default_factory=dict)
    dates: dict[str, int] = field(default_factory=dict)


def read_masthead(sheets: Sequence[Sheet], profile: GazetteProfile) -> Masthead:
    """Return number and date by the vote of the front page's masthead and of all running headers."""
    numbers: Counter[str] = Counter()
    dates: Counter[date] = Counter()
    weekdays: dict[date, bool] = {}
    for text in _texts(sheets):
        if found := profile.number_folded.search(text):
            numbers[profile.printed(found.group(1))] += 1
        for day, weekday in _dates(text, profile):
            dates[day] += 1
            if weekday:
                weekdays[day] = weekdays.get(day, True) and WEEKDAYS[day.weekday()] == weekday
    masthead = Masthead(numbers=dict(numbers), dates={day.isoformat(): count for day, count in dates.items()})
    shares = []
    if numbers:
        masthead.number, votes = numbers.most_common(1)[0]
        shares.append(votes / numbers.total())
    if dates:
        masthead.issued_on, votes = dates.most_common(1)[0]
        masthead.weekday_agrees = weekdays.get(masthead.issued_on)
        shares.append(votes / dates.total())
    masthead.agreement = min(shares, default=0.0)
    if masthead.number and masthead.issued_on:
        masthead.is_plausible = profile.is_plausible(masthead.number, masthead.issued_on)
    return masthead


def _texts(sheets: Sequence[Sheet]) -> Iterator[str]:
    """Give the folded text of the first page's upper part, and of every other page's upper edge."""
    for sheet in sheets:
        height = sheet.page.height * (FRONT if sheet.page.index == 0 else EDGE)
        above = [line for line in sheet.furniture if line.bottom <= height]
        if sheet.page.index == 0 or not above:
            above += [line for line in sheet.lines if line.bottom <= height]
        above.sort(key=lambda line: (round(line.top / 12), line.left) if sheet.page.index == 0 else (0, line.left))
        if above:
            yield fold(" ".join(line.text for line in above))


def _dates(text: str, profile: GazetteProfile) -> Iterator[tuple[date, str | None]]:
    for found in WRITTEN_DATE.finditer(text):
        day = _date(int(found["year"]), MONTHS[found["month"]], int(found["day"]))
        if day is not None:
            yield day, found["weekday"]
    if profile.short_date is not None:
        for found in profile.short_date.finditer(text):
            year = int(found["year"])
            day = _date(year if year > 99 else 2000 + year, int(found["month"]), int(found["day"]))
            if day is not None:
                yield day, None


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None

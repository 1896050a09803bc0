"""Finds where acts begin: heads, which stand alone and centred in their column, and the institutions over them.

Bodies cite other acts all the time, so that words alone tell nothing: a line is a head for how it stands on the page.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nightmill.slicer.columns import Row
from nightmill.slicer.naming import ActKey, act_key, fold, number_key, squeezed
from nightmill.slicer.profiles import GazetteProfile

LONGEST = 120
"""Characters of a head's line; longer ones are not looked at."""

ISSUER_ROWS = 5
"""Rows of an institution's name at most."""

BETWEEN = 3
"""Rows between an institution and its act's head at most."""

SAME_SIZE = 0.4
"""Points between two lines of one type; recognized lines of one type differ by that much, too."""

_LARGER = 1.0
WITH_BOLD = 0.2
"""Of the pages: where fewer have bold text, the type does not tell it, and bold are only a scan's stamps."""

MOSTLY = 0.6
"""Of the text: where more is bold, bold tells nothing."""

_OPEN_END = re.compile(r"(?:\b(?:de|del|al?|el|la|los|las|y|e|en|con|por|mediante|para|segun|sobre|que|su)|[,-])$")
_REGISTERED = re.compile(r"reg[.,]?\s*(?:no?\.?\s*)?\d")
_NOT_ISSUER = re.compile(r"[:;=]|\d{2}|\.\s*$")


@dataclass(frozen=True, slots=True)
class Type:
    """What the document's type tells.

    Attributes:
        bodies: The size of the running text, by page.
        has_bold: Whether it tells bold type from other; recognized text does not.
    """

    bodies: Sequence[float]
    has_bold: bool

    def is_large(self, row: Row) -> bool:
        """Whether the row is larger than the running text by a point or more."""
        return row.size >= self.bodies[row.page] + _LARGER

    def stands_out(self, row: Row) -> bool:
        """Whether the row is bold or large; where that is unknown, whether it stands apart in the column's middle."""
        return row.bold or self.is_large(row) or (not self.has_bold and row.is_inset)


@dataclass(slots=True)
class Issuer:
    """An institution's name over one or several rows.

    Attributes:
        first: The place of its first row.
        last: That of its last one.
        name: The name.
    """

    first: int
    last: int
    name: str


@dataclass(slots=True)
class Head:
    """Where an act begins.

    Attributes:
        first: The place of the row with which its slice begins: the institution's, where that stands over the head.
        row: The place of the head's first row.
        last: The place of the head's last row.
        name: The head as it is printed.
        kind: The kind of act: `DECRETO EJECUTIVO`.
        key: What tells it from others.
        issuer: The institution.
    """

    first: int
    row: int
    last: int
    name: str
    kind: str
    key: ActKey
    issuer: str = ""


def type_of(rows: Sequence[Row], bodies: Sequence[float]) -> Type:
    """Return what the document's type tells."""
    near = [row for row in rows if row.size <= bodies[row.page] + 3]
    bold = [row for row in near if row.bold]
    share = sum(len(row.text) for row in bold) / max(sum(len(row.text) for row in near), 1)
    pages = {row.page for row in near}
    return Type(bodies, len({row.page for row in bold}) > WITH_BOLD * len(pages) and share <= MOSTLY)


def find_heads(rows: Sequence[Row], kind: Type, profile: GazetteProfile, left_out: Collection[int]) -> list[Head]:
    """Return the heads of acts, in order, without their institutions.

    Args:
        rows: The document in reading order.
        kind: Its type.
        profile: Whose grammar it is.
        left_out: Places of rows that are no text: those of the SUMARIO.
    """
    heads: list[Head] = []
    place = 0
    while place < len(rows):
        head = None if place in left_out else _head_at(rows, place, kind, profile, left_out)
        if head is not None:
            heads.append(head)
            place = head.last
        place += 1
    return heads


def _head_at(
    rows: Sequence[Row], place: int, kind: Type, profile: GazetteProfile, left_out: Collection[int]
) -> Head | None:
    row = rows[place]
    text = row.text.strip()
    if not text[:1].isupper() or len(text) > LONGEST or not (kind.stands_out(row) and row.is_centred):
        return None
    found = profile.act.match(text)
    if found is None:
        return None
    last = place
    whole = profile.act.fullmatch(text)
    if (whole is None or whole["number"] is None) and place + 1 < len(rows) and place + 1 not in left_out:
        following = rows[place + 1]
        if following.is_centred and _same_type(row, following) and following.page == row.page:
            joined = profile.act.fullmatch(f"{text} {following.text.strip()}"[:LONGEST])
            if joined is not None and joined["number"] is not None:
                whole, last, text = joined, place + 1, f"{text} {following.text.strip()}"
    if whole is None or not (row.is_inset or row.bold or kind.is_large(row)):
        return None
    if whole["number"] is None and fold(whole["kind"]) not in profile.bare:
        return None
    if _goes_on(rows, place):
        return None
    name = squeezed(text).rstrip(" .:;\u2013-")
    key = act_key(name)
    if whole["number"] is not None:
        key = ActKey(key.kind, number_key(whole["number"]))
    return Head(place, place, last, name, squeezed(whole["kind"]), key)


def _goes_on(rows: Sequence[Row], place: int) -> bool:
    """Whether the row is a part of the sentence before it: a title that cites an act, line by line."""
    if place == 0:
        return False
    before, row = rows[place - 1], rows[place]
    return (
        before.is_centred
        and _same_type(before, row)
        and _is_next(before, row)
        and _OPEN_END.search(fold(before.text)) is not None
    )


def _same_type(one: Row, other: Row) -> bool:
    return abs(one.size - other.size) <= SAME_SIZE and one.bold == other.bold


def _is_next(one: Row, other: Row, gap: float = 1.0) -> bool:
    """Whether the second row stands under the first one in the same column, with less than a line between."""
    if one.page != other.page or one.column != other.column:
        return False
    return other.top - one.bottom < gap * (one.bottom - one.top)


def find_issuers(
    rows: Sequence[Row],
    kind: Type,
    profile: GazetteProfile,
    heads: Sequence[Head],
    left_out: Collection[int],
    known: Collection[str] = (),
) -> list[Issuer]:
    """Return the institutions' names that stand as heads, in order.

    One is taken for a head where it is larger than the text, or where a head or a registration line follows it.

    Args:
        rows: The document in reading order.
        kind: Its type.
        profile: Whose words they are.
        heads: The acts' heads.
        left_out: Places of rows that are no text.
        known: The folded names that the SUMARIO has.
    """
    starts = {head.row for head in heads}
    issuers: list[Issuer] = []
    place = 0
    while place < len(rows):
        issuer = None if place in left_out or place in starts else _issuer_at(rows, place, kind, profile, starts)
        if issuer is not None and (
            (kind.has_bold and kind.is_large(rows[place]))
            or _is_followed(rows, issuer, starts, BETWEEN * (2 if fold(issuer.name) in known else 1))
        ):
            issuers.append(issuer)
            place = issuer.last
        place += 1
    return issuers


def _issuer_at(
    rows: Sequence[Row], place: int, kind: Type, profile: GazetteProfile, starts: Collection[int]
) -> Issuer | None:
    row = rows[place]
    if not (kind.stands_out(row) and row.is_centred and row.text.strip()[:1].isupper()):
        return None
    folded = fold(row.text[:LONGEST])
    if not profile.issuer_folded.match(folded) or _NOT_ISSUER.search(folded):
        return None
    last = place
    while (
        last + 1 < len(rows)
        and last + 1 not in starts
        and last - place < ISSUER_ROWS - 1
        and _same_type(row, rows[last + 1])
        and rows[last + 1].is_centred
        and _is_next(rows[last], rows[last + 1], 0.6)
        and not _NOT_ISSUER.search(fold(rows[last + 1].text))
        and not _REGISTERED.match(fold(rows[last + 1].text))
    ):
        last += 1
    name = squeezed(" ".join(rows[each].text for each in range(place, last + 1)))
    return Issuer(place, last, name)


def _is_followed(rows: Sequence[Row], issuer: Issuer, starts: Collection[int], within: int) -> bool:
    for place in range(issuer.last + 1, min(issuer.last + 2 + within, len(rows))):
        if place in starts or _REGISTERED.match(fold(rows[place].text)):
            return True
        if not rows[place].is_centred:
            return False
    return False


def with_issuers(heads: Sequence[Head], issuers: Sequence[Issuer], rows: Sequence[Row]) -> None:
    """Give each head its institution: the last one before it. The slice begins there if nothing stands between."""
    previous = -1
    queue = list(issuers)
    current: Issuer | None = None
    for head in heads:
        while queue and queue[0].first < head.row:
            current = queue.pop(0)
        if current is None:
            continue
        head.issuer = current.name
        if (
            current.first > previous
            and head.row - current.last <= BETWEEN + 1
            and _nothing_between(rows, current, head)
        ):
            head.first = current.first
        previous = head.last


def _nothing_between(rows: Sequence[Row], issuer: Issuer, head: Head) -> bool:
    return all(rows[place].is_centred for place in range(issuer.last + 1, head.row))

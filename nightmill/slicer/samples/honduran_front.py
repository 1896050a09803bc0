"""What stands around the text of a Honduran gazette: masthead, SUMARIO, running headers and page labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from random import Random

from nightmill.slicer.samples import prose
from nightmill.slicer.samples.honduran_acts import Act
from nightmill.slicer.samples.options import SampleOptions
from nightmill.slicer.samples.press import (
    BODY_BOTTOM,
    COLUMN,
    GUTTER,
    MARGIN,
    WIDTH,
    Line,
    Rule,
    Run,
    Sheet,
    Style,
    height,
    lines_of,
    placed,
    wrapped,
)
from nightmill.slicer.samples.truth import Truth

FULL = WIDTH - 2 * MARGIN
BOX_TOP = 206.0
MAX_BOX = 440.0
"""Points; what does not fit into the box is not listed."""
PAD = 8.0


@dataclass(frozen=True, slots=True)
class Issue:
    """Number, date and spelling of an issue."""

    number: str
    issued: date
    spelling: int
    extra: bool

    @property
    def day(self) -> str:
        """The date in capitals: `26 DE JUNIO DEL 2014`."""
        return prose.spelled(self.issued, ("del", "de")[self.spelling // 2 % 2]).upper()

    @property
    def sign(self) -> str:
        """What the masthead puts before the number."""
        return ("NUM.", "NÚM.", "No.")[self.spelling % 3]

    def label(self, section: str, page: int) -> str:
        """Return a page's label."""
        return (f"{section}. {page}", f"{page} {section}.", f"{section}.{page}")[self.spelling // 3 % 3]


@dataclass(slots=True)
class _Entry:
    """A line of the SUMARIO: its text, and the acts whose pages it tells."""

    text: str
    places: list[int] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


@dataclass(slots=True)
class Sumario:
    """The box on the first page. Its height is known before the pages are; what it says of them is set last."""

    options: SampleOptions
    acts: list[Act]
    advance: bool
    style: Style
    chance: Random
    where: str = ""
    height: float = 0.0
    _entries: list[_Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make up its entries and measure them."""
        if self.options.sumario == "none":
            return
        self.where = self.chance.choice(("right top", "right bottom", "left"))
        small = Style(self.style.font, 8)
        title = Style("Helvetica-Bold", 7.5, "center", gap=4)
        self.height = 2 * PAD
        self._add(_Entry("", lines=lines_of(["SUMARIO"], Style("Times-Bold", 11, "center"))))
        self._add(_Entry("", lines=lines_of(["Sección A", "Decretos y Acuerdos"], Style("Times-Bold", 8, "center"))))
        listed = [place for place, act in enumerate(self.acts) if act.listed]
        for issuer, group in groupby(listed, key=lambda place: self.acts[place].issuer):
            entries = [_Entry(_named([self.acts[place] for place in many]), many) for many in self._joined(list(group))]
            head = _Entry("", lines=wrapped(" ".join(issuer).upper(), title, COLUMN - 2 * PAD))
            for entry in entries:
                entry.lines = wrapped(entry.text, small, COLUMN - 2 * PAD - 62)
            if self.height + height(head.lines) + sum(height(entry.lines) for entry in entries) > MAX_BOX:
                break
            for entry in (head, *entries):
                self._add(entry)
        if self.advance:
            self._add(_Entry("AVANCE", [len(self.acts)], wrapped("AVANCE", small, COLUMN)))
        if self.options.section_b:
            strong = Style("Times-Bold", 8, "center", gap=6)
            self._add(_Entry("", lines=lines_of(["Sección B"], strong)))
            self._add(_Entry("B", [-1], wrapped("Avisos Legales", small, COLUMN)))
            self._add(_Entry("", lines=lines_of(["Desprendible para su comodidad"], Style("Times-Roman", 8, "center"))))

    @property
    def listed(self) -> set[int]:
        """The acts that it has."""
        return {place for entry in self._entries for place in entry.places}

    def set(self, sheet: Sheet, truth: Truth, a_end: int) -> None:
        """Set it on the first page."""
        if not self._entries:
            return
        left = MARGIN if self.where == "left" else MARGIN + COLUMN + GUTTER
        top = BODY_BOTTOM - self.height if self.where == "right bottom" else BOX_TOP
        right, bottom = left + COLUMN, top + self.height
        sheet.rules += [
            Rule(left, top, right, top), Rule(right, top, right, bottom), Rule(left, bottom, right, bottom),
            Rule(left, top, left, bottom),
        ]  # fmt: skip
        y = top + PAD
        column = 0 if self.where == "left" else 1
        for entry in self._entries:
            for line in entry.lines:
                y += line.height
                sheet.runs.append(placed(line, left + PAD, y - 2, COLUMN - 2 * PAD))
                sheet.runs[-1].column = column
            if entry.places:
                pages = Line(self._pages(entry, truth, a_end), Style(self.style.font, 8, "right"))
                sheet.runs.append(placed(pages, left + PAD, y - 2, COLUMN - 2 * PAD))
                sheet.runs[-1].column = column

    def _add(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self.height += height(entry.lines)

    def _joined(self, places: list[int]) -> list[list[int]]:
        """Return acts in runs that share an entry."""
        runs: list[list[int]] = []
        for place in places:
            act, last = self.acts[place], self.acts[runs[-1][-1]] if runs else None
            together = last is not None and last.kind is act.kind and not (last.headless or act.headless)
            if together and act.number and runs[-1][-1] == place - 1 and self.options.spelling % 4:
                runs[-1].append(place)
            else:
                runs.append([place])
        return runs

    def _pages(self, entry: _Entry, truth: Truth, a_end: int) -> str:
        spelling = self.options.spelling // 5 % 3
        section = "A"
        if entry.text == "B":
            section, first, last = "B", 1, truth.page_count - a_end - 1
        else:
            first = truth.pieces[entry.places[0]].start_page + 1
            last = truth.pieces[entry.places[-1]].end_page + 1
            if self.options.sumario == "wrong":
                shift = self.chance.choice((-2, -1, 1, 2, 3))
                first, last = max(1, first + shift), max(1, last + shift)
        gap = "" if spelling == 1 else " "
        if first == last:
            return f"{section}.{gap}{first}"
        return f"{section}.{gap}{first} - {last}" if spelling == 2 else f"{section}.{gap}{first}-{last}"


def _named(acts: list[Act]) -> str:
    kind = acts[0].kind
    if len(acts) > 1:
        numbers = [act.number for act in acts]
        return f"{kind.several} Nos.: {', '.join(numbers[:-1])} y {numbers[-1]}"
    return " ".join(part for part in (kind.single, "No." if kind.sign else "", acts[0].number) if part)


@dataclass(frozen=True, slots=True)
class Furniture:
    """Masthead, running headers and labels."""

    issue: Issue
    options: SampleOptions
    a_end: int

    def set(self, sheets: list[Sheet], chance: Random) -> None:
        """Set them on all pages."""
        misprinted = chance.randrange(1, len(sheets)) if self.options.misprint and len(sheets) > 4 else -1
        self._masthead(sheets[0])
        corner = chance.random() < 0.5
        for page, sheet in enumerate(sheets):
            in_a = page <= self.a_end
            label = self.issue.label("A" if in_a else "B", page + 1 if in_a else page - self.a_end)
            align = "center" if not corner else ("right", "left")[page % 2]
            style = Style("Times-Bold", 9, "right" if align == "right" else "left" if align == "left" else "center")
            sheet.runs.append(placed(Line(label, style), MARGIN, 770, FULL))
            if page:
                number = f"{chance.randint(30_000, 39_999):,}" if page == misprinted else self.issue.number
                self._header(sheet, page, in_a, number)
            if page == self.a_end + 1 and self.issue.spelling % 2:
                big = Style("Times-Bold", 22, "center", shadow=4)
                sheet.runs.append(placed(Line("Sección B   Avisos Legales", big), MARGIN, 100, FULL))

    def _masthead(self, sheet: Sheet) -> None:
        issue = self.issue
        center = Style("Times-Bold", 10, "center")
        # The initial is larger than the rest, and both are printed over themselves.
        sheet.runs.append(Run(170, 96, "L", "Times-BoldItalic", 70, shadow=5))
        sheet.runs.append(Run(214, 96, "a Gaceta", "Times-BoldItalic", 58, shadow=4))
        sheet.runs.append(placed(Line("DIARIO OFICIAL DE LA REPÚBLICA DE HONDURAS", center), MARGIN, 124, FULL))
        if issue.extra:
            sheet.runs.append(placed(Line("EDICIÓN EXTRAORDINARIA", center), MARGIN, 140, FULL))
        blank = " " * (1 + issue.spelling % 4)
        line = (
            f"AÑO {_roman(issue.issued.year - 1_877)}{blank}TEGUCIGALPA, M. D. C., HONDURAS, C. A.{blank}"
            f"{prose.WEEKDAYS[issue.issued.weekday()].upper()} {issue.day}.{blank}{issue.sign} {issue.number}"
        )
        sheet.runs.append(placed(Line(line, Style("Times-Bold", 9, "center")), MARGIN, 160, FULL))
        sheet.rules.append(Rule(MARGIN, 166, WIDTH - MARGIN, 166))
        sheet.runs.append(placed(Line("Sección A", Style("Times-Bold", 20, "center", shadow=3)), MARGIN, 192, FULL))

    def _header(self, sheet: Sheet, page: int, in_a: bool, number: str) -> None:
        style = Style("Times-Roman", 7.5)
        section = Line("Sección A  Acuerdos y Leyes" if in_a else "Sección B  Avisos Legales", style)
        middle = Line(
            f"REPÚBLICA DE HONDURAS - TEGUCIGALPA, M. D. C., {self.issue.day}", Style("Times-Roman", 7.5, "center")
        )
        right = Line(f"No. {number}", Style("Times-Roman", 7.5, "right"))
        sheet.runs.append(placed(section, MARGIN, 52, FULL))
        sheet.runs.append(placed(middle, MARGIN, 52, FULL))
        sheet.runs.append(placed(right, MARGIN, 52, FULL))
        x = 270.0 if page % 2 else 290.0
        sheet.runs.append(Run(x, 36, "L", "Times-BoldItalic", 16, shadow=5))
        sheet.runs.append(Run(x + 10, 36, "a Gaceta", "Times-BoldItalic", 13, shadow=3))
        sheet.rules.append(Rule(MARGIN, 57, WIDTH - MARGIN, 57))


def _roman(number: int) -> str:
    text = ""
    for value, digits in (
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ):
        while number >= value:
            text += digits
            number -= value
    return text

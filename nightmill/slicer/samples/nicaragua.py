"""Sets an invented La Gaceta of Nicaragua: a front page of masthead and SUMARIO, pages numbered through the year."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random

from nightmill.slicer.samples import prose
from nightmill.slicer.samples.options import SampleOptions
from nightmill.slicer.samples.press import (
    COLUMN,
    GUTTER,
    MARGIN,
    WIDTH,
    Line,
    Press,
    Rule,
    Sheet,
    Style,
    bolder,
    filler,
    height,
    lines_of,
    placed,
    text_width,
    wrapped,
)
from nightmill.slicer.samples.truth import MARCAS, Begun, Trademark, Truth, ended

FULL = WIDTH - 2 * MARGIN
LINES_A_PAGE = 116
_ISSUERS = (
    ("MINISTERIO DE GOBERNACIÓN",), ("MINISTERIO DE EDUCACIÓN",), ("MINISTERIO DE ENERGÍA Y MINAS",),
    ("MINISTERIO DE FOMENTO,", "INDUSTRIA Y COMERCIO"), ("INSTITUTO NACIONAL FORESTAL",),
    ("EMPRESA NICARAGÜENSE DE ACUEDUCTOS", "Y ALCANTARILLADOS SANITARIOS"),
    ("DIRECCIÓN GENERAL", "DE SERVICIOS ADUANEROS"), ("MINISTERIO DEL AMBIENTE", "Y DE LOS RECURSOS NATURALES"),
    ("COMISIÓN NACIONAL DE REGISTRO", "Y CONTROL DE", "SUSTANCIAS TÓXICAS"), ("CASA DE GOBIERNO",),
)  # fmt: skip
_KINDS = (
    ("acuerdo", "Acuerdo Ministerial N° {n:03}-{year}"),
    ("acuerdo", "Acuerdo Presidencial N° {n}-{year}"),
    ("acuerdo", "Acuerdo Ministerial No-{n:03}-DM-{n}-{year}"),
    ("resolucion", "Resolución Administrativa N° {n}-{year}"),
    ("decreto", "Decreto N° {n}-{year}"),
)
_LISTED_KINDS = (
    ("licitacion", "Licitación Selectiva N° {n:03}-{year}"),
    ("estatutos", "Estatutos “Fundación {name}”"),
    ("edictos", "Edictos"),
)
"""Heads of these are found by the SUMARIO alone."""
MAX_LISTED = 14
"""So many entries have room on the front page."""


@dataclass(slots=True)
class _Entry:
    """An entry of the SUMARIO, with its text in the issue."""

    kind: str
    name: str
    issuer: tuple[str, ...]
    issuer_shown: bool
    listed: bool
    mark: str
    lines: int
    place: str
    records: list[Trademark] = field(default_factory=list)
    head: list[Line] = field(default_factory=list)


def compose(options: SampleOptions) -> tuple[list[Sheet], Truth]:
    """Return the pages and what is true of them."""
    chance = Random(f"nicaragua {options.seed}")  # noqa: S311 - a sample, not a secret
    issued = date(2012, 1, 9) + timedelta(days=chance.randrange(4_000))
    while issued.weekday() > 4:
        issued += timedelta(days=1)
    weekdays = sum(
        date.fromordinal(day).weekday() < 5
        for day in range(date(issued.year, 1, 1).toordinal(), issued.toordinal() + 1)
    )
    number = max(1, weekdays - chance.randint(2, 10))
    first_printed = 1 + (number - 1) * 42 + chance.randrange(20)
    style = Style(chance.choice(("Times-Roman", "Helvetica")), chance.choice((8.5, 9.0)), "both", gap=4)
    entries = _plan(options, issued, chance)
    for entry in entries:
        entry.head = _head(entry, style, chance)
    press = Press(front=())
    begun = [
        _set(press, entry, entries[place + 1 : place + 2], options, issued, style, chance)
        for place, entry in enumerate(entries)
    ]
    pages = len(press.sheets)
    truth = Truth(
        country="nicaragua",
        number=str(number),
        issued_on=issued.isoformat(),
        page_count=pages,
        pieces=ended(begun, pages - 1),
        trademarks=tuple(record for entry in entries for record in entry.records),
        has_sumario=options.sumario != "none",
        password="gaceta" if options.encrypted else "",
    )
    _furniture(press.sheets, truth, issued, first_printed)
    _front(press.sheets[0], truth, entries, options, issued, first_printed, style, chance)
    return press.sheets, truth


def _plan(options: SampleOptions, issued: date, chance: Random) -> list[_Entry]:
    lines = max(1, options.pages - 1) * LINES_A_PAGE
    weights = [chance.choice((1, 2, 4)) for _ in range(options.acts)]
    unlisted = chance.randrange(options.acts) if options.unlisted else -1
    issuers = chance.sample(_ISSUERS, len(_ISSUERS))
    entries: list[_Entry] = []
    for place, weight in enumerate(weights):
        shown = not entries or (chance.random() < 0.7 and bool(issuers))
        issuer = issuers.pop() if shown else entries[-1].issuer
        listed = place != unlisted and options.sumario != "none" and place < MAX_LISTED
        kind, form = chance.choice(_KINDS + _LISTED_KINDS * listed)
        name = form.format(
            n=30 * place + chance.randint(1, 30), year=issued.year, name=f"{prose.brand(chance)} {place}"
        )
        if kind == "edictos" and name in {entry.name for entry in entries}:
            kind, name = "acuerdo", f"Acuerdo Ministerial N° {900 + place}-{issued.year}"
        if place == options.acts - 1 and options.trademarks and options.acts > 2:
            kind, name = "marcas", "Marcas de Fábrica, Comercio y Servicio"
        choices = ["free"] + ["end"] * 2 * options.column_end + ["top", "page"] * options.column_top
        entries.append(
            _Entry(
                kind=kind,
                name=name,
                issuer=issuer,
                issuer_shown=shown,
                listed=listed,
                mark=f"EXP-{chance.randrange(10_000, 99_999)}",
                lines=8 if options.short_acts and place % 2 else max(8, lines * weight // sum(weights)),
                place=chance.choice(choices) if place else "free",
            )
        )
    return entries


def _head(entry: _Entry, style: Style, chance: Random) -> list[Line]:
    strong = bolder(style)
    lines = []
    if entry.issuer_shown:
        lines += lines_of(entry.issuer, Style(strong.font, style.size + 1, "center", gap=16))
    title = Style(strong.font, style.size + 0.5, "center", gap=10)
    # A list of several has a head a document, the first of which stands for all.
    text = "EDICTO" if entry.kind == "edictos" else entry.name.upper()
    lines += [*wrapped(text, title)]
    number, price = chance.randint(10_000, 30_000), chance.randint(1, 9)
    reg = f"Reg. {number} - M. {chance.randint(90_000, 400_000)} - Valor C$ {price}85.00"
    return [*lines, *lines_of([reg], Style(style.font, style.size, "center", gap=5))]


def _set(
    press: Press,
    entry: _Entry,
    following: list[_Entry],
    options: SampleOptions,
    issued: date,
    style: Style,
    chance: Random,
) -> Begun:
    press.reserve(height(entry.head) + (0 if entry.place == "end" else 40))
    begun = Begun(
        name=MARCAS if entry.kind == "marcas" else entry.name,
        kind=entry.kind,
        issuer=" ".join(entry.issuer),
        start_page=press.page,
        first_on_page=press.first_on_page,
        listed=entry.listed,
        marks=[entry.mark],
    )
    press.put(entry.head)
    press.put(
        wrapped(
            f"El suscrito hace saber que en el expediente {entry.mark} {prose.uncapitalized(prose.sentence(chance))}",
            style,
        )
    )
    used = 0
    strong = Style(bolder(style).font, style.size, "center", gap=8)
    while used < entry.lines:
        if entry.kind == "marcas":
            lines = _trademark(entry, press, issued, style, chance)
        elif entry.kind == "edictos" and used and chance.random() < 0.3:
            lines = [*lines_of(["EDICTO"], strong), *wrapped(prose.paragraph(chance), style)]
            press.reserve(60)
        elif chance.random() < 0.1:
            lines = lines_of([chance.choice(("CONSIDERANDO", "POR TANTO", "RESUELVE"))], strong)
        else:
            cites = options.decoys and chance.random() < 0.6
            lines = wrapped(prose.citing(chance, issued.year) if cites else prose.paragraph(chance), style)
            if cites and chance.random() < 0.3:
                lines.append(Line(prose.citation(chance, issued.year), style))
        used += len(lines)
        press.put(lines)
    closing = wrapped(
        f"{prose.closing(chance, 'Managua', issued)} (f) {prose.person(chance)}, Director. Expediente {entry.mark}.",
        style,
    )
    if following and following[0].place != "free":
        need = height(closing) + (height(following[0].head) if following[0].place == "end" else 0)
        press.align(need, style, lambda count: filler(count, style, chance), at_page_end=following[0].place == "page")
    press.reserve(height(closing))
    press.put(closing)
    return begun


def _trademark(entry: _Entry, press: Press, issued: date, style: Style, chance: Random) -> list[Line]:
    number = f"{chance.randint(1_000, 9_999)}-{issued.year}"
    applicant, of_class = prose.company(chance), chance.randint(1, 45)
    press.reserve(50)
    entry.records.append(Trademark(number, applicant, of_class, press.page))
    lines = wrapped(
        f"{prose.person(chance)}, Apoderado de {applicant}, solicita registro de Marca de Fábrica y Comercio: "
        f"{prose.brand(chance)}. Para proteger: Clase: {of_class}. {prose.sentence(chance)} Presentada: "
        f"{prose.spelled(issued - timedelta(days=60))}. Expediente N° {number}.",
        style,
    )
    lines[0].gap = 10
    return lines


def _furniture(sheets: list[Sheet], truth: Truth, issued: date, first_printed: int) -> None:
    for page, sheet in enumerate(sheets):
        printed = Line(str(first_printed + page), Style("Times-Roman", 10, "center"))
        sheet.runs.append(placed(printed, MARGIN, 770, FULL))
        if page:
            plain = "Times-Roman"
            sheet.runs.append(placed(Line(f"{issued:%d-%m-%y}", Style(plain, 10)), MARGIN + 30, 52, FULL))
            sheet.runs.append(placed(Line("LA GACETA - DIARIO OFICIAL", Style(plain, 9, "center")), MARGIN, 52, FULL))
            sheet.runs.append(placed(Line(truth.number, Style(plain, 10, "right")), MARGIN, 52, FULL - 30))
            sheet.rules += [Rule(MARGIN, y, WIDTH - MARGIN, y) for y in (40.0, 57.0)]


def _front(
    sheet: Sheet,
    truth: Truth,
    entries: list[_Entry],
    options: SampleOptions,
    issued: date,
    first_printed: int,
    style: Style,
    chance: Random,
) -> None:
    strong = bolder(style).font
    sheet.runs.append(placed(Line("LA GACETA", Style("Times-Bold", 44, "center", shadow=3)), MARGIN, 100, FULL))
    sheet.runs.append(placed(Line("DIARIO OFICIAL", Style("Times-Bold", 14, "center")), MARGIN, 122, FULL))
    sheet.runs.append(placed(Line(f"{truth.page_count} Páginas", Style("Times-Roman", 9)), MARGIN, 160, FULL))
    day = (
        f"Managua, {prose.WEEKDAYS[issued.weekday()].title()} {issued.day} de {prose.MONTHS[issued.month - 1].title()}"
    )
    for text, left in (
        (f"AÑO {_roman(issued.year - 1_896)}", 60.0),
        (f"{day} de {issued.year}", 190.0),
        (f"No. {truth.number}", 490.0),
    ):
        sheet.runs.append(placed(Line(text, Style("Times-Roman", 11)), left, 190, FULL))
    sheet.rules += [Rule(MARGIN, y, WIDTH - MARGIN, y) for y in (174.0, 200.0)]
    if options.sumario == "none":
        return
    sheet.runs.append(placed(Line("SUMARIO", Style("Times-Bold", 28, "center")), MARGIN, 250, COLUMN))
    shift = chance.choice((-2, -1, 1, 2)) if options.sumario == "wrong" else 0
    places = [place for place, entry in enumerate(entries) if entry.listed]
    y, column = 280.0, 0
    shown: tuple[str, ...] = ()
    for count, place in enumerate(places):
        entry = entries[place]
        if column == 0 and count >= (len(places) + 1) // 2:
            y, column = 280.0, 1
        left = MARGIN + column * (COLUMN + GUTTER)
        if entry.issuer != shown:
            shown = entry.issuer
            y += 14
            for text in entry.issuer:
                y += 11
                sheet.runs.append(placed(Line(text, Style(strong, 8.5, "center")), left, y, COLUMN))
                sheet.runs[-1].column = column
        y += 16
        printed = first_printed + truth.pieces[place].start_page + shift
        dots = entry.name
        plain = Style(style.font, 8.5)
        while text_width(f"{dots}.{printed}", plain.font, plain.size) < COLUMN:
            dots += "."
        sheet.runs.append(placed(Line(f"{dots}{printed}", plain), left, y, COLUMN))
        sheet.runs[-1].column = column


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

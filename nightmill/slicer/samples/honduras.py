"""Sets an invented La Gaceta of Honduras."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from random import Random

from nightmill.slicer.samples import prose
from nightmill.slicer.samples.honduran_acts import AVANCE, Act, Body, plan
from nightmill.slicer.samples.honduran_front import Furniture, Issue, Sumario
from nightmill.slicer.samples.honduran_notices import set_section_b
from nightmill.slicer.samples.options import SampleOptions
from nightmill.slicer.samples.press import (
    BODY_BOTTOM,
    BODY_TOP,
    COLUMN,
    GUTTER,
    MARGIN,
    WIDTH,
    Frame,
    Line,
    Press,
    Sheet,
    Style,
    height,
    lines_of,
    placed,
    wrapped,
)
from nightmill.slicer.samples.truth import Begun, Section, Trademark, Truth, ended

LINES_A_FRAME = 60
BANNER = 96.0
SECTION_TITLE = 40.0
FRONT_TOP = 212.0
FIRST_DAY = date(2014, 5, 20)
"""Number 33,431 appeared on it; from there on one appears each day but Sunday, some fail to."""


def compose(options: SampleOptions) -> tuple[list[Sheet], Truth]:
    """Return the pages and what is true of them."""
    chance = Random(f"honduras {options.seed}")  # noqa: S311 - a sample, not a secret
    issue = _issue(options, chance)
    b_pages = 0
    if options.section_b:
        b_pages = max(4, (options.pages - 2) // 2 // 4 * 4)
    a_pages = max(2, options.pages - b_pages)
    acts = plan(options, issue.issued, max(2 * a_pages - 2, 1) * LINES_A_FRAME, chance)
    size = chance.choice((8.5, 9.0, 9.5))
    style = Style(chance.choice(("Times-Roman", "Times-Roman", "Helvetica")), size, "both", gap=4)
    body = Body(style, options, issue.issued, chance)
    advance = options.section_b and chance.random() < 0.4
    sumario = Sumario(options, acts, advance, style, chance)
    acts = [
        replace(act, listed=place in sumario.listed, headless=act.headless and place in sumario.listed)
        for place, act in enumerate(acts)
    ]
    press = Press(front=_front_frames(sumario))
    if options.wide and a_pages > 3:
        press.banner = dict.fromkeys((1, 2), BANNER)
    begun = [_set_act(press, act, acts[place + 1 : place + 2], body) for place, act in enumerate(acts)]
    if advance:
        begun.append(_set_advance(press, acts[-1], body))
        begun[-1].listed = options.sumario != "none"
    a_end = press.page
    sections = [Section("A", 0, a_end)]
    trademarks: list[Trademark] = []
    press.banner = {page: room for page, room in press.banner.items() if page <= a_end}
    for page in press.banner:
        _set_table(press.sheets[page], style, chance)
    if options.section_b:
        if issue.spelling % 2:
            press.banner[a_end + 1] = SECTION_TITLE
        press.next_page()
        more, trademarks = set_section_b(press, options, issue.issued, style, b_pages, chance)
        begun += more
        sections.append(Section("B", a_end + 1, press.page))
    pages = len(press.sheets)
    truth = Truth(
        country="honduras",
        number=issue.number,
        issued_on=issue.issued.isoformat(),
        page_count=pages,
        sections=tuple(sections),
        pieces=ended(begun, pages - 1),
        trademarks=tuple(trademarks),
        has_sumario=options.sumario != "none",
        password="gaceta" if options.encrypted else "",
    )
    sumario.set(press.sheets[0], truth, a_end)
    Furniture(issue, options, a_end).set(press.sheets, chance)
    return press.sheets, truth


def _issue(options: SampleOptions, chance: Random) -> Issue:
    issued = FIRST_DAY + timedelta(days=chance.randrange(3_900))
    if issued.weekday() == 6:
        issued += timedelta(days=1)
    days = (issued - FIRST_DAY).days
    printed = days - (days + FIRST_DAY.weekday()) // 7
    number = 33_431 + printed - chance.randint(0, min(39, days // 40))
    return Issue(f"{number:,}", issued, options.spelling, options.extra)


def _front_frames(sumario: Sumario) -> list[Frame]:
    """Return what SUMARIO and masthead leave of the first page."""
    left, right = Frame(0, 0, FRONT_TOP), Frame(0, 1, FRONT_TOP)
    if not sumario.height:
        return [left, right]
    taken = sumario.height + 10
    if sumario.where == "left":
        return [Frame(0, 0, FRONT_TOP + taken), right]
    if sumario.where == "right top":
        return [left, Frame(0, 1, FRONT_TOP + taken)]
    return [left, Frame(0, 1, FRONT_TOP, BODY_BOTTOM - taken)]


def _head(act: Act, body: Body) -> list[Line]:
    issuer = Style("Times-Bold", 16, "center", gap=14, shadow=3)
    name = Style(body.strong.font, body.style.size + 2, "center", gap=8)
    lines = lines_of(act.issuer, issuer) if act.issuer_shown else []
    return lines if act.headless else lines + lines_of([act.name], name)


def _set_act(press: Press, act: Act, following: list[Act], body: Body) -> Begun:
    """Set an act, and so much of text that the next one's head comes to stand where it is to stand."""
    head = _head(act, body)
    paragraphs = list(body.text(act))
    press.reserve(height(head) + (0 if act.place == "end" else height(paragraphs[0]) + 24))
    if act.headless and press.first_on_page:  # it shall begin amid a page, for the SUMARIO tells no more than the page
        press.put(body.filler(3))
    begun = Begun(
        name=act.name,
        kind=act.kind.kind,
        issuer=" ".join(act.issuer),
        start_page=press.page,
        first_on_page=press.first_on_page,
        headless=act.headless,
        listed=act.listed,
        marks=[act.mark],
    )
    press.put(head)
    for paragraph in paragraphs:
        press.put(paragraph)
    closing = body.closing(act)
    if following and following[0].place != "free":
        need = height(closing) + (height(_head(following[0], body)) if following[0].place == "end" else 0)
        press.align(need, body.style, body.filler, at_page_end=following[0].place == "page")
    press.reserve(height(closing))
    press.put(closing)
    return begun


def _set_advance(press: Press, last: Act, body: Body) -> Begun:
    """Set what the next issue will bring."""
    lines = lines_of([AVANCE.head], Style("Times-Bold", 14, "center", gap=20))
    mark = f"EXP-{body.chance.randrange(10_000, 99_999)}"
    text = wrapped(f"Próxima edición: se publicará lo resuelto en el expediente {mark}.", body.style)
    press.reserve(height(lines) + height(text))
    begun = Begun(AVANCE.head, AVANCE.kind, " ".join(last.issuer), press.page, press.first_on_page, marks=[mark])
    press.put(lines + text)
    return begun


def _set_table(sheet: Sheet, style: Style, chance: Random) -> None:
    """Set a table over both columns at a page's top."""
    middle = Style(style.font, style.size, "center")
    y = BODY_TOP + 12
    wide = WIDTH - 2 * MARGIN
    title = Line("Cuadro de asignaciones por municipio, programa y fuente de financiamiento del período", middle)
    sheet.runs.append(placed(title, MARGIN, y, wide))
    for row in range(5):
        y += 14
        cells = (
            f"{row + 1}",
            prose.person(chance),
            f"Programa {chance.randint(1, 40)}",
            f"L {chance.randint(10, 999)},000.00",
        )
        for cell, at in zip(cells, (0.0, 60.0, COLUMN - 20, COLUMN + GUTTER + 150), strict=True):
            sheet.runs.append(placed(Line(cell, Style(style.font, style.size)), MARGIN + at, y, wide))

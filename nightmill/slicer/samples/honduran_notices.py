"""Section B of a Honduran gazette: notices, and the records of trademarks."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

from nightmill.slicer.samples import prose
from nightmill.slicer.samples.options import SampleOptions
from nightmill.slicer.samples.press import BODY_BOTTOM, BODY_TOP, Line, Press, Style, bolder, height, lines_of, wrapped
from nightmill.slicer.samples.truth import AVISOS, MARCAS, Begun, Trademark

FRAME = BODY_BOTTOM - BODY_TOP
_HEADS = (
    ("AVISO DE LICITACIÓN PÚBLICA", "LPN-{n:03}-{year}"),
    ("CONVOCATORIA",),
    ("JUZGADO DE LETRAS", "DE LO CONTENCIOSO ADMINISTRATIVO", "AVISO"),
    ("AVISO DE TÍTULO SUPLETORIO",),
    ("CERTIFICACIÓN",),  # as section A has it, and yet a notice among notices
    ("AVISO DE HERENCIA",),
    ("RESOLUCIÓN No. {n}-{year}",),
)


def set_section_b(
    press: Press, options: SampleOptions, issued: date, style: Style, pages: int, chance: Random
) -> tuple[list[Begun], list[Trademark]]:
    """Fill so many pages with notices, and the rest of them with trademarks if there are any."""
    first = press.page
    last = first + pages - 1
    begun = [Begun(AVISOS, "avisos", "", first, first_on_page=True, listed=options.sumario != "none")]
    frames = 2 * pages * (chance.uniform(0.3, 0.8) if options.trademarks else 1)
    while True:
        notice = _notice(options, issued, style, chance)
        if _left(press, last) - height(notice) < 2 * FRAME * pages - frames * FRAME + 30:
            break
        _put_notice(press, notice)
    if not options.trademarks:
        return begun, []
    if chance.random() < 0.2 and press.page < last:
        press.next_page()
    head = lines_of([MARCAS.upper()], Style("Times-Bold", 14, "center", gap=16, shadow=2))
    records: list[Trademark] = []
    while True:
        mark, record = _trademark(issued, style, chance)
        lines = record if records or not options.spelling % 5 else [*head, *record]
        if _left(press, last) < height(lines) + 30:
            break
        if not records:
            press.reserve(height(lines[:4]))
            begun.append(Begun(MARCAS, "marcas", "", press.page, press.first_on_page, listed=False))
        else:
            press.reserve(height(lines[:2]))
        page = press.page
        press.put(lines)
        records.append(Trademark(mark[0], mark[1], mark[2], page))
    return begun, records


def _left(press: Press, last: int) -> float:
    """Return how much room there is until the end of the last page."""
    frame = press.frame
    return press.room + FRAME * (2 * (last - frame.page) + (1 - frame.column))


def _notice(options: SampleOptions, issued: date, style: Style, chance: Random) -> list[Line]:
    strong = Style(bolder(style).font, style.size + 1, "center", gap=14)
    n = chance.randint(1, 400)
    lines = lines_of((text.format(n=n, year=issued.year) for text in chance.choice(_HEADS)), strong)
    for _ in range(chance.randint(1, 3)):
        text = prose.citing(chance, issued.year) if options.decoys else prose.paragraph(chance, 2)
        lines += wrapped(text, style)
    lines += wrapped(f"Tegucigalpa, M. D. C., {prose.spelled(issued - timedelta(days=chance.randint(5, 40)))}.", style)
    lines += lines_of([prose.person(chance).upper(), "SECRETARIA"], Style(style.font, style.size, "center", gap=6))
    return [*lines, Line(f"{issued.day} {prose.MONTHS[issued.month - 1][0].upper()}. {issued.year}", style)]


def _put_notice(press: Press, notice: list[Line]) -> None:
    press.reserve(height(notice[:5]))
    press.put(notice)


def _trademark(issued: date, style: Style, chance: Random) -> tuple[tuple[str, str, int], list[Line]]:
    number = f"{chance.randint(1_000, 49_999)}-{issued.year}"
    applicant, name, of_class = prose.company(chance), prose.brand(chance), chance.randint(1, 45)
    asked = issued - timedelta(days=chance.randint(20, 90))
    texts = (
        f"1/ Solicitud: {number}",
        f"2/ Fecha de presentación: {asked:%d-%m-%Y}",
        "3/ Solicitud de registro de: MARCA DE FÁBRICA",
        "A.- TITULAR",
        f"4/ Solicitante: {applicant}",
        "4.1/ Domicilio: Colonia Las Lomas, Tegucigalpa, Honduras.",
        "B.- REGISTRO EXTRANJERO",
        "C.- ESPECIFICACIONES DE LA DENOMINACIÓN",
        f"6/ Denominación y 6.1/ Distintivo: {name}",
        f"7/ Clase Internacional: {of_class}",
        "8/ Protege y distingue:",
        prose.sentence(chance),
        "D.- APODERADO LEGAL",
        f"9/ Nombre: {prose.person(chance)}",
        "E.- SUSTITUYE PODER",
        f"11/ Fecha de emisión: {asked + timedelta(days=9):%d-%m-%Y}",
        "12/ Reservas:",
        f"Abogada {prose.person(chance).upper()}",
        "Registradora de la Propiedad Industrial",
    )
    plain = Style(style.font, style.size, "left")
    lines = [line for text in texts for line in wrapped(text, plain)]
    lines[0].gap = 12
    return (number, applicant, of_class), lines

"""The acts of an invented Honduran gazette: who issues what, by which number, and in which words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from random import Random

from nightmill.slicer.samples import prose
from nightmill.slicer.samples.options import SampleOptions
from nightmill.slicer.samples.press import Line, Style, bolder, filler, lines_of, wrapped


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of act: its word in capitals, as the SUMARIO has it, the same for several; what stands before a number."""

    kind: str
    head: str
    single: str
    several: str
    sign: str = "No."


DECRETO = Kind("decreto", "DECRETO", "Decreto", "Decretos")
DECRETO_EJECUTIVO = Kind("decreto", "DECRETO EJECUTIVO", "Decreto Ejecutivo", "Decretos Ejecutivos", "NÚMERO")
ACUERDO = Kind("acuerdo", "ACUERDO", "Acuerdo", "Acuerdos")
ACUERDO_PLAIN = Kind("acuerdo", "ACUERDO", "Acuerdo", "Acuerdos", "")
ACUERDO_EJECUTIVO = Kind("acuerdo", "ACUERDO EJECUTIVO", "Acuerdo Ejecutivo", "Acuerdos Ejecutivos", "NÚMERO")
RESOLUCION = Kind("resolucion", "RESOLUCIÓN", "Resolución", "Resoluciones")
RESOLUCION_SMALL = Kind("resolucion", "Resolución", "Resolución", "Resoluciones")
CERTIFICACION = Kind("certificacion", "CERTIFICACIÓN", "Certificación", "Certificaciones", "")
CONTRATO = Kind("contrato", "CONTRATO", "Contrato", "Contratos")
CONVENIO = Kind("convenio", "CONVENIO", "Convenio", "Convenios", "")
REGLAMENTO = Kind("reglamento", "REGLAMENTO", "Reglamento", "Reglamentos", "")
FE_DE_ERRATAS = Kind("fe_de_erratas", "FE DE ERRATAS", "Fe de Erratas", "Fe de Erratas", "")
AVANCE = Kind("avance", "AVANCE", "AVANCE", "AVANCE", "")

SHORT_ISSUERS = (
    ("Poder Legislativo",), ("Poder Ejecutivo",), ("Secretaría de Finanzas",), ("Banco Central de Honduras",),
    ("Ministerio Público",), ("Tribunal Supremo Electoral",), ("Comisión Nacional", "de Bancos y Seguros"),
    ("Instituto de Acceso", "a la Información Pública"),
)  # fmt: skip
LONG_ISSUERS = (
    ("Secretaría de Estado", "en los Despachos de", "Agricultura y Ganadería"),
    ("Secretaría de Estado", "en los Despachos de", "Recursos Naturales", "y Ambiente"),
    ("Secretaría de Estado", "en el Despacho de", "Educación"),
    ("Secretaría de Estado", "en los Despachos de", "Trabajo y", "Seguridad Social"),
)
OFFICES = (
    "SECRETARIO DE ESTADO EN EL DESPACHO DE FINANZAS", "PRESIDENTE", "SECRETARIA GENERAL", "SECRETARIO",
    "PRESIDENTE DE LA REPÚBLICA", "Secretario de Estado en los Despachos de Agricultura",
)  # fmt: skip
VERBS = {"decreto": "DECRETA:", "acuerdo": "ACUERDA:", "resolucion": "RESUELVE:"}


@dataclass(frozen=True, slots=True)
class Act:
    """An act before it is set.

    Attributes:
        kind: Its kind.
        number: Its number, empty for a kind without one.
        issuer: Its issuer's lines.
        issuer_shown: Whether they are printed over the head, which is not so for a second act of the same issuer.
        headless: Whether its head is not printed.
        listed: Whether the SUMARIO has it.
        mark: The file number in its text.
        place: Where its head is to stand: `free`, at a column's `end` or `top`, or at the top of a `page`.
        lines: About how many lines it has.
    """

    kind: Kind
    number: str
    issuer: tuple[str, ...]
    issuer_shown: bool
    headless: bool
    listed: bool
    mark: str
    place: str
    lines: int

    @property
    def name(self) -> str:
        """The head's line."""
        return " ".join(part for part in (self.kind.head, self.kind.sign, self.number) if part)


def plan(options: SampleOptions, issued: date, lines: int, chance: Random) -> list[Act]:
    """Return the acts, which together have about so many lines."""
    weights = [chance.choice((1, 2, 3, 6)) for _ in range(options.acts)]
    unlisted = chance.randrange(1, options.acts) if options.unlisted and options.acts > 1 else -1
    headless = chance.randrange(1, options.acts) if options.headless and options.acts > 1 else -1
    if options.sumario != "right" or headless == unlisted:
        headless = -1
    acts: list[Act] = []
    issuer: tuple[str, ...] = ()
    for place, weight in enumerate(weights):
        same = bool(acts) and (place == headless or chance.random() < 0.35)
        before = issuer
        while not same and issuer == before:
            issuer = chance.choice(LONG_ISSUERS if options.long_issuer and chance.random() < 0.6 else SHORT_ISSUERS)
        kind, number = _identifier(issuer, issued.year, chance, {act.number for act in acts})
        if place == headless:  # what it is, only the SUMARIO can tell
            kind, number = (ACUERDO, f"{chance.randint(401, 900)}-{issued.year}")
        acts.append(
            Act(
                kind=kind,
                number=number,
                issuer=issuer,
                issuer_shown=not same,
                headless=place == headless,
                listed=place != unlisted,
                mark=f"EXP-{chance.randrange(10_000, 99_999)}",
                place=_place(options, chance) if place and place != headless else "free",
                lines=10 if options.short_acts and place % 2 else max(8, lines * weight // sum(weights)),
            )
        )
    return acts


def _place(options: SampleOptions, chance: Random) -> str:
    places = ["free"]
    if options.column_end:
        places += ["end", "end"]
    if options.column_top:
        places += ["top", "page"]
    return chance.choice(places)


def _identifier(issuer: tuple[str, ...], year: int, chance: Random, taken: set[str]) -> tuple[Kind, str]:
    while True:
        kind, number = _any_identifier(issuer, year, chance.randint(1, 400), chance)
        if not number or number not in taken:
            return kind, number


def _any_identifier(issuer: tuple[str, ...], year: int, n: int, chance: Random) -> tuple[Kind, str]:
    if issuer == ("Poder Legislativo",):
        return DECRETO, f"{n}-{year}"
    if issuer == ("Poder Ejecutivo",):
        return chance.choice(((DECRETO_EJECUTIVO, f"PCM-{n:03}-{year}"), (ACUERDO_EJECUTIVO, f"{n:03}-SEDIS-{year}")))
    choices: tuple[tuple[Kind, str], ...] = (
        (ACUERDO, f"{n}/{year}"), (ACUERDO, f"{n}-SE-{year}"), (ACUERDO, f"FGR-{n:03}-{year}"),
        (ACUERDO, f"{n}-{year}"), (ACUERDO_PLAIN, f"SE-{n:03}-{year}"), (CERTIFICACION, ""), (CONVENIO, ""),
        (RESOLUCION, f"{n}-{chance.randint(1, 9)}/{year}"), (RESOLUCION_SMALL, f"{n}-{chance.randint(1, 9)}/{year}"),
        (CONTRATO, f"{n:03}-{year}"), (REGLAMENTO, ""), (FE_DE_ERRATAS, ""),
    )  # fmt: skip
    return chance.choice(choices)


@dataclass(frozen=True, slots=True)
class Body:
    """Sets an act's text.

    Attributes:
        style: The style of body text.
        options: The gazette's knobs.
        issued: The gazette's date.
        chance: Chooses the words.
    """

    style: Style
    options: SampleOptions
    issued: date
    chance: Random

    @property
    def strong(self) -> Style:
        """The style of the short lines in the middle."""
        style = bolder(self.style)
        return Style(style.font, style.size, "center", gap=5)

    def text(self, act: Act) -> Iterator[list[Line]]:
        """Yield paragraphs, about as many lines as the act is to have."""
        chance, used = self.chance, 6
        opening = {"decreto": "EL CONGRESO NACIONAL,", "acuerdo": "EL SECRETARIO DE ESTADO,"}
        if act.issuer == ("Poder Ejecutivo",):
            opening["decreto"] = opening["acuerdo"] = "EL PRESIDENTE DE LA REPÚBLICA,"
        if act.kind.kind in opening:
            yield lines_of([opening[act.kind.kind]], self.strong)
        first = f"CONSIDERANDO: Que en el expediente {act.mark} {prose.uncapitalized(prose.sentence(chance))}"
        if act.kind is CERTIFICACION:
            session = f"Sesión No.{chance.randint(900, 4_000)}"
            first = (
                f"El infrascrito, Secretario General, certifica el punto de acta de la {session} que consta en el "
                f"expediente {act.mark}: {prose.sentence(chance)}"
            )
        yield wrapped(first, self.style)
        verb = VERBS.get(act.kind.kind)
        considering = chance.randint(1, 4) if act.lines > 30 else 0
        for _ in range(considering):
            lines = wrapped(f"CONSIDERANDO: Que {prose.uncapitalized(self._prose())}", self.style)
            used += len(lines)
            yield lines
        if verb:
            yield lines_of(["POR TANTO,"], self.strong)
            yield lines_of([verb], self.strong)
        article = 1
        while used < act.lines:
            if article % 5 == 4 and chance.random() < 0.5:
                yield lines_of([f"CAPÍTULO {'I' * (1 + article // 5 % 3)}", "DISPOSICIONES GENERALES"], self.strong)
                used += 2
            for lines in self._article(article):
                used += len(lines)
                yield lines
            article += 1

    def filler(self, count: int) -> list[Line]:
        """Return exactly so many lines of one paragraph."""
        return filler(count, self.style, self.chance)

    def closing(self, act: Act) -> list[Line]:
        """Return the lines with which it ends."""
        lines = wrapped(
            f"{prose.closing(self.chance, 'Tegucigalpa, municipio del Distrito Central', self.issued)} "
            f"Publíquese, expediente {act.mark}.",
            self.style,
        )
        middle = Style(self.style.font, self.style.size, "center", gap=6)
        for _ in range(1 if act.lines < 20 else self.chance.randint(1, 3)):
            lines += lines_of([prose.person(self.chance).upper(), self.chance.choice(OFFICES)], middle)
        return lines

    def _prose(self) -> str:
        if self.options.decoys and self.chance.random() < 0.6:
            return f"{prose.citing(self.chance, self.issued.year)} {prose.paragraph(self.chance, 1)}"
        return prose.paragraph(self.chance)

    def _article(self, number: int) -> Iterator[list[Line]]:
        yield wrapped(f"ARTÍCULO {number}.- {self._prose()}", self.style)
        if self.options.decoys and self.chance.random() < 0.3:
            # A citation that has a line for itself, as at the end of a paragraph.
            before = wrapped(f"{prose.sentence(self.chance)[:-1]}, en los términos que establece el", self.style)
            cited = prose.citation(self.chance, self.issued.year)
            yield [*before, Line(self.chance.choice((f"{cited}.", cited)), self.style)]

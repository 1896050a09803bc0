"""The gazettes that the engine knows: how each writes its masthead, its labels, its sections and its heads."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from nightmill.slicer.naming import NUMBER, NUMBER_SIGN, fold

MONTHS = {
    "enero": 1, "febrero": 2, "marzo": 3, "abril": 4, "mayo": 5, "junio": 6, "julio": 7, "agosto": 8, "septiembre": 9,
    "setiembre": 9, "octubre": 10, "noviembre": 11, "diciembre": 12,
}  # fmt: skip
WEEKDAYS = ("lunes", "martes", "miercoles", "jueves", "viernes", "sabado", "domingo")

WRITTEN_DATE = re.compile(
    r"(?:(?P<weekday>lunes|martes|miercoles|jueves|viernes|sabado|domingo),?\s+)?"
    r"(?P<day>\d{1,2})\s+del?\s+(?P<month>" + "|".join(MONTHS) + r")\s*,?\s+(?:del?\s+)?(?:ano\s+)?(?P<year>\d{4})"
)
"""A date as mastheads and headers write it, in folded text."""

_OFFICES = (
    "poder|secretaria|banco|comision|instituto|tribunal|ministerio|municipalidad|alcaldia|corte|procuraduria|"
    "universidad|universidades|empresa|direccion|registro|servicio|congreso|presidencia|consejo|superintendencia|"
    "colegio|fiscalia|fondo|centro|administracion|autoridad|agencia|defensoria|contraloria|asamblea|casa|unidad|"
    "programa|patronato|academia|hospital|ente|oficina|gobernacion|junta|suprema|seccion|policia|ejercito|comite|"
    "cuerpo|red|sistema|camara|aduanas|catastro|avance|sub-?secretaria|inspectoria|zona|cruz|caja|federacion"
)


@dataclass(frozen=True, slots=True)
class GazetteProfile:
    """A gazette's habits. Expressions whose name ends in `folded` are for text in lower case without accents.

    Attributes:
        name: By which it is chosen.
        masthead_folded: Tells this gazette by its first page.
        number_folded: The number, in the masthead and in running headers; group 1.
        short_date: A date in figures in running headers: groups day, month and year; None where there is none.
        header: Tells a line of a running header.
        label: A page's printed number: groups `section` (may be missing) and `page`.
        reference: A page or range of pages at the end of a SUMARIO's entry; the same groups, and `last`.
        act: A head that begins an act, a whole line; group `kind`.
        bare: Kinds that are heads without a number, too; folded.
        issuer_folded: A line with which an institution's name begins.
        sections: Whether there are sections A and B.
        predicted: The number that an issue of a day should have, or None.
        tolerance: By how much the number may be under (first) and over (second) what it should be.
    """

    name: str
    masthead_folded: re.Pattern[str]
    number_folded: re.Pattern[str]
    short_date: re.Pattern[str] | None
    header: re.Pattern[str]
    label: re.Pattern[str]
    reference: re.Pattern[str]
    act: re.Pattern[str]
    bare: frozenset[str]
    issuer_folded: re.Pattern[str]
    sections: bool
    predicted: Callable[[date], int]
    tolerance: Callable[[date], tuple[int, int]]

    def printed(self, number: str) -> str:
        """Return the number as the gazette prints it."""
        digits = re.sub(r"\D", "", number)
        return f"{int(digits):,}" if self.sections else str(int(digits))

    def is_plausible(self, number: str, day: date) -> bool:
        """Whether an issue of this day can have this number."""
        low, high = self.tolerance(day)
        return low <= self.predicted(day) - int(re.sub(r"\D", "", number)) <= high


def _workdays(first: date, last: date, days: int) -> int:
    """Return how many days of the week's first `days` lie after `first`, up to `last`; negative if it is earlier."""
    if last < first:
        return -_workdays(last, first, days)
    weeks, rest = divmod((last - first).days, 7)
    return weeks * days + sum((first + timedelta(days=step)).weekday() < days for step in range(1, rest + 1))


_KNOWN_ISSUE = date(2014, 5, 20), 33_431
"""Of La Gaceta of Honduras, which appears from Monday to Saturday."""


def _honduras_number(day: date) -> int:
    return _KNOWN_ISSUE[1] + _workdays(_KNOWN_ISSUE[0], day, 6)


def _honduras_tolerance(day: date) -> tuple[int, int]:
    """Return -15 and 70, wider by 8 a year outside of 2014 to 2025, when -5 to 39 were measured on 134 issues."""
    years = max(2014 - day.year, day.year - 2025, 0)
    return -15 - 8 * years, 70 + 8 * years


def _nicaragua_number(day: date) -> int:
    return _workdays(date(day.year - 1, 12, 31), day, 5)


def _nicaragua_tolerance(_day: date) -> tuple[int, int]:
    """Return how far holidays may put the count back: number 214 is the year's 225th weekday, on 2014-11-11."""
    return -5, 45


_QUALIFIED = (
    r"(?:\s+(?:EJECUTIV[OA]|LEGISLATIV[OA]|MINISTERIAL(?:ES)?|ADMINISTRATIV[OA]|PRESIDENCIAL|SELECTIVA|P[ÚU]BLICA|"
    r"INTERINSTITUCIONAL|INSTITUCIONAL|MUNICIPAL|CONJUNT[OA]|NACIONAL|T[ÉE]CNIC[OA]|GENERAL|ABREVIADA|MIFIC|LEY|"
    r"DE\s+[A-ZÁÉÍÓÚÑ]{4,20}(?:\s+[A-ZÁÉÍÓÚÑ]{4,20})?))*"
)


def _act(kinds: str) -> re.Pattern[str]:
    """Return the grammar of a head: a kind of act, its qualifiers, its number; in capitals or in title case."""
    kinds = "|".join(kinds.split())
    return re.compile(
        rf"(?P<kind>(?:{kinds}){_QUALIFIED})"
        rf"(?:[\s:\u2013-]*(?:{NUMBER_SIGN}\s*[:.]?\s*(?:DE\s+)?|\s)(?P<number>(?=[^\s]*\d|[A-Z-]+\s?[-\u2013/.]?\s?\d)"
        rf"{NUMBER}))?\s*[.:;\u2013-]*",
        re.IGNORECASE,
    )


HONDURAS = GazetteProfile(
    name="honduras",
    masthead_folded=re.compile(r"honduras|tegucigalpa|empresa nacional de artes graficas|\benag\b"),
    number_folded=re.compile(r"\bn(?:um(?:ero)?|[o0])\s*[.,:]*\s*(\d{2}\s?[.,]?\s?\d{3})(?!\d)"),
    short_date=None,
    header=re.compile(
        r"\bl?a\s+gaceta|rep[úu]blica\s+de\s+honduras|tegucigalpa|secci[óo]n\s+[ab]\b|^\s*n(?:o|[úu]m)\s*\.?\s*\d\d[.,]\d{3}\s*$",
        re.IGNORECASE,
    ),
    label=re.compile(
        r"(?:(?P<section>[AB])\s*[.,]?\s*[-\u2013]?\s*(?P<page>\d{1,3})|(?P<page2>\d{1,3})\s*[.,]?\s*(?P<section2>[AB]))\s*\.?"
    ),
    reference=re.compile(
        r"(?:^|[\s.…_])(?P<section>[AB])\s?[.,]?\s?(?P<page>\d{1,3})(?:\s?(?:[-\u2013\u2014]|al?)\s?(?:[AB]\.?\s?)?(?P<last>\d{1,3}))?\s*\.?$"
    ),
    act=_act(
        "DECRETO ACUERDO RESOLUCI[ÓO]N CERTIFICACI[ÓO]N CONTRATO CONVENIO REGLAMENTO FE\\s+DE\\s+ERRATAS? AVANCE "
        "ORDENANZA CIRCULAR LEY AVISO ADENDA ADDENDUM ESTATUTOS"
    ),
    bare=frozenset(
        {"certificacion", "contrato", "convenio", "reglamento", "fe de errata", "fe de erratas", "avance", "adenda"}
    ),
    issuer_folded=re.compile(rf"(?:{_OFFICES})\b"),
    sections=True,
    predicted=_honduras_number,
    tolerance=_honduras_tolerance,
)

NICARAGUA = GazetteProfile(
    name="nicaragua",
    masthead_folded=re.compile(r"nicaragua|managua"),
    number_folded=re.compile(
        r"(?:\bn(?:um(?:ero)?|[o0º°*])\s*[.,:º°]*\s*|diario oficial\s+)(\d{1,3})(?!\d|[.,]\d|\s*pag)"
    ),
    short_date=re.compile(r"(?<!\d)(?P<day>\d{2})-(?P<month>\d{2})-(?P<year>\d{2}|\d{4})(?!\d)"),
    header=re.compile(r"la\s+gaceta\s*[-\u2013]\s*diario\s+oficial|^\d\d-\d\d-(?:\d\d|\d{4})$", re.IGNORECASE),
    label=re.compile(r"(?P<page>\d{1,5})"),
    reference=re.compile(r"(?:\.{2,}|…|[.\s_·]{4,})\s*(?P<page>\d{1,5})(?:\s?[-\u2013]\s?(?P<last>\d{1,5}))?\s*$"),
    act=_act(
        "DECRETO ACUERDO RESOLUCI[ÓO]N CERTIFICACI[ÓO]N CONTRATO CONVENIO REGLAMENTO FE\\s+DE\\s+ERRATAS? "
        "LICITACI[ÓO]N LEY ESTATUTOS? EDICTOS? AVISO RESOLUCIONES"
    ),
    bare=frozenset({"fe de errata", "fe de erratas"}),
    issuer_folded=re.compile(rf"(?:{_OFFICES})\b"),
    sections=False,
    predicted=_nicaragua_number,
    tolerance=_nicaragua_tolerance,
)

PROFILES = {profile.name: profile for profile in (HONDURAS, NICARAGUA)}


def profile_for(texts: Sequence[str]) -> GazetteProfile:
    """Return the profile of a gazette by the text of its first pages: the one whose words are there most often.

    Honduras is taken where nothing tells, for its heads are the stricter ones.
    """
    folded = fold(" ".join(texts))
    counts = {name: len(profile.masthead_folded.findall(folded)) for name, profile in PROFILES.items()}
    return NICARAGUA if counts["nicaragua"] > counts["honduras"] else HONDURAS

"""Reads the names of acts: what kind, which number, and whether two spellings mean the same one."""

from __future__ import annotations

import re
from typing import NamedTuple

MARCAS = "Marcas de Fábrica"
AVISOS = "Avisos Legales"

_ACCENTS = (
    ("á", "a"), ("é", "e"), ("í", "i"), ("ó", "o"), ("ú", "u"), ("ü", "u"), ("à", "a"), ("è", "e"), ("ì", "i"),
    ("ò", "o"), ("ù", "u"), ("â", "a"), ("ê", "e"), ("ô", "o"), ("ã", "a"), ("õ", "o"), ("ç", "c"),
)  # fmt: skip

NUMBER_SIGN = r"(?:N[úuÚU]MEROS?|N[úu]meros?|N[OoºÓó°*]s?\s?[.,]?[°º]?|N[ÚúUu][Mm]\.?|N°|Nº|#)"
"""What stands before an act's number, in the spellings of gazettes; `N*` is how `N°` is recognized."""

NUMBER = r"[A-Z0-9ÁÉÍÓÚÑ]{0,12}(?:\s?[-\u2013/.]\s?[A-Z0-9ÁÉÍÓÚÑ]{1,12}){0,6}"
"""An act's number: `46-2014`, `PCM-081-2014`, `001-SEDIS-2017`, `50-2/2016`. It is asked for a digit elsewhere."""

_TOKENS = re.compile(r"[a-z0-9ñ]+")
_ID = re.compile(r"[A-Za-zÑñ]{0,10}[-/.]?\d[\dA-Za-zÑñ]*(?:\s?[-\u2013/.]\s?[\dA-Za-zÑñ]+)*")
_SIGN = re.compile(NUMBER_SIGN + r"\s*:?\s*(?=\S*\d)")


class ActKey(NamedTuple):
    """What two spellings of an act's name have in common.

    Attributes:
        kind: The first word: `decreto`.
        number: Its number without leading zeros: `pcm-81-2014`; empty without one.
    """

    kind: str
    number: str


def fold(text: str) -> str:
    """Return the text without accents, in lower case, its white space squeezed."""
    text = text.lower()
    if not text.isascii():  # replacing is ten times as fast as translating
        for accented, plain in _ACCENTS:
            text = text.replace(accented, plain)
    return " ".join(text.split())


def squeezed(text: str) -> str:
    """Return the text with single spaces."""
    return " ".join(text.split())


def number_key(number: str) -> str:
    """Return a number in the form in which two spellings of it are equal: `PCM-081-2014` is `pcm-81-2014`."""
    return "-".join(token.lstrip("0") or "0" for token in _TOKENS.findall(fold(number)))


def act_key(name: str) -> ActKey:
    """Return what identifies an act, by its name in a head or in a list."""
    folded = fold(name)
    kind = folded.split(" ", 1)[0].rstrip(".:,") if folded else ""
    if len(kind) > 5:
        kind = _SINGULAR.get(kind, kind)
    number = number_of(name)
    return ActKey(kind, number_key(number))


def number_of(name: str) -> str:
    """Return the number in an act's name, as it is printed; empty without one."""
    sign = _SIGN.search(name)
    found = _ID.search(name, sign.end() if sign else 0)
    return squeezed(found.group()) if found else ""


def expanded(text: str) -> list[str]:
    """Return the acts of an entry that may name several: `Acuerdos Nos.: 378-A-2014 y 379-2014` is two of them."""
    sign = _SIGN.search(text)
    if sign is None:
        return [squeezed(text)]
    kind = squeezed(text[: sign.start()])
    numbers = [squeezed(found.group()) for found in _ID.finditer(text, sign.end())]
    if len(numbers) < 2:
        return [squeezed(text)]
    words = [_PLURALS.get(word.lower(), word) for word in kind.split(" ")]
    return [f"{' '.join(words)} No. {number}" for number in numbers]


_PLURALS = {
    "decretos": "Decreto",
    "acuerdos": "Acuerdo",
    "resoluciones": "Resolución",
    "certificaciones": "Certificación",
    "contratos": "Contrato",
    "convenios": "Convenio",
    "reglamentos": "Reglamento",
    "ejecutivos": "Ejecutivo",
    "legislativos": "Legislativo",
    "ministeriales": "Ministerial",
    "licitaciones": "Licitación",
}
_SINGULAR = {fold(many): fold(one) for many, one in _PLURALS.items()}

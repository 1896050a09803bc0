"""What a text comes to when everything is left out that does not change what it says.

White space, punctuation, case, the way in which a character is written, and the targets of links do not count. Words
do, and numbers with their sign, decimals and currency: `-5` is not `5`, `$5` is not `€5`, `1.5` is not `15`, `x < 5` is
not `x > 5`. White space within words does not count either, for some languages wrap their text anywhere; between two
numbers it does, for `1 5` is not `15`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import cache
from importlib.metadata import version

RULES = 1
"""One more whenever this module, or the way in which pages are read, gives the same page another fingerprint."""

LIBRARIES = ("trafilatura", "resiliparse", "html-to-markdown", "lxml")
"""Whose releases may find other texts in the same page."""

_TARGET = re.compile(r"(?<=\])\((?:[^()\s]|\([^()\s]*+\))*+(?:\s++\"[^\"\n]*+\")?+\s*+\)")
_LINE_START = re.compile(r"^[ \t]*+(?:>[ \t]*+)*+(?:[-+*][ \t]++)?+", re.MULTILINE)
# Each begins with the character that it looks for, not with what stands before it: so they skip from one to the next.
_SIGN = re.compile(r"([-+\u2212\u2013])(?<![\w.)\]+\-\u2212\u2013].)(?=[^\w\s]{0,4}\d)")
_POINTS, _COMMAS = re.compile(r"\.(?<=\d.)(?=\d)"), re.compile(r",(?<=\d.)(?=\d)")
_BETWEEN_DIGITS = re.compile(r"[^\w\ue002\ue003](?<=\d[^\w])[^\w]*?(?=\d)")
_DIGIT = re.compile(r"\d")

# Of a private area, which is dropped from the texts first: nothing else is written like these.
_MINUS, _PLUS, _POINT, _COMMA, _APART = "\ue000", "\ue001", "\ue002", "\ue003", "\ue004"
_KEPT_PUNCTUATION = frozenset("%‰" + _MINUS + _PLUS + _POINT + _COMMA + _APART)
_DRAWING = frozenset("|~")  # symbols by which markdown draws tables and strikes out


class _Invisible(dict[int, int | None]):
    """For `str.translate`: drops zero-width characters, soft hyphens, variation selectors and private areas."""

    def __missing__(self, code: int) -> int | None:
        dropped = unicodedata.category(chr(code)) in {"Cf", "Co", "Cs"} or 0xFE00 <= code <= 0xFE0F
        self[code] = None if dropped else code
        return self[code]


class _Counting(dict[int, int | None]):
    """For `str.translate`: leaves letters with their marks, numbers, currencies and symbols."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        category = unicodedata.category(character)
        kept = (
            character in _KEPT_PUNCTUATION
            or category[0] in "LMN"
            or (category in {"Sc", "Sm", "So"} and character not in _DRAWING)
        )
        self[code] = code if kept else None
        return self[code]


_INVISIBLE, _COUNTING = _Invisible(), _Counting()


def normalized(text: str) -> str:
    """Return what counts of a text, in one piece that is not for reading."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_INVISIBLE)
    if _DIGIT.search(text):
        text = _SIGN.sub(lambda found: _PLUS if found[1] == "+" else _MINUS, text)
        text = _COMMAS.sub(_COMMA, _POINTS.sub(_POINT, text))
        text = _BETWEEN_DIGITS.sub(_APART + r"\g<0>", text)
    return text.translate(_COUNTING)


def words_of_markdown(markdown: str) -> str:
    """Return markdown without the targets of its links and images, its bullets and its quotation marks."""
    return _LINE_START.sub("", _TARGET.sub("", markdown))


def digest(text: str) -> str:
    """Return sixteen hex digits for what counts of a text."""
    return hashlib.blake2b(normalized(text).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def fingerprint(main: str, second: str) -> str:
    """Return the fingerprint of a page, one half for each of two texts that were found in it in different ways.

    What one of the two ways overlooks, the other rarely does, so a page is unchanged only if both halves are.

    Args:
        main: The main text, in markdown.
        second: The main text found in another way, plain.
    """
    return f"{digest(words_of_markdown(main))}-{digest(second)}"


@cache
def fingerprint_version() -> str:
    """Return what a fingerprint depends on besides the page; two of different versions must not be compared."""
    parts = (f"{name}={version(name)}" for name in LIBRARIES)
    key = f"rules={RULES} unicode={unicodedata.unidata_version} {' '.join(parts)}"
    return f"{RULES}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"

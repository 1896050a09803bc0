"""Texts as people are to see them."""

from __future__ import annotations

import unicodedata

_ORDINALS = frozenset("ªº")  # letters to Unicode, and what is left of `1º` to a reader


def clean(text: str) -> str:
    """Return the text from its first letter on, without blanks at its end; accented letters are letters.

    `"— 3.º ÓSCAR "` becomes `"ÓSCAR"`; a text without letters becomes empty.
    """
    for place, character in enumerate(text):
        if is_letter(character):
            return text[place:].rstrip()
    return ""


def shortened(text: str, limit: int) -> str:
    """Return at most `limit` characters, the last of them an ellipsis if there were more."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def is_letter(character: str) -> bool:
    """Return whether a character is a letter of any script; signs that modify one are not."""
    return character not in _ORDINALS and unicodedata.category(character) in {"Lu", "Ll", "Lt", "Lo"}

"""The canary: a small gazette whose right answer is known, for telling a working slicer from a broken one.

`canary.pdf` and `canary.json` beside this file were printed once by
`python -m nightmill.slicer.samples canary.pdf --seed 73 --pages 10 --acts 5` and are kept as they are.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_MAX_SHOWN = 100
"""Characters of a slicer's word that a line about it repeats."""


def canary_pdf() -> Path:
    """Return where the canary is."""
    return Path(__file__).with_name("canary.pdf")


@cache
def canary_truth() -> Mapping[str, Any]:
    """Return its right answer: `number`, `issued_on`, `page_count` and `pieces`."""
    truth: dict[str, Any] = json.loads(Path(__file__).with_name("canary.json").read_text(encoding="utf-8"))
    return truth


def judge(result: Mapping[str, Any], *, exact: bool) -> str | None:
    """Return what is wrong with a slicer's result for the canary, in a line; None: nothing.

    Args:
        result: The JSON object that the slicer wrote.
        exact: Whether number, date, names and pages must be the known ones, as is due of the built-in slicer. Of
            another one, which may cut in another way, only the page count is known, and that each slice has pages of
            this document.
    """
    truth = canary_truth()
    pages = truth["page_count"]
    if result.get("page_count") != pages:
        return f"page_count is {_shown(result.get('page_count'))}, not {pages}"
    files = result.get("files")
    if not _is_list(files) or not files:
        return "no slices were found"
    bad = next((problem for place, entry in enumerate(files) if (problem := _problem(place, entry, pages))), None)
    return bad if bad or not exact else _difference(result, files, truth)


def _problem(place: int, entry: Any, pages: int) -> str | None:
    if not isinstance(entry, Mapping):
        return f"slice {place + 1} is not an object"
    start, end = entry.get("start_page"), entry.get("end_page")
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start <= end < pages):
        return f"slice {place + 1} is said to have the pages {_shown(start)} to {_shown(end)}"
    if not isinstance(entry.get("name"), str) or not isinstance(entry.get("path"), str):
        return f"slice {place + 1} has no name or no path"
    return None


def _difference(result: Mapping[str, Any], files: Sequence[Any], truth: Mapping[str, Any]) -> str | None:
    gazette = result.get("gazette")
    said = gazette if isinstance(gazette, Mapping) else {}
    for name, due in (("number", truth["number"]), ("date", truth["issued_on"])):
        if said.get(name) != due:
            return f"the {name} is {_shown(said.get(name))}, not {due}"
    pieces = truth["pieces"]
    if len(files) != len(pieces):
        return f"{len(files)} slices were found, not {len(pieces)}"
    for place, (entry, piece) in enumerate(zip(_ordered(files), pieces, strict=True)):
        if _letters(entry["name"]) != _letters(piece["name"]):
            return f"slice {place + 1} is {_shown(entry['name'])}, not {piece['name']}"
        found, due = (entry["start_page"], entry["end_page"]), (piece["start_page"], piece["end_page"])
        if found != due:
            return f"{piece['name']} is said to have the pages {found[0]} to {found[1]}, not {due[0]} to {due[1]}"
    return None


def _ordered(files: Sequence[Any]) -> list[Any]:
    """Return the slices by their positions, where all have one."""
    if all(isinstance(entry.get("position"), int) for entry in files):
        return sorted(files, key=lambda entry: int(entry["position"]))
    return list(files)


def _letters(name: str) -> str:
    """Return a name's letters and digits; how it is spaced and accented is not what is tried here."""
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", name).lower())


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _shown(value: Any) -> str:
    return "missing" if value is None else str(value)[:_MAX_SHOWN]

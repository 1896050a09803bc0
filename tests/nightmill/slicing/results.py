"""A slicer's results to try things on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nightmill.slicing.results import SlicerResult, read_result

MARKS = "Marcas de Fábrica"


def entry(number: int, **changes: Any) -> dict[str, Any]:
    """Return the entry of the slice `number`, which has the page of that number."""
    return {
        "name": f"DECRETO No. {number}-2014",
        "path": f"{number:04}.pdf",
        "start_page": number,
        "end_page": number,
        "position": number,
        "full_text": f"EL CONGRESO NACIONAL, número {number}",
        "short_description": "— Óscar",
        "description": "1.- Ángel",
        "tag": "Decreto",
        "issuer": "Poder Legislativo",
        "materia": "",
        "institutions": ["SEFIN"],
        "confidence": 0.9,
    } | changes


def result(*entries: Any, **changes: Any) -> dict[str, Any]:
    """Return a result of these entries, or of three good ones."""
    files = list(entries) or [entry(n) for n in range(3)]
    gazette = {"number": "33,463", "date": "2014-06-26"}
    return {"page_count": 3, "gazette": gazette, "files": files, "errors": [], "schema_version": 1} | changes


def folder_of(root: Path, *names: str) -> Path:
    """Return an output folder with a file for each of three slices, and for these names."""
    folder = root / "output"
    folder.mkdir(exist_ok=True)
    for name in ("0000.pdf", "0001.pdf", "0002.pdf", *names):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"%PDF-1.7\n" + name.encode(errors="replace"))
    return folder


def read(root: Path, said: Any, *, page_count: int = 3, **options: Any) -> SlicerResult:
    """Return what is read of a slicer's output, given as JSON, text or bytes."""
    if not isinstance(said, str | bytes):
        said = json.dumps(said)
    (root / "stdout").write_bytes(said if isinstance(said, bytes) else said.encode())
    folder = root / "output" if (root / "output").exists() else folder_of(root)
    return read_result(root / "stdout", folder=folder, page_count=page_count, **options)

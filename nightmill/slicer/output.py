"""The result that the slicer prints: one JSON object."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from nightmill.slicer.model import Cut, Page, Piece
from nightmill.slicer.ranges import pages_as_text
from nightmill.slicer.writing import WrittenFile

SCHEMA_VERSION = 1
SLICER = "nightmill"

MAX_TEXT = 40 * 1024 * 1024
"""Bytes of all texts together; supervisors read 64 MiB of output by default."""

MAX_LABEL = 40
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def result_of(
    cut: Cut, pages: Sequence[Page], written: Sequence[WrittenFile], flags: Iterable[str], max_text: int = MAX_TEXT
) -> dict[str, Any]:
    """Return the result as it is printed.

    Args:
        cut: What the document falls into.
        pages: Its pages.
        written: The file of each piece, in the same order.
        flags: What is to be said of the document besides the flags of `cut`.
        max_text: Bytes of all texts together; the last ones are shortened so that they fit.
    """
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "slicer": slicer(),
        "page_count": len(pages),
    }
    if cut.number is not None or cut.issued_on is not None:
        result["gazette"] = {"number": cut.number, "date": cut.issued_on}
    files = [_file(*each, pages) for each in zip(range(len(written)), cut.pieces, written, strict=True)]
    shortened = _shorten(files, max_text)
    result |= {
        "files": files,
        "errors": [
            f"{piece.name}: {file.problem}"
            for piece, file in zip(cut.pieces, written, strict=True)
            if file.path is None
        ],
        "flags": [*flags, *cut.flags, *_unread(pages), *shortened],
        "text_source": text_source(pages),
        "extras": cut.extras,
    }
    return result


def pages_result(page_count: int, path: str, first: int, last: int, flags: Iterable[str]) -> dict[str, Any]:
    """Return what is printed of pages that were only read."""
    return {
        "schema_version": SCHEMA_VERSION,
        "slicer": slicer(),
        "page_count": page_count,
        "pages": path,
        "first": first,
        "last": last,
        "errors": [],
        "flags": list(flags),
    }


def to_json(result: dict[str, Any]) -> bytes:
    """Return the bytes to print: UTF-8, without characters that databases and terminals refuse."""
    return json.dumps(_printable(result), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def slicer() -> dict[str, str]:
    """Return which slicer this is."""
    try:
        return {"name": SLICER, "version": version("nightmill")}
    except PackageNotFoundError:  # run from a folder that is not installed
        return {"name": SLICER, "version": "unknown"}


def text_source(pages: Iterable[Page]) -> str:
    """Return where the text of pages comes from: `digital`, `ocr`, `mixed` for both, or `none`."""
    sources = {page.source for page in pages} - {"none"}
    if len(sources) > 1:
        return "mixed"
    return next(iter(sources), "none")


def _file(position: int, piece: Piece, file: WrittenFile, pages: Sequence[Page]) -> dict[str, Any]:
    extras = dict(piece.extras)
    named = {
        "confidence": extras.pop("confidence", None),
        "flags": [*extras.pop("flags", []), *([file.problem] if file.problem else [])],
        "printed_pages": extras.pop("printed_pages", None) or _labels(pages[piece.start_page : piece.end_page + 1]),
        "text_source": extras.pop("text_source", None) or text_source(pages[piece.start_page : piece.end_page + 1]),
        "sha256": file.sha256,
        "size": file.size,
        "extras": extras,
    }
    return {
        "name": piece.name,
        "path": file.path,
        "start_page": piece.start_page,
        "end_page": piece.end_page,
        "position": position,
        "full_text": piece.full_text,
        "short_description": piece.short_description,
        "description": piece.description,
        "tag": piece.tag,
        "issuer": piece.issuer,
        "materia": piece.materia,
        "institutions": piece.institutions,
        **named,
    }


def _labels(pages: Sequence[Page]) -> str | None:
    """Return the PDF's own labels of the first and the last page."""
    first, last = pages[0].label, pages[-1].label
    if first is None or last is None:
        return None
    return first[:MAX_LABEL] if first == last else f"{first[:MAX_LABEL]}-{last[:MAX_LABEL]}"


def _unread(pages: Iterable[Page]) -> list[str]:
    """Return a line for each reason why pages have no text."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for page in pages:
        if page.problem is not None:
            found[page.problem].append(page.index)
    return [
        f"{len(indexes)} {'page' if len(indexes) == 1 else 'pages'} without usable text ({problem}): "
        + pages_as_text(indexes)
        for problem, indexes in found.items()
    ]


def _shorten(files: list[dict[str, Any]], max_text: int) -> list[str]:
    """Shorten texts in place so that all of them fit, and say so."""
    left = max_text
    cut_short = 0
    for file in files:
        text = file["full_text"]
        if len(text) * 4 > left:  # else it fits, whatever its letters
            encoded = text.encode("utf-8", "replace")
            if len(encoded) > left:
                file["full_text"] = encoded[:left].decode("utf-8", "ignore")
                file["flags"] = [*file["flags"], "its text is cut short"]
                cut_short += 1
        left -= len(file["full_text"].encode("utf-8", "replace"))
    if not cut_short:
        return []
    texts = "1 text is" if cut_short == 1 else f"{cut_short} texts are"
    return [f"{texts} cut short: all of them together are over {max_text:,} bytes"]


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return _UNPRINTABLE.sub(" ", value)
    if isinstance(value, dict):
        return {_printable(key): _printable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(each) for each in value]
    return value

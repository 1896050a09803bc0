"""Looks at PDFs, a program of its own: `inspect PDF FOLDER MAX_PAGES`, and `check FOLDER NAMES` of what was cut.

Prints one JSON object. A PDF that cannot be read is an answer, not an error; what a PDF does to the program that looks
at it (a crash, a hang, memory without end) is for its supervisor, as with the slicer.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pypdfium2
import pypdfium2.raw as pdfium

from nightmill.slicer.opening import PdfProblem, open_pdf
from nightmill.slicer.progress import Progress

SAMPLED = 8
"""Pages that are looked at, spread over the document: 30 ms each for the densest that were seen."""

MAX_TEXT = 2_000
"""Characters of a page that are looked at."""

MAX_OBJECTS = 500
"""Objects of a page that are looked at for images."""

FEW_LETTERS = 20
"""Fewer letters are no text: a page number, or a stamp."""

WATERMARK = 200
"""Letters up to which a text over an image is a watermark on a scan."""

COVERING = 0.5
"""Share of a page from which on an image is the page."""


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) == 4 and given[0] == "inspect" and given[3].isdigit():
        answer = inspect(Path(given[1]), Path(given[2]), max_pages=int(given[3]))
    elif len(given) == 3 and given[0] == "check":
        answer = {"files": check(Path(given[1]), json.loads(Path(given[2]).read_bytes()))}
    else:
        sys.stderr.write("usage: inspect PDF FOLDER MAX_PAGES | check FOLDER NAMES\n")
        return 2
    json.dump(answer, sys.stdout)
    sys.stdout.write("\n")
    return 0


def end_with(code: int) -> NoReturn:
    """End this program at once; to take the libraries apart would be a quarter of the whole run."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def inspect(pdf: Path, folder: Path, *, max_pages: int) -> dict[str, Any]:
    """Return what a PDF is: its pages as two libraries agree on them, and where its text comes from.

    Args:
        pdf: The PDF.
        folder: Where a copy may be made, if a damaged one has to be put in order.
        max_pages: More are not looked at.
    """
    from nightmill.slicer.agreement import agreed_pdf  # loads pikepdf: 0.2 s

    try:
        with agreed_pdf(pdf, folder, max_pages=max_pages) as agreed, open_pdf(agreed.path) as document:
            places = spread(len(document))
            progress = Progress(len(places))
            seen = []
            for number, index in enumerate(places, 1):
                seen.append(kind_of(document, index))
                progress.page(number)
            return {
                "page_count": len(document),
                "flags": list(agreed.flags),
                "text_source": text_source(seen),
                "pages_sampled": len(places),
            }
    except PdfProblem as problem:
        return {"problem": problem.code, "message": problem.message}


def check(folder: Path, names: list[str]) -> dict[str, Any]:
    """Return what `look` says of each of these files."""
    progress = Progress(len(names))
    found = {}
    for number, name in enumerate(names, 1):
        found[name] = look(folder / name)
        progress.page(number)
    return found


def look(file: Path) -> dict[str, Any]:
    """Return the number of a PDF's pages once its first and last can be opened, else what is wrong with it."""
    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        return {"message": str(error)}
    except OSError as error:
        return {"message": error.strerror or "it cannot be read"}
    try:
        pages = len(document)
        for index in {0, pages - 1} if pages else ():
            document[index].close()
    except pypdfium2.PdfiumError as error:
        return {"message": str(error)}
    finally:
        document.close()
    return {"pages": pages} if pages else {"message": "it has no pages"}


def spread(pages: int) -> list[int]:
    """Return the pages to look at, evenly spread, first and last among them."""
    if pages <= SAMPLED:
        return list(range(pages))
    return [place * (pages - 1) // (SAMPLED - 1) for place in range(SAMPLED)]


def kind_of(document: Any, index: int) -> str:
    """Return `digital` for a page with a text, `scanned` for one that shows something else, `blank` for an empty one.

    One that cannot be read is blank.
    """
    try:
        page = document[index]
        try:
            return _kind_of(page)
        finally:
            page.close()
    except pypdfium2.PdfiumError:
        return "blank"


def _kind_of(page: Any) -> str:
    text = page.get_textpage()
    letters = sum(map(str.isalpha, _beginning_of(text)))
    text.close()
    if letters >= WATERMARK:
        return "digital"
    objects = list(islice(page.get_objects(max_depth=3), MAX_OBJECTS))
    if letters >= FEW_LETTERS:
        return "scanned" if _is_covered(page, objects) else "digital"
    return "scanned" if objects else "blank"


def text_source(kinds: list[str]) -> str:
    """Return where the text of a document with such pages comes from; a blank one is `digital`."""
    found = set(kinds) - {"blank"}
    return "mixed" if len(found) > 1 else next(iter(found), "digital")


def _beginning_of(text: Any) -> str:
    # Asked for more characters than there are, pypdfium2 5.15 calls itself until Python's stack is full.
    characters = min(text.count_chars(), MAX_TEXT)
    return str(text.get_text_range(0, characters)) if characters > 0 else ""


def _is_covered(page: Any, objects: list[Any]) -> bool:
    width, height = page.get_size()
    for one in objects:
        if one.type == pdfium.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = one.get_bounds()
            if (right - left) * (top - bottom) >= COVERING * width * height:
                return True
    return False


if __name__ == "__main__":
    end_with(main())

"""Makes two libraries agree on the pages of a PDF before it is read by one and cut by the other.

pdfium believes what the page tree says of its own length; qpdf, under pikepdf, walks the tree. In a damaged or lying
PDF the two differ, and a slicer that trusts one of them loses pages without a word.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pikepdf
import pypdfium2

from nightmill.slicer.opening import PdfProblem, open_pdf
from nightmill.slicer.saving import save

MAX_OBJECTS = 8_000_000
"""Objects of a PDF; one of 2,415 pages has some 60,000."""

_TRIED = 200
"""Pages that only pdfium counts are tried, this many of them at most."""


@dataclass(frozen=True)
class AgreedPdf:
    """A PDF whose pages both libraries count alike.

    Attributes:
        path: Where both can read it: the file that was given, or a copy that was put in order.
        pages: Its pages as pikepdf has them.
        flags: What was wrong with it, a line each, for people.
    """

    path: Path
    pages: Any
    flags: tuple[str, ...] = ()


@contextmanager
def agreed_pdf(source: Path, folder: Path, *, max_pages: int) -> Iterator[AgreedPdf]:
    """Open a PDF so that no page of it is lost; a copy that this needs is gone afterwards.

    Args:
        source: The PDF.
        folder: Where a copy may be made.
        max_pages: More pages are refused.

    Raises:
        PdfProblem: It cannot be opened, needs a password, has no pages, or too many of them.
        OSError: It cannot be read, or there is no room for a copy.
    """
    with ExitStack() as stack:
        with open_pdf(source) as document:
            counted = len(document)
            pdf = _open(source, stack)
            found = 0 if pdf is None else len(pdf.pages)
            whole = _opens(source)
            only_counted = found < counted and _can_any_be_opened(document, found)
            _refuse_many(counted if only_counted else found, max_pages)
            if pdf is not None and whole and found == counted:
                yield AgreedPdf(source, pdf.pages)
                return
            copy = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".copy-", suffix=".pdf"))
            if pdf is None or only_counted:
                _import_all(document, counted, copy)
            else:
                save(pdf, copy.file)
            copy.flush()
        path = Path(copy.name)
        pdf = _open(path, stack)
        with open_pdf(path) as document:
            pages = len(document)
        counts = f"{counted:,} pages by one count, {found:,} by another"
        if pdf is None or len(pdf.pages) != pages:
            raise PdfProblem("damaged", f"the PDF is damaged: {counts}")
        if counted != found:
            flag = f"the PDF is damaged: {counts}; {pages:,} can be read"
        else:
            flag = f"the PDF is damaged and was repaired: {pages:,} pages were found in it, some may be missing"
        yield AgreedPdf(path, pdf.pages, (flag,))


def _open(source: Path, stack: ExitStack) -> Any:
    """Return the open PDF; None if pikepdf cannot open what pdfium can."""
    try:
        pdf = stack.enter_context(pikepdf.open(source, suppress_warnings=True))
        objects = len(pdf.objects)
        len(pdf.pages)
    except pikepdf.PasswordError:
        raise PdfProblem("encrypted", "the PDF is encrypted and needs a password") from None
    except (pikepdf.PdfError, ValueError, RuntimeError):
        return None
    if objects > MAX_OBJECTS:
        raise PdfProblem("too_large", f"the PDF has {objects:,} objects, at most {MAX_OBJECTS:,} are read")
    return pdf


def _opens(source: Path) -> bool:
    """Whether pdfium opens the file as it is; `open_pdf` repairs it first where it does not."""
    try:
        pypdfium2.PdfDocument(source).close()
    except pypdfium2.PdfiumError:
        return False
    return True


def _refuse_many(pages: int, max_pages: int) -> None:
    if pages > max_pages:
        raise PdfProblem("too_large", f"the PDF has {pages:,} pages, at most {max_pages:,} are cut")


def _can_any_be_opened(document: Any, first: int) -> bool:
    """Whether there is anything behind the pages that pikepdf found."""
    return any(_can_be_opened(document, index) for index in range(first, min(len(document), first + _TRIED)))


def _can_be_opened(document: Any, index: int) -> bool:
    try:
        document[index].close()
    except pypdfium2.PdfiumError:
        return False
    return True


def _import_all(document: Any, counted: int, target: IO[bytes]) -> None:
    """Write those pages of `document` that pdfium can open."""
    readable = [index for index in range(counted) if _can_be_opened(document, index)]
    copy = pypdfium2.PdfDocument.new()
    try:
        copy.import_pages(document, readable)
        copy.save(target)
    except pypdfium2.PdfiumError as error:
        raise PdfProblem("damaged", f"the PDF is damaged beyond repair: {error}") from None
    finally:
        copy.close()

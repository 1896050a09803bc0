"""Opens a PDF, also a damaged one that a second library can rewrite."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import pypdfium2
import pypdfium2.raw as pdfium

ProblemCode = Literal["damaged", "encrypted", "empty", "too_large"]


class PdfProblem(Exception):
    """The PDF cannot be read. `str()` is a line for people.

    Attributes:
        code: `damaged`, `encrypted` (it needs a password), `empty` (no bytes, or no pages) or `too_large`.
        message: The line.
    """

    def __init__(self, code: ProblemCode, message: str) -> None:
        super().__init__(message)
        self.code: ProblemCode = code
        self.message = message


@contextmanager
def open_pdf(source: Path | bytes) -> Iterator[Any]:
    """Give the open document, a `pypdfium2.PdfDocument`, and close it afterwards.

    A PDF that pdfium cannot open is rewritten by pikepdf, which finds the pages of most damaged ones (23 of 24 in a
    corpus that was tried), and opened again; what is rewritten lies in a temporary file without a name.

    Raises:
        PdfProblem: Neither can open it, it needs a password, or it has no pages.
        OSError: The file cannot be read.
    """
    with ExitStack() as stack:
        document = _open(source, stack)
        stack.callback(document.close)
        yield document


def _open(source: Path | bytes, stack: ExitStack) -> Any:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size == 0:
        raise PdfProblem("empty", "the file is empty")
    try:
        return pypdfium2.PdfDocument(source)
    except pypdfium2.PdfiumError as error:
        # Otherwise why is asked of the other library, which does not tell an unknown lock from damage.
        locked = error.err_code == pdfium.FPDF_ERR_SECURITY
    rewritten = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the caller's stack closes it
    try:
        _rewrite(source, rewritten)
    except PdfProblem as problem:
        if locked and problem.code == "damaged":
            raise PdfProblem("encrypted", "the PDF is encrypted in a way that cannot be read here") from None
        raise
    try:
        return pypdfium2.PdfDocument(rewritten)
    except pypdfium2.PdfiumError as error:
        raise PdfProblem("damaged", f"the PDF is damaged beyond repair: {error}") from None


def _rewrite(source: Path | bytes, target: IO[bytes]) -> None:
    import pikepdf  # 0.2 s, needed for damaged files only

    from nightmill.slicer.saving import save

    try:
        with pikepdf.open(BytesIO(source) if isinstance(source, bytes) else source) as pdf:
            if len(pdf.pages) == 0:
                raise PdfProblem("empty", "the PDF has no pages")
            save(pdf, target)
    except pikepdf.PasswordError:
        raise PdfProblem("encrypted", "the PDF is encrypted and needs a password") from None
    except (pikepdf.PdfError, ValueError, RuntimeError) as error:
        raise PdfProblem(
            "damaged", f"the PDF is damaged beyond repair: {str(error).rsplit(': ', 1)[-1][:200]}"
        ) from None
    target.seek(0)

"""Finds the pages that have no usable text, and has it recognized where tesseract is installed.

Recognition takes some 10 processor seconds a page, six hundred times what a text layer takes, so it is done for those
pages only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from nightmill.slicer.model import Line, Page
from nightmill.slicer.opening import open_pdf
from nightmill.slicer.options import Recognition
from nightmill.slicer.reading import read_pages
from nightmill.slicer.tesseract import Image, OcrProblem, Recognized, missing_parts, recognize, turned_by

FEW_LETTERS = 20
"""A page with fewer letters has no usable text."""

WATERMARK_LETTERS = 200
"""A page with fewer has none either where images cover half of it: archives stamp some fifty letters on their scans."""

MAX_PIXELS = 25_000_000
"""Of a rendered page, 25 MB: an A4 page at 200 dpi has 3.9 million. A page may call itself 14,400 points wide."""

MAX_SIDE = 30_000
"""Pixels; tesseract takes 32,767."""

_COVERED = 0.5
_TRIED_IMAGES = 8
_BLANK_DPI = 32.0
_DOUBTFUL = 60.0
"""Confidence below which a page may lie on its side: upright scans came to 80 and more, turned ones to 20 to 50."""


def read_all(
    source: Path,
    recognition: Recognition,
    *,
    first: int = 0,
    last: int | None = None,
    on_page: Callable[[int], None] | None = None,
) -> Iterator[Page]:
    """Give pages with their text, recognized where there is no usable one; see `nightmill.slicer.reading.read_pages`.

    A page's text is usable when it has 200 letters, or 20 and images cover less than half of the page. A page that is
    not, and is not blank, has recognized text, or a `problem` that says why it has none. One that is blank because its
    image is damaged has one, too.

    Args:
        source: The PDF.
        recognition: How.
        first: The first page, from 0.
        last: The last one, included; None for the document's last.
        on_page: Told after each page how many are done.

    Raises:
        PdfProblem: The PDF cannot be opened.
        OSError: It cannot be read.
    """
    with ExitStack() as stack:
        reader = _Reader(source, recognition, stack)
        for done, page in enumerate(read_pages(source, first=first, last=last), 1):
            yield reader.complete(page)
            if on_page is not None:
                on_page(done)


class _Reader:
    def __init__(self, source: Path, recognition: Recognition, stack: ExitStack) -> None:
        self._source = source
        self._recognition = recognition
        self._stack = stack

    @cached_property
    def _document(self) -> Any:
        return self._stack.enter_context(open_pdf(self._source))

    @cached_property
    def _missing(self) -> str | None:
        return "OCR is switched off" if self._recognition.mode == "never" else missing_parts(self._recognition)

    def complete(self, page: Page) -> Page:
        """Return a page with the best text that can be had."""
        always = self._recognition.mode == "always"
        letters = letters_in(page.lines, enough=None if always else WATERMARK_LETTERS)
        if letters >= WATERMARK_LETTERS and not always:
            return page
        try:
            opened = self._document[page.index]
        except pypdfium2.PdfiumError:
            return replace(page, source="none", problem="it cannot be opened")
        try:
            if letters >= FEW_LETTERS and not always and image_coverage(opened) < _COVERED:
                return page
            if letters == 0 and render(opened, _BLANK_DPI)[0].is_blank:
                problem = None if all_images_decode(opened) else "an image cannot be read"
                return replace(page, source="none", problem=problem)
            return self._recognized(page, opened, letters)
        except pypdfium2.PdfiumError as error:
            return replace(page, problem=f"it cannot be rendered ({str(error)[:100]})")
        finally:
            opened.close()

    def _recognized(self, page: Page, opened: Any, letters: int) -> Page:
        problem = self._missing
        if problem is None:
            try:
                found, turned = _recognize(self._recognition, opened)
            except OcrProblem as error:
                problem = str(error)
            else:
                if letters_in(found.lines) > (0 if self._recognition.mode == "always" else letters):
                    width, height = opened.get_size() if turned in (0, 180) else reversed(opened.get_size())
                    return replace(page, width=width, height=height, lines=found.lines, source="ocr")
                problem = "OCR finds no more"
        return replace(page, source="digital" if letters >= FEW_LETTERS else "none", problem=problem)


def _recognize(recognition: Recognition, opened: Any) -> tuple[Recognized, int]:
    """Return what is on a page, and by how many degrees it was turned for that."""
    end = time.monotonic() + recognition.timeout
    image, per_point = render(opened, recognition.dpi)
    found = recognize(recognition, image, per_point, end)
    turned = 0 if found.confidence >= _DOUBTFUL else turned_by(recognition, image, end)
    if turned != 0:
        other = recognize(recognition, *render(opened, recognition.dpi, turned), end)
        if other.confidence > found.confidence:
            return other, turned
    return found, 0


def letters_in(lines: list[Line], enough: int | None = None) -> int:
    """Return how many letters some lines have; counting ends where there are `enough`."""
    letters = 0
    for line in lines:
        letters += sum(map(str.isalpha, line.text))
        if enough is not None and letters >= enough:
            break
    return letters


def render(page: Any, dpi: float, turned: int = 0) -> tuple[Image, float]:
    """Return a page as a reader sees it in grey, and how many pixels are one point; at most 25 megapixels."""
    width, height = (max(1.0, min(side, 1e6)) for side in page.get_size())
    scale = min(dpi / 72, (MAX_PIXELS / (width * height)) ** 0.5, MAX_SIDE / max(width, height))
    bitmap = page.render(scale=scale, rotation=turned, grayscale=True, limit_image_cache=True)
    try:
        rows, stride = memoryview(bitmap.buffer).cast("B"), bitmap.stride
        pixels = b"".join(rows[at : at + bitmap.width] for at in range(0, stride * bitmap.height, stride))
        return Image(bitmap.width, bitmap.height, pixels), scale
    finally:
        bitmap.close()


def all_images_decode(page: Any) -> bool:
    """Whether each of a page's first images can be shown: pdfium leaves a damaged or a huge one out without a word."""
    found = page.get_objects(filter=(pdfium.FPDF_PAGEOBJ_IMAGE,), max_depth=4)
    for image in islice(found, _TRIED_IMAGES):
        try:
            image.get_bitmap().close()
        except pypdfium2.PdfiumError:
            return False
    return True


def image_coverage(page: Any) -> float:
    """Return which share of a page its images cover; overlaps count twice."""
    left, bottom, right, top = page.get_bbox()
    area = max(1.0, (right - left) * (top - bottom))
    covered = 0.0
    for found in page.get_objects(filter=(pdfium.FPDF_PAGEOBJ_IMAGE,), max_depth=4):
        x0, y0, x1, y1 = found.get_bounds()
        covered += max(0.0, min(x1, right) - max(x0, left)) * max(0.0, min(y1, top) - max(y0, bottom))
        if covered >= area:
            break
    return float(covered / area)

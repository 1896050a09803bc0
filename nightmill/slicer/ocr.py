"""Reads pages that are images, by tesseract where it is installed.

Text recognition takes some 10 processor seconds a page, six hundred times what a text layer takes, so it is done for
those pages only that have no usable text.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pypdfium2.raw as pdfium

from nightmill.slicer.model import Line, Page
from nightmill.slicer.opening import open_pdf
from nightmill.slicer.options import Recognition
from nightmill.slicer.reading import read_pages

FEW_LETTERS = 20
"""A page with fewer letters has no usable text."""

WATERMARK_LETTERS = 200
"""A page with fewer has none either where images cover half of it: archives stamp some fifty letters on their scans."""

_COVERED = 0.5
MAX_PIXELS = 25_000_000
"""Of a rendered page, 25 MB: an A4 page at 200 dpi has 3.9 million. A page may call itself 14,400 points wide."""

_SMALL = 32.0
"""Dots an inch, to see whether a page is blank."""

_MAX_WORDS = 50_000
_MAX_TSV = 64 * 1024 * 1024

_DESCENDS = frozenset("gjpqyç,;QJ()[]{}|")
_ASCENDS = frozenset("bdfhkltiß()[]{}|!?/\\'\"“”")


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
    not, and is not blank, has recognized text, or a `problem` that says why it has none.

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
    reader = _Reader(source, recognition)
    try:
        for done, page in enumerate(read_pages(source, first=first, last=last), 1):
            yield reader.complete(page)
            if on_page is not None:
                on_page(done)
    finally:
        reader.close()


@dataclass
class _Reader:
    source: Path
    recognition: Recognition
    _opened: Any = field(default=None, init=False)
    _document: Any = field(default=None, init=False)
    _missing: str | None = field(default=None, init=False)
    _asked: bool = field(default=False, init=False)

    def complete(self, page: Page) -> Page:
        """Return a page with the best text that can be had."""
        letters = letters_of(page)
        wanted = self.recognition.mode == "always"
        if letters >= WATERMARK_LETTERS and not wanted:
            return page
        opened = self._open()[page.index]
        try:
            if not wanted and letters >= FEW_LETTERS and _image_coverage(opened) < _COVERED:
                return page
            return self._recognized(page, opened, letters)
        finally:
            opened.close()

    def close(self) -> None:
        """Close the document, if it was opened."""
        if self._opened is not None:
            self._opened.__exit__(None, None, None)
            self._opened = None

    def _open(self) -> Any:
        if self._opened is None:
            self._opened = open_pdf(self.source)
            self._document = self._opened.__enter__()
        return self._document

    def _recognized(self, page: Page, opened: Any, letters: int) -> Page:
        if letters == 0 and is_blank(render(opened, _SMALL)[0]):
            return replace(page, source="none")
        problem = "OCR is switched off" if self.recognition.mode == "never" else self._missing_parts()
        lines: list[Line] = []
        width, height = page.width, page.height
        if problem is None:
            image, per_point = render(opened, self.recognition.dpi)
            tsv = _tesseract(self.recognition, image)
            lines = lines_of(tsv, per_point) if isinstance(tsv, bytes) else []
            problem = tsv if isinstance(tsv, str) else None if lines else "OCR finds no text"
            width, height = image.width / per_point, image.height / per_point
        if sum(map(_letters, (line.text for line in lines))) > letters or (lines and self.recognition.mode == "always"):
            return replace(page, width=width, height=height, lines=lines, source="ocr")
        if letters >= FEW_LETTERS:
            return replace(page, source="digital", problem=problem)
        return replace(page, source="none", problem=problem)

    def _missing_parts(self) -> str | None:
        if not self._asked:
            self._asked = True
            self._missing = missing_parts(self.recognition)
        return self._missing


@dataclass(frozen=True)
class Image:
    """A rendered page: one byte a pixel, 0 for black, without gaps between the rows."""

    width: int
    height: int
    pixels: bytes

    def as_pgm(self) -> bytes:
        """Return it as a file that tesseract reads."""
        return b"P5 %d %d 255\n" % (self.width, self.height) + self.pixels


def letters_of(page: Page) -> int:
    """Return how many letters a page's text has."""
    return sum(_letters(line.text) for line in page.lines)


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def render(page: Any, dpi: float) -> tuple[Image, float]:
    """Return a page as a reader sees it in grey, and how many pixels are one point; at most 25 megapixels."""
    width, height = (max(1.0, min(side, 1e6)) for side in page.get_size())
    scale = min(dpi / 72, (MAX_PIXELS / (width * height)) ** 0.5, 30_000 / max(width, height))
    bitmap = page.render(scale=scale, grayscale=True, limit_image_cache=True)
    try:
        rows, stride = memoryview(bitmap.buffer).cast("B"), bitmap.stride
        pixels = b"".join(rows[at : at + bitmap.width] for at in range(0, stride * bitmap.height, stride))
        return Image(bitmap.width, bitmap.height, pixels), scale
    finally:
        bitmap.close()


def is_blank(image: Image) -> bool:
    """Whether it is of one colour all over."""
    return image.pixels.count(image.pixels[:1]) == len(image.pixels)


def missing_parts(recognition: Recognition) -> str | None:
    """Return what is missing for text recognition, or None."""
    program = shutil.which(recognition.program)
    if program is None:
        return "OCR is not installed (tesseract)"
    try:
        asked = subprocess.run([program, "--list-langs"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"OCR cannot be started (tesseract: {type(error).__name__})"
    known = set((asked.stdout + asked.stderr).split())
    lacking = [language for language in recognition.languages.split("+") if language not in known]
    return f"OCR has no data for the language {', '.join(lacking)} (tesseract)" if lacking else None


def lines_of(tsv: bytes, per_point: float) -> list[Line]:
    """Return the lines of tesseract's TSV output in its reading order, with boxes in points.

    Args:
        tsv: The output: a heading, then a row an element; level 5 are words.
        per_point: Pixels of the image for one point of the page.
    """
    lines: list[Line] = []
    words: list[tuple[str, float, float, float, float]] = []
    key: tuple[bytes, ...] = ()
    for row in tsv.split(b"\n")[1:_MAX_WORDS]:
        cells = row.split(b"\t")
        if len(cells) != 12 or cells[0] != b"5":
            continue
        text = cells[11].decode("utf-8", "replace").strip()
        left, top, width, height = (int(cell) / per_point for cell in cells[6:10])
        if not text or float(cells[10]) < 0:
            continue
        if cells[2:5] != list(key):
            if words:
                lines.append(_line(words))
            words, key = [], tuple(cells[2:5])
        words.append((text, left, top, left + width, top + height))
    if words:
        lines.append(_line(words))
    return lines


def _line(words: list[tuple[str, float, float, float, float]]) -> Line:
    sizes = [_size(text, bottom - top) for text, _, top, _, bottom in words for _ in range(len(text))]
    return Line(
        text=" ".join(word[0] for word in words),
        left=min(word[1] for word in words),
        top=min(word[2] for word in words),
        right=max(word[3] for word in words),
        bottom=max(word[4] for word in words),
        size=round(statistics.median(sizes) * 2) / 2,
    )


def _size(text: str, height: float) -> float:
    """Return the size of type in which a word is as high as this: capitals are 0.7 of it, small letters half of it."""
    ascends = any(c.isupper() or c.isdigit() or c in _ASCENDS for c in text)
    descends = any(c in _DESCENDS for c in text)
    accented = any(c in "ÁÉÍÓÚÑÜ" for c in text)
    share = (0.7 if ascends else 0.5) + (0.2 if descends else 0.0) + (0.15 if accented else 0.0)
    return height / share


def _image_coverage(page: Any) -> float:
    """Return which share of a page its largest images cover together; overlaps count twice."""
    left, bottom, right, top = page.get_bbox()
    area = max(1.0, (right - left) * (top - bottom))
    covered = 0.0
    for found in page.get_objects(filter=(pdfium.FPDF_PAGEOBJ_IMAGE,), max_depth=4):
        x0, y0, x1, y1 = found.get_bounds()
        covered += max(0.0, min(x1, right) - max(x0, left)) * max(0.0, min(y1, top) - max(y0, bottom))
        if covered >= area:
            break
    return float(covered / area)


def _tesseract(recognition: Recognition, image: Image) -> bytes | str:
    """Return tesseract's rows for an image, or in a line why there are none."""
    command = [recognition.program, "stdin", "stdout", "-l", recognition.languages, "--psm", "3", "tsv"]
    environment = os.environ | {"OMP_THREAD_LIMIT": "1"}  # more threads make a page dearer, and hardly faster
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError as error:
        return f"OCR cannot be started (tesseract: {error.strerror})"
    with process, _ended_with_us(process):
        try:
            found, log = process.communicate(image.as_pgm(), timeout=recognition.timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return f"OCR takes more than {recognition.timeout:g} s"
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        last = log.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        return f"OCR fails: {last[0][:200]}"
    return found[:_MAX_TSV]


@contextmanager
def _ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """While tesseract works, let SIGTERM end it first, and then this program as at all other times."""

    def end(number: int, _: FrameType | None) -> None:
        process.kill()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():  # only there may one ask for signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

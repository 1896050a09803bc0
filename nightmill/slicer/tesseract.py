"""Runs tesseract on one image, and reads what it says as lines with boxes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from nightmill.slicer.model import Line
from nightmill.slicer.options import Recognition

MAX_WORDS = 50_000
"""Of one page; the densest gazette that was measured has 2,000."""

_DESCENDING = frozenset("gjpqyç,;QJ()[]{}|")
_ASCENDING = frozenset("bdfhklti()[]{}|!?/\\'\"“”")
_ACCENTED = frozenset("ÁÉÍÓÚÑÜ")


class OcrProblem(Exception):
    """A page could not be recognized. `str()` ends a sentence that begins with the pages."""


@dataclass(frozen=True)
class Image:
    """A rendered page: one byte a pixel, 0 for black, without gaps between the rows."""

    width: int
    height: int
    pixels: bytes

    @property
    def is_blank(self) -> bool:
        """Whether it is of one colour all over."""
        return self.pixels.count(self.pixels[:1]) == len(self.pixels)

    def as_pgm(self) -> bytes:
        """Return it as a file that tesseract reads."""
        return b"P5 %d %d 255\n" % (self.width, self.height) + self.pixels


@dataclass
class Recognized:
    """What is written on an image.

    Attributes:
        lines: Its lines in reading order, with boxes in points.
        confidence: From 0 to 100, over all words.
    """

    lines: list[Line] = field(default_factory=list)
    confidence: float = 0.0


def missing_parts(recognition: Recognition) -> str | None:
    """Return what is missing for text recognition, or None."""
    program = shutil.which(recognition.program)
    if program is None:
        return "OCR is not installed: tesseract"
    try:
        asked = subprocess.run([program, "--list-langs"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"OCR cannot be started: tesseract, {type(error).__name__}"
    known = set((asked.stdout + asked.stderr).split())
    lacking = [language for language in recognition.languages.split("+") if language not in known]
    return f"OCR has no data for the language {', '.join(lacking)}: tesseract" if lacking else None


def recognize(recognition: Recognition, image: Image, per_point: float, end: float) -> Recognized:
    """Return what is written on an image.

    Args:
        recognition: How.
        image: The image.
        per_point: Its pixels for one point of the page.
        end: When it has to be done, by `time.monotonic`.

    Raises:
        OcrProblem: Tesseract fails, or takes too long.
    """
    options = ("-l", recognition.languages, "--psm", "3", "tsv")
    return read_rows(_run(recognition, image, options, end), per_point)


def turned_by(recognition: Recognition, image: Image, end: float) -> int:
    """Return by how many degrees clockwise an image has to be turned to be upright; 0 where that cannot be told."""
    try:
        found = _run(recognition, image, ("--psm", "0"), end)
    except OcrProblem:  # too few characters, or tesseract's data for this are not installed
        return 0
    match = re.search(rb"^Rotate: (90|180|270)\s*$", found, re.MULTILINE)
    return int(match[1]) if match else 0


def read_rows(tsv: bytes, per_point: float) -> Recognized:
    """Return what tesseract's TSV says: a heading, then a row an element, of which level 5 are words."""
    found = Recognized()
    words: list[tuple[str, float, float, float, float]] = []
    confidences: list[float] = []
    key: Sequence[bytes] = ()
    for row in tsv.split(b"\n")[1:]:
        cells = row.split(b"\t")
        if len(cells) != 12 or cells[0] != b"5":
            continue
        text = cells[11].decode("utf-8", "replace").strip()
        if not text or float(cells[10]) < 0:
            continue
        if cells[2:5] != key:
            if words:
                found.lines.append(_line(words))
            words, key = [], cells[2:5]
        left, top, width, height = (int(cell) / per_point for cell in cells[6:10])
        words.append((text, left, top, left + width, top + height))
        confidences.append(float(cells[10]))
        if len(confidences) >= MAX_WORDS:
            break
    if words:
        found.lines.append(_line(words))
    found.confidence = statistics.fmean(confidences) if confidences else 0.0
    return found


def _line(words: Sequence[tuple[str, float, float, float, float]]) -> Line:
    sizes = [_size(text, bottom - top) for text, _, top, _, bottom in words for _ in text]
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
    letters = frozenset(text)
    ascends = letters & _ASCENDING or any(letter.isupper() or letter.isdigit() for letter in letters)
    share = (0.7 if ascends else 0.5) + (0.2 if letters & _DESCENDING else 0) + (0.15 if letters & _ACCENTED else 0)
    return height / share


def _run(recognition: Recognition, image: Image, options: Sequence[str], end: float) -> bytes:
    command = [recognition.program, "stdin", "stdout", *options]
    environment = os.environ | {"OMP_THREAD_LIMIT": "1"}  # more threads make a page dearer, and hardly faster
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError as error:
        raise OcrProblem(f"OCR cannot be started: tesseract, {error.strerror}") from None
    with process, _ended_with_us(process):
        try:
            found, log = process.communicate(image.as_pgm(), timeout=max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise OcrProblem(f"OCR takes more than {recognition.timeout:g} s") from None
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        last = log.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise OcrProblem(f"OCR fails: tesseract says {last[0][:200]}")
    return found


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

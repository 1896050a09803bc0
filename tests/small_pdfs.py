"""Small PDFs, and a stand-in for tesseract, for the tests of the slicer."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pikepdf
from PIL import Image
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

WIDTH, HEIGHT = 612, 792
BODY = "Considerando que corresponde al Estado velar por el bienestar de todos los habitantes del territorio nacional."


def text_pdf(path: Path, pages: Sequence[Sequence[str]], bookmarks: Sequence[tuple[str, int, int]] = ()) -> Path:
    """Write a PDF of pages with these lines; one that begins with `# ` is a heading: large, bold and centred.

    Args:
        path: Where.
        pages: The lines of each page, from the top down.
        bookmarks: Title, page from 0, and level from 0; each leads to the heading of the same words, or the top.
    """
    canvas = Canvas(str(path), pagesize=(WIDTH, HEIGHT), invariant=1)
    for number, lines in enumerate(pages):
        tops = {}
        y = HEIGHT - 100.0
        for line in lines:
            if line.startswith("# "):
                canvas.setFont("Helvetica-Bold", 14)
                canvas.drawCentredString(WIDTH / 2, y, line[2:])
                tops[line[2:]] = y + 14
            else:
                canvas.setFont("Helvetica", 10)
                canvas.drawString(72, y, line)
            y -= 20
        for place, (title, page, level) in enumerate(bookmarks):
            if page == number:
                canvas.bookmarkHorizontalAbsolute(str(place), tops.get(title, HEIGHT), fit="XYZ")
                canvas.addOutlineEntry(title, str(place), level=level)
        canvas.showPage()
    canvas.save()
    return path


def body(lines: int = 5) -> list[str]:
    """Return lines that make a page's text usable."""
    return [BODY[start : start + 90] for start in range(lines)]


def scanned_pdf(path: Path, pages: int = 1, *, stamp: str = "", size: tuple[float, float] = (WIDTH, HEIGHT)) -> Path:
    """Write a PDF of grey images with a dark bar each, and perhaps a line of text over them."""
    canvas = Canvas(str(path), pagesize=size, invariant=1)
    for number in range(pages):
        image = Image.new("L", (60, 80), 250)
        image.paste(10, (10, 10 + number, 50, 14 + number))
        canvas.drawImage(ImageReader(image), 0, 0, *size)
        if stamp:
            canvas.drawString(10, 10, stamp)
        canvas.showPage()
    canvas.save()
    return path


def with_page_count(source: Path, target: Path, count: int) -> Path:
    """Write `source` again with a page tree that says it had `count` pages."""
    with pikepdf.open(source) as pdf:
        written = BytesIO()
        pdf.save(written, object_stream_mode=pikepdf.ObjectStreamMode.disable, qdf=True)
        true = b"/Count %d" % len(pdf.pages)
    assert written.getvalue().count(true) == 1
    target.write_bytes(written.getvalue().replace(true, b"/Count %d" % count))
    return target


def fake_tesseract(folder: Path, *, says: str = "uno dos tres", languages: str = "spa", instead: str = "") -> Path:
    """Return a program that finds the words `says` on every image, or does something else instead."""
    rows = ["level page_num block_num par_num line_num word_num left top width height conf text".replace(" ", "\t")]
    for number, word in enumerate(says.split()):
        rows.append(
            "\t".join(map(str, (5, 1, 1, 1, number // 2 + 1, number, 100 + 50 * number, 200, 40, 20, 91, word)))
        )
    folder.mkdir(exist_ok=True)
    (folder / "rows.tsv").write_text("\n".join(rows) + "\n")
    program = folder / "tesseract"
    work = instead or f"cat > /dev/null; cat '{folder / 'rows.tsv'}'"
    program.write_text(f'#!/bin/sh\nif [ "$1" = --list-langs ]; then echo "{languages}"; exit; fi\n{work}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program

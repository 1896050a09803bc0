"""What is done to a printed sample: it is scanned, or locked."""

from __future__ import annotations

from io import BytesIO
from random import Random

import pikepdf
import pypdfium2
from PIL import Image, ImageChops
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

DPI = 150
"""Enough for a recognition's first pass, and small."""
POINTS = 72


def scanned(pdf: bytes, seed: int) -> bytes:
    """Return the same pages as grey images, a little noisy and askew by up to half a degree."""
    chance = Random(f"scan {seed}")  # noqa: S311 - a sample, not a secret
    target = BytesIO()
    canvas = Canvas(target, invariant=1)
    document = pypdfium2.PdfDocument(pdf)
    try:
        for page in document:
            size = page.get_size()
            seen = page.render(scale=DPI / POINTS, grayscale=True).to_pil().convert("L")
            seen = seen.rotate(chance.uniform(-0.5, 0.5), Image.Resampling.BILINEAR, fillcolor=255)
            small = seen.width // 2, seen.height // 2
            grain = Image.frombytes("L", small, chance.randbytes(small[0] * small[1])).resize(seen.size)
            seen = ImageChops.subtract(seen, grain.point(lambda level: level // 8))
            jpeg = BytesIO()
            seen.save(jpeg, "JPEG", quality=70)
            canvas.setPageSize(size)
            canvas.drawImage(ImageReader(jpeg), 0, 0, *size)
            canvas.showPage()
            page.close()
    finally:
        document.close()
    canvas.save()
    return target.getvalue()


def encrypted(pdf: bytes, password: str) -> bytes:
    """Return a file that opens only with the password. Each call's bytes differ: the key is random."""
    target = BytesIO()
    with pikepdf.open(BytesIO(pdf)) as document:
        document.save(target, encryption=pikepdf.Encryption(owner=f"{password}-owner", user=password))
    return target.getvalue()

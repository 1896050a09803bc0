from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pikepdf
import pypdfium2
import pytest

from nightmill.slicer.model import Page
from nightmill.slicer.ocr import MAX_PIXELS, read_all, render
from nightmill.slicer.options import Recognition
from nightmill.slicer.samples import make_sample
from nightmill.slicer.samples.options import SampleOptions
from nightmill.slicer.tesseract import missing_parts, read_rows
from tests.small_pdfs import HEIGHT, WIDTH, body, fake_tesseract, scanned_pdf, text_pdf

STAMP = "Procesamiento Técnico Documental Digital UDI-DEGT-UNAH"


def read_with(source: Path, program: Path, **options: Any) -> list[Page]:
    return list(read_all(source, Recognition(program=str(program), **options)))


def texts(page: Page) -> list[str]:
    return [line.text for line in page.lines]


@pytest.fixture
def tesseract(tmp_path: Path) -> Path:
    return fake_tesseract(tmp_path / "bin")


def test_a_page_without_text_is_recognized_with_boxes_in_points(tmp_path: Path, tesseract: Path) -> None:
    [page] = read_with(scanned_pdf(tmp_path / "a.pdf"), tesseract, dpi=144)

    assert page.source == "ocr"
    assert page.problem is None
    assert (page.width, page.height) == (WIDTH, HEIGHT)
    assert texts(page) == ["uno dos", "tres"]
    first = page.lines[0]
    assert (first.left, first.top, first.right, first.bottom) == pytest.approx((50, 100, 95, 110), abs=0.1)


def test_a_page_with_text_is_left_alone(tmp_path: Path, tesseract: Path) -> None:
    source = text_pdf(tmp_path / "a.pdf", [body(), ["Thirty letters are text enough here"]])

    assert [page.source for page in read_with(source, tesseract)] == ["digital", "digital"]


def test_an_archive_s_stamp_on_a_scan_is_not_its_text(tmp_path: Path) -> None:
    tesseract = fake_tesseract(tmp_path / "bin", says="palabra " * 20)

    [page] = read_with(scanned_pdf(tmp_path / "a.pdf", stamp=STAMP), tesseract)

    assert page.source == "ocr"
    assert STAMP not in texts(page)


def test_what_is_there_stays_when_recognition_finds_less(tmp_path: Path, tesseract: Path) -> None:
    [page] = read_with(scanned_pdf(tmp_path / "a.pdf", stamp=STAMP), tesseract)

    assert (page.source, texts(page), page.problem) == ("digital", [STAMP], "OCR finds no more")


def test_a_blank_page_needs_no_text(tmp_path: Path, tesseract: Path) -> None:
    [page] = read_with(text_pdf(tmp_path / "a.pdf", [[]]), tesseract)

    assert (page.source, page.lines, page.problem) == ("none", [], None)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ({"program": "no-such-tesseract"}, "OCR is not installed: tesseract"),
        ({"mode": "never"}, "OCR is switched off"),
        ({"languages": "spa+deu"}, "OCR has no data for the language deu: tesseract"),
    ],
)
def test_a_page_that_cannot_be_recognized_says_why(
    tmp_path: Path, tesseract: Path, kind: dict[str, Any], problem: str
) -> None:
    recognition = Recognition(**({"program": str(tesseract)} | kind))

    [page] = read_all(scanned_pdf(tmp_path / "a.pdf"), recognition)

    assert (page.source, page.lines, page.problem) == ("none", [], problem)


def test_a_failing_tesseract_fails_its_page_only(tmp_path: Path) -> None:
    fails = fake_tesseract(tmp_path / "a", instead="echo 'Error: no memory' >&2; exit 3")
    silent = fake_tesseract(tmp_path / "b", says="")
    source = scanned_pdf(tmp_path / "a.pdf", 2)

    assert [page.problem for page in read_with(source, fails)] == ["OCR fails: tesseract says Error: no memory"] * 2
    assert [page.problem for page in read_with(source, silent)] == ["OCR finds no more"] * 2


def test_a_hanging_tesseract_is_ended_after_its_time(tmp_path: Path) -> None:
    hangs = fake_tesseract(tmp_path / "bin", instead=f"echo $$ > '{tmp_path / 'pid'}'; exec sleep 60")
    began = time.monotonic()

    [page] = read_with(scanned_pdf(tmp_path / "a.pdf"), hangs, timeout=0.5)

    assert page.problem == "OCR takes more than 0.5 s"
    assert time.monotonic() - began < 10
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_always_means_also_pages_with_text(tmp_path: Path, tesseract: Path) -> None:
    [page] = read_with(text_pdf(tmp_path / "a.pdf", [body()]), tesseract, mode="always")

    assert (page.source, texts(page)) == ("ocr", ["uno dos", "tres"])


@pytest.mark.parametrize("size", [(14_400, 14_400), (14_400, 3), (612, 792)])
def test_a_page_of_any_size_is_rendered_within_bounds(tmp_path: Path, size: tuple[float, float]) -> None:
    source = scanned_pdf(tmp_path / "a.pdf", size=size)
    with pypdfium2.PdfDocument(source) as document:
        image, per_point = render(document[0], 600)

    assert len(image.pixels) == image.width * image.height <= MAX_PIXELS * 1.01
    assert image.width == pytest.approx(size[0] * per_point, abs=1.5)


def test_the_image_is_what_a_reader_sees(tmp_path: Path) -> None:
    source = scanned_pdf(tmp_path / "a.pdf")
    with pikepdf.open(source, allow_overwriting_input=True) as pdf:
        pdf.pages[0].obj.Rotate = 90
        pdf.save()
    with pypdfium2.PdfDocument(source) as document:
        turned, _ = render(document[0], 72)
        back, _ = render(document[0], 72, 270)

    assert (turned.width, turned.height) == (HEIGHT, WIDTH)
    assert (back.width, back.height) == (WIDTH, HEIGHT)
    assert back.as_pgm().startswith(b"P5 612 792 255\n")


def test_type_is_as_large_as_its_letters_tell() -> None:
    """Ten points: capitals are 7 points high, small letters 5, and descenders reach 2 below the line."""
    rows = [("DECRETO", 7), ("como", 5), ("ley", 9), ("ACCIÓN", 8.5), ("vean", 5)]
    head = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n"
    tsv = head + "".join(
        f"5\t1\t1\t1\t{number}\t1\t100\t100\t300\t{int(height * 10)}\t90.5\t{text}\n"
        for number, (text, height) in enumerate(rows)
    )

    found = read_rows(tsv.encode(), 10)

    assert [(line.text, line.size) for line in found.lines] == [(text, 10) for text, _ in rows]
    assert found.confidence == 90.5


@pytest.mark.parametrize("tsv", [b"", b"\n\n", b"heading\nnothing\n", b"h\n4\t1\t1\t1\t1\t0\t1\t1\t1\t1\t-1\t\n"])
def test_rows_without_words_are_no_lines(tsv: bytes) -> None:
    assert read_rows(tsv, 1).lines == []


@pytest.mark.system
@pytest.mark.skipif(missing_parts(Recognition()) is not None, reason="tesseract with Spanish is not installed")
def test_scans_are_read_whichever_way_they_lie(tmp_path: Path) -> None:
    source = tmp_path / "scan.pdf"
    source.write_bytes(make_sample(SampleOptions(seed=3, pages=4, acts=2, scan=True)).pdf)
    with pikepdf.open(source, allow_overwriting_input=True) as pdf:
        del pdf.pages[2:]
        pdf.pages[1].obj.Rotate = 270
        pdf.save()

    upright, turned = read_all(source, Recognition())

    assert any("REPÚBLICA DE HONDURAS" in text for text in texts(upright))
    assert any("REPÚBLICA DE HONDURAS" in text for text in texts(turned))
    assert (turned.width, turned.height) == pytest.approx((upright.width, upright.height), abs=1)

"""Reading lines: boxes as a reader sees them, whatever a page's rotation, and PDFs that are not what they should be."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pikepdf
import pytest
from reportlab.pdfgen.canvas import Canvas

from nightmill.slicer.model import Page
from nightmill.slicer.opening import PdfProblem, open_pdf
from nightmill.slicer.reading import read_pages

WORDS = "Que el Poder Ejecutivo presenta el informe"


def printed(*lines: tuple[float, float, str], font: str = "Times-Roman", pages: int = 1) -> bytes:
    target = BytesIO()
    canvas = Canvas(target, pagesize=(612, 792), invariant=1)
    for _ in range(pages):
        for x, y, text in lines:
            canvas.setFont(font, 10)
            canvas.drawString(x, 792 - y, text)
        canvas.showPage()
    canvas.save()
    return target.getvalue()


def changed(pdf: bytes, rotation: int = 0, crop: tuple[float, float, float, float] | None = None) -> bytes:
    target = BytesIO()
    with pikepdf.open(BytesIO(pdf)) as document:
        for page in document.pages:
            page.Rotate = rotation
            if crop is not None:
                page.CropBox = pikepdf.Array(crop)
        document.save(target)
    return target.getvalue()


def only(pdf: bytes) -> Page:
    (page,) = read_pages(pdf)
    return page


def test_a_line_has_its_box_size_and_weight() -> None:
    line = only(printed((72, 100, WORDS), font="Times-Bold")).lines[0]

    assert (line.text, round(line.left), line.bold, round(line.size)) == (WORDS, 72, True, 10)
    assert 85 < line.top < 100 < line.bottom < 110
    assert 240 < line.right < 290


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_text_is_upright_whatever_the_page_says_of_its_rotation(rotation: int) -> None:
    page = only(changed(printed((72, 100, WORDS), (72, 120, "de la Secretaría de Finanzas")), rotation))

    assert (page.width, page.height) == (612, 792)
    lines = sorted(page.lines, key=lambda line: line.top)
    assert [(line.text, round(line.left)) for line in lines] == [(WORDS, 72), ("de la Secretaría de Finanzas", 72)]


def test_places_count_from_the_corner_of_what_is_shown() -> None:
    page = only(changed(printed((172, 200, WORDS)), crop=(100, 100, 500, 692)))

    assert (page.width, page.height) == (400, 592)
    assert round(page.lines[0].left) == 72
    assert 85 < page.lines[0].top < 100


def test_lines_of_two_columns_at_one_height_are_two() -> None:
    left, right = "El beneficiario presenta su informe a", "la comisión en el plazo de treinta días"
    page = only(printed((40, 100, left), (316, 100, right)))

    assert sorted(line.text for line in page.lines) == sorted([left, right])


def test_a_letter_in_the_margin_is_apart_from_the_line_beside_it() -> None:
    page = only(printed((40, 100, WORDS), (588, 100, "P")))

    assert [line.text for line in page.lines] == [WORDS, "P"]


def test_a_page_with_hardly_a_letter_has_no_text() -> None:
    assert only(printed((72, 100, "A. 1"))).source == "none"
    assert only(printed((72, 100, WORDS))).source == "digital"


def test_a_range_of_pages_is_read_and_told_of() -> None:
    told: list[tuple[int, int]] = []
    pages = list(read_pages(printed((72, 100, WORDS), pages=5), first=1, last=3, on_page=lambda *at: told.append(at)))

    assert [page.index for page in pages] == [1, 2, 3]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_pdf_without_its_end_is_read_all_the_same(tmp_path: Path) -> None:
    pdf = printed((72, 100, WORDS), pages=3)
    path = tmp_path / "cut.pdf"
    path.write_bytes(pdf[: pdf.rindex(b"xref\n")])

    assert [page.lines[0].text for page in read_pages(path)] == [WORDS] * 3


def test_a_pdf_with_a_password_says_so() -> None:
    target = BytesIO()
    with pikepdf.open(BytesIO(printed((72, 100, WORDS)))) as document:
        document.save(target, encryption=pikepdf.Encryption(user="secret", owner="secret"))

    with pytest.raises(PdfProblem, match="password") as raised:
        only(target.getvalue())
    assert raised.value.code == "encrypted"


def test_a_pdf_without_pages_is_empty_even_after_one_with_a_password() -> None:
    test_a_pdf_with_a_password_says_so()
    target = BytesIO()
    with pikepdf.new() as document:
        document.save(target)

    with pytest.raises(PdfProblem) as raised, open_pdf(target.getvalue()):
        pass
    assert raised.value.code == "empty"


@pytest.mark.parametrize(("body", "code"), [(b"", "empty"), (b"%PDF-1.7\nnothing that follows is one", "damaged")])
def test_what_is_no_pdf_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(PdfProblem) as raised, open_pdf(body):
        pass
    assert raised.value.code == code
    assert "0x" not in str(raised.value)

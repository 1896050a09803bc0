from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nightmill.slicer.cutting import run
from nightmill.slicer.model import Line, Page
from nightmill.slicer.options import Options, Recognition
from nightmill.slicer.output import to_json
from nightmill.slicer.pages_file import PagesProblem, read_pages_files, write_pages
from nightmill.slicer.samples import make_sample
from nightmill.slicer.samples.options import SampleOptions
from tests.small_pdfs import body, fake_tesseract, scanned_pdf, text_pdf


def read_in_parts(source: Path, folder: Path, *parts: tuple[int, int], **options: Any) -> Path:
    """Read a document's pages as several processes would, and return the folder with all of them."""
    chunks = folder / "chunks"
    chunks.mkdir(parents=True)
    for first, last in parts:
        out = folder / f"read-{first}"
        told = run(Options(source, out, read_pages=(first, last), **options))
        assert (told["first"], told["last"], told["pages"], told["errors"]) == (first, last, "pages.jsonl", [])
        (out / "pages.jsonl").rename(chunks / f"{first:06}.jsonl")
    return chunks


def test_a_gazette_read_in_parts_gives_the_same_bytes_as_a_single_run(tmp_path: Path) -> None:
    source = tmp_path / "gazette.pdf"
    source.write_bytes(make_sample(SampleOptions(seed=7, pages=9, acts=4)).pdf)

    single = to_json(run(Options(source, tmp_path / "single")))
    result = json.loads(single)
    assert len(result["files"]) >= 4
    chunks = read_in_parts(source, tmp_path / "parts", (0, 3), (4, 4), (5, result["page_count"] - 1))
    merged = to_json(run(Options(source, tmp_path / "merged", pages_from=chunks)))

    assert merged == single
    for path in (tmp_path / "single").iterdir():
        assert path.read_bytes() == (tmp_path / "merged" / path.name).read_bytes()


def test_so_do_recognized_pages(tmp_path: Path) -> None:
    source = scanned_pdf(tmp_path / "scan.pdf", 4)
    says = "Ministerio de Gobernación y Justicia del país entero"
    by = {"recognition": Recognition(program=str(fake_tesseract(tmp_path / "bin", says=says))), "mode": "every"}

    single = run(Options(source, tmp_path / "single", **by))  # type: ignore[arg-type]
    chunks = read_in_parts(source, tmp_path / "parts", (0, 1), (2, 3), **by)
    merged = run(Options(source, tmp_path / "merged", pages_from=chunks, **by))  # type: ignore[arg-type]

    assert merged == single
    assert merged["text_source"] == "ocr"
    assert [file["full_text"] for file in merged["files"]] == [
        "Ministerio de\nGobernación y\nJusticia del\npaís entero"
    ] * 4


def test_pages_come_back_exactly_as_they_were(tmp_path: Path) -> None:
    strange = 'a\u2028b\ud800"\\ \x00 ñ'
    pages = [
        Page(0, 612, 791.5199892520905, [Line(strange, 0.1 + 0.2, -1e-9, 5, 6, 9.199999809265137, bold=True)]),
        Page(1, 10, 20, [], "none", "A. 1", "OCR is not installed (tesseract)"),
        Page(2, 10, 20, [Line("x", 1, 2, 3, 4)], "ocr"),
    ]

    write_pages(pages, tmp_path, 3, 0, 2)

    assert read_pages_files(tmp_path, 3) == pages


def test_parts_may_be_joined_to_one_file(tmp_path: Path) -> None:
    joined = tmp_path / "joined"
    joined.mkdir()
    for index in range(3):
        part = tmp_path / str(index)
        part.mkdir()
        written = write_pages([Page(index, 1, 1)], part, 3, index, index)
        with (joined / "all.jsonl").open("ab") as file:
            file.write(written.read_bytes())

    assert [page.index for page in read_pages_files(joined, 3)] == [0, 1, 2]


HEAD = '{"format": "nightmill-pages", "version": 1, "page_count": 2, "first": 0, "last": 1}'
ROW = '{"index": %s, "width": 1, "height": 1, "source": "digital", "lines": []}'


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "pages are missing: 1-2"),
        ([HEAD, ROW % 0], "pages are missing: 2"),
        ([HEAD, ROW % 0, ROW % 0], "page 1 is there twice"),
        ([ROW % 0, ROW % 1], "its first line is not that of a file of pages"),
        ([HEAD.replace("1,", "2,", 1)], "format 'nightmill-pages' 2 is not known"),
        ([HEAD.replace('"page_count": 2', '"page_count": 3')], "of a document of 3 pages, not 2"),
        ([HEAD, ROW % 2], "a line is not a page"),
        ([HEAD, ROW % -1], "a line is not a page"),
        ([HEAD, ROW % "true"], "a line is not a page"),
        ([HEAD, ROW.replace("digital", "telepathy") % 0], "a line is not a page"),
        ([HEAD, ROW.replace('"width": 1', '"width": NaN') % 0], "a line is not a page"),
        ([HEAD, ROW.replace("[]", '[["x", 1, 2, 3, 4, 5]]') % 0], "a line is not a page"),
        ([HEAD, ROW.replace("[]", '[["x", 1, 2, 3, 4, 5, 1]]') % 0], "a line is not a page"),
        ([HEAD, ROW.replace("[]", "[[7, 1, 2, 3, 4, 5, true]]") % 0], "a line is not a page"),
        ([HEAD, (ROW % 0)[:-20]], "a line is not a page"),
        ([HEAD, "[1]"], "a line is not a page"),
        ([HEAD, "[" * 100_000], "a line is not a page"),
        (["\udcff\udcfe"], "a line is not a page"),
    ],
)
def test_files_that_do_not_hold_each_page_once_are_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f"{row}\n" for row in rows), errors="surrogateescape")

    with pytest.raises(PagesProblem, match=message):
        read_pages_files(tmp_path, 2)


def test_pages_that_the_document_has_not_are_refused(tmp_path: Path) -> None:
    source = text_pdf(tmp_path / "two.pdf", [body(), body()])

    with pytest.raises(PagesProblem, match="pages 1-2 were to be read, and the document has 2"):
        run(Options(source, tmp_path / "out", read_pages=(1, 2)))

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pikepdf
import pytest
from PIL import Image
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from nightmill.contracts import TextSource
from nightmill.slicer.inspector import check, inspect, main, spread, text_source
from nightmill.slicing.entries import Entry
from nightmill.slicing.faults import (
    DamagedPdf,
    EmptyFile,
    EmptyOutput,
    EncryptedPdf,
    InvalidJson,
    NotAFile,
    NotAPdf,
    SlicingFault,
    TooLarge,
    Unreadable,
)
from nightmill.slicing.inspection import (
    check_command,
    check_source,
    inspection_command,
    names_to_check,
    read_checks,
    read_inspection,
)
from nightmill.slicing.results import FileCheck, SlicerResult

TEXT = "El Congreso Nacional decreta lo siguiente, y manda que se publique. " * 5
Draw = Callable[[Canvas], None]


def text(canvas: Canvas) -> None:
    for line in range(5):
        canvas.drawString(72, 700 - 20 * line, TEXT[:80])


def image(canvas: Canvas) -> None:
    scan = ImageReader(Image.new("L", (60, 80), 200))
    canvas.drawImage(scan, 0, 0, width=595, height=842)


def watermark(canvas: Canvas) -> None:
    image(canvas)
    canvas.drawString(72, 20, "Procesamiento Técnico Documental Digital")


def number(canvas: Canvas) -> None:
    canvas.drawString(72, 20, "12")


def blank(_: Canvas) -> None:
    """Draw nothing."""


def pdf(*pages: Draw) -> bytes:
    target = io.BytesIO()
    canvas = Canvas(target, invariant=1)
    for draw in pages:
        draw(canvas)
        canvas.showPage()
    canvas.save()
    return target.getvalue()


def locked(content: bytes, *, user: str) -> bytes:
    target = io.BytesIO()
    with pikepdf.open(io.BytesIO(content)) as opened:
        opened.save(target, encryption=pikepdf.Encryption(owner="o", user=user))
    return target.getvalue()


def looked_at(content: bytes, folder: Path, *, max_pages: int = 100) -> Path:
    """Inspect a PDF, and return the file with what the program says."""
    (folder / "a.pdf").write_bytes(content)
    said = folder / "stdout"
    said.write_text(json.dumps(inspect(folder / "a.pdf", folder, max_pages=max_pages)))
    return said


@pytest.mark.parametrize("before", [b"", b"\n", b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 900])
def test_a_pdf_is_known_by_its_first_kilobyte(tmp_path: Path, before: bytes) -> None:
    content = before + b"%PDF-1.7\n"
    (tmp_path / "a.pdf").write_bytes(content)

    assert check_source(tmp_path / "a.pdf", 10_000) == len(content)


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", EmptyFile, "empty"),
        (b"<!DOCTYPE html><p>404", NotAPdf, "an HTML page"),
        (b"\n \n<HTML>", NotAPdf, "an HTML page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", NotAPdf, "an XML document"),
        (b"PK\x03\x04....", NotAPdf, "a ZIP file or an office document"),
        (b"\xff\xd8\xff\xe0", NotAPdf, "a JPEG image"),
        (b"\x00\x01\x02", NotAPdf, "binary data"),
        (b"Sehr geehrte\x1b[0m", NotAPdf, "text, which begins with `Sehr geehrte"),
        (b" " * 1_024 + b"%PDF-1.4", NotAPdf, "text"),
        (b"%PDF-1.4" + b" " * 10_000, TooLarge, "10,008 bytes, at most 10,000"),
    ],
)
def test_what_is_no_pdf_is_refused_before_a_program_starts(
    tmp_path: Path, content: bytes, kind: type[SlicingFault], said: str
) -> None:
    (tmp_path / "a.pdf").write_bytes(content)

    with pytest.raises(kind, match=said):
        check_source(tmp_path / "a.pdf", 10_000)


def test_what_is_no_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost").symlink_to("nowhere")

    for path, said in ((tmp_path, "not a file"), (tmp_path / "pipe", "not a file"), (tmp_path / "lost", "no such")):
        with pytest.raises(NotAFile, match=said):
            check_source(path, 10)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-")
    (tmp_path / "a.pdf").chmod(0)

    with pytest.raises(Unreadable, match="Permission denied"):
        check_source(tmp_path / "a.pdf", 10)


def test_a_name_that_no_file_can_have_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises((Unreadable, NotAFile)):
        check_source(tmp_path / ("x" * 300), 10)


@pytest.mark.parametrize(
    ("pages", "source"),
    [
        ((text,) * 12, "digital"),
        ((image, image), "scanned"),
        ((watermark,), "scanned"),
        ((number, image), "scanned"),
        ((text, image), "mixed"),
        ((text, blank, text), "digital"),
        ((blank,), "digital"),
    ],
)
def test_a_look_at_some_pages_says_where_the_text_comes_from(
    tmp_path: Path, pages: tuple[Draw, ...], source: TextSource
) -> None:
    found = read_inspection(looked_at(pdf(*pages), tmp_path), max_pages=100)

    assert (found.page_count, found.text_source, found.flags) == (len(pages), source, ())


def test_eight_pages_are_looked_at_from_the_first_to_the_last() -> None:
    assert spread(3) == [0, 1, 2]
    assert spread(0) == []
    for pages in (9, 10, 100, 20_000):
        places = spread(pages)
        assert len(set(places)) == 8
        assert (places[0], places[-1]) == (0, pages - 1)
    assert text_source([]) == "digital"


def test_a_pdf_with_a_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncryptedPdf, match="password"):
        read_inspection(looked_at(locked(pdf(text), user="u"), tmp_path), max_pages=10)


def test_a_pdf_that_only_its_owner_may_change_needs_no_password(tmp_path: Path) -> None:
    assert read_inspection(looked_at(locked(pdf(text), user=""), tmp_path), max_pages=10).page_count == 1


@pytest.mark.parametrize("content", [b"%PDF-1.7\n%%EOF\n", b"%PDF-1.4\n" + b"\x00" * 5_000, pdf(text)[:300]])
def test_a_pdf_beyond_repair_is_damaged(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DamagedPdf):
        read_inspection(looked_at(content, tmp_path), max_pages=10)


def test_a_pdf_without_pages_is_damaged(tmp_path: Path) -> None:
    target = io.BytesIO()
    pikepdf.new().save(target)

    with pytest.raises(DamagedPdf, match="no pages"):
        read_inspection(looked_at(target.getvalue(), tmp_path), max_pages=10)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_pages_that_the_page_tree_denies_are_found_and_said(tmp_path: Path, count: int) -> None:
    lying = pdf(text, text, text).replace(b"/Count 3", b"/Count %d" % count)

    found = read_inspection(looked_at(lying, tmp_path), max_pages=100)

    assert found.page_count == 3
    assert "damaged" in found.flags[0]


def test_a_pdf_of_too_many_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=r"5 pages, at most 4 .*NIGHTMILL_SLICING__MAX_PAGES"):
        read_inspection(looked_at(pdf(*[blank] * 5), tmp_path, max_pages=4), max_pages=4)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("", EmptyOutput),
        ("  \n", EmptyOutput),
        ("Segmentation fault", InvalidJson),
        ("[]", InvalidJson),
        ('{"page_count": "3"}', InvalidJson),
        ('{"page_count": 3, "text_source": "guessed"}', InvalidJson),
        ('{"page_count": 3', InvalidJson),
        ('{"page_count": 0}', DamagedPdf),
        ('{"page_count": 101}', TooLarge),
        ('{"page_count": -1}', DamagedPdf),
        ("\udcff", InvalidJson),
    ],
)
def test_what_the_program_may_not_say_is_refused(tmp_path: Path, said: str, kind: type[SlicingFault]) -> None:
    (tmp_path / "stdout").write_bytes(said.encode(errors="surrogateescape"))

    with pytest.raises(kind):
        read_inspection(tmp_path / "stdout", max_pages=100)


def test_the_programs_run_in_an_empty_environment_from_any_folder(tmp_path: Path) -> None:
    source, output = tmp_path / "a b.pdf", tmp_path / "output"
    output.mkdir()
    source.write_bytes(pdf(text, text))
    (output / "json.py").write_text("raise SystemExit('the output folder is on the path')")
    (output / "1.pdf").write_bytes(pdf(text))
    (output / "2.pdf").write_bytes(b"%PDF-1.7\n nothing")
    (output / "empty.pdf").touch()
    names = tmp_path / "names.json"
    entries = [Entry(position=n, path=f"{name}.pdf") for n, name in enumerate(["1", "2", "empty", "none", "1"])]
    names.write_bytes(names_to_check(SlicerResult(page_count=2, entries=(*entries, Entry(position=5)))))

    inspected, checked = tmp_path / "inspected", tmp_path / "checked"
    for command, said in (
        (inspection_command(source, output, max_pages=10), inspected),
        (check_command(output, names), checked),
    ):
        done = subprocess.run(command, cwd=output, env={}, capture_output=True, check=True)
        said.write_bytes(done.stdout)
        assert json.loads(done.stderr.splitlines()[-1])["page"] > 0

    assert read_inspection(inspected, max_pages=10).page_count == 2
    found = read_checks(checked)
    assert found.pop("1.pdf") == FileCheck(pages=1)
    assert sorted(found) == ["2.pdf", "empty.pdf", "none.pdf"]
    assert all(one.pages is None and one.message for one in found.values())


def test_a_file_is_a_pdf_only_if_its_first_and_last_pages_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "lying.pdf").write_bytes(pdf(text).replace(b"/Count 1", b"/Count 9"))
    (tmp_path / "locked.pdf").write_bytes(locked(pdf(text), user="u"))

    found = check(tmp_path, ["lying.pdf", "locked.pdf"])

    assert all("message" in one for one in found.values())


def test_a_wrong_command_line_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["inspect", "a.pdf"], ["inspect", "a.pdf", ".", "many"], ["look", "a", "b"]):
        assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err

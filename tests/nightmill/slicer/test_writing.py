from __future__ import annotations

import os
from pathlib import Path

import pikepdf
import pypdfium2
import pytest

from nightmill.slicer.agreement import agreed_pdf
from nightmill.slicer.model import Piece
from nightmill.slicer.opening import PdfProblem
from nightmill.slicer.writing import (
    OutputProblem,
    WrittenFile,
    create,
    file_name,
    most_bytes,
    prepare_folder,
    write_pieces,
)
from tests.small_pdfs import body, scanned_pdf, text_pdf, with_page_count


def write(source: Path, folder: Path, *spans: tuple[int, int], max_bytes: int = 10**9) -> list[WrittenFile]:
    folder.mkdir(exist_ok=True)
    with agreed_pdf(source, folder, max_pages=100) as agreed:
        return list(
            write_pieces(agreed.pages, [Piece(f"P {a}-{b}", a, b) for a, b in spans], folder, max_bytes=max_bytes)
        )


def pages_in(path: Path) -> int:
    with pypdfium2.PdfDocument(path) as document:
        return len(document)


@pytest.fixture
def five(tmp_path: Path) -> Path:
    return text_pdf(tmp_path / "five.pdf", [[f"page {n}", *body()] for n in range(5)])


def test_each_slice_has_its_pages_and_shared_ones_are_in_both(five: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    written = write(five, out, (0, 1), (1, 4), (4, 4))

    assert [file.path for file in written] == ["0001-p-0-1.pdf", "0002-p-1-4.pdf", "0003-p-4-4.pdf"]
    assert [pages_in(out / str(file.path)) for file in written] == [2, 4, 1]
    assert [file.problem for file in written] == [None] * 3
    with pypdfium2.PdfDocument(out / "0002-p-1-4.pdf") as second:
        assert "page 1" in second[0].get_textpage().get_text_bounded()


def test_a_second_run_writes_the_same_bytes(five: Path, tmp_path: Path) -> None:
    first, second = write(five, tmp_path / "a", (0, 2)), write(five, tmp_path / "b", (0, 2))

    assert first == second
    assert (tmp_path / "a" / str(first[0].path)).read_bytes() == (tmp_path / "b" / str(first[0].path)).read_bytes()


def test_a_slice_does_not_drag_along_the_images_of_other_pages(tmp_path: Path) -> None:
    source = tmp_path / "shared.pdf"
    with pikepdf.new() as pdf:
        grey = {"Type": pikepdf.Name.XObject, "Subtype": pikepdf.Name.Image, "ColorSpace": pikepdf.Name.DeviceGray}
        noise = {
            f"/I{n}": pikepdf.Stream(pdf, os.urandom(20_000), Width=100, Height=200, BitsPerComponent=8, **grey)
            for n in range(4)
        }
        everything = pdf.make_indirect(pikepdf.Dictionary(XObject=pikepdf.Dictionary(noise)))
        for name in noise:
            page = pdf.add_blank_page(page_size=(100, 200))
            page.obj.Resources = everything
            page.obj.Contents = pikepdf.Stream(pdf, f"q 100 0 0 200 0 0 cm {name} Do Q".encode())
        pdf.save(source)

    written = write(source, tmp_path / "out", (0, 0), (1, 3))

    assert written[0].size < 25_000
    assert 60_000 < written[1].size < 70_000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DECRETO No. 100-2014", "0001-decreto-no-100-2014.pdf"),
        ("Marcas de Fábrica", "0001-marcas-de-fabrica.pdf"),
        ("CERTIFICACIÓN", "0001-certificacion.pdf"),
        ("../../etc/passwd\0", "0001-etc-passwd.pdf"),
        ("法律", "0001-slice.pdf"),
        ("", "0001-slice.pdf"),
        ("x" * 500, f"0001-{'x' * 60}.pdf"),
    ],
)
def test_file_names_are_plain_letters_whatever_a_slice_is_called(name: str, expected: str) -> None:
    assert file_name(0, name) == expected


def test_nothing_is_written_through_a_link_or_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")

    for name in ("victim", "link", "dangling"):
        with pytest.raises(FileExistsError):
            create(tmp_path, name)

    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_with_slices_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "0001-decreto.pdf").touch()

    with pytest.raises(OutputProblem, match=r"holds slices already \(0001-decreto\.pdf\)"):
        prepare_folder(tmp_path)
    with pytest.raises(OutputProblem, match=r"File exists|Not a directory"):
        prepare_folder(tmp_path / "0001-decreto.pdf")
    with pytest.raises(OutputProblem, match="No such file"):
        prepare_folder(tmp_path / "no" / "parent")


@pytest.mark.parametrize("claimed", [2, 4, 6, 90])
def test_no_page_is_lost_when_a_page_tree_lies_about_its_length(five: Path, tmp_path: Path, claimed: int) -> None:
    lying = with_page_count(five, tmp_path / "lying.pdf", claimed)
    out = tmp_path / "out"
    out.mkdir()

    with agreed_pdf(lying, out, max_pages=100) as agreed:
        assert len(agreed.pages) == 5
        assert pages_in(agreed.path) == 5
        assert agreed.flags == (f"the PDF is damaged: {claimed} pages by one count, 5 by another; 5 can be read",)
        written = list(write_pieces(agreed.pages, [Piece("all", 0, 4)], out, max_bytes=10**9))

    assert pages_in(out / str(written[0].path)) == 5
    assert [path.name for path in out.iterdir()] == ["0001-all.pdf"]


def test_a_sound_pdf_is_used_as_it_is(five: Path, tmp_path: Path) -> None:
    with agreed_pdf(five, tmp_path, max_pages=5) as agreed:
        assert (agreed.path, agreed.flags) == (five, ())


def test_a_repaired_pdf_says_that_pages_may_be_missing(five: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(five.read_bytes().replace(b"trailer", b"tr4iler"))
    out = tmp_path / "out"
    out.mkdir()

    with agreed_pdf(broken, out, max_pages=100) as agreed:
        assert agreed.flags == ("the PDF is damaged and was repaired: 5 pages were found in it, some may be missing",)
        assert pages_in(agreed.path) == 5

    assert list(out.iterdir()) == []


def test_too_many_pages_are_refused(five: Path, tmp_path: Path) -> None:
    with pytest.raises(PdfProblem, match="5 pages, at most 4") as refused, agreed_pdf(five, tmp_path, max_pages=4):
        pass

    assert refused.value.code == "too_large"


def test_a_page_that_is_in_too_many_slices_does_not_fill_the_disk(five: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    with pytest.raises(PdfProblem, match="the slices are over 10,000 bytes together"):
        write(five, out, *[(0, 0)] * 100, max_bytes=10_000)

    assert sum(path.stat().st_size for path in out.iterdir()) < 15_000


@pytest.mark.parametrize(("size", "most"), [(1_000, "256 MiB"), (6_500_000, "565 MiB"), (1 << 30, "11 GiB")])
def test_slices_may_be_larger_than_their_pdf_by_what_fonts_need(size: int, most: str) -> None:
    number, unit = most.split()

    assert most_bytes(size) // (1 << {"MiB": 20, "GiB": 30}[unit]) == int(number)


def test_scans_are_cut_as_they_are(tmp_path: Path) -> None:
    written = write(scanned_pdf(tmp_path / "scan.pdf", 3), tmp_path / "out", (1, 2))

    assert pages_in(tmp_path / "out" / str(written[0].path)) == 2

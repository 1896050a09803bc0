from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nightmill.slicer.cutting import run
from nightmill.slicer.model import Cut, Page, Piece
from nightmill.slicer.opening import PdfProblem
from nightmill.slicer.options import Options, Recognition, parse
from nightmill.slicer.output import result_of, to_json
from nightmill.slicer.progress import Progress
from nightmill.slicer.samples import make_sample
from nightmill.slicer.samples.options import SampleOptions
from nightmill.slicer.writing import WrittenFile
from tests.small_pdfs import body, fake_tesseract, scanned_pdf, text_pdf
from tests.stack import eventually

PROGRAM = [sys.executable, "-m", "nightmill.slicer"]


def ask(*arguments: object, path: str | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | ({} if path is None else {"PATH": path})
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, timeout=60, env=environment, check=False
    )


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return text_pdf(tmp_path / "three.pdf", [[f"# ACTA {n}", *body()] for n in range(3)])


def test_it_prints_one_object_as_agreed_and_its_progress(three: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    ended = ask("--mode", "heading", "--pattern", "^ACTA", three, out, "job-1")

    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["page_count"] == 3
    assert result["errors"] == []
    assert result["covers"] is True
    assert result["slicer"]["name"] == "nightmill"
    second = result["files"][1]
    assert {key: second[key] for key in ("name", "path", "start_page", "end_page", "position")} == {
        "name": "ACTA 1",
        "path": "0002-acta-1.pdf",
        "start_page": 1,
        "end_page": 1,
        "position": 1,
    }
    assert second["full_text"].startswith("ACTA 1\nConsiderando")
    assert second["sha256"] == hashlib.sha256((out / second["path"]).read_bytes()).hexdigest()
    for name in ("short_description", "description", "tag", "issuer", "materia"):
        assert isinstance(second[name], str)
    assert second["institutions"] == []
    assert second["text_source"] == "digital"
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert told[0] == {"page": 0, "of": 3}
    assert told[-1] == {"page": 3, "of": 3}
    assert sorted(path.name for path in out.iterdir()) == [file["path"] for file in result["files"]]


def test_a_gazette_is_cut_into_its_acts(tmp_path: Path) -> None:
    sample = make_sample(SampleOptions(seed=1, pages=8, acts=3))
    source = tmp_path / "gazette.pdf"
    source.write_bytes(sample.pdf)

    result = run(Options(source, tmp_path / "out"))

    assert result["gazette"] == {"number": sample.truth.number, "date": sample.truth.issued_on}
    assert len(result["files"]) == len(sample.truth.pieces)
    assert result["covers"] is False  # the front page is in no slice, rightly; the engine flags the others itself
    assert [file["position"] for file in result["files"]] == list(range(len(result["files"])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: PDF, OUTPUT_DIR"),
        (("a", "b", "c", "d"), "unrecognized arguments: d"),
        (("--mode", "magic", "a", "b"), "invalid choice"),
        (("--mode", "ranges", "a", "b"), "--mode ranges needs --ranges"),
        (("--mode", "every", "a", "b"), "--mode every needs --pages"),
        (("--mode", "heading", "a", "b"), "--mode heading needs --pattern"),
        (("--ranges", "1", "a", "b"), "--ranges is for --mode ranges"),
        (("--mode", "ranges", "--ranges", "3-1", "a", "b"), "not before the first"),
        (("--mode", "every", "--pages", "0", "a", "b"), "no whole number from 1"),
        (("--mode", "heading", "--pattern", "(", "a", "b"), "no regular expression"),
        (("--mode", "heading", "--pattern", "x" * 1_001, "a", "b"), "at most 1,000"),
        (("--mode", "heading", "--pattern", "x", "--min-size", "nan", "a", "b"), "no number of points"),
        (("--ocr-languages", "../../x", "a", "b"), "write spa or spa+eng"),
        (("--read-pages", "3-2", "a", "b"), "write 0-9"),
        (("--read-pages", "0-2", "--pages-from", "x", "a", "b"), "exclude each other"),
        (("--max", "5", "a", "b"), "unrecognized arguments"),
    ],
)
def test_arguments_that_cannot_be_used_end_it_with_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)

    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_help_has_examples_and_loads_no_library() -> None:
    code = (
        "import sys\nfrom nightmill.slicer.program import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'pikepdf', 'pypdfium2', 'pydantic', 'logging.config'} & set(sys.modules), sys.modules\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "--mode ranges --ranges" in ended.stdout
    assert "exit codes:" in ended.stdout


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, "damaged", "there is no such file"),
        (b"", "empty", "empty"),
        (b"<html>not a PDF</html>" * 100, "damaged", "damaged"),
        (b"%PDF-1.7\n" + bytes(range(256)) * 40, "damaged", "damaged"),
    ],
)
def test_what_is_no_pdf_is_refused(tmp_path: Path, content: bytes | None, code: str, message: str) -> None:
    source = tmp_path / "a.pdf"
    if content is not None:
        source.write_bytes(content)

    with pytest.raises(PdfProblem, match=message) as refused:
        run(Options(source, tmp_path / "out"))

    assert refused.value.code == code


def test_an_encrypted_pdf_ends_it_with_3_and_a_line(tmp_path: Path) -> None:
    source = tmp_path / "locked.pdf"
    source.write_bytes(make_sample(SampleOptions(pages=4, acts=2, encrypted=True)).pdf)

    ended = ask(source, tmp_path / "out")

    assert (ended.returncode, ended.stdout) == (3, b"")
    assert ended.stderr == b"nightmill.slicer: the PDF is encrypted and needs a password\n"


def test_whatever_is_done_to_a_pdf_it_is_cut_whole_or_refused(tmp_path: Path) -> None:
    sound = make_sample(SampleOptions(seed=1, pages=4, acts=2)).pdf
    source = tmp_path / "a.pdf"
    chance = Random(1)
    ends = set()
    for number in range(40):
        broken = bytearray(sound)
        for _ in range(chance.choice((1, 3, 10, 50))):
            at = chance.randrange(len(broken))
            match chance.randrange(3):
                case 0:
                    broken[at] = chance.randrange(256)
                case 1:
                    del broken[at : at + chance.randrange(1, 200)]
                case _:
                    broken[at : at + 1] = str(chance.randrange(10 ** chance.randrange(1, 12))).encode()
        source.write_bytes(broken)
        out = tmp_path / str(number)
        try:
            result = run(Options(source, out, recognition=Recognition(mode="never")))
        except PdfProblem as problem:
            ends.add(problem.code)
        else:
            ends.add("cut")
            assert all(0 <= file["start_page"] <= file["end_page"] < result["page_count"] for file in result["files"])
            assert sorted(path.name for path in out.iterdir()) == sorted(file["path"] for file in result["files"])

    assert ends == {"cut", "damaged"}


def test_pages_that_do_not_fit_end_it_with_4(three: Path, tmp_path: Path) -> None:
    (tmp_path / "chunks").mkdir()

    ended = ask("--pages-from", tmp_path / "chunks", three, tmp_path / "out")

    assert ended.returncode == 4
    assert ended.stderr.splitlines()[-1] == b"nightmill.slicer: pages are missing: 1-3"


def test_a_used_output_folder_ends_it_with_5(three: Path, tmp_path: Path) -> None:
    (tmp_path / "0001-x.pdf").touch()

    ended = ask("--mode", "every", "--pages", "1", three, tmp_path)

    assert (ended.returncode, ended.stdout) == (5, b"")
    assert b"holds slices already" in ended.stderr


def test_a_full_disk_ends_it_with_5(three: Path, tmp_path: Path) -> None:
    """A bound on the size of files is met as a full disk is, and can be set here."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "from nightmill.slicer.program import main; sys.exit(main())"
    )
    arguments = ["--mode", "every", "--pages", "1", three, tmp_path / "out"]

    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False)

    assert ended.returncode == 5
    assert b"File too large" in ended.stderr


def test_sigterm_ends_it_at_once_and_tesseract_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    tesseract = fake_tesseract(
        tmp_path / "bin", instead=f"echo $$ > '{pid}.new'; mv '{pid}.new' '{pid}'; exec sleep 60"
    )
    arguments = ["--mode", "every", "--pages", "1", str(scanned_pdf(tmp_path / "a.pdf")), str(tmp_path / "out")]
    environment = os.environ | {"PATH": f"{tesseract.parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [*PROGRAM, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        eventually(pid.exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists())


def test_without_tesseract_the_pages_are_flagged(tmp_path: Path) -> None:
    result = json.loads(
        ask(
            "--mode", "every", "--pages", "2", scanned_pdf(tmp_path / "a.pdf", 3), tmp_path / "o", path="/nowhere"
        ).stdout
    )

    assert result["flags"] == ["3 pages without usable text (OCR is not installed: tesseract): 1-3"]
    assert [file["text_source"] for file in result["files"]] == ["none", "none"]


def a_result(pieces: list[Piece], **bounds: int) -> Mapping[str, Any]:
    written = [WrittenFile(f"{n}.pdf", "0" * 64, 1) for n, _ in enumerate(pieces)]
    pages = [Page(n, 1, 1) for n in range(3)]
    result: Mapping[str, Any] = json.loads(to_json(result_of(Cut(pieces), pages, written, [], **bounds)))
    return result


def test_texts_that_are_too_long_together_are_cut_short_and_flagged() -> None:
    result = a_result([Piece("a", 0, 0, "ñ" * 40), Piece("b", 0, 0, "ñ" * 40), Piece("c", 0, 0, "z")], max_text=101)

    assert [len(file["full_text"]) for file in result["files"]] == [40, 10, 1]
    assert result["files"][1]["flags"] == ["its text is cut short"]
    assert result["flags"] == ["1 text is cut short: all of them together are over 101 bytes"]


def test_characters_that_databases_refuse_become_spaces() -> None:
    piece = Piece("a\x00b", 0, 0, "x\ud800y\x1b[31m\tz\nñ", extras={"records": [{"n\x00": "\x07"}], "flags": ["\x00"]})

    [file] = a_result([piece])["files"]

    assert (file["name"], file["full_text"]) == ("a b", "x y [31m\tz\nñ")
    assert file["extras"] == {"records": [{"n ": " "}]}
    assert file["flags"] == [" "]


def test_a_slice_whose_file_could_not_be_written_is_an_error_and_keeps_its_place() -> None:
    written = [WrittenFile(None, problem="its file could not be written: x")]

    result = result_of(Cut([Piece("a", 0, 1)]), [Page(0, 1, 1), Page(1, 1, 1)], written, ["damaged"])

    assert result["errors"] == ["a: its file could not be written: x"]
    assert (result["files"][0]["path"], result["files"][0]["position"]) == (None, 0)
    assert result["flags"] == ["damaged"]


def test_progress_is_told_at_the_start_at_the_end_and_now_and_then_between() -> None:
    stream = StringIO()
    progress = Progress(1_000, stream)
    for page in range(1, 1_001):
        progress.page(page)
    progress.beat()

    told = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert (told[0], told[-1]) == ({"page": 0, "of": 1_000}, {"page": 1_000, "of": 1_000})
    assert len(told) < 500


def test_the_slicer_that_the_documents_show_keeps_the_contract(three: Path, tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "slicer.md"
    shown = page.read_text().split("```python\n")[1].split("```")[0]
    example = tmp_path / "whole.py"
    example.write_text(shown)

    ended = subprocess.run([sys.executable, example, three, tmp_path, "job-1"], capture_output=True, check=True)

    result = json.loads(ended.stdout)
    assert (result["page_count"], len(result["files"])) == (3, 1)
    assert (tmp_path / result["files"][0]["path"]).read_bytes() == three.read_bytes()
    assert json.loads(ended.stderr.splitlines()[-1]) == {"page": 3, "of": 3}

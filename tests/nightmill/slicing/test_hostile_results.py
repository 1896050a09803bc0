from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nightmill.contracts import ProgramOutcome
from nightmill.slicing.faults import (
    EmptyOutput,
    InvalidJson,
    InvalidResult,
    OutputFlood,
    SlicingFault,
    UnsafePath,
)
from nightmill.slicing.json_output import MAX_DEPTH, JsonOutput
from nightmill.slicing.output_files import open_inside
from nightmill.slicing.results import (
    MAX_ENTRIES,
    SlicerResult,
    new_slices,
    read_result,
    read_stored_result,
    write_result,
)
from nightmill.storage.columns import storable
from tests.nightmill.slicing.results import entry, folder_of, read, result

GOOD = json.dumps(result())


@pytest.fixture(autouse=True)
def _no_descriptor_is_left_open() -> Iterator[None]:
    before = _open_files()
    yield
    assert _open_files() <= before


def _open_files() -> set[str]:
    """What stands behind each descriptor; those of an earlier test may close at any time."""
    found = set()
    for name in Path("/dev/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add(f"{name} {name.readlink()}")
    return found


@pytest.mark.parametrize("said", ["", " ", "\n\n\t ", "\ufeff", "\ufeff \n"])
def test_blank_output_is_empty(tmp_path: Path, said: str) -> None:
    with pytest.raises(EmptyOutput):
        read(tmp_path, said)


@pytest.mark.parametrize(
    ("said", "where"),
    [
        (f"Loading model…\n{GOOD}", "text before the JSON object at offset 0, line 1: Loading model…"),
        (f"{GOOD}\n{GOOD}", "text after the JSON object at offset"),
        (f"{GOOD}\ndone", "line 2: done"),
        (f"{GOOD}\0", "text after the JSON object"),
        (f"3 pages\n{GOOD}", "text after a JSON value"),
        ("not json", "text before the JSON object at offset 0, line 1: not json"),
        ("nul", "text before the JSON object"),
        (GOOD[:-1], "has no end at the end of the output"),
        (GOOD[:200], "a string without an end"),
        ('{"page_count": 3, "files": [],}', "a name in quotation marks is due at offset 30"),
        ('{"page_count": 3 "files": []}', "a comma or `}` is due at offset 17"),
        ('{"page_count" 3}', "a colon is due at offset 14"),
        ('{"page_count": }', "a value is due at offset 15"),
        ("{'page_count': 3}", "a name in quotation marks is due at offset 1"),
        ('{"page_count": 3, "files": [}', "has no end"),
        ('{"page_count": 3, "files": [}]', "a comma or `}` is due at offset 29"),
        ('{"page_count": 3, "files": [1 2]}', "a comma or `]` is due"),
        ('{"page_count": NaN}', "not JSON (expected value) at offset 15"),
        ('{"page_count": -Infinity}', "not JSON (invalid number)"),
        ('{"page_count":\n 03}', "line 2"),
        ('{"page_count": 3, "files": [{"name": "a\nb"}]}', "control character"),
        ('{"page_count": 3, "files": [], "x": "\\q"}', "not JSON"),
        ('{"page_count": 3, "files": [], "x": [1, {"y": tru}]}', "not JSON (expected ident) at offset 4"),
        (GOOD.encode("utf-16"), "text before the JSON object"),
        (GOOD.replace("mero", "m\xe9ro").encode("latin-1"), "not JSON"),
        ('{"page_count": 3, "files": [{"confidence": NaN}]}', "not JSON (expected value)"),
        ("[" * 100_000, f"brackets are nested deeper than {MAX_DEPTH} at offset"),
        ('{"a":' * 100_000, f"brackets are nested deeper than {MAX_DEPTH}"),
        ("\x1b[31m{}", "line 1: ·[31m{}"),
    ],
)
def test_what_is_no_json_is_refused_with_the_place(tmp_path: Path, said: str | bytes, where: str) -> None:
    with pytest.raises(InvalidJson) as refused:
        read(tmp_path, said)

    assert where in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("[]", "the output is a list"),
        ("[1, 2]\n", "the output is a list"),
        ('"{}"', "the output is a string"),
        ("null", "the output is a word"),
        ("-3", "the output is a number"),
        ("{}", "`page_count` is null"),
        ('{"page_count": 3}', "`files` is missing"),
        ('{"page_count": 3, "files": [], "page_count": 3}', "`page_count` is given twice"),
        ('{"page_count": 3, "files": [], "f\\u0069les": []}', "`files` is given twice"),
        (json.dumps({"page_count": 3, "files": [1] * (MAX_ENTRIES + 1)}), "more than 10,000 entries"),
        (json.dumps({"page_count": 3, "files": [], "errors": [{}] * 60_000}), "more than 100,000 parts"),
    ],
)
def test_json_of_another_shape_is_refused(tmp_path: Path, said: str, named: str) -> None:
    with pytest.raises(InvalidResult) as refused:
        read(tmp_path, said)

    assert named in str(refused.value)


def test_a_name_that_an_entry_has_twice_is_flagged(tmp_path: Path) -> None:
    twice = GOOD.replace('"name": "DECRETO No. 1-2014"', '"path": "../x", "name": "DECRETO No. 1-2014"')

    found = read(tmp_path, twice)

    assert found.entries[1].problem == "invalid: `path` is given twice; the last one counts"
    assert found.entries[1].path == "0001.pdf"


def test_an_object_may_begin_with_a_byte_order_mark_and_stand_among_blanks(tmp_path: Path) -> None:
    assert read(tmp_path, f"\ufeff\r\n\t {GOOD} \n\n").reasons() == ()


def test_output_over_the_bound_is_a_flood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightmill.slicing.results.MAX_OUTPUT", 1_000)

    with pytest.raises(OutputFlood):
        read(tmp_path, GOOD + " " * 1_000)


def test_an_entry_over_the_bound_is_flagged_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightmill.slicing.results.MAX_ENTRY", 500)

    found = read(tmp_path, result(entry(0), entry(1, full_text="x" * 900), entry(2)))

    assert [one.problem is not None for one in found.entries] == [False, True, False]
    assert "at most 500 are read" in str(found.entries[1].problem)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "//etc/passwd",
        "../stdout",
        "..",
        "a/../../stdout",
        "a/../0000.pdf",
        "./../stdout",
        "0000.pdf\0.pdf",
        "/".join("a" * 33),
        "link.pdf",
        "inner.pdf",
        "dangling.pdf",
        "loop.pdf",
        "way/stdout",
        "way/../0000.pdf",
        "here/0000.pdf",
        "proc/self/root",
        "pipe.pdf",
        "socket.pdf",
        "null.pdf",
        "hard.pdf",
        "a/hard.pdf",
    ],
)
def test_a_path_that_leads_elsewhere_has_the_whole_result_refused(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path, "a/b.pdf")
    secret = tmp_path / "secret.pdf"
    secret.write_bytes(b"%PDF-1.7 secret")
    os.link(secret, folder / "hard.pdf")
    os.link(folder / "a/b.pdf", folder / "a/hard.pdf")
    os.mkfifo(folder / "pipe.pdf")
    for name, target in {
        "link.pdf": str(secret),
        "inner.pdf": "0000.pdf",
        "dangling.pdf": "nowhere",
        "loop.pdf": "loop.pdf",
        "way": "..",
        "here": ".",
        "proc": "/proc/self",
        "null.pdf": "/dev/null",
    }.items():
        (folder / name).symlink_to(target)
    monkeypatch.chdir(folder)  # a socket's address has 107 characters at most
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.pdf")

        with pytest.raises(UnsafePath) as refused:
            read(tmp_path, result(entry(0), entry(1, path=path), entry(2)))

    assert str(refused.value).isprintable()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused_without_opening_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    try:
        os.mknod(folder / "zero.pdf", 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this container lets nobody make devices")

    with pytest.raises(UnsafePath, match="a device"):
        open_inside(folder, "zero.pdf")


def test_an_output_folder_that_has_become_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to("elsewhere")

    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        open_inside(folder, "0000.pdf")


def test_a_folder_that_becomes_a_link_meanwhile_never_leads_outside(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a/x.pdf")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.pdf").write_bytes(b"secret")
    (folder / "b").symlink_to(outside)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            (folder / "a").rename(folder / "c")
            (folder / "b").rename(folder / "a")
            (folder / "a").rename(folder / "b")
            (folder / "c").rename(folder / "a")

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes: set[bytes] = set()
    tries, deadline = 0, time.monotonic() + 20
    try:
        while tries < 3_000 or (len(outcomes) < 2 and time.monotonic() < deadline):
            tries += 1
            try:
                with os.fdopen(open_inside(folder, "a/x.pdf"), "rb") as file:
                    outcomes.add(file.read()[:6])
            except (UnsafePath, OSError) as error:
                outcomes.add(type(error).__name__.encode())
    finally:
        over.set()
        swapper.join()

    assert b"secret" not in outcomes
    assert len(outcomes) > 1, "the swaps were not seen"


@pytest.mark.parametrize("unit", [b"{},", b"1,", b'"",', b'"', b"[],"])
def test_a_hostile_result_needs_little_more_memory_than_its_bytes(tmp_path: Path, unit: bytes) -> None:
    size = 150_000  # a library that reads it at once takes 3.6 MB for the objects
    folder = folder_of(tmp_path)
    (tmp_path / "stdout").write_bytes(b'{"page_count": 3, "files": [' + unit * (size // len(unit)))
    tracemalloc.start()
    try:
        with pytest.raises(SlicingFault):
            read_result(tmp_path / "stdout", folder=folder, page_count=3)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 2 * size + 300_000


def test_a_result_of_too_many_parts_is_refused_before_they_are_counted(tmp_path: Path) -> None:
    begun = time.process_time()

    with pytest.raises(InvalidJson, match="more than 1,000,000 parts"):
        read(tmp_path, b'{"page_count": 3, "files": [' + b'"' * 60_000_000)

    assert time.process_time() - begun < 10  # 0.7 s; 16 s were all of them counted


ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 3, 10**30, 0.5, -0.0, "", "x", "\0", "\ud800", "../x", "/etc/passwd", "0000.pdf",
    "é" * 300, [], {}, [None], [[]], {"": None}, ["x", 1], {"number": None}, {"date": 5, "number": "\udfff"},
    "2014-06-26", [0] * 50,
)  # fmt: skip
PIECES = (
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\u",
    b"\\ud800",
    b"null",
    b"NaN",
    b"\0",
    b"\xff",
    b"1e999",
    b"-",
)


def mutated(value: Any, chance: random.Random) -> Any:
    """Return JSON of which some values are others."""
    if chance.random() < 0.04:
        return chance.choice(ODD)
    if isinstance(value, dict):
        items = [(name, mutated(one, chance)) for name, one in value.items() if chance.random() > 0.01]
        return dict(items) | ({f"x{chance.random()}": chance.choice(ODD)} if chance.random() < 0.1 else {})
    if isinstance(value, list):
        return [mutated(one, chance) for one in value for _ in range(chance.choice((1, 1, 1, 1, 2)))]
    return value


def garbled(text: bytes, chance: random.Random) -> bytes:
    """Return text of which some bytes are others."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 0, 1, 1, 5, 100)))
        text = text[:start] + chance.choice((*PIECES, text[end : end + 20], b"")) + text[end:]
    return text


def check_invariants(found: SlicerResult) -> None:
    assert [one.position for one in found.entries] == list(range(len(found.entries)))
    assert len(found.reasons()) <= 10
    for one in found.entries:
        assert 0 <= one.start_page <= one.end_page < found.page_count
        assert "Gaceta" in one.tags
        assert one.path is None or not one.path.startswith(("/", ".."))
        assert one.problem is None or len(one.problem) <= 500
    stored = b"".join(write_result(found))
    head, entries = read_stored_result([stored])
    assert replace(head, entries=tuple(entries)) == found
    assert storable(stored.decode()) == stored.decode()
    assert b"\\u0000" not in stored
    assert len(list(new_slices(found.entries))) == len(found.entries)
    ProgramOutcome(reasons=found.reasons(), number=found.number).model_dump_json()


@pytest.mark.parametrize("seed", range(4))
def test_only_faults_leave_and_what_is_kept_can_be_stored_whatever_a_slicer_says(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kept = refused = 0
    for _ in range(600):
        said = json.dumps(mutated(result(), chance), ensure_ascii=chance.random() < 0.5)
        content = said.encode(errors="surrogatepass")
        if chance.random() < 0.4:
            content = garbled(content, chance)
        try:
            found = read(tmp_path, content)
        except SlicingFault:
            refused += 1
        else:
            check_invariants(found)
            kept += 1

    assert kept > 100
    assert refused > 100


def test_the_parts_of_any_text_are_those_that_a_library_finds() -> None:
    chance = random.Random(11)
    for _ in range(2_000):
        content = garbled(json.dumps(mutated(result(), chance)).encode(errors="surrogatepass"), chance)
        try:
            known = json.loads(content)
        except (ValueError, RecursionError):
            continue
        if not isinstance(known, dict) or b"NaN" in content:
            continue
        output = JsonOutput(content)
        try:
            members = output.members()
        except InvalidResult:  # a name is given twice
            continue
        assert {name: output.read(part) for name, part in members.items()} == known

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from nightmill.completions.lines import HEAD, Line, iter_lines


def expected(data: bytes, max_line: int) -> list[Line]:
    """What the lines are, said in the slowest and plainest way."""
    lines, start = [], 0
    pieces = data.split(b"\n")
    for number, piece in enumerate(pieces, 1):
        complete = number < len(pieces)
        if complete or piece:
            over = len(piece) > max_line
            end = start + len(piece)
            lines.append(Line(number, start, end, None if over else piece, complete, piece[:HEAD] if over else None))
            start = end + 1
    return lines


def cut(data: bytes, rng: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = rng.choice([0, 1, 2, 3, 7, 50, 5000])
        yield data[at : at + size]
        at += size


@pytest.mark.parametrize("seed", range(60))
def test_lines_are_the_same_wherever_the_stream_is_cut(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [0, 1, 9, 10, 11, 4095, 4096, 4097, 9000]
    data = b"\n".join(rng.randbytes(rng.choice(lengths)).replace(b"\n", b"x") for _ in range(30))
    data += rng.choice([b"", b"\n", b"\n\n", b"tail"])
    for max_line in (0, 10, 4096, 8999, 9000):
        assert list(iter_lines(cut(data, rng), max_line=max_line)) == expected(data, max_line)
        assert list(iter_lines([data], max_line=max_line)) == expected(data, max_line)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [Line(1, 0, 0, b"")]),
        (b"a", [Line(1, 0, 1, b"a", complete=False)]),
        (b"a\n", [Line(1, 0, 1, b"a")]),
        (b"a\nb", [Line(1, 0, 1, b"a"), Line(2, 2, 3, b"b", complete=False)]),
        (b"a\r\nb\n", [Line(1, 0, 2, b"a\r"), Line(2, 3, 4, b"b")]),
        (b"12345\n", [Line(1, 0, 5, None, head=b"12345")]),
        (b"12345", [Line(1, 0, 5, None, complete=False, head=b"12345")]),
    ],
)
def test_a_line_ends_at_its_newline_and_the_last_may_have_none(data: bytes, lines: list[Line]) -> None:
    assert list(iter_lines([data], max_line=4)) == lines
    assert list(iter_lines([data[at : at + 1] for at in range(len(data))], max_line=4)) == lines


def test_characters_that_only_look_like_line_ends_stay_inside_their_line() -> None:
    data = '{"a": "x\u2028y\u0085z\x0b\x0c\x1c\r"}'.encode()
    assert [line.data for line in iter_lines([data + b"\n"], max_line=100)] == [data]


def test_reading_goes_on_in_the_middle_with_the_right_numbers_and_offsets() -> None:
    data = b"one\ntwo\n\nfour\nfive"
    whole = list(iter_lines([data], max_line=100))
    for line in whole[:-1]:
        at = line.end + 1
        rest = iter_lines([data[at:]], max_line=100, first_number=line.number + 1, first_offset=at)
        assert list(rest) == whole[line.number :]


def test_a_line_of_200_mib_is_refused_in_flat_memory_and_the_next_is_read() -> None:
    chunk = b"x" * (1024 * 1024)

    def chunks() -> Iterator[bytes]:
        yield b"first\n"
        for _ in range(200):
            yield chunk
        yield b"\nlast\n"

    tracemalloc.start()
    first, huge, last = iter_lines(chunks(), max_line=8 * 1024 * 1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (first.data, last.data, last.number, last.start) == (b"first", b"last", 3, 6 + 200 * len(chunk) + 1)
    assert (huge.data, huge.head, huge.end - huge.start) == (None, b"x" * HEAD, 200 * len(chunk))
    assert peak < 20 * 1024 * 1024


def test_splitting_costs_little_next_to_reading() -> None:
    chunk = b"\n".join([b"x" * 1499] * 700)
    started = time.process_time()
    count = sum(1 for _ in iter_lines((chunk + b"\n" for _ in range(200)), max_line=10_000_000))
    spent = time.process_time() - started
    assert count == 140_000
    # 210 MB; measured 0.13 s here. A loop over bytes takes more than 10 s.
    assert spent < 2

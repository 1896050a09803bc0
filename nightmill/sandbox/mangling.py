"""Results that lie: what faults do to the entries of a result while it is sent."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import orjson

from nightmill.sandbox.faults import ENTRY_ACTIONS, Fault
from nightmill.sandbox.http import CHUNK

Entries = Iterable[tuple[str, bytes]]
"""Custom id and the entry's JSON, without a line break."""

Forge = Callable[[str, str], bytes]
"""Makes a successful entry for a custom id, with the given text as its answer."""

MARK = "@poison@"
DEPTH = 100_000

TEXTS: dict[str, bytes] = {
    "u2028": "line\u2028paragraph\u2029next\u0085end".encode(),
    "nul": rb"before\u0000after",
    "surrogate": rb"lone \ud800 high \udc00",
    "bytes": b"not utf-8: \xff\xfe",
    "control": b"raw\ttab and\x01control",
    "emoji": "👩\u200d🚀 ﷽ \u202eright to left\u202c".encode(),
}
"""Those of `faults.POISONS` that go into the answer's text, as they stand on the wire."""

IDS = frozenset({"custom_id", "batch_request_id", "key", "metadata"})
"""Where the providers keep a request's id."""


def mangle(entries: Entries, faults: Iterable[Fault], forge: Forge) -> Iterator[Iterable[bytes]]:
    """Yield each entry as pieces of bytes, with the entry faults done to them."""
    pieces: Iterator[tuple[str, Iterable[bytes]]] = ((custom_id, (data,)) for custom_id, data in entries)
    for fault in faults:
        if fault.action in ENTRY_ACTIONS:
            pieces = _apply(pieces, fault, forge)
    return (data for _, data in pieces)


def jsonl(entries: Entries, faults: list[Fault], forge: Forge) -> Iterator[bytes]:
    """Yield the lines of a result file, the last one with its line break."""
    if not any(fault.action in ENTRY_ACTIONS for fault in faults):
        for _, data in entries:
            yield data + b"\n"
        return
    for pieces in mangle(entries, faults, forge):
        yield from pieces
        yield b"\n"


def array(entries: Entries, faults: list[Fault], forge: Forge) -> Iterator[bytes]:
    """Yield the elements of a JSON array, with commas between them and without its brackets."""
    comma = b""
    for pieces in mangle(entries, faults, forge):
        yield comma
        yield from pieces
        comma = b","


def _apply(
    pieces: Iterator[tuple[str, Iterable[bytes]]], fault: Fault, forge: Forge
) -> Iterator[tuple[str, Iterable[bytes]]]:
    match fault.action:
        case "reorder":
            shuffled = list(pieces)
            random.Random(fault.seed).shuffle(shuffled)  # noqa: S311
            return iter(shuffled)
        case "unknown":
            names = fault.ids or tuple(f"unknown-{number}" for number in range(1, fault.count + 1))
            return chain(((name, (forge(name, "Nobody asked."),)) for name in names), pieces)
        case _:
            return _each(pieces, fault, forge)


def _each(
    pieces: Iterator[tuple[str, Iterable[bytes]]], fault: Fault, forge: Forge
) -> Iterator[tuple[str, Iterable[bytes]]]:
    left = fault.count
    for custom_id, data in pieces:
        if custom_id not in fault.ids if fault.ids else left <= 0:
            yield custom_id, data
            continue
        left -= 1
        match fault.action:
            case "duplicate":
                yield custom_id, data
                yield custom_id, data if fault.same else (forge(custom_id, "A second, different answer."),)
            case "malformed":
                whole = b"".join(data)
                yield custom_id, (whole[: len(whole) // 2],)
            case "poison":
                yield custom_id, (_poisoned(custom_id, b"".join(data), fault.kind, forge),)
            case "anonymous":
                entry = orjson.loads(b"".join(data))
                yield custom_id, (orjson.dumps({name: entry[name] for name in entry if name not in IDS}),)
            case "replace":
                body = fault.body.encode() if isinstance(fault.body, str) else orjson.dumps(fault.body)
                yield custom_id, (body,)
            case "huge_line":
                yield custom_id, _huge(forge(custom_id, MARK), fault.size)
            case _:  # missing
                pass


def _poisoned(custom_id: str, data: bytes, kind: str, forge: Forge) -> bytes:
    match kind:
        case "nan":
            return data[:-1] + b',"score":NaN}'
        case "infinity":
            return data[:-1] + b',"score":-Infinity}'
        case "bom":
            return b"\xef\xbb\xbf" + data
        case "crlf":
            return data + b"\r"
        case "deep":
            return data[:-1] + b',"deep":' + b"[" * DEPTH + b"]" * DEPTH + b"}"
        case _:
            return forge(custom_id, MARK).replace(MARK.encode(), TEXTS[kind])


def _huge(data: bytes, size: int) -> Iterator[bytes]:
    head, _, tail = data.partition(MARK.encode())
    yield head
    for _ in range(size // CHUNK):
        yield b"x" * CHUNK
    yield b"x" * (size % CHUNK)
    yield tail.replace(MARK.encode(), b"")

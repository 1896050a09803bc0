"""What faults do to a request as a whole, and to the bytes of its answer."""

from __future__ import annotations

import os
import random
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from nightmill.sandbox.engine import Engine
from nightmill.sandbox.faults import Fault
from nightmill.sandbox.http import CHUNK, Dropped, Reply
from nightmill.sandbox.model import Phase

HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
GARBAGE = bytes(range(256))
HUGE = 64 * 1024 * 1024
RANDOM_PLACE = 4096

Refuse = Callable[[int, str], Reply]


def on_call(engine: Engine, faults: list[Fault], when: str, batch_id: str | None, refuse: Refuse) -> Reply | None:
    """Let the faults strike that are due `before` or `after` the effect.

    Returns:
        The answer to give instead of the provider's own, if any.

    Raises:
        Dropped: A fault closes the connection.
    """
    for fault in faults:
        if fault.when != when:
            continue
        match fault.action:
            case "status":
                return _status(fault, refuse)
            case "drop":
                raise Dropped(reset=fault.kind == "reset")
            case "hang":
                time.sleep(fault.seconds)
                raise Dropped
            case "delay":
                time.sleep(fault.seconds)
            case "kill" | "call" | "hook":
                _do(fault)
            case "advance":
                _advance(engine, fault, batch_id)
    return None


def _do(fault: Fault) -> None:
    if fault.action == "hook":
        with urllib.request.urlopen(urllib.request.Request(fault.url, method="POST"), timeout=30):  # noqa: S310
            return
    if fault.call is not None:
        fault.call()
        return
    try:
        os.kill(fault.pid, fault.signal)
    except ProcessLookupError:
        return  # it is dead already, which is what was wanted
    time.sleep(0.02)  # a signal needs a moment; the answer must not overtake it


def _advance(engine: Engine, fault: Fault, batch_id: str | None) -> None:
    with engine.lock:
        open_ones = [one.id for one in engine.batches.values() if not one.phase.is_terminal]
    for one in [batch_id] if batch_id else open_ones:
        if one in open_ones:
            engine.advance(one, Phase(fault.value), message=fault.message, code=fault.code)


def _status(fault: Fault, refuse: Refuse) -> Reply:
    match fault.body:
        case None:
            reply = refuse(fault.status, fault.message or f"The sandbox was told to answer {fault.status}")
        case "html":
            reply = Reply(fault.status, HTML, "text/html; charset=utf-8")
        case "empty":
            reply = Reply(fault.status, b"")
        case "garbage":
            reply = Reply(fault.status, GARBAGE)
        case "huge":
            reply = Reply(fault.status, _huge())
        case str() as text:
            reply = Reply(fault.status, text.encode("utf-8", "surrogatepass"))
        case value:
            reply = Reply(fault.status, orjson.dumps(value))
    if fault.retry_after is not None:
        reply.headers["Retry-After"] = str(fault.retry_after)
    reply.headers.update(fault.headers)
    return reply


def _huge() -> Iterator[bytes]:
    yield b'{"error": {"message": "'
    for _ in range(HUGE // CHUNK):
        yield b"x" * CHUNK
    yield b'"}}'


def on_body(faults: list[Fault], reply: Reply) -> Reply:
    """Return the answer with its body changed by the faults that are about bodies."""
    for fault in faults:
        match fault.action:
            case "patch":
                whole = reply.body if isinstance(reply.body, bytes) else b"".join(reply.body)
                reply.body = orjson.dumps(merge(orjson.loads(whole), fault.body))
            case "truncate" | "cut":
                reply.body = _stop(_pieces(reply.body), fault)
            case "kill" | "call" | "hook" if fault.when == "during":
                reply.body = _interrupted(_pieces(reply.body), fault)
            case "drip":
                reply.body = _drip(_pieces(reply.body), fault)
    return reply


def merge(value: Any, changes: Any) -> Any:
    """Return a JSON value with the changes laid over it, object by object. Unlike a merge patch, null is a value."""
    if not isinstance(value, Mapping) or not isinstance(changes, Mapping):
        return changes
    return {**value, **{name: merge(value.get(name), change) for name, change in changes.items()}}


def _pieces(body: bytes | Iterable[bytes]) -> Iterable[bytes]:
    return [body] if isinstance(body, bytes) else body


def _stop(pieces: Iterable[bytes], fault: Fault) -> Iterator[bytes]:
    left = random.Random(fault.seed).randrange(RANDOM_PLACE) if fault.at is None else fault.at  # noqa: S311
    for piece in pieces:
        yield piece[:left]
        left -= len(piece)
        if left <= 0:
            break
    if fault.action == "cut":
        raise Dropped


def _interrupted(pieces: Iterable[bytes], fault: Fault) -> Iterator[bytes]:
    left: int | None = fault.at or 0
    for piece in pieces:
        if left is None or left > len(piece):
            yield piece
        else:
            yield piece[:left]
            _do(fault)
            yield piece[left:]
        left = None if left is None or left <= len(piece) else left - len(piece)


def _drip(pieces: Iterable[bytes], fault: Fault) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), fault.size):
            yield piece[start : start + fault.size]
            time.sleep(fault.seconds)

"""The application whose work Nightmill does: it is told of what has ended, and keeps a book of its own about that.

A call's effect and its key are written in one transaction, as docs/handlers.md asks of handlers, so a call that is
repeated has no second effect. What arrives under another key would have one, and is a violation. The book is the
judge; Nightmill's own tables are not asked.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from nightmill.errors import NightmillError
from nightmill.storage.results import Result

SCHEMA = """
CREATE TABLE calls (key TEXT, via TEXT, run TEXT, at REAL);
CREATE TABLE keys (key TEXT PRIMARY KEY, digest TEXT);
CREATE TABLE effects (batch TEXT, custom_id TEXT, status TEXT, text TEXT, code TEXT, PRIMARY KEY (batch, custom_id));
CREATE TABLE changes (document TEXT, number INTEGER, old TEXT, new TEXT, key TEXT);
CREATE TABLE violations (text TEXT);
"""


@dataclass(frozen=True)
class Call:
    """One call of a handler."""

    key: str
    via: str
    run: str


class Host:
    """Takes webhooks on loopback, and its own workflows' and activities' calls; some answers get lost.

    Attributes:
        share: Of calls that are refused before they had an effect, and of those whose answer is lost after it.
    """

    def __init__(self, folder: Path, results: Callable[[str], Iterator[Result]], seed: int, share: float) -> None:
        self.share = share
        self._path = folder / "host.db"
        self._results = results
        self._chance = random.Random(f"host {seed}")
        self._lock = threading.Lock()
        with self._book() as book:
            book.executescript(SCHEMA)
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="host", daemon=True)

    def __enter__(self) -> Host:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def url(self, path: str) -> str:
        """Return the address of a webhook: `batches` or `changes`."""
        return f"http://127.0.0.1:{self.port}/{path}"

    def luck(self) -> float:
        """Return a number from 0 to 1."""
        with self._lock:
            return self._chance.random()

    def batch_ended(self, payload: Mapping[str, Any], *, key: str, via: str, run: str = "") -> None:
        """Take over a batch's results, once.

        Raises:
            NightmillError: They cannot be read for now.
        """
        results = list(self._results(payload["batch_id"]))
        told = json.dumps([payload["status"], [[one.custom_id, one.status, one.text] for one in results]])
        digest = hashlib.sha256(told.encode()).hexdigest()
        with self._lock, self._book() as book:
            if not self._is_new(book, key, digest, via, run):
                return
            summary = payload["summary"]
            if (summary["completed"], summary["failed"]) != _counts(results):
                self._complain(book, f"{key}: the summary says {summary}, the results {_counts(results)}")
            for one in results:
                code = one.error.code if one.error else None
                try:
                    book.execute(
                        "INSERT INTO effects VALUES (?, ?, ?, ?, ?)",
                        (payload["batch_id"], one.custom_id, one.status, one.text, code),
                    )
                except sqlite3.IntegrityError:
                    self._complain(book, f"{payload['batch_id']}: {one.custom_id} applied a second time, by {key}")

    def document_changed(self, payload: Mapping[str, Any], *, key: str) -> None:
        """Take note of a change, once."""
        digest = f"{payload['number']} {payload['old_fingerprint']} {payload['new_fingerprint']}"
        with self._lock, self._book() as book:
            if self._is_new(book, key, digest, "webhook", ""):
                values = [payload[name] for name in ("document_id", "number", "old_fingerprint", "new_fingerprint")]
                book.execute("INSERT INTO changes VALUES (?, ?, ?, ?, ?)", [*values, key])

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return rows of the book."""
        with self._lock, self._book() as book:
            return book.execute(query, values).fetchall()

    def _is_new(self, book: sqlite3.Connection, key: str, digest: str, via: str, run: str) -> bool:
        book.execute("INSERT INTO calls VALUES (?, ?, ?, ?)", (key, via, run, time.time()))
        known = book.execute("SELECT digest FROM keys WHERE key = ?", (key,)).fetchone()
        if known is None:
            book.execute("INSERT INTO keys VALUES (?, ?)", (key, digest))
        elif known[0] != digest:
            self._complain(book, f"{key}: told again, and of something else")
        return known is None

    @staticmethod
    def _complain(book: sqlite3.Connection, text: str) -> None:
        book.execute("INSERT INTO violations VALUES (?)", (text,))

    def _book(self) -> _Book:
        return _Book(self._path)


class _Book:
    """One transaction, and the connection closed after it."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("PRAGMA synchronous = OFF")  # it outlives no power cut, and waits for no disk
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._connection.commit()
        self._connection.close()


def _counts(results: list[Result]) -> tuple[int, int]:
    return sum(one.status == "completed" for one in results), sum(one.status == "failed" for one in results)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, host: Host) -> None:
        self.host = host
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        host = self.server.host
        payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers["webhook-id"]
        luck = host.luck()
        status = 503 if luck < host.share else 204
        if status == 204:
            try:
                if self.path == "/batches":
                    host.batch_ended(payload, key=key, via="webhook")
                else:
                    host.document_changed(payload, key=key)
            except NightmillError:
                status = 503
        if status == 204 and luck > 1 - host.share:
            # A linger time of zero: a reset, and no word of answer.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@workflow.defn(name="HostDone", sandboxed=False)
class HostDone:
    """A completion handler as a workflow of the host."""

    @workflow.run
    async def run(self, payload: dict[str, Any]) -> None:
        await workflow.execute_activity(
            "host_takes",
            payload,
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1),
        )


@dataclass
class HostActivities:
    """The host's activities: a completion handler, and what its workflow does."""

    host: Host

    @activity.defn
    def host_done(self, payload: dict[str, Any]) -> None:
        """Take over a batch's results."""
        self.host.batch_ended(payload, key=payload["batch_id"], via="activity")

    @activity.defn
    def host_takes(self, payload: dict[str, Any]) -> None:
        """Take over a batch's results, within a workflow of the host."""
        run = activity.info().workflow_run_id or ""
        self.host.batch_ended(payload, key=payload["batch_id"], via="workflow", run=run)

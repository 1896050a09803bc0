"""Fixtures for tests of the command line: commands in this process or in their own, and a whole Nightmill."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nightmill.cli.app import run
from nightmill.sandbox import Profile, Sandbox
from tests.stack import ROOT, Stack, TemporalServer, WebhookSink, environment, free_port

_queues = itertools.count()


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON objects that it printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def message(self) -> str:
        """Its one line of error, without the program's name."""
        [line] = self.err.splitlines()
        assert line.startswith("nightmill: "), line
        return line.removeprefix("nightmill: ")


Cli = Callable[..., Ended]


@pytest.fixture
def cli(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, migrated_sqlite: Path
) -> Cli:
    """Runs a command in this process: an empty database, no key, no Temporal server, an empty folder."""
    for name in list(os.environ):
        if name.startswith(("NIGHTMILL_", "TEMPORAL_")):
            monkeypatch.delenv(name)
    database = tmp_path / "cli.db"
    database.write_bytes(migrated_sqlite.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", f"sqlite:///{database}")
    monkeypatch.setenv("NIGHTMILL_STORAGE_URL", str(tmp_path / "files"))
    monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{free_port()}")

    def call(*arguments: str) -> Ended:
        capfd.readouterr()
        code = run(arguments)
        sys.stdout.flush()
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[Sequence[Any]], str]:
    """Writes a file of requests, given as objects or as raw lines, and returns its name."""

    def write(lines: Sequence[Any], name: str = "requests.jsonl") -> str:
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in text))
        return name

    return write


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """The providers; batches finish at once."""
    with Sandbox(profile=Profile(finish_after=0.2)) as running:
        yield running


@pytest.fixture
def webhook() -> Iterator[WebhookSink]:
    """A host application that takes webhooks."""
    sink = WebhookSink()
    yield sink
    sink.close()


@pytest.fixture
def stack(temporal_server: TemporalServer, sandbox: Sandbox, tmp_path: Path, sqlite_url: str) -> Iterator[Stack]:
    """A whole Nightmill without a worker; its settings are those of this process as well."""
    built = Stack(
        folder=tmp_path,
        server=temporal_server,
        sandbox=sandbox,
        database_url=sqlite_url,
        task_queue=f"nightmill-cli-{next(_queues)}",
    )
    yield built
    built.stop()


@pytest.fixture
def live(stack: Stack, cli: Cli) -> Iterator[Cli]:
    """Runs a command in this process on the stack, with a worker."""
    stack.fork_worker()
    with environment(stack.environment):
        yield cli


@contextlib.contextmanager
def process(
    *arguments: str, variables: dict[str, str], folder: Path, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run `nightmill` in a process of its own; it is killed at the end if it still runs."""
    command = [sys.executable, "-m", "nightmill.cli", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NIGHTMILL_", "TEMPORAL_"))}
    running = subprocess.Popen(
        command,
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    with running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()


@pytest.fixture
def start_process() -> Callable[..., contextlib.AbstractContextManager[subprocess.Popen[str]]]:
    """Starts `nightmill` in a process of its own."""
    return process

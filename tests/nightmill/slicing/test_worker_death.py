"""A worker that is killed leaves no process behind, and the next one removes its files; a living one's stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nightmill.slicing.isolation import Level
from nightmill.slicing.scratch import Scratch
from tests.children.running import CHILDREN, LEVELS, isolation, left_of, new_name

pytestmark = [
    pytest.mark.kill,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="programs are supervised on Linux only"),
]

TOLERANCE = 5.0
"""Seconds; it takes a tenth of one, on a machine that has nothing else to do."""


@pytest.mark.parametrize("level", LEVELS)
def test_a_killed_worker_leaves_no_process_and_its_files_are_swept(tmp_path: Path, level: Level) -> None:
    isolation(level)
    name = new_name()
    scratch = Scratch(tmp_path)
    command = [sys.executable, str(CHILDREN / "worker.py"), level, "waits_with_children", name, str(tmp_path)]
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"running\n"
        assert len(left_of(name)) >= 2
        assert scratch.sweep() == 0  # it lives
        assert len(list(tmp_path.iterdir())) == 1

        worker.send_signal(signal.SIGKILL)
        worker.wait()

    deadline = time.monotonic() + TOLERANCE
    while left_of(name):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert scratch.sweep() == 1
    assert list(tmp_path.iterdir()) == []

"""Exit codes of short commands in processes of their own: the SDK's threads may crash when an interpreter ends."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from tests.nightmill.cli.conftest import process
from tests.stack import ROOT, Stack, free_port

HISTORY = ROOT / "tests" / "replay" / "histories" / "0.1.0-document-skipped.json"


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(2, id="2", marks=pytest.mark.timeout(300)),
        pytest.param(100, id="100", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_a_short_command_ends_with_the_code_that_is_meant(stack: Stack, tmp_path: Path, runs: int) -> None:
    changed = tmp_path / "changed.json"
    changed.write_text(HISTORY.read_text().replace('"name": "sync_document"', '"name": "sync_otherwise"'))
    nowhere = {"TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}"}
    # All but the last have the SDK's core run, which is what may crash.
    meant: list[tuple[int, list[str], dict[str, str]]] = [
        (0, ["schedules", "list"], {}),
        (5, ["schedules", "list"], nowhere),
        (1, ["replay", str(changed)], {}),
        (2, ["batch", "show", "nobody"], {}),
    ]
    wrong: Counter[str] = Counter()
    for code, arguments, variables in itertools.islice(itertools.cycle(meant), runs):
        with process(*arguments, variables=stack.environment | variables, folder=tmp_path) as running:
            out, err = running.communicate(timeout=120)
        if running.returncode != code:
            wrong[json.dumps([arguments[0], code, running.returncode, (out + err)[-300:]])] += 1
    assert not wrong

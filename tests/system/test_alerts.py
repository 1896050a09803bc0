"""The alert rules, judged by promtool: when each fires, when it does not, and what it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests import promql

pytestmark = pytest.mark.system

PROMETHEUS = promql.DEPLOY / "prometheus"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_rules_can_be_loaded() -> None:
    found = promtool("check", "rules", *promql.RULES)
    assert found.returncode == 0, found.stderr


def test_the_queries_of_the_dashboard_are_queries(tmp_path: Path) -> None:
    queries = [promql.filled_in(query) for panel in promql.panels() for query in promql.queries(panel)]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    found = promtool("check", "rules", path)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_must_and_only_then(path: Path) -> None:
    found = promtool("test", "rules", path)
    assert found.returncode == 0, found.stdout + found.stderr


def test_what_alerts_say_can_be_read(tmp_path: Path) -> None:
    """Their texts are filled in by Prometheus' own templates: promtool shows them where it expects others."""
    path = tmp_path / "texts.yml"
    series = {
        "nightmill_batch_overdue_seconds": "0x4 1000x40",
        'nightmill_batch_entries_total{provider="openai",code="expired"}': "_x4 60x40",
        'nightmill_slicing_breaker{profile="gazette"}': "2x40",
        'nightmill_worker_memory_bytes{job="nightmill",instance="w1"}': "2e9x40",
        'up{job="nightmill",instance="w2"}': "0x40",
    }
    names = ["PollsOverdue", "EntriesFailing", "BreakerOpen", "WorkerMemory", "WorkerDown", "DatabaseAway"]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "30m", "alertname": f"Nightmill{name}"} for name in names],
    }
    path.write_text(yaml.safe_dump({"rule_files": [str(rule) for rule in promql.RULES], "tests": [case]}))
    found = promtool("test", "rules", path)
    said = found.stdout + found.stderr
    texts = re.findall(r'summary="((?:[^"\\]|\\.)*)"', said)
    assert sorted(texts) == [
        "100% of the requests that openai ended within an hour failed",
        "A batch's poll is 16m 40s late, and recovery has not mended it",
        "The breaker of gazette is open: new slicings wait",
        "w1 cannot read the database",
        "w1 takes 1.863GiB of memory; 500 MB is its bound by design",
        "w2 does not answer",
    ]

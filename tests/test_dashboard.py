"""Dashboard and alerts are complete: each is described, tested, and leads to what to do."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import promql

ROOT = Path(__file__).parent.parent
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
TESTS = "\n".join(path.read_text() for path in (promql.DEPLOY / "prometheus" / "tests").glob("*.yml"))
UNITS = {"none", "short", "s", "bytes", "percentunit", "currencyUSD", "reqps"}


def name_of(alert: dict[str, Any]) -> str:
    return str(alert["alert"])


def test_the_dashboard_is_the_one_that_the_code_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(promql.DEPLOY / "grafana"))
    dashboard = runpy.run_path(str(promql.DEPLOY / "grafana" / "dashboard.py"))["dashboard"]
    made, linked = dashboard(), dashboard("https://git.example.org/docs/")
    for name in ("jobs", "panels", "workers"):
        sys.modules.pop(name)
    assert json.loads(promql.DASHBOARD.read_text()) == made, "run `python deploy/grafana/dashboard.py`"
    assert [link["url"] for link in linked["links"]] == ["https://git.example.org/docs/operations.md", "${temporal_ui}"]
    # An address without a host would be looked for in Grafana itself.
    assert [link["url"] for link in made["links"]] == ["${temporal_ui}"]


@pytest.mark.parametrize("panel", promql.panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 5
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert panel["type"] == "stat" or all(legends)
    for target in panel["targets"]:
        by = promql.named(target["expr"])[1]
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown <= by | {"instance", "code"} or "topk" in target["expr"], target["legendFormat"]


def test_panels_lie_side_by_side_and_have_numbers_of_their_own() -> None:
    dashboard = json.loads(promql.DASHBOARD.read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_variables_that_queries_use_exist() -> None:
    text = promql.DASHBOARD.read_text()
    known = {variable["name"] for variable in json.loads(text)["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", text)) == known


@pytest.mark.parametrize("alert", promql.alerts(), ids=name_of)
def test_an_alert_is_described_and_tested_and_leads_to_its_section(alert: dict[str, Any]) -> None:
    name = name_of(alert)
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
    section = re.search(rf"^### {name}\n([\s\S]*?)(?=^##)", OPERATIONS, re.MULTILINE)
    assert section, "has no section in docs/operations.md"
    assert len(section[1]) > 100
    assert f'alertname="{name}"' in TESTS, "no promtool test sees it fire"


def test_sections_are_of_alerts_that_exist() -> None:
    assert set(re.findall(r"^### (Nightmill\w+)$", OPERATIONS, re.MULTILINE)) == set(map(name_of, promql.alerts()))


def test_no_gauge_of_the_database_is_added_up_over_workers() -> None:
    """Each worker reports the same."""
    gauges = (
        "batch_(?:open|oldest|overdue|attention)|document_(?:due|overdue|attention)|account_backlog"
        "|slicing_(?:oldest|waiting|breaker)"
    )
    added_up = re.compile(rf"sum(?: by \([\w, ]+\) )?\(+(?:last_over_time\()?nightmill_(?:{gauges})(?:_seconds)?\b")
    asked = [rule["expr"] for rule in promql.rules()] + [q for panel in promql.panels() for q in promql.queries(panel)]
    assert not [query for query in asked if added_up.search(query)]
    assert added_up.search('sum(nightmill_batch_open{provider="xai"})')


def test_rules_are_files_that_prometheus_loads() -> None:
    loaded = yaml.safe_load((promql.DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert loaded["rule_files"] == ["rules/*.yml"]
    assert [job["job_name"] for job in loaded["scrape_configs"] if job["job_name"].startswith("nightmill")]

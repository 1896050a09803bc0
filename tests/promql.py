"""What queries name: the metrics and labels in PromQL, of the dashboard and of the alert rules."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent.parent / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "nightmill.json"

_STRING = re.compile(r'"[^"]*"|\'[^\']*\'')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+\S+")
_NAME = re.compile(r"(?<![\w.$])([a-zA-Z_:][\w:]*)\s*(\(|\{([^}]*)\})?")
_WORDS = {"and", "or", "unless", "bool", "inf", "nan"}


def rules() -> list[dict[str, Any]]:
    """Return all rules, alerts and recorded ones."""
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> dict[str, str]:
    """Return recorded series and what they are made of."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def panels(title: str | None = None) -> list[dict[str, Any]]:
    """Return the dashboard's panels, rows left out, all or those of a title."""
    found = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
    return [panel for panel in found if title in {None, panel["title"]}]


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def filled_in(query: str, **values: str) -> str:
    """Return a query with the dashboard's variables filled in: everything, unless said otherwise."""
    values = {"job": ".*", "provider": ".*", "account": ".*", "profile": ".*", "window": "1h"} | values
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], query)


def without_placeholders(legend: str) -> str:
    """Return a legend without the labels that its series lacks, as Grafana shows it."""
    return " ".join(re.sub(r"\{\{\w+\}\}", "", legend).split())


def named(query: str) -> tuple[dict[str, set[str]], set[str]]:
    """Return the metrics of a query, each with the labels that are matched, and the labels that it groups by."""
    text = _RANGE.sub("", _STRING.sub('""', re.sub(r"#.*", "", query)))
    grouped = {label.strip() for found in _GROUPING.findall(text) for label in found.split(",")} - {""}
    metrics: defaultdict[str, set[str]] = defaultdict(set)
    for name, call, matchers in _NAME.findall(_GROUPING.sub("", text)):
        if call == "(" or name in _WORDS:
            continue
        metrics[name] |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    return dict(metrics), grouped


def missing(query: str, known: dict[str, set[str]]) -> Iterable[str]:
    """Return what a query names that is not among these series and their labels."""
    metrics, grouped = named(query)
    there: set[str] = set()
    for metric, labels in metrics.items():
        if metric not in known:
            yield metric
            continue
        there |= known[metric]
        yield from (f"{metric}{{{label}}}" for label in labels - known[metric])
    if all(metric in known for metric in metrics):
        yield from (f"by ({label})" for label in grouped - there)

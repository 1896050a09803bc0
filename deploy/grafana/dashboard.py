"""Writes dashboards/nightmill.json: `python deploy/grafana/dashboard.py`.

With an address as its argument, `https://git.example.org/nightmill/docs`, it adds a link to operations.md there.

The panels are in jobs.py and workers.py; here is what Grafana wants around them. Fixed uid, no plugins, the data source
a variable.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from jobs import BATCHES, DOCUMENTS, GLANCE, SLICINGS
from panels import Panel, Row
from workers import PROVIDERS, RECOVERY, WORKERS

TARGET = Path(__file__).parent / "dashboards" / "nightmill.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
ROWS = (GLANCE, BATCHES, DOCUMENTS, SLICINGS, RECOVERY, WORKERS, PROVIDERS)
SCHEMA = 39  # Grafana 11's; later ones read and upgrade it


def dashboard(docs: str = "") -> dict[str, Any]:
    """Return the dashboard.

    Args:
        docs: Where docs/ is read; "": nowhere that a browser could go to.
    """
    return {
        "uid": "nightmill",
        "title": "Nightmill",
        "description": "Batches, documents, slicings, and the workers that do them.",
        "tags": ["nightmill"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair over all panels
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "",
        "templating": {"list": _variables()},
        "annotations": {"list": [_alerts()]},
        "links": _links(docs),
        "panels": _panels(),
    }


def _links(docs: str) -> list[dict[str, Any]]:
    found = [_link("What to do", f"{docs.rstrip('/')}/operations.md", "doc")] if docs else []
    return [*found, _link("Temporal", "${temporal_ui}", "external link")]


def _link(title: str, url: str, icon: str) -> dict[str, Any]:
    return {"type": "link", "title": title, "url": url, "targetBlank": True, "icon": icon}


def _panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    y = 0
    for row in ROWS:
        found.append(_row(row, len(found) + 1, y))
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > 24:
                x, y = 0, y + height
            found.append(_panel(panel, len(found) + 1, x, y))
            x, height = x + panel.width, panel.height
        y += height
    return found


def _row(row: Row, number: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "panels": [],
        "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
    }


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "noValue": "none"}
    if panel.limits:
        colors = ["green", "red"] if len(panel.limits) == 1 else ["green", "orange", "red"]
        colors = colors if panel.rising else colors[::-1]
        steps = [None, *panel.limits]
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"color": color, "value": value} for color, value in zip(colors, steps, strict=True)],
        }
    if panel.words:
        mapping = {str(value): {"text": word, "index": value} for value, word in enumerate(panel.words)}
        defaults["mappings"] = [{"type": "value", "options": mapping}]
    options: dict[str, Any]
    if panel.kind == "stat":
        if panel.unit == "none":
            defaults["decimals"] = 0  # increase() is an estimate: 1.03 is one
        options = {
            "colorMode": "value" if panel.limits else "none",
            "graphMode": "none",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
    else:
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 40 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "spanNulls": False,
            "showPoints": "auto",
            "thresholdsStyle": {"mode": "dashed" if panel.limits else "off"},
        }
        options = {
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": "ABCDEF"[n],
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": panel.kind == "stat",
                "range": panel.kind != "stat",
            }
            for n, (query, legend) in enumerate(panel.queries)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}},
        _values("job", "Scrape job", "nightmill_worker_memory_bytes"),
        _values("provider", "Provider", "nightmill_batch_open"),
        _values("account", "Account", "nightmill_account_backlog"),
        _values("profile", "Slicer profile", "nightmill_slicing_waiting"),
        {
            "name": "window",
            "label": "Counted over",
            "type": "interval",
            "query": "5m,15m,1h,6h,1d",
            "current": {"text": "1h", "value": "1h", "selected": True},
            "options": [{"text": w, "value": w, "selected": w == "1h"} for w in ("5m", "15m", "1h", "6h", "1d")],
        },
        _text("temporal_ui", "Temporal's UI", "http://localhost:8080"),
    ]


def _values(name: str, label: str, metric: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({metric}, {name})", "refId": name},
        "definition": f"label_values({metric}, {name})",
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"], "selected": True},
    }


def _text(name: str, label: str, value: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "textbox",
        "query": value,
        "current": {"text": value, "value": value, "selected": True},
    }


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Nightmill.*", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "tagKeys": "severity,component",
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(dashboard(*sys.argv[1:2]), indent=1, ensure_ascii=False) + "\n")

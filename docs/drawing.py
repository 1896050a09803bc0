"""Draws panels as a page: a plain stand-in for Grafana, so that answers to the dashboard's queries can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

COLUMN, LINE, WIDTH = 58, 21, 24 * 58
COLORS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#9c755f", "#edc948", "#ff9da7", "#7f7f7f",
)  # fmt: skip
STYLE = """
body { margin: 0; background: #f4f5f5; font: 11px sans-serif; color: #24292e; position: relative }
.panel { position: absolute; background: #fff; border: 1px solid #d8dadd; border-radius: 2px; overflow: hidden }
.title { font-weight: 600; padding: 4px 8px }
.row { position: absolute; font-size: 14px; font-weight: 600; padding: 2px 8px }
.value { font-size: 26px; text-align: center; padding-top: 6px }
.key { display: inline-block; margin-right: 8px; white-space: nowrap }
.legend { padding: 0 8px; height: 26px; overflow: hidden; line-height: 13px; font-size: 10px }
"""


@dataclass(frozen=True)
class Curve:
    """One series of a panel: its legend, and its values by time."""

    legend: str
    points: Sequence[tuple[float, float]]


def page(dashboard: dict[str, Any], curves: dict[int, list[Curve]], span: tuple[float, float]) -> str:
    """Return the dashboard as HTML.

    Args:
        dashboard: As Grafana reads it.
        curves: Of each panel, by its number.
        span: Begin and end of the time that is shown.
    """
    parts = []
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        box = f"left:{at['x'] * COLUMN + 2}px;top:{at['y'] * LINE + 2}px;width:{at['w'] * COLUMN - 6}px"
        if panel["type"] == "row":
            parts.append(f'<div class="row" style="{box}">{escape(panel["title"])}</div>')
            continue
        height = at["h"] * LINE - 4
        found = curves[panel["id"]]
        inner = _number(panel, found) if panel["type"] == "stat" else _chart(panel, found, at["w"] * COLUMN - 6, span)
        title = f'<div class="title">{escape(panel["title"])}</div>'
        parts.append(f'<div class="panel" style="{box};height:{height}px">{title}{inner}</div>')
    return f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><body>{"".join(parts)}</body>'


def height_of(dashboard: dict[str, Any]) -> int:
    """Return how high the page is, in pixels."""
    return max((panel["gridPos"]["y"] + panel["gridPos"]["h"]) * LINE for panel in dashboard["panels"]) + 4


def shown(value: float, unit: str) -> str:
    """Return a value as people read it."""
    if unit == "percentunit":
        return f"{value:.1%}"
    if unit == "currencyUSD":
        return f"${value:.3g}"
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB"))
    if unit == "s":
        for over, size, name in ((172_800, 86_400, "d"), (7_200, 3_600, "h"), (120, 60, "min"), (1, 1, "s")):
            if value >= over:
                return f"{value / size:.3g} {name}"
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g}" + (" /s" if unit == "reqps" else "") if value < 1000 else _scaled(value, 1000, ("", "K", "M"))


def _scaled(value: float, base: int, names: Sequence[str]) -> str:
    at = 0
    while value >= base and at + 1 < len(names):
        value, at = value / base, at + 1
    return f"{value:.3g} {names[at]}".strip()


def _number(panel: dict[str, Any], curves: list[Curve]) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    value = curves[0].points[-1][1]
    words = {
        int(key): word["text"] for mapping in defaults.get("mappings", []) for key, word in mapping["options"].items()
    }
    color = "#24292e"
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            color = {"green": "#3c8b3c", "orange": "#d9822b", "red": "#c4262e"}[step["color"]]
    value = round(value) if defaults.get("decimals") == 0 else value
    text = words[int(value)] if words else shown(value, defaults["unit"])
    return f'<div class="value" style="color:{color}">{escape(text)}</div>'


def _chart(panel: dict[str, Any], curves: list[Curve], width: int, span: tuple[float, float]) -> str:
    height, left = panel["gridPos"]["h"] * LINE - 62, 56
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    curves = [Curve(curve.legend, [point for point in curve.points if point[0] >= span[0]]) for curve in curves]
    curves = [curve for curve in curves if curve.points]
    curves = sorted(curves, key=lambda curve: -max(value for _, value in curve.points))  # the legend's end is cut off
    if stacked:
        curves = _piled(curves)
    top = max((value for curve in curves for _, value in curve.points), default=0) * 1.05 or 1

    def x(time: float) -> float:
        return left + (time - span[0]) / (span[1] - span[0]) * (width - left - 8)

    def y(value: float) -> float:
        return height - 4 - value / top * (height - 10)

    drawn = []
    for share in (0, 0.5, 1):
        at = y(top * share)
        drawn.append(f'<line x1="{left}" x2="{width - 8}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e8e9ea"/>')
        drawn.append(f'<text x="{left - 4}" y="{at + 4:.1f}" text-anchor="end" font-size="10">'
                     f'{escape(shown(top * share, defaults["unit"]))}</text>')  # fmt: skip
    for number, curve in reversed(list(enumerate(curves))):
        line = " ".join(f"{x(time):.1f},{y(value):.1f}" for time, value in curve.points)
        color = COLORS[number % len(COLORS)]
        if stacked:
            first, last = x(curve.points[0][0]), x(curve.points[-1][0])
            drawn.append(
                f'<polygon points="{first:.1f},{y(0)} {line} {last:.1f},{y(0)}" fill="{color}" stroke="none"/>'
            )
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.4"/>')
    keys = "".join(
        f'<span class="key"><b style="color:{COLORS[number % len(COLORS)]}">■</b> {escape(curve.legend)}</span>'
        for number, curve in enumerate(curves)
        if number == 0 or any(value for _, value in curve.points)
    )
    return f'<svg width="{width}" height="{height}">{"".join(drawn)}</svg><div class="legend">{keys}</div>'


def _piled(curves: list[Curve]) -> list[Curve]:
    floor: dict[float, float] = {}
    piled = []
    for curve in curves:
        points = [(time, floor.get(time, 0) + value) for time, value in curve.points]
        floor.update(points)
        piled.append(Curve(curve.legend, points))
    return piled

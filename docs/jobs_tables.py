"""The tables of docs/jobs.md: kinds of call, activities and schedules, read from the code that they describe."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from temporalio.client import ScheduleActionStartWorkflow
from temporalio.workflow import ActivityConfig

from nightmill.client.schedules import PLANNED
from nightmill.settings import Settings
from workflows import policies

ROOT = Path(__file__).parent.parent
EXECUTES = {"execute_activity_method", "start_activity_method", "execute_activity", "start_activity"}
PROGRAM = "program"

AREAS = {
    "batches": ("batches", "handlers"),
    "documents": ("documents", "changes"),
    "sweeps": ("sweeps",),
    "crawls": ("crawls",),
    "slicings": ("slicing", "slicing_programs"),
    "health": ("slicer_health",),
    "recovery": ("reconciliation",),
    "audit": ("audit",),
}
"""Which modules' activities stand in which section of the page."""


@dataclass(frozen=True)
class Activity:
    """An activity, as its code says.

    Attributes:
        name: By which Temporal knows it.
        module: The module of `activities` that defines it.
        takes: Its input; empty: none.
        gives: Its result; `None`: none.
        says: The first line of its docstring: what it does, and what a second run does.
    """

    name: str
    module: str
    takes: str
    gives: str
    says: str


def activities() -> list[Activity]:
    """Return all activities in the order of the code."""
    return [
        _activity(node, path.stem)
        for path in sorted((ROOT / "activities").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_activity(node)
    ]


def _is_activity(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("activity.defn") for decorator in node.decorator_list)


def _activity(node: ast.FunctionDef | ast.AsyncFunctionDef, module: str) -> Activity:
    inputs = [ast.unparse(a.annotation) for a in node.args.args if a.arg != "self" and a.annotation]
    gives = ast.unparse(node.returns) if node.returns else "None"
    says = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return Activity(node.name, module, ", ".join(inputs), gives, says)


def kinds_by_activity() -> dict[str, set[str]]:
    """Return by which policies the workflows call each activity; `program` stands for `policies.program`."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "workflows").glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for name, kinds in _calls_of(function):
                    found.setdefault(name, set()).update(kinds)
    return found


def _calls_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, set[str]]]:
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in EXECUTES:
            called = call.args[0]
            name = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
            given = [keyword.value for keyword in call.keywords if keyword.arg is None]
            # Where the policy is chosen before the call, all that the function names.
            yield name, {kind for value in given for kind in _kinds_in(value)} or set(_kinds_in(function))


def _kinds_in(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "policies":
            value = getattr(policies, each.attr)
            if each.attr == PROGRAM or isinstance(value, dict):
                yield each.attr


def kinds_table() -> str:
    """Return a table of the policies that are used, and what each is for."""
    lines = ["| kind of call | one attempt | all of them | silent for | tried again | |", "| --- " * 6 + "|"]
    for name, says in _documented(ROOT / "workflows" / "policies.py").items():
        if isinstance(vars(policies)[name], dict):
            config: ActivityConfig = vars(policies)[name]
            bounds = (
                config.get("start_to_close_timeout"),
                config.get("schedule_to_close_timeout"),
                config.get("heartbeat_timeout"),
            )
            times = " | ".join(map(_span, bounds))
            lines.append(f"| `{name}` | {times} | {_retries(config)} | {says} |")
    return "\n".join(lines) + "\n"


def _documented(path: Path) -> dict[str, str]:
    """Return the names of a module that a docstring follows, and these."""
    body = ast.parse(path.read_text()).body
    return {
        ast.unparse(node.targets[0]): " ".join(str(text.value.value).split())
        for node, text in pairwise(body)
        if isinstance(node, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _retries(config: ActivityConfig) -> str:
    """Return the pauses between attempts, up to the one that repeats."""
    retry = config.get("retry_policy")
    assert retry is not None  # noqa: S101 - every policy of ours has one
    assert retry.maximum_interval is not None  # noqa: S101 - the same
    pauses: list[timedelta] = []
    pause = retry.initial_interval
    most = retry.maximum_attempts
    while len(pauses) < (most - 1 if most else 8):
        pauses.append(min(pause, retry.maximum_interval))
        if pause >= retry.maximum_interval:
            break
        pause *= retry.backoff_coefficient
    steps = ", ".join(_span(each) for each in pauses)
    repeats = len(pauses) < most - 1 if most else True
    often = (
        f"{most - 1} times" if most else "while there is time" if "schedule_to_close_timeout" in config else "always"
    )
    return f"{often}: after {steps}{' and so on' if repeats else ''}"


def _span(value: object) -> str:
    if not isinstance(value, timedelta):
        return ""
    seconds = value.total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def activities_table(area: str) -> str:
    """Return a table of an area's activities."""
    kinds = kinds_by_activity()
    lines = ["| activity | takes, gives | kind of call | what it does; what a repeat does |", "| --- " * 4 + "|"]
    for module in AREAS[area]:
        for each in activities():
            if each.module != module:
                continue
            gives = "" if each.gives == "None" else f" → `{each.gives}`"
            takes = f"`{each.takes}`" if each.takes else "nothing"
            how = ", ".join("a program" if kind == PROGRAM else f"`{kind}`" for kind in sorted(kinds[each.name]))
            lines.append(f"| `{each.name}` | {takes}{gives} | {how} | {each.says} |".replace(" | None", " \\| None"))
    return "\n".join(lines) + "\n"


def schedules_table() -> str:
    """Return a table of the schedules as the default settings make them."""
    settings = Settings(_env_file=None)
    lines = [
        "| schedule | workflow | task queue | input | every | ended after | does |",
        "| --- " * 7 + "|",
    ]
    for planned in PLANNED:
        schedule = planned.schedule(settings)
        action = schedule.action
        assert isinstance(action, ScheduleActionStartWorkflow)  # noqa: S101 - all of ours start workflows
        every = _span(schedule.spec.intervals[0].every)
        lines.append(
            f"| `{planned.id}` | `{action.workflow}` | `{action.task_queue}` | `{json.dumps(action.args[0])}` "
            f"| {every} | {_span(action.execution_timeout)} | {planned.what} |"
        )
    return "\n".join(lines) + "\n"


def tables() -> dict[str, str]:
    """Return the page's tables by the name in their marks."""
    found = {"kinds of call": kinds_table(), "schedules": schedules_table()}
    return found | {f"activities of {area}": activities_table(area) for area in AREAS}

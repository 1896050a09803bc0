"""Whether the recorded histories are enough to guard what runs: every release, type, signal, update and activity."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections import defaultdict
from functools import cache
from importlib.metadata import version
from typing import Any

import pytest

import activities
from tests.replay.test_replay import HISTORIES
from tests.stack import ROOT
from worker import SLICING_WORKFLOWS, WORKFLOWS

DEFINITIONS = {
    str(found.name): found
    for found in (vars(each)["__temporal_workflow_definition"] for each in (*WORKFLOWS, *SLICING_WORKFLOWS))
}


@cache
def recorded() -> dict[str, dict[str, set[str]]]:
    """Return by workflow type what its histories hold: signals, updates, activities, and kinds of events."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in HISTORIES:
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["events"]
        held = found[events[0]["workflowExecutionStartedEventAttributes"]["workflowType"]["name"]]
        for event in events:
            held["events"].add(event["eventType"].removeprefix("EVENT_TYPE_"))
            if signaled := event.get("workflowExecutionSignaledEventAttributes"):
                held["signals"].add(signaled["signalName"])
            if updated := event.get("workflowExecutionUpdateAcceptedEventAttributes"):
                held["updates"].add(updated["acceptedRequest"]["input"]["name"])
            if scheduled := event.get("activityTaskScheduledEventAttributes"):
                held["activities"].add(scheduled["activityType"]["name"])
    return found


def test_there_are_histories_of_every_workflow_and_of_no_other() -> None:
    assert set(recorded()) == set(DEFINITIONS)


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_every_signal_and_update_of_a_workflow_is_in_a_history_of_it(name: str) -> None:
    held = recorded()[name]
    assert set(DEFINITIONS[name].signals) <= held["signals"]
    assert set(DEFINITIONS[name].updates) <= held["updates"]


def test_every_activity_is_in_a_history() -> None:
    scheduled = set().union(*(held["activities"] for held in recorded().values()))
    assert known_activities() - scheduled == set()


def known_activities() -> set[str]:
    """Return the names of all activities that the package `activities` defines."""
    found = set()
    for module in pkgutil.iter_modules(activities.__path__, "activities."):
        for _, each in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            for _, method in inspect.getmembers(each, inspect.isfunction):
                definition = getattr(method, "__temporal_activity_definition", None)
                if definition is not None:
                    found.add(str(definition.name))
    assert len(found) > 40
    return found


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        (
            "ModelCompletionBatch",
            {
                "TIMER_FIRED",
                "TIMER_CANCELED",
                "ACTIVITY_TASK_FAILED",
                "CHILD_WORKFLOW_EXECUTION_COMPLETED",
                "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED",
                "WORKFLOW_EXECUTION_CANCEL_REQUESTED",
                "WORKFLOW_EXECUTION_CANCELED",
            },
        ),
        (
            "DocumentSync",
            {"ACTIVITY_TASK_CANCELED", "CHILD_WORKFLOW_EXECUTION_COMPLETED", "WORKFLOW_EXECUTION_CANCELED"},
        ),
        ("DocumentSlicing", {"TIMER_FIRED", "ACTIVITY_TASK_CANCELED", "START_CHILD_WORKFLOW_EXECUTION_INITIATED"}),
        ("SlicerHealth", {"TIMER_FIRED"}),
    ],
)
def test_the_ways_that_a_workflow_may_take_are_in_its_histories(name: str, ways: set[str]) -> None:
    assert ways - recorded()[name]["events"] == set()


def test_some_histories_carry_the_headers_of_traces_and_others_do_not() -> None:
    traced = {path for path in HISTORIES if '"_tracer-data"' in path.read_text(encoding="utf-8")}
    assert traced
    assert traced != set(HISTORIES)


def releases() -> list[tuple[str, bool]]:
    """Return the releases that the changelog tells of, newest first, and whether each is out."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (\d+\.\d+\.\d+)(.*)$", text, flags=re.MULTILINE)
    return [(number, "unreleased" not in rest) for number, rest in found]


def test_every_release_has_its_histories_and_no_other_has_any() -> None:
    told = releases()
    assert told
    assert told[0][0] == version("nightmill"), "what is being worked on stands first"
    have = {path.name.split("-")[0] for path in HISTORIES}
    assert {number for number, is_out in told if is_out} <= have, "`make record-history` belongs to a release"
    assert have <= {number for number, _ in told}

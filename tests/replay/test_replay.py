"""Histories of every release, replayed against today's workflows: what runs there must be able to go on here."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from nightmill.client.converter import DATA_CONVERTER
from nightmill.contracts import BatchInput, BatchStatus, BatchSummary
from worker import SLICING_WORKFLOWS, WORKFLOWS
from workflows.admission import AdmissionInterceptor

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def replay(history: Path, workflows: list[type]) -> None:
    replayer = Replayer(
        workflows=workflows,
        data_converter=DATA_CONVERTER,
        interceptors=[AdmissionInterceptor()],
        build_id="replay",  # else one is made by compiling every module that is loaded
    )
    text = history.read_text(encoding="utf-8")
    started = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]
    asyncio.run(replayer.replay_workflow(WorkflowHistory.from_json(started["workflowId"], text)))


@pytest.mark.parametrize("history", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_history_replays(history: Path) -> None:
    replay(history, [*WORKFLOWS, *SLICING_WORKFLOWS])


@workflow.defn(name="ModelCompletionBatch", sandboxed=False)
class _Careless:
    """What a careless change might make of the workflow: it skips the first activity."""

    @workflow.run
    async def run(self, asked: BatchInput) -> BatchSummary:
        await workflow.sleep(1)
        return BatchSummary(batch_id="x", status=BatchStatus.ENDED)


def test_a_change_that_breaks_running_workflows_is_noticed() -> None:
    [simple] = [path for path in HISTORIES if path.stem == "0.1.0-simple-0"]
    with pytest.raises(workflow.NondeterminismError):
        replay(simple, [_Careless])


def test_histories_hold_no_request_no_answer_no_page_and_no_key() -> None:
    for history in HISTORIES:
        held = decoded(json.loads(history.read_text(encoding="utf-8")))
        assert re.search("batch_id|document_id|sweep_id|crawl_id|profile|candidates|listed", held)
        for secret in ("sandbox-key", "whsec_", "Say 1", "/done", "output_text", "rooms to it", "mailto:", "ACUERDA"):
            assert secret not in held


def decoded(node: Any) -> str:
    """Return all text of a history, its payloads decoded."""
    if isinstance(node, dict):
        own = base64.b64decode(node["data"]).decode(errors="replace") if isinstance(node.get("data"), str) else ""
        return own + "".join(decoded(value) for value in node.values())
    if isinstance(node, list):
        return "".join(decoded(value) for value in node)
    return node if isinstance(node, str) else ""

"""Contracts are whole when a worker loads them, and refuse what a workflow could stumble over."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import uuid
from typing import Any

import pytest
from pydantic import ValidationError

from nightmill.contracts import ActivityHandler, BatchInput, SlicingInput, WorkflowHandler

INCOMPLETE = """
import importlib, inspect, pkgutil, pydantic, nightmill.contracts as contracts
names = [f"nightmill.contracts.{each.name}" for each in pkgutil.iter_modules(contracts.__path__)]
modules = list(map(importlib.import_module, names))
found = {kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)}
models = [kind for kind in found if issubclass(kind, pydantic.BaseModel) and kind is not pydantic.BaseModel]
print(len(models) > 50, sorted(kind.__name__ for kind in models if not kind.__pydantic_complete__))
"""


def test_every_contract_is_whole_once_it_is_imported() -> None:
    """One that names a later one is made whole at its first use, which fails in a workflow that is replayed."""
    done = subprocess.run([sys.executable, "-c", INCOMPLETE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


@pytest.mark.parametrize("name", ["mine", "mine/of-today", "очередь", "x" * 255])
def test_names_of_task_queues_are_taken_as_temporal_takes_them(name: str) -> None:
    assert WorkflowHandler(kind="workflow", type="OnBatch", task_queue=name).task_queue == name


@pytest.mark.parametrize("name", ["", "/_sys/mine", "a\nb", "a\0", "x" * 256, "😀" * 255])
def test_a_task_queue_that_temporal_refuses_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValidationError, match="task_queue"):
        ActivityHandler(kind="activity", type="on_batch", task_queue=name)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"order": uuid.uuid4()}, "not JSON: Object of type UUID"),
        ({"share": math.nan}, "not JSON: Out of range float"),
        ({"long": "x" * 16_384}, "larger than 16384 bytes"),
        ({"half": "\ud800"}, "not JSON: .*surrogates not allowed"),
        ({"deep": json.loads("[" * 300 + "]" * 300)}, "not JSON: .*depth"),
    ],
)
@pytest.mark.parametrize(
    ("contract", "source"), [(BatchInput, {"batch_id": "a-batch"}), (SlicingInput, {"source": "a.pdf"})]
)
def test_metadata_that_nobody_could_store_is_refused_at_once(
    contract: type[BatchInput | SlicingInput], source: dict[str, str], metadata: dict[str, Any], said: str
) -> None:
    assert contract(**source, metadata={"order": 17}).metadata == {"order": 17}
    with pytest.raises(ValidationError, match=said):
        contract(**source, metadata=metadata)

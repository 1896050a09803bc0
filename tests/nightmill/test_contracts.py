"""What inputs are refused before a workflow could stumble over them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nightmill.contracts import ActivityHandler, WorkflowHandler


@pytest.mark.parametrize("name", ["mine", "mine/of-today", "очередь", "x" * 255])
def test_names_of_task_queues_are_taken_as_temporal_takes_them(name: str) -> None:
    assert WorkflowHandler(kind="workflow", type="OnBatch", task_queue=name).task_queue == name


@pytest.mark.parametrize("name", ["", "/_sys/mine", "a\nb", "a\0", "x" * 256, "😀" * 255])
def test_a_task_queue_that_temporal_refuses_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValidationError, match="task_queue"):
        ActivityHandler(kind="activity", type="on_batch", task_queue=name)

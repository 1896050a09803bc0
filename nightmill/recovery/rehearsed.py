"""What came of replaying a workflow with the code that is to be deployed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rehearsed:
    """What a replay came to.

    Attributes:
        workflow_id: The workflow.
        run_id: The run; nothing where a file does not say.
        type: Its type.
        replays: Whether this version goes on with it; None: it is too long to be replayed.
        reason: Why not.
    """

    workflow_id: str
    run_id: str
    type: str
    replays: bool | None
    reason: str | None = None

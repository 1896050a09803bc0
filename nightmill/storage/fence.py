"""The fence: a run that was reset, or in whose place another was started, writes nothing any more.

An activity of it may still be at work: it learns of the reset with its next heartbeat, or at its end only, and may
overlap with the same step of the run that goes on. So every write to a batch's rows asks, with the row locked, whether
its run is one that a repair has superseded.

Three things are stored all the same, because only the old run knows them and they stay true: the provider's answer to
its own create, that a handler has succeeded, and that somebody asked for a cancel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import bindparam
from sqlmodel import Session, col, select

from nightmill.contracts import Action, RepairState
from nightmill.errors import RunSuperseded
from nightmill.storage.recovery_models import RepairRow

SUPERSEDING = (Action.RESET, Action.START, Action.START_AFRESH)
"""Repairs after which another run goes on."""

_RUN: ContextVar[str | None] = ContextVar("nightmill_run", default=None)

_SUPERSEDED = (
    select(RepairRow.key)
    .where(
        RepairRow.run_id == bindparam("run"),
        RepairRow.state == RepairState.DONE,
        col(RepairRow.action).in_(SUPERSEDING),
    )
    .limit(1)
)


@contextmanager
def running_as(run_id: str | None) -> Iterator[None]:
    """Let everything inside write as this run, in this thread and what it awaits; None: as nobody, without a fence."""
    token = _RUN.set(run_id)
    try:
        yield
    finally:
        _RUN.reset(token)


def check(session: Session) -> None:
    """Return if the present run may write; where there is none, as in a client, nothing is asked.

    Raises:
        RunSuperseded: Another run goes on in its place.
    """
    if is_superseded(session):
        raise RunSuperseded(f"run {_RUN.get()} was superseded: another one goes on, and nothing was written")


def is_superseded(session: Session) -> bool:
    """Whether the present run is one that a repair has put another one in the place of."""
    run_id = _RUN.get()
    if run_id is None:
        return False
    # A statement of its own, after the lock: PostgreSQL would answer one that waits with what was true before.
    return session.connection().execute(_SUPERSEDED, {"run": run_id}).first() is not None

"""The table of repairs: each is written before it is carried out, and again when it is known what came of it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, Integer, text
from sqlmodel import Column, Field, SQLModel, UniqueConstraint

from nightmill.contracts import Action, Finding, RepairState, Subject
from nightmill.storage.columns import BIG_KEY, PageText, Word, time_column

LONGEST_ID = 1_000  # bytes that Temporal takes as a workflow id by default: limit.maxIDLength (server 1.32)
LONGEST_EPOCH = 300
LONGEST_ERROR = 2_000


IS_OPEN = "ended_at IS NULL"
"""The repairs of which nobody has said yet what came."""


class RepairRow(SQLModel, table=True):
    """One repair of one workflow.

    Attributes:
        key: Our own number; rising with time.
        subject: What kind of thing it is for.
        subject_id: Its id.
        workflow_id: The workflow that is repaired.
        epoch: What a repair may be done once for: a run, a build, a poll that is due. No two repairs of a workflow have
            the same one, so that two reconcilers never do the same twice. One that failed or is void gives it back.
        finding: What was found.
        action: What is done.
        state: How far it has come.
        reason: More about it, one line.
        run_id: The run that was found; after a reset it is superseded, and writes nothing any more.
        event_id: Where its history was cut.
        new_run_id: The run that goes on.
        build: The worker's build that repaired it.
        tick: The reconciler's run.
        error: Why it failed, one line.
        asked_at: When it was recorded.
        ended_at: When it was known what came of it.
    """

    __tablename__ = "repairs"
    __table_args__ = (
        UniqueConstraint("workflow_id", "epoch", name="uq_repairs_epoch"),
        Index("ix_repairs_run", "run_id"),
        Index("ix_repairs_subject", "subject", "subject_id"),
        Index("ix_repairs_open", "key", sqlite_where=text(IS_OPEN), postgresql_where=text(IS_OPEN)),
    )

    key: int | None = Field(default=None, sa_column=Column(BIG_KEY, primary_key=True, autoincrement=True))
    subject: Subject = Field(sa_column=Column(Word(Subject), nullable=False))
    subject_id: str = Field(sa_column=Column(PageText(LONGEST_ID), nullable=False))
    workflow_id: str = Field(sa_column=Column(PageText(LONGEST_ID), nullable=False))
    epoch: str = Field(sa_column=Column(PageText(LONGEST_EPOCH), nullable=False))
    finding: Finding = Field(sa_column=Column(Word(Finding), nullable=False))
    action: Action = Field(sa_column=Column(Word(Action), nullable=False))
    state: RepairState = Field(sa_column=Column(Word(RepairState), nullable=False))
    reason: str = Field(default="", sa_column=Column(PageText(1_000), nullable=False))
    run_id: str | None = Field(default=None, max_length=64)
    event_id: int | None = Field(default=None, sa_column=Column(Integer))
    new_run_id: str | None = Field(default=None, max_length=64)
    build: str = Field(default="", max_length=200)
    tick: str = Field(default="", max_length=200)
    error: str | None = Field(default=None, sa_column=Column(PageText(LONGEST_ERROR)))
    asked_at: datetime = time_column(nullable=False)
    ended_at: datetime | None = time_column()

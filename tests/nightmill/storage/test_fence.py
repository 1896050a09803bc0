"""A run that was reset writes nothing any more and deletes nothing at a provider, but keeps what only it knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nightmill.assembly import Assembly, assembled
from nightmill.completions.requests import StoredRequest
from nightmill.completions.submission import Submitter
from nightmill.contracts import (
    Action,
    BatchStatus,
    ErrorCode,
    Finding,
    PartRef,
    PollInput,
    SettleInput,
    Subject,
    SubmitState,
)
from nightmill.errors import RequestRefused, RunSuperseded
from nightmill.providers.base import Created, ProviderStatus
from nightmill.sandbox import Fault, Profile, Sandbox
from nightmill.settings import Settings
from nightmill.storage.engine import Database
from nightmill.storage.fence import running_as
from nightmill.storage.models import BatchRow
from nightmill.storage.outcomes import Position
from nightmill.storage.repairs import Intent, RepairRepository

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
REF = PartRef(batch_id="b1", round=0, part=0)
PENDING = ProviderStatus(status=BatchStatus.IN_PROGRESS, raw="busy")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(profile=Profile(finish_after=0)) as running:
        yield running


@pytest.fixture
def nightmill(database_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[Assembly]:
    """One of a batch with one provider batch, not submitted yet."""
    openai = {"base_url": sandbox.base_urls["openai"], "api_key": "sandbox-key"}
    settings = Settings.model_validate(
        {"database_url": database_url, "storage_url": str(tmp_path / "files"), "openai": openai}
    )
    with assembled(settings) as assembly:
        store(assembly)
        yield assembly


def store(nightmill: Assembly) -> None:
    line = (
        b'{"custom_id":"r0","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-5-mini",'
        b'"messages":[{"role":"user","content":"hello"}]}}'
    )
    batch = BatchRow(
        id="b1",
        provider="openai",
        model="gpt-5-mini",
        endpoint="/v1/chat/completions",
        poll_schedule=[60.0],
        max_age=3600,
        created_at=NOON,
    )
    batch = nightmill.requests.store(batch, [StoredRequest(seq=0, custom_id="r0", wire_id="r0", line=line)])
    nightmill.settler.plan_round(batch, 0, now=NOON)


def supersede(database: Database, run: str = "old", *, action: Action = Action.RESET) -> None:
    repairs = RepairRepository(database)
    intent = Intent(Subject.BATCH, "b1", "batch/b1", f"{action}/{run}", Finding.OVERDUE, action, run_id=run)
    key = repairs.intend(intent, now=NOON)
    assert key is not None
    repairs.done(key, new_run_id="new", now=NOON)


def during(sandbox: Sandbox, nightmill: Assembly, operation: str, *, when: str = "after") -> None:
    """Let the run be reset while the provider is asked."""
    reset = lambda: supersede(nightmill.database)  # noqa: E731
    sandbox.add_faults(Fault("call", operation=operation, when=when, call=reset))


def submit(nightmill: Assembly) -> Any:
    return nightmill.submitter.submit(REF, now=datetime.now(UTC), looked_for=None)


def calls(sandbox: Sandbox) -> list[str]:
    return [entry["operation"] for entry in sandbox.log()]


def rows(nightmill: Assembly) -> list[dict[str, Any]]:
    batch, part = nightmill.parts.get(REF)
    return [batch.model_dump(), part.model_dump()]


WRITES: dict[str, Callable[[Assembly], object]] = {
    "an upload begins": lambda n: n.parts.begin_upload(REF, now=NOON),
    "an upload is recorded": lambda n: n.parts.record_upload(REF, "f1"),
    "an upload is forgotten": lambda n: n.parts.forget_upload(REF),
    "a create begins": lambda n: n.parts.begin_create(REF, now=NOON, sent_at=NOON, looked_for=None, max_open=9),
    "a create is withdrawn": lambda n: n.parts.withdraw_create(REF, NOON),
    "a find is recorded": lambda n: n.parts.record_created(REF, Created(provider_batch_id="pb"), now=NOON),
    "a poll": lambda n: n.parts.record_poll(REF, PENDING, next_poll_at=NOON, attempt=1),
    "a failed poll": lambda n: n.parts.record_failed_poll(REF, next_poll_at=NOON, attempt=1),
    "a harvest is put off": lambda n: n.parts.put_off(REF, until=NOON),
    "it is taken back": lambda n: n.parts.requeue(REF, "pb1", reason=None),
    "a cancel was sent": lambda n: n.parts.record_cancel_sent(REF, None, now=NOON),
    "a part needs attention": lambda n: n.parts.set_attention(REF, "look"),
    "files are deleted": lambda n: n.parts.record_cleaned(REF, now=NOON),
    "a round is planned": lambda n: n.batches.start_round("b1", 1, [], now=NOON),
    "the batch ends": lambda n: n.batches.finish("b1", BatchStatus.ENDED, reason=None, now=NOON, dispatch=True),
    "the handler is called": lambda n: n.batches.begin_dispatch("b1", 1),
    "the batch needs attention": lambda n: n.batches.set_attention("b1", "look"),
    "results are stored": lambda n: n.outcomes.append(
        key_of(n), "output", [], known=Position(), reached=Position(bytes=9), instead=lambda row: row
    ),
    "results start again": lambda n: n.outcomes.restart(key_of(n), "output"),
    "results are fetched again": lambda n: n.outcomes.fetch_again(key_of(n)),
    "results are missing": lambda n: n.outcomes.fill_missing(
        key_of(n), code=ErrorCode.ENTRY_MISSING, message="none", retryable=True
    ),
    "it is settled": lambda n: n.parts.settle(REF, BatchStatus.ENDED, reason=None, now=NOON),
}  # fmt: skip


def is_refused(write: Callable[[], object]) -> bool:
    """Whether the old run may not write this."""
    with running_as("old"):
        try:
            write()
        except RunSuperseded:
            return True
    return False


def key_of(nightmill: Assembly) -> int:
    _, part = nightmill.parts.get(REF)
    return part.key or 0


def test_whatever_a_superseded_run_writes_is_refused_and_the_next_run_writes_it(nightmill: Assembly) -> None:
    supersede(nightmill.database)
    before = rows(nightmill)
    assert [name for name, write in WRITES.items() if is_refused(partial(write, nightmill))] == list(WRITES)
    assert rows(nightmill) == before
    assert nightmill.outcomes.progress("b1").failed == 0
    for write in WRITES.values():
        with running_as("new"):
            write(nightmill)
    assert rows(nightmill) != before


def test_what_belongs_to_no_run_is_not_fenced(nightmill: Assembly) -> None:
    supersede(nightmill.database)
    with running_as("old"), running_as(None):
        nightmill.batches.set_attention("b1", "look")
    nightmill.batches.set_attention("b1", "look again")
    assert nightmill.batches.get("b1").needs_attention == "look again"


@pytest.mark.parametrize("action", [Action.RESET, Action.START, Action.START_AFRESH, Action.POLL_NOW])
def test_a_repair_supersedes_a_run_once_it_was_carried_out_and_another_run_goes_on(
    nightmill: Assembly, action: Action
) -> None:
    repairs = RepairRepository(nightmill.database)
    intent = Intent(Subject.BATCH, "b1", "batch/b1", "e", Finding.OVERDUE, action, run_id="old")

    def write() -> None:
        nightmill.batches.set_attention("b1", "look")

    for give_up in (repairs.failed, repairs.void):
        key = repairs.intend(intent, now=NOON) or 0
        assert not is_refused(write)
        give_up(key, "not carried out", now=NOON)
        assert not is_refused(write)
    repairs.done(repairs.intend(intent, now=NOON) or 0, now=NOON)
    assert is_refused(write) is (action is not Action.POLL_NOW)


# --- what a superseded run still stores


def test_the_answer_to_a_create_under_way_is_kept_so_that_nobody_has_to_look_for_it(
    nightmill: Assembly, sandbox: Sandbox
) -> None:
    during(sandbox, nightmill, "batches.create")
    with running_as("old"):
        assert submit(nightmill).state is SubmitState.SUBMITTED
    with running_as("new"):
        assert submit(nightmill).state is SubmitState.SUBMITTED
    _, part = nightmill.parts.get(REF)
    assert [part.provider_batch_id] == [batch["id"] for batch in sandbox.batches()]


def test_a_late_answer_is_refused_once_another_create_was_sent(nightmill: Assembly) -> None:
    later = NOON + timedelta(minutes=5)
    nightmill.parts.begin_create(REF, now=NOON, sent_at=NOON, looked_for=None, max_open=9)
    nightmill.parts.begin_create(REF, now=NOON, sent_at=later, looked_for=NOON, max_open=9)
    supersede(nightmill.database)
    with running_as("old"), pytest.raises(RunSuperseded):
        nightmill.parts.record_created(REF, Created(provider_batch_id="pb1"), now=later, sent_at=NOON)
    with running_as("old"):
        assert nightmill.parts.record_created(REF, Created(provider_batch_id="pb2"), now=later, sent_at=later)


def test_that_a_handler_succeeded_is_kept_so_that_it_is_not_called_again(nightmill: Assembly) -> None:
    nightmill.batches.finish("b1", BatchStatus.ENDED, reason=None, now=NOON, dispatch=True)
    supersede(nightmill.database)
    with running_as("old"):
        nightmill.batches.record_dispatched("b1", now=NOON)
    with running_as("new"):
        assert not nightmill.batches.begin_dispatch("b1", 2)


def test_a_wish_to_cancel_is_kept(nightmill: Assembly) -> None:
    supersede(nightmill.database)
    with running_as("old"):
        nightmill.batches.request_cancel("b1", now=NOON)
    assert nightmill.batches.get("b1").cancel_requested_at == NOON


# --- what a superseded run leaves alone at the provider


def test_a_superseded_run_neither_uploads_nor_creates(nightmill: Assembly, sandbox: Sandbox) -> None:
    supersede(nightmill.database)
    with running_as("old"), pytest.raises(RunSuperseded):
        submit(nightmill)
    assert calls(sandbox) == []


def test_a_run_that_is_reset_while_it_uploads_creates_nothing_and_leaves_the_file(
    nightmill: Assembly, sandbox: Sandbox
) -> None:
    during(sandbox, nightmill, "files.create")
    with running_as("old"), pytest.raises(RunSuperseded):
        submit(nightmill)
    with running_as("new"):  # finds the file that nobody recorded
        assert submit(nightmill).state is SubmitState.SUBMITTED
    assert calls(sandbox) == ["files.create", "files.list", "batches.create"]


def test_a_run_whose_refused_create_was_superseded_leaves_the_file_to_the_next(
    nightmill: Assembly, sandbox: Sandbox
) -> None:
    during(sandbox, nightmill, "batches.create", when="before")
    sandbox.add_faults(Fault("status", operation="batches.create", status=400))
    with running_as("old"), pytest.raises(RunSuperseded):
        submit(nightmill)
    assert calls(sandbox) == ["files.create", "batches.create"]
    _, part = nightmill.parts.get(REF)
    assert part.input_file_id is not None
    assert part.create_sent_at is not None


def test_a_run_that_is_reset_while_a_refusal_comes_deletes_no_file(nightmill: Assembly, sandbox: Sandbox) -> None:
    def refuse(name: str, account: str | None) -> Any:
        asked.append(name)
        if len(asked) == 1:
            supersede(nightmill.database)
            raise RequestRefused("not like this")
        return nightmill.provider(name, account)

    asked: list[str] = []
    nightmill.parts.record_upload(REF, "file-1")
    submitter = Submitter(refuse, nightmill.parts, nightmill.requests, {"openai": 9})
    with running_as("old"), pytest.raises(RunSuperseded):
        submitter.submit(REF, now=NOON, looked_for=None)
    assert calls(sandbox) == []


def test_a_superseded_run_cancels_nothing(nightmill: Assembly, sandbox: Sandbox) -> None:
    submit(nightmill)
    supersede(nightmill.database)
    with running_as("old"), pytest.raises(RunSuperseded):
        nightmill.poller.cancel(REF)
    assert "batches.cancel" not in calls(sandbox)


def test_a_run_that_is_reset_while_it_harvests_stores_and_deletes_nothing(
    nightmill: Assembly, sandbox: Sandbox
) -> None:
    submit(nightmill)
    poll(nightmill)
    during(sandbox, nightmill, "results.get")
    before = rows(nightmill)
    end = SettleInput(part=REF, status=BatchStatus.ENDED)
    with running_as("old"), pytest.raises(RunSuperseded):
        nightmill.settler.settle_part(end, heartbeat=lambda _: None)
    assert rows(nightmill) == before
    assert "files.delete" not in calls(sandbox)
    with running_as("new"):
        assert nightmill.settler.settle_part(end, heartbeat=lambda _: None).completed == 1
    assert "files.delete" in calls(sandbox)


def test_files_of_what_another_run_has_settled_are_left_to_it(nightmill: Assembly, sandbox: Sandbox) -> None:
    submit(nightmill)
    poll(nightmill)
    supersede(nightmill.database)
    end = SettleInput(part=REF, status=BatchStatus.ENDED)
    nightmill.parts.settle(REF, BatchStatus.ENDED, reason=None, now=NOON)
    with running_as("old"), pytest.raises(RunSuperseded):
        nightmill.settler.settle_part(end, heartbeat=lambda _: None)
    assert "files.delete" not in calls(sandbox)


def poll(nightmill: Assembly) -> None:
    asked = PollInput(part=REF, next_poll_at=datetime.now(UTC) + timedelta(minutes=1))
    assert nightmill.poller.poll(asked).status is BatchStatus.ENDED

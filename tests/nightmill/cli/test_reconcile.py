"""`nightmill reconcile` and `nightmill repairs`: what they print, and which exit code says what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client

from nightmill.assembly import Assembly, assembled
from nightmill.cli.reconcile import MEANINGS, print_reconciled, waits_for_somebody
from nightmill.client import recovery
from nightmill.contracts import (
    MOST_REPAIRS_SHOWN,
    Action,
    BatchStatus,
    Finding,
    ReconcileSummary,
    RepairState,
    RepairView,
    Subject,
)
from nightmill.settings import load_settings
from nightmill.storage.repairs import Intent
from tests.nightmill.cli.conftest import Cli
from tests.nightmill.conftest import a_batch, add_part, some_requests
from tests.stack import Stack, TemporalServer, eventually, requests

NOW = datetime.now(UTC) - timedelta(hours=3, minutes=20)


def view(finding: Finding, action: Action = Action.RESET, state: RepairState | None = RepairState.DONE) -> RepairView:
    return RepairView(subject=Subject.BATCH, id="b1", finding=finding, action=action, state=state)


def summary(*repairs: RepairView, found: dict[Finding, int] | None = None, **more: Any) -> ReconcileSummary:
    findings = found or {repair.finding: 1 for repair in repairs}
    return ReconcileSummary(candidates=sum(findings.values()), findings=findings, repairs=repairs, **more)


# --- what it says


def test_every_finding_is_explained_to_people() -> None:
    assert set(MEANINGS) == {finding.value for finding in Finding}


@pytest.mark.parametrize(
    ("seen", "waits"),
    [
        (ReconcileSummary(), False),
        (
            summary(found={Finding.HEALTHY: 7, Finding.TOO_EARLY: 1, Finding.PAUSED: 1, Finding.LEFT_TO_EXPIRY: 1}),
            False,
        ),
        (summary(view(Finding.TERMINATED), view(Finding.TASKS_FAIL)), False),
        (summary(view(Finding.TERMINATED, state=RepairState.VOID)), False),
        (summary(view(Finding.TERMINATED, state=RepairState.FAILED)), True),
        (summary(view(Finding.OVERDUE, Action.GIVE_UP)), True),
        (summary(found={Finding.OUT_OF_TRIES: 1}), True),
        (summary(found={Finding.WAITS_FOR_OPERATOR: 1}), True),
        (summary(found={Finding.NO_WORKER: 1}), True),
        (summary(queues_without_worker=("nightmill-slicing",)), False),
        (summary(failed=1), True),
        (summary(view(Finding.TASKS_FAIL), found={Finding.TASKS_FAIL: 2}), True),
        (summary(*[view(Finding.TASKS_FAIL)] * MOST_REPAIRS_SHOWN, found={Finding.TASKS_FAIL: 150}), False),
    ],
)
def test_what_the_next_run_will_not_mend_by_itself_is_exit_code_3(seen: ReconcileSummary, waits: bool) -> None:
    assert waits_for_somebody(seen) is waits


def test_findings_are_counted_and_explained_and_repairs_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    seen = summary(
        view(Finding.TERMINATED),
        view(Finding.NOT_FOUND, Action.START, RepairState.FAILED),
        found={Finding.TERMINATED: 1, Finding.NOT_FOUND: 1, Finding.HEALTHY: 1_200},
        repaired=1,
        failed=1,
        duration=timedelta(seconds=13),
        queues_without_worker=("nightmill-slicing",),
    )
    print_reconciled(seen)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "healthy 1,200 works, waits for its turn, or is about to go on by itself" in lines
    assert "terminated 1 somebody terminated its workflow" in lines
    assert "done reset batch b1 terminated" in lines
    assert "failed start batch b1 not_found" in lines
    assert "No worker listens to task queue nightmill-slicing; what is due there waits for one." in lines
    assert lines[-1] == "1,202 looked at in 13 s, 1 repaired, 1 failed (tried again by the next run)."


def test_a_dry_run_says_what_would_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    print_reconciled(summary(view(Finding.TERMINATED, state=None), dry_run=True, repaired=1))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "would reset batch b1 terminated" in lines
    assert lines[-1] == "1 looked at in 0 s, 1 would be repaired."


def test_where_nothing_is_late_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_reconciled(ReconcileSummary())
    assert capsys.readouterr().out == "Nothing is stuck.\n"


# --- what was repaired


@pytest.fixture
def assembly(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Assembly]:
    """The database of the commands, on a machine that slices nothing: the doctor has less to look at."""
    monkeypatch.setenv("NIGHTMILL_WORKER__QUEUES", "nightmill")
    with assembled(load_settings()) as opened:
        yield opened


def repaired(assembly: Assembly, of: str, finding: Finding, action: Action, **intent: Any) -> int:
    """Record a repair of a batch that is about to be carried out."""
    given = {"subject": Subject.BATCH, "subject_id": of, "workflow_id": f"batch/{of}", "epoch": f"{action}/{finding}"}
    key = assembly.recovery.repairs.intend(Intent(finding=finding, action=action, **given | intent), now=NOW)
    assert key is not None
    return key


def test_repairs_are_shown_newest_first_with_what_came_of_them(cli: Cli, assembly: Assembly) -> None:
    assert cli("repairs", "--no-json").err == "Nothing was repaired.\n"
    repairs = assembly.recovery.repairs
    repairs.done(repaired(assembly, "b1", Finding.TERMINATED, Action.RESET, run_id="r1"), new_run_id="r2", now=NOW)
    repairs.failed(repaired(assembly, "b2", Finding.NOT_FOUND, Action.START), "Temporal answered 'busy'", now=NOW)
    found = cli("repairs", "--json").lines
    assert [(row["subject_id"], row["action"], row["state"]) for row in found] == [
        ("b2", "start", "failed"),
        ("b1", "reset", "done"),
    ]
    assert (found[1]["run_id"], found[1]["new_run_id"]) == ("r1", "r2")
    assert cli("repairs", "--limit", "1", "--json").lines == found[:1]
    shown = [" ".join(line.split()) for line in cli("repairs", "--no-json").out.splitlines()]
    assert shown == [
        "3 h ago failed start batch b2 not_found",
        "Temporal answered 'busy'",
        "3 h ago done reset batch b1 terminated",
    ]


def test_those_of_a_batch_are_shown_with_those_of_its_parts(cli: Cli, assembly: Assembly) -> None:
    batch = assembly.requests.store(a_batch("b1"), some_requests(["a", "b"]))
    for part in range(2):
        add_part(assembly.database, batch, part, part, part=part)
    assert cli("repairs", "--batch", "b1", "--no-json").err == "Batch b1 was never repaired.\n"
    assert "repaired" not in cli("batch", "show", "b1", "--no-json").out
    repairs = assembly.recovery.repairs
    of_part = {"subject": Subject.PART, "subject_id": "b1/0/1", "workflow_id": "batch/b1/0/1"}
    repairs.done(repaired(assembly, "b1", Finding.TERMINATED, Action.RESET), now=NOW)
    repairs.done(repaired(assembly, "b1", Finding.STILL_OVERDUE, Action.RESET, **of_part), now=NOW)
    repairs.done(repaired(assembly, "b2", Finding.TERMINATED, Action.RESET), now=NOW)
    found = cli("repairs", "--batch", "b1", "--json").lines
    assert [row["subject_id"] for row in found] == ["b1/0/1", "b1"]
    unknown = cli("repairs", "--batch", "b3")
    assert (unknown.code, unknown.message[:14]) == (2, "no batch 'b3':")


def told_of(cli: Cli) -> str:
    """Return what `batch show` says of repairs."""
    [line] = [line for line in cli("batch", "show", "b1", "--no-json").out.splitlines() if "repaired" in line]
    return line.removeprefix("repaired").strip()


def test_a_batch_shows_in_a_line_that_it_was_repaired(cli: Cli, assembly: Assembly) -> None:
    assembly.requests.store(a_batch("b1"), some_requests(["a"]))
    repairs = assembly.recovery.repairs
    repairs.done(repaired(assembly, "b1", Finding.TERMINATED, Action.RESET), now=NOW)
    assert told_of(cli) == "once 3 h ago: reset (terminated)"
    repairs.done(repaired(assembly, "b1", Finding.NOT_FOUND, Action.START), now=NOW)
    repairs.done(repaired(assembly, "b1", Finding.OUT_OF_TRIES, Action.GIVE_UP), now=NOW)
    assert told_of(cli) == "2 times, last 3 h ago: start (not_found)"
    repairs.failed(repaired(assembly, "b1", Finding.FAILED, Action.RESET), "Temporal answered 'busy'", now=NOW)
    assert told_of(cli) == "not, it failed 3 h ago: Temporal answered 'busy'"


# --- what the doctor says


def finding_of(cli: Cli) -> dict[str, Any]:
    [found] = [line for line in cli("doctor", "--json").lines if line["check"] == "repairs"]
    return found


def test_the_doctor_names_what_was_repaired_in_vain_until_it_is_mended(cli: Cli, assembly: Assembly) -> None:
    assert finding_of(cli)["message"] == "none yet"
    batch = assembly.requests.store(a_batch("b1", status=BatchStatus.IN_PROGRESS), some_requests(["a"]))
    repairs = assembly.recovery.repairs
    repairs.done(repaired(assembly, "b1", Finding.OUT_OF_TRIES, Action.GIVE_UP), now=NOW)
    assert finding_of(cli)["state"] == "ok", "somebody has dealt with it"
    assembly.batches.set_attention(batch.id, "repaired three times")
    found = finding_of(cli)
    assert (found["state"], found["message"]) == ("warn", "1 need attention, repaired in vain: batch b1")
    assert "docs/recovery.md" in found["fix"]


def test_the_doctor_tells_of_repairs_that_failed_until_the_next_one_succeeds(cli: Cli, assembly: Assembly) -> None:
    repairs = assembly.recovery.repairs
    repairs.failed(repaired(assembly, "b1", Finding.TERMINATED, Action.RESET), "Temporal answered 'busy'", now=NOW)
    found = finding_of(cli)
    assert (found["state"], found["message"]) == ("warn", "1 failed, the last one 3 h ago: Temporal answered 'busy'")
    repairs.done(repaired(assembly, "b1", Finding.TERMINATED, Action.RESET), now=NOW)
    assert finding_of(cli)["state"] == "ok"


# --- with a worker, and without


@pytest.fixture
def stack(stack: Stack) -> Stack:
    """A Nightmill for which nothing is too early."""
    stack.extra = {"NIGHTMILL_RECONCILER__GRACE": "0"}
    return stack


def terminate(server: TemporalServer, workflow_id: str) -> None:
    async def work() -> None:
        await (await Client.connect(server.address)).get_workflow_handle(workflow_id).terminate("by mistake")

    asyncio.run(work())


@pytest.mark.server
def test_where_no_worker_takes_it_it_says_so_and_is_exit_code_5(
    cli: Cli, temporal_server: TemporalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("NIGHTMILL_WORKER__TASK_QUEUE", "nobody-reconciles-here")
    waited = cli("reconcile", "--dry-run", "--timeout", "0.5")
    assert waited.code == 4
    assert waited.err == "Not done within 0.5. It goes on, and is waited for again.\n"
    monkeypatch.setattr(recovery, "TAKEN_WITHIN", timedelta(seconds=1))
    ended = cli("reconcile", "--dry-run")
    assert ended.code == 5
    assert ended.message == (
        "the reconciler: no worker on task queue nobody-reconciles-here has taken it within 1 s; it is done once one "
        "runs"
    )


@pytest.mark.server
@pytest.mark.timeout(90)
def test_a_batch_that_somebody_terminated_is_brought_back_by_hand(
    live: Cli, stack: Stack, jsonl: Callable[..., str]
) -> None:
    given = ("--provider", "openai", "--model", "gpt-5-mini", "--poll-schedule", "[1]", "--id", "lost", "--json")
    assert live("batch", "submit", jsonl(requests(2)), *given).code == 0
    eventually(lambda: live("batch", "show", "lost", "--json").lines[0]["next_poll_at"])
    terminate(stack.server, "batch/lost")
    eventually(lambda: live("reconcile", "--dry-run", "--json").lines[0]["repaired"])
    planned = live("reconcile", "--dry-run", "--no-json")
    assert planned.code == 0
    assert "would  reset          batch lost  terminated" in planned.out
    assert live("repairs", "--json").lines == []

    ended = live("reconcile", "--json")
    assert (ended.code, ended.err) == (0, "")
    [summary] = ended.lines
    assert (summary["dry_run"], summary["findings"], summary["repaired"]) == (False, {"terminated": 1}, 1)
    [watched] = live("batch", "watch", "lost", "--json").lines
    assert (watched["status"], watched["completed"]) == ("ended", 2)
    [repair] = live("repairs", "--batch", "lost", "--json").lines
    assert (repair["action"], repair["state"], repair["run_id"]) == ("reset", "done", summary["repairs"][0]["old_run"])
    for which in ((), ("--expiry",)):
        again = live("reconcile", *which, "--no-json")
        assert (again.code, again.out.splitlines()[-1]) == (0, "Nothing is stuck.")

"""Batches from the command line: a real Temporal server, a worker process, and the sandbox as provider."""

from __future__ import annotations

import csv
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightmill.sandbox import Sandbox
from tests.nightmill.cli.conftest import Cli
from tests.stack import Stack, WebhookSink, environment, eventually, requests

pytestmark = [pytest.mark.server, pytest.mark.timeout(60)]

OPENAI = ("--provider", "openai", "--model", "gpt-5-mini")

SUMMARY = {
    "batch_id", "status", "total", "completed", "failed", "failed_by_code", "tokens", "cost", "cost_complete",
    "all_failed", "partial", "metadata",
}  # fmt: skip

Jsonl = Callable[..., str]


def test_a_watched_batch_ends_with_one_line_that_holds_the_summary(live: Cli, jsonl: Jsonl) -> None:
    ended = live("batch", "submit", jsonl(requests(5)), *OPENAI, "--metadata", '{"job": 7}', "--watch", "--json")
    [summary] = ended.lines
    assert ended.code == 0
    assert ended.err == ""
    assert summary.keys() >= SUMMARY
    assert (summary["status"], summary["total"], summary["completed"], summary["failed"]) == ("ended", 5, 5, 0)
    assert summary["tokens"].keys() == {"input", "output", "cached", "reasoning"}
    assert isinstance(summary["cost"], str)
    assert summary["metadata"] == {"job": 7}

    batch_id = summary["batch_id"]
    [shown] = live("batch", "show", batch_id, "--json").lines
    assert {name: shown[name] for name in SUMMARY} == {name: summary[name] for name in SUMMARY}
    assert shown["ended_at"].endswith("Z")
    assert [part["status"] for part in shown["provider_batches"]] == ["ended"]
    [listed] = live("batch", "list", "--status", "ended", "--provider", "openai", "--json").lines
    assert (listed["batch_id"], listed["total"]) == (batch_id, 5)
    assert live("batch", "list", "--needs-attention", "--json").lines == []
    assert live("batch", "watch", batch_id, "--json").lines == [summary]
    assert live("batch", "cancel", batch_id).code == 1


def test_results_come_as_json_lines_csv_and_parquet(live: Cli, jsonl: Jsonl, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.set_profile(fail_ids=["r1"])
    ended = live("batch", "submit", jsonl(requests(4)), *OPENAI, "--id", "mixed", "--watch", "--json")
    assert ended.code == 3
    assert ended.lines[0]["partial"] is True

    found = live("batch", "results", "mixed", "--json").lines
    assert [result["custom_id"] for result in found] == ["r0", "r1", "r2", "r3"]
    for result in found:
        assert result.keys() >= {"custom_id", "status", "text", "output", "usage", "cost", "error"}
    assert found[1]["error"].keys() >= {"code", "message", "http_status", "retryable"}
    assert found[1]["status"] == "failed"
    assert found[0]["error"] is None
    assert isinstance(found[0]["cost"], str)
    assert [r["custom_id"] for r in live("batch", "results", "mixed", "--failed").lines] == ["r1"]
    assert [r["custom_id"] for r in live("batch", "results", "mixed", "--completed").lines] == ["r0", "r2", "r3"]

    assert live("batch", "results", "mixed", "--format", "csv", "-o", "a.csv").code == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["completed", "failed", "completed", "completed"]
    assert live("batch", "results", "mixed", "--format", "csv").out.startswith("custom_id,status,")
    assert live("batch", "results", "mixed", "--format", "parquet", "-o", "a.parquet").code == 0
    assert (tmp_path / "a.parquet").read_bytes().startswith(b"PAR1")
    assert live("batch", "results", "mixed", "-o", "a.jsonl").code == 0
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == found

    sandbox.set_profile(fail_ids=[])
    [retry] = live("batch", "retry-failed", "mixed", "--json").lines
    assert retry["retry_of"] == "mixed"
    [summary] = live("batch", "watch", retry["batch_id"], "--json").lines
    assert (summary["total"], summary["completed"]) == (1, 1)


def test_a_batch_without_one_answer_is_exit_code_1(live: Cli, jsonl: Jsonl, sandbox: Sandbox) -> None:
    sandbox.set_profile(fail_share=1.0)
    ended = live("batch", "submit", jsonl(requests(2)), *OPENAI, "--watch", "--json")
    assert ended.code == 1
    assert ended.lines[0]["all_failed"] is True


def test_submit_returns_at_once_and_watching_can_time_out(live: Cli, jsonl: Jsonl) -> None:
    path = jsonl(requests(2))
    ended = live("batch", "submit", path, *OPENAI, "--id", "slow", "--poll-schedule", '["1h"]', "--json")
    assert ended.code == 0
    [line] = ended.lines
    assert line["batch_id"] == "slow"
    assert line["status"] in ("pending", "submitted", "in_progress")

    waited = live("batch", "watch", "slow", "--timeout", "1", "--json")
    assert waited.code == 4
    assert "nightmill batch watch slow" in waited.err
    assert waited.lines[0]["batch_id"] == "slow"

    again = live("batch", "submit", path, *OPENAI, "--id", "slow")
    assert again.code == 1
    assert again.message == "batch slow exists already"

    assert live("batch", "submit", "--resume", "slow", "--json").lines[0]["batch_id"] == "slow"
    eventually(lambda: live("batch", "show", "slow").lines[0]["status"] == "submitted")
    time.sleep(0.5)  # the sandbox finishes meanwhile
    assert live("batch", "poll", "slow").code == 0
    assert live("batch", "watch", "slow", "--json").lines[0]["status"] == "ended"
    resumed = live("batch", "submit", "--resume", "slow")
    assert resumed.code == 1
    assert resumed.message == "batch slow is ended already"


def test_a_canceled_batch_says_so(live: Cli, jsonl: Jsonl, sandbox: Sandbox) -> None:
    sandbox.set_profile(finish_after=3600.0)
    live("batch", "submit", jsonl(requests(2)), *OPENAI, "--id", "unwanted")
    eventually(lambda: live("batch", "show", "unwanted").lines[0]["status"] == "in_progress")
    [line] = live("batch", "cancel", "unwanted").lines
    assert line == {"batch_id": "unwanted", "status": "canceling"}
    ended = live("batch", "watch", "unwanted")
    assert (ended.code, ended.lines[0]["status"]) == (1, "canceled")


def test_a_failing_handler_is_shown_and_dispatched_again(live: Cli, jsonl: Jsonl, webhook: WebhookSink) -> None:
    webhook.answers = [403]
    handler = json.dumps({"kind": "webhook", "url": webhook.url})
    live("batch", "submit", jsonl(requests(1)), *OPENAI, "--id", "told", "--handler", handler)
    [shown] = eventually(lambda: live("batch", "list", "--needs-attention").lines)
    assert shown["batch_id"] == "told"
    assert "403" in shown["needs_attention"]
    assert webhook.received == []
    assert live("batch", "redispatch", "told").code == 0
    assert live("batch", "watch", "told").code == 0
    assert len(webhook.received) == 1
    assert live("batch", "list", "--needs-attention").lines == []


def test_a_key_that_is_not_accepted_is_shown_with_the_provider_s_words(stack: Stack, cli: Cli, jsonl: Jsonl) -> None:
    stack.fork_worker(NIGHTMILL_OPENAI__API_KEY="invalid")
    with environment(stack.environment):
        ended = cli("batch", "submit", jsonl(requests(1)), *OPENAI, "--watch", "--json")
        [summary] = ended.lines
        assert ended.code == 1
        assert summary["failed_by_code"] == {"not_submitted": 1}
        assert "401" in summary["reason"]
        assert "invalid" not in summary["reason"].split()


def test_a_missing_key_is_shown_with_the_variable_to_set(stack: Stack, cli: Cli, jsonl: Jsonl) -> None:
    stack.fork_worker(NIGHTMILL_OPENAI__API_KEY="")
    with environment(stack.environment):
        ended = cli("batch", "submit", jsonl(requests(1)), *OPENAI, "--watch", "--json")
    assert ended.code == 1
    assert "NIGHTMILL_OPENAI__API_KEY" in ended.lines[0]["reason"]


def test_without_a_worker_steering_says_so(stack: Stack, cli: Cli, jsonl: Jsonl, monkeypatch: Any) -> None:
    from datetime import timedelta

    monkeypatch.setattr("nightmill.client.nightmill.UPDATE_ANSWERS_WITHIN", timedelta(seconds=1))
    with environment(stack.environment):
        cli("batch", "submit", jsonl(requests(1)), *OPENAI, "--id", "alone")
        ended = cli("batch", "redispatch", "alone")
    assert ended.code == 5
    assert "no worker took the redispatch" in ended.message


def test_ctrl_c_ends_the_watching_and_not_the_batch(
    stack: Stack, cli: Cli, jsonl: Jsonl, sandbox: Sandbox, start_process: Any, tmp_path: Path
) -> None:
    sandbox.set_profile(finish_after=3600.0)
    stack.fork_worker()
    arguments = ("batch", "submit", jsonl(requests(2)), *OPENAI, "--id", "long", "--watch", "--json")
    with (
        start_process(*arguments, variables=stack.environment, folder=tmp_path) as watching,
        environment(stack.environment),
    ):
        eventually(lambda: [row["status"] for row in cli("batch", "list").lines] == ["in_progress"])
        time.sleep(1)  # the watcher looks once a second
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=60)
        assert watching.returncode == 4
        assert out == ""
        [line] = err.splitlines()
        assert line.endswith("Watch it again: nightmill batch watch long")
        assert cli("batch", "show", "long").lines[0]["status"] == "in_progress"
        [made] = sandbox.batches()
        sandbox.advance(made["id"], "completed")
        assert cli("batch", "watch", "long").code == 0


def test_standard_input_is_read_to_its_end(stack: Stack, start_process: Any, tmp_path: Path) -> None:
    stack.fork_worker()
    lines = "".join(f"{json.dumps(request)}\n" for request in requests(3))
    arguments = ("batch", "submit", "-", *OPENAI, "--watch", "--json")
    with start_process(*arguments, variables=stack.environment, folder=tmp_path, stdin=-1) as submitting:
        out, err = submitting.communicate(lines, timeout=60)
    assert (submitting.returncode, err) == (0, "")
    assert json.loads(out)["completed"] == 3


def test_the_doctor_finds_a_stack_in_order(live: Cli) -> None:
    def healthy() -> Any:
        ended = live("doctor", "--json")
        return ended if all(line["check"] != "workers" or line["state"] == "ok" for line in ended.lines) else None

    ended = eventually(healthy)
    states = {line["check"]: line["state"] for line in ended.lines}
    assert ended.code == 0
    assert states.pop("webhooks") == "warn"  # private addresses may be called here
    assert set(states.values()) == {"ok"}
    assert {"openai", "temporal", "namespace", "search attributes", "database schema", "file storage"} <= states.keys()


def test_the_doctor_names_what_is_wrong_and_never_a_key(live: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_OPENAI__API_KEY", "invalid")
    monkeypatch.setenv("NIGHTMILL_XAI__API_KEY", "forbidden")
    ended = live("doctor", "--json")
    wrong = {line["check"]: line for line in ended.lines if line["state"] == "fail"}
    assert ended.code == 1
    assert wrong.keys() == {"openai", "xai"}
    assert "NIGHTMILL_OPENAI__API_KEY" in wrong["openai"]["fix"]
    assert "sandbox-key" not in ended.out


def test_the_doctor_says_that_nobody_answers(cli: Cli) -> None:
    ended = cli("doctor")
    assert ended.code == 5
    assert "no Temporal server at" in ended.out

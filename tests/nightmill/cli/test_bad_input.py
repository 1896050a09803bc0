"""What cannot be used is refused in one line that says what and where, and nothing is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightmill.storage.schema import head_revision
from tests.nightmill.cli.conftest import Cli

OPENAI = ("--provider", "openai", "--model", "gpt-5-mini")
GOOD = {"custom_id": "a", "prompt": "Say hello"}

Jsonl = Callable[..., str]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "requests.jsonl: no requests"),
        (["", "  "], "requests.jsonl: no requests"),
        ([GOOD, {"custom_id": " ", "prompt": "x"}], "requests.jsonl:2: blank custom_id"),
        ([GOOD, "", GOOD], "requests.jsonl:3: duplicate custom_id 'a'"),
        ([GOOD, "{oops"], "requests.jsonl:2: "),
        ([GOOD, "[1]"], "requests.jsonl:2: "),
        ([{"custom_id": "a"}], "requests.jsonl:1: "),
        ([GOOD, {"custom_id": "b", "body": {"model": "other", "input": "x"}}], "requests.jsonl:2: model 'other'"),
        ([GOOD, {"custom_id": "b", "prompt": "x" * 17_000_000}], "requests.jsonl:2: "),
    ],
    ids=["empty", "blank", "blank id", "duplicate", "no JSON", "no object", "no prompt", "mixed models", "too large"],
)
def test_a_refused_line_is_named_by_file_and_number(cli: Cli, jsonl: Jsonl, lines: list[Any], message: str) -> None:
    ended = cli("batch", "submit", jsonl(lines), *OPENAI, "--dry-run")
    assert ended.code == 2
    assert ended.message.startswith(message)
    assert ended.out == ""


def test_every_offending_line_is_named_up_to_a_bound(cli: Cli, jsonl: Jsonl) -> None:
    ended = cli("batch", "estimate", jsonl([GOOD] * 40), *OPENAI)
    assert "requests.jsonl:2: duplicate" in ended.message
    assert "requests.jsonl:21: duplicate" in ended.message
    assert ended.message.endswith("; and 19 more")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["r.jsonl", "--provider", "acme", "--model", "m"], "--provider: 'acme' is unknown; choose one of anthropic"),
        (["r.jsonl", "--provider", "openai"], "--model: required"),
        (["r.jsonl"], "--provider, --model: required"),
        ([*OPENAI], "FILE: give a file of requests, or `-` for standard input"),
        (["nowhere.jsonl", *OPENAI], "nowhere.jsonl: no such file"),
        ([".", *OPENAI], ".: is a folder, not a file"),
        (["r.jsonl", *OPENAI, "--metadata", "{"], "--metadata: no JSON"),
        (["r.jsonl", *OPENAI, "--metadata", "[1]"], "--metadata: give a JSON object"),
        (["r.jsonl", *OPENAI, "--handler", '{"kind": "pigeon"}'], "completion_handler"),
        (["r.jsonl", *OPENAI, "--handler", '{"kind": "webhook"}'], "completion_handler.webhook.url"),
        (["r.jsonl", *OPENAI, "--poll-schedule", '{"a": 1}'], "--poll-schedule: give a JSON array"),
        (["r.jsonl", *OPENAI, "--poll-schedule", "[0]"], "poll_schedule"),
        (["r.jsonl", *OPENAI, "--max-age", "soon"], "max_age"),
        (["r.jsonl", *OPENAI, "--max-age", "0"], "max_age"),
        (["r.jsonl", *OPENAI, "--retry-rounds", "99"], "retry_rounds"),
        (["r.jsonl", *OPENAI, "--retry-rounds", "many"], "Invalid value for '--retry-rounds'"),
        (["r.jsonl", *OPENAI, "--budget", "cheap"], "budget"),
        (["r.jsonl", *OPENAI, "--id", "a b"], "batch id 'a b'"),
        (["r.jsonl", *OPENAI, "--timeout", "5"], "--timeout: only with --watch"),
        (["r.jsonl", *OPENAI, "--watch", "--timeout", "never"], "--timeout: 'never' is no duration"),
        (["r.jsonl", *OPENAI, "--resume", "x"], "--resume: takes the stored requests"),
        (["r.jsonl", *OPENAI, "--wat"], "No such option: --wat"),
    ],
)
def test_a_wrong_argument_of_submit_is_named_before_anything_is_connected_to(
    cli: Cli, jsonl: Jsonl, arguments: list[str], message: str
) -> None:
    jsonl([GOOD], "r.jsonl")
    ended = cli("batch", "submit", *arguments)
    assert ended.code == 2
    assert ended.message.startswith(message)


def test_a_model_that_cannot_be_batched_is_refused(cli: Cli, jsonl: Jsonl) -> None:
    ended = cli("batch", "estimate", jsonl([GOOD]), "--provider", "openai", "--model", " ")
    assert ended.code == 2
    assert "model" in ended.message


def test_an_endpoint_that_the_provider_does_not_have_is_refused(cli: Cli, jsonl: Jsonl) -> None:
    ended = cli("batch", "estimate", jsonl([GOOD]), *OPENAI, "--endpoint", "/v1/images")
    assert ended.code == 2
    assert "endpoint '/v1/images'" in ended.message


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_a_file_that_cannot_be_read_is_named(cli: Cli) -> None:
    ended = cli("batch", "estimate", "/proc/self/mem", *OPENAI)  # not even root reads address 0
    assert ended.code == 2
    assert ended.message.startswith("/proc/self/mem: cannot be read: ")


def test_requests_from_standard_input_are_named_as_such(
    cli: Cli, jsonl: Jsonl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(jsonl([GOOD, GOOD])).open() as file:
        monkeypatch.setattr("sys.stdin", file)
        ended = cli("batch", "estimate", "-", *OPENAI)
    assert ended.code == 2
    assert ended.message == "<stdin>:2: duplicate custom_id 'a'"


def test_empty_standard_input_has_no_requests(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert cli("batch", "estimate", "-", *OPENAI).message == "<stdin>: no requests"


def test_a_budget_below_the_estimate_is_refused_after_the_estimate_is_shown(cli: Cli, jsonl: Jsonl) -> None:
    ended = cli("batch", "submit", jsonl([GOOD]), *OPENAI, "--budget", "0.0000001", "--dry-run")
    assert ended.code == 2
    assert ended.message.startswith("budget: up to $")
    assert ended.lines[0]["requests"] == 1


def test_a_dry_run_prints_the_estimate_and_stores_nothing(cli: Cli, jsonl: Jsonl) -> None:
    ended = cli("batch", "submit", jsonl([GOOD, {**GOOD, "custom_id": "b"}]), *OPENAI, "--dry-run")
    [found] = ended.lines
    assert ended.code == 0
    assert (found["requests"], found["provider_batches"], found["endpoint"]) == (2, 1, "/v1/responses")
    assert float(found["cost"]) > 0
    assert isinstance(found["cost"], str)
    assert cli("batch", "list").lines == []


def test_an_estimate_without_a_known_price_says_why(cli: Cli, jsonl: Jsonl) -> None:
    [found] = cli("batch", "estimate", jsonl([GOOD]), "--provider", "openai", "--model", "gpt-of-tomorrow").lines
    assert found["cost"] is None
    assert "NIGHTMILL_PRICES" in found["no_cost_because"]


@pytest.mark.parametrize("command", ["show", "results", "watch", "cancel", "retry-failed"])
def test_an_unknown_batch_is_named(cli: Cli, command: str) -> None:
    ended = cli("batch", command, "nope")
    if command in ("show", "results"):
        assert ended.code == 2
        assert ended.message.startswith("no batch 'nope'")
    else:
        assert ended.code == 5  # without Temporal there is nobody to ask


def test_an_unreachable_temporal_is_exit_code_5_and_nothing_is_stored(cli: Cli, jsonl: Jsonl) -> None:
    ended = cli("batch", "submit", jsonl([GOOD]), *OPENAI)
    assert ended.code == 5
    assert ended.message.startswith("no Temporal server at 127.0.0.1:")
    assert cli("batch", "list").lines == []


def test_an_unreachable_database_is_exit_code_5(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:9/none")
    ended = cli("batch", "list")
    assert ended.code == 5
    assert "secret" not in ended.err


def test_a_database_that_is_empty_says_what_to_do(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NIGHTMILL_DATABASE_URL", f"sqlite:///{tmp_path}/new.db")
    ended = cli("batch", "list")
    assert ended.code == 1
    assert "nightmill db upgrade" in ended.message
    assert cli("db", "current").lines == [{"version": None, "needed": head_revision()}]
    assert "empty" in cli("db", "upgrade").out
    assert "already" in cli("db", "upgrade").out
    assert cli("batch", "list").code == 0


def test_a_setting_that_cannot_be_used_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_BATCH__RETRY_ROUNDS", "many")
    ended = cli("batch", "list")
    assert ended.code == 2
    assert ended.message.startswith("NIGHTMILL_BATCH__RETRY_ROUNDS: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--status", "gone"], "--status: no status 'gone'; known are pending"),
        (["results", "x", "--format", "xml"], "--format: 'xml' is unknown; choose one of jsonl, csv, parquet"),
        (["results", "x", "--format", "parquet"], "--output: parquet needs a file"),
        (["results", "x", "--output", "no/such/folder/a.csv"], "--output: no/such/folder/a.csv: no file can be made"),
        (["results", "x", "--failed", "--completed"], "--failed, --completed: give one of the two"),
        (["show"], "Missing argument 'BATCH_ID'"),
        (["dance"], "No such command 'dance'"),
    ],
)
def test_a_wrong_argument_of_other_commands_is_named(cli: Cli, arguments: list[str], message: str) -> None:
    ended = cli("batch", *arguments)
    assert ended.code == 2
    assert ended.message.startswith(message)


def test_verbose_shows_where_an_error_comes_from(cli: Cli) -> None:
    ended = cli("batch", "show", "nope", "--verbose")
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1].startswith("nightmill: no batch 'nope'")


def test_control_characters_of_an_input_do_not_reach_the_terminal(cli: Cli) -> None:
    ended = cli("batch", "list", "--status", "\x1b[31mred\x07")
    assert "\x1b" not in ended.err
    assert "\x07" not in ended.err


def test_a_sandbox_option_that_does_not_exist_is_named(cli: Cli) -> None:
    ended = cli("sandbox", "--profile", '{"speed": 3}')
    assert ended.code == 2
    assert ended.message == "--profile: no such profile field: speed"


def test_a_port_in_use_is_named(cli: Cli, temporal_port_in_use: int) -> None:
    ended = cli("dev", "--port", str(temporal_port_in_use))
    assert ended.code == 2
    assert ended.message.startswith(f"--port: port {temporal_port_in_use} is in use")


@pytest.fixture
def temporal_port_in_use() -> Any:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]

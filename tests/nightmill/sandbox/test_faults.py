"""Every fault does what it says, and nothing else."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from nightmill.sandbox import Fault, Sandbox
from nightmill.sandbox.faults import POISONS

BATCHES = "/openai/v1/batches"


@pytest.fixture
def results(client: Any) -> Callable[..., bytes]:
    """Reads the results of a new batch of ten, under the given fault."""

    def read(fault: Fault | None = None) -> bytes:
        batch = client("GET", f"{BATCHES}/{client.openai_batch(10)['id']}").json
        if fault is not None:
            client.sandbox.add_faults(fault)
        return bytes(client("GET", f"/openai/v1/files/{batch['output_file_id']}/content").body)

    return read


def ids(body: bytes) -> list[str]:
    return [json.loads(line)["custom_id"] for line in body.splitlines()]


def test_a_status_comes_with_its_body_and_its_retry_after(client: Any, sandbox: Any) -> None:
    when = "Wed, 21 Oct 2026 07:28:00 GMT"
    for fault, body in (
        (Fault("status", status=429, retry_after=when), None),
        (Fault("status", status=502, body="html"), b"<!DOCTYPE html>"),
        (Fault("status", status=200, body="empty"), b""),
        (Fault("status", status=200, body="garbage"), bytes(range(256))),
        (Fault("status", status=418, body={"tea": True}), b'{"tea":true}'),
    ):
        sandbox.add_faults(fault)
        answer = client("GET", BATCHES)
        assert answer.status == fault.status
        assert answer.headers.get("retry-after") == fault.retry_after
        if body is None:
            assert answer.json["error"]["type"] == "rate_limit_exceeded"
        else:
            assert answer.body.startswith(body)
    assert client("GET", BATCHES).status == 200


def test_a_rule_strikes_only_where_and_when_it_matches(client: Any, sandbox: Any) -> None:
    sandbox.add_faults(Fault("status", provider="openai", operation="batches.*", skip=1, times=2, status=503))
    assert client("GET", "/openai/v1/files").status == 200
    assert client("GET", "/xai/v1/batches").status == 200
    assert [client("GET", BATCHES).status for _ in range(4)] == [200, 503, 503, 200]
    assert sandbox.faults()[0]["seen"] == 4


def test_a_share_of_requests_is_struck_the_same_way_for_the_same_seed(client: Any, sandbox: Any) -> None:
    def run() -> list[int]:
        sandbox.clear_faults()
        sandbox.add_faults(Fault("status", times=None, probability=0.5, seed=3, status=503))
        return [client("GET", BATCHES).status for _ in range(20)]

    first = run()
    assert run() == first
    assert set(first) == {200, 503}


def test_an_upload_refused_with_520_leaves_no_file(client: Any, sandbox: Any) -> None:
    sandbox.add_faults(Fault("status", operation="files.create", status=520))
    assert client.upload(b"x" * 300_000).status == 520
    assert sandbox.files() == []


def test_a_connection_dropped_before_the_effect_leaves_nothing(client: Any, sandbox: Any) -> None:
    file_id = client.upload(b"{}").json["id"]
    asked = {"input_file_id": file_id, "endpoint": "/v1/responses", "completion_window": "24h"}
    sandbox.add_faults(Fault("drop", operation="batches.create"))
    with pytest.raises(http.client.RemoteDisconnected):
        client("POST", BATCHES, asked)
    assert sandbox.batches() == []
    (entry,) = sandbox.log(operation="batches.create")
    assert (entry["effect"], entry["status"], entry["faults"]) == (False, None, ["drop"])


@pytest.mark.parametrize("action", ["drop", "hang"])
def test_an_answer_lost_after_the_effect_leaves_a_batch(client: Any, sandbox: Any, action: str) -> None:
    file_id = client.upload(b"{}").json["id"]
    asked = {"input_file_id": file_id, "endpoint": "/v1/responses", "completion_window": "24h", "metadata": {"k": "t"}}
    sandbox.add_faults(Fault(action, operation="batches.create", when="after", seconds=0.05))
    with pytest.raises(http.client.RemoteDisconnected):
        client("POST", BATCHES, asked)
    assert [batch["tag"] for batch in sandbox.batches()] == ["t"]
    (entry,) = sandbox.log(operation="batches.create")
    assert (entry["effect"], entry["status"], entry["tag"]) == (True, None, "t")


def test_a_delay_delays(client: Any, sandbox: Any) -> None:
    sandbox.add_faults(Fault("delay", seconds=0.2))
    began = time.monotonic()
    assert client("GET", BATCHES).status == 200
    assert time.monotonic() - began >= 0.2


def test_a_new_batch_can_stay_hidden_for_a_while(client: Any, sandbox: Any) -> None:
    sandbox.add_faults(Fault("hide", operation="batches.create", seconds=0.3))
    batch = client.openai_batch(1)
    assert client("GET", f"{BATCHES}/{batch['id']}").status == 404
    assert client("GET", BATCHES).json["data"] == []
    assert len(sandbox.batches()) == 1
    time.sleep(0.3)
    assert client("GET", f"{BATCHES}/{batch['id']}").status == 200


def test_a_batch_can_be_refused_after_its_creation(client: Any, sandbox: Any) -> None:
    sandbox.add_faults(Fault("fail", operation="batches.create", code="token_limit_exceeded", message="Too many."))
    batch = client("GET", f"{BATCHES}/{client.openai_batch(1)['id']}").json
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", "token_limit_exceeded")


def test_every_provider_says_in_its_own_way_that_it_rejects_a_batch(client: Any, sandbox: Any) -> None:
    sandbox.add_faults(Fault("fail", operation="batches.create", times=None, message="Not today."))
    chat = {"custom_id": "a", "url": "/v1/chat/completions", "body": {"model": "grok", "messages": []}}
    file = client.upload(json.dumps(chat).encode(), "/xai/v1").json
    made = client("POST", "/xai/v1/batches", {"name": "n", "input_file_id": file["id"]}).json
    assert client("GET", f"/xai/v1/batches/{made['batch_id']}").json["cancel_by_xai_message"] == "Not today."

    asked = {"request": {"contents": [{"parts": []}]}, "metadata": {"key": "a"}}
    body = {"batch": {"display_name": "d", "input_config": {"requests": {"requests": [asked]}}}}
    made = client("POST", "/google/v1beta/models/m:batchGenerateContent", body).json
    seen = client("GET", f"/google/v1beta/{made['name']}").json
    assert (seen["metadata"]["state"], seen["error"]["message"]) == ("BATCH_STATE_FAILED", "Not today.")

    path = "/anthropic/v1/messages/batches"
    params = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    version = {"anthropic-version": "2023-06-01"}
    made = client("POST", path, {"requests": [{"custom_id": "a", "params": params}]}, version).json
    assert client("GET", f"{path}/{made['id']}").json["request_counts"]["errored"] == 1
    (entry,) = client("GET", f"{path}/{made['id']}/results").lines
    assert entry["result"]["error"]["error"]["message"] == "Not today."


def test_a_fault_after_a_stop_and_a_start_is_still_in_force(client: Any, sandbox: Any) -> None:
    sandbox.add_faults(Fault("status", status=503))
    sandbox.stop()
    sandbox.start()
    assert client("GET", BATCHES).status == 503


def test_fields_of_an_answer_can_be_changed(client: Any, sandbox: Any) -> None:
    batch = client.openai_batch(1)
    changes = {"status": "pondering", "output_file_id": "", "request_counts": {"completed": 99}}
    sandbox.add_faults(Fault("patch", operation="batches.get", body=changes))
    seen = client("GET", f"{BATCHES}/{batch['id']}").json
    assert (seen["status"], seen["output_file_id"]) == ("pondering", "")
    assert seen["request_counts"] == {"total": 1, "completed": 99, "failed": 0}
    assert client("GET", f"{BATCHES}/{batch['id']}").json["status"] == "completed"


def test_a_batch_can_be_canceled_between_its_creation_and_the_answer(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(finish_after=None)
    sandbox.add_faults(Fault("advance", operation="batches.create", when="after", value="cancelled"))
    batch = client.openai_batch(1)
    assert client("GET", f"{BATCHES}/{batch['id']}").json["status"] == "cancelled"


def test_results_can_end_early_without_a_sign(results: Callable[..., bytes]) -> None:
    assert len(results(Fault("truncate", operation="results.get", at=1000))) == 1000


def test_the_connection_can_break_in_the_middle_of_results(results: Callable[..., bytes]) -> None:
    with pytest.raises(http.client.IncompleteRead) as broken:
        results(Fault("cut", operation="results.get", at=1000))
    assert len(broken.value.partial) == 1000


def test_results_can_drip(results: Callable[..., bytes]) -> None:
    began = time.monotonic()
    assert len(ids(results(Fault("drip", operation="results.get", size=3000, seconds=0.07)))) == 10
    assert time.monotonic() - began >= 0.2


def test_results_can_come_in_another_order(results: Callable[..., bytes]) -> None:
    plain, shuffled = ids(results()), ids(results(Fault("reorder", operation="results.get", seed=1)))
    assert sorted(plain) == sorted(shuffled)
    assert plain != shuffled


def test_entries_can_be_missing_while_the_counts_say_otherwise(results: Callable[..., bytes]) -> None:
    assert len(ids(results(Fault("missing", operation="results.get", count=3)))) == 7
    assert "r4" not in ids(results(Fault("missing", operation="results.get", ids=("r4",))))


def test_ids_can_be_doubled_with_the_same_or_other_content(results: Callable[..., bytes]) -> None:
    same = results(Fault("duplicate", operation="results.get", ids=("r4",))).splitlines()
    first, second = (line for line in same if b'"r4"' in line)
    assert first == second
    other = results(Fault("duplicate", operation="results.get", ids=("r4",), same=False)).splitlines()
    first, second = (line for line in other if b'"r4"' in line)
    assert first != second
    assert json.loads(second)["response"]["status_code"] == 200


def test_unknown_ids_can_be_among_the_results(results: Callable[..., bytes]) -> None:
    assert {"unknown-1", "unknown-2"} < set(ids(results(Fault("unknown", operation="results.get", count=2))))


def test_lines_can_be_malformed_while_the_others_are_fine(results: Callable[..., bytes]) -> None:
    lines = results(Fault("malformed", operation="results.get", count=2)).splitlines()
    broken = 0
    for line in lines:
        try:
            json.loads(line)
        except ValueError:
            broken += 1
    assert (len(lines), broken) == (10, 2)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("u2028", "\u2028".encode()),
        ("nul", rb"\u0000"),
        ("surrogate", rb"\ud800"),
        ("nan", b"NaN"),
        ("bom", b"\xef\xbb\xbf{"),
        ("deep", b"[" * 100_000),
        ("bytes", b"\xff\xfe"),
    ],
)
def test_an_entry_can_be_poisoned(results: Callable[..., bytes], kind: str, found: bytes) -> None:
    body = results(Fault("poison", operation="results.get", kind=kind))
    assert body.count(found) == 1
    assert body.count(b"\n") == 10


def test_an_entry_can_lose_its_id_or_be_replaced_altogether(results: Callable[..., bytes]) -> None:
    lines = [json.loads(line) for line in results(Fault("anonymous", operation="results.get")).splitlines()]
    assert sum("custom_id" not in line for line in lines) == 1
    body = results(Fault("replace", operation="results.get", ids=("r4",), body="what is this?"))
    assert b"what is this?" in body.splitlines()
    assert b'"r4"' not in body


def test_one_line_can_be_huge(results: Callable[..., bytes]) -> None:
    lines = results(Fault("huge_line", operation="results.get", size=3_000_000, ids=("r4",))).splitlines()
    assert max(map(len, lines)) > 3_000_000
    assert len(ids(b"\n".join(lines))) == 10


def test_entry_faults_reach_inline_results_and_pages_too(client: Any, sandbox: Any) -> None:
    asked = {"request": {"contents": [{"parts": [{"text": "hi"}]}]}, "metadata": {"key": "a"}}
    body = {"batch": {"display_name": "d", "input_config": {"requests": {"requests": [asked]}}}}
    made = client("POST", "/google/v1beta/models/m:batchGenerateContent", body).json
    sandbox.add_faults(Fault("unknown", provider="google", operation="results.get"))
    inline = client("GET", f"/google/v1beta/{made['name']}").json["response"]["inlinedResponses"]["inlinedResponses"]
    assert [one["metadata"]["key"] for one in inline] == ["unknown-1", "a"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_can_be_killed_before_or_after_the_effect(client: Any, sandbox: Any, when: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as victim:
        sandbox.add_faults(
            Fault("kill", operation="files.create", when=when, skip=1, pid=victim.pid),
            Fault("drop", operation="files.create", when=when, skip=1),
        )
        client.upload(b"first")
        assert victim.poll() is None
        with pytest.raises(http.client.RemoteDisconnected):
            client.upload(b"second")
        assert victim.wait(5) == -9
    assert len(sandbox.files()) == (1 if when == "before" else 2)


def test_a_callable_runs_at_the_request_it_is_meant_for(client: Any, sandbox: Any) -> None:
    seen: list[int] = []
    sandbox.add_faults(Fault("call", operation="files.create", when="after", call=lambda: seen.append(1)))
    client("GET", BATCHES)
    assert seen == []
    client.upload(b"x")
    assert seen == [1]


def test_a_hook_is_called_while_the_request_waits(client: Any, sandbox: Any) -> None:
    with Sandbox() as other:
        other.set_profile(finish_after=77)
        sandbox.add_faults(Fault("hook", operation="batches.list", url=f"{other.base_url}/_sandbox/reset"))
        assert client("GET", BATCHES).status == 200
        assert other.profile.finish_after == 2


def test_something_can_happen_in_the_middle_of_the_results(results: Callable[..., bytes]) -> None:
    seen: list[int] = []
    fault = Fault("call", operation="results.get", when="during", at=1000, call=lambda: seen.append(1))
    assert len(ids(results(fault))) == 10
    assert seen == [1]


def test_an_answer_can_be_huge(client: Any, sandbox: Any) -> None:
    sandbox.add_faults(Fault("status", status=200, body="huge"))
    assert len(client("GET", BATCHES).body) > 64_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"action": "explode"},
        {"operation": "x"},
        {"action": "drop", "wen": 1},
        {"action": "kill"},
        {"action": "drop", "when": "during"},
        {"action": "poison", "kind": "arsenic"},
        {"action": "advance", "value": "done"},
        {"action": "call", "call": "print"},
    ],
    ids=str,
)
def test_a_rule_with_a_mistake_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"action|fields|pid|during|arsenic|done"):
        Fault.from_json(wrong)


def test_every_poison_can_be_given(results: Callable[..., bytes]) -> None:
    clean = len(results().splitlines())
    for kind in POISONS:
        assert len(results(Fault("poison", operation="results.get", kind=kind)).split(b"\n")) == clean + 1

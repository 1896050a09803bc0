"""OpenAI's wire format, by hand."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest


@pytest.fixture
def ended(client: Any) -> dict[str, Any]:
    batch = client.openai_batch(3, metadata={"job": "a"})
    return dict(client("GET", f"/openai/v1/batches/{batch['id']}").json)


def test_a_batch_goes_from_upload_to_results(client: Any, ended: dict[str, Any]) -> None:
    assert ended["status"] == "completed"
    assert ended["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert ended["metadata"] == {"job": "a"}
    assert ended["error_file_id"] is None
    lines = client("GET", f"/openai/v1/files/{ended['output_file_id']}/content").lines
    assert {line["custom_id"] for line in lines} == {"r0", "r1", "r2"}
    said = {line["custom_id"]: line["response"]["body"]["output"][-1]["content"][0]["text"] for line in lines}
    assert said["r1"] == "You said: hi 1"


def test_a_new_batch_is_validating_and_has_no_counts(client: Any) -> None:
    batch = client.openai_batch(3)
    assert (batch["status"], batch["request_counts"]["total"]) == ("validating", 0)


def test_wrong_lines_make_the_batch_fail_with_the_line_and_the_reason(client: Any) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "input": "x"}}
    other = {**line, "custom_id": "b", "body": {"model": "n", "input": "x"}}
    batch = client.openai_batch([line, line, other, {**line, "custom_id": "c", "url": "/v1/embeddings"}])
    failed = client("GET", f"/openai/v1/batches/{batch['id']}").json
    assert failed["status"] == "failed"
    assert [(error["line"], error["code"]) for error in failed["errors"]["data"]] == [
        (2, "duplicate_custom_id"),
        (3, "mismatched_model"),
        (4, "invalid_url"),
    ]
    assert failed["output_file_id"] is None


def test_a_request_without_its_prompt_ends_in_the_error_file(client: Any) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m"}}
    batch = client.openai_batch([line])
    ended = client("GET", f"/openai/v1/batches/{batch['id']}").json
    assert (ended["status"], ended["output_file_id"], ended["request_counts"]["failed"]) == ("completed", None, 1)
    (entry,) = client("GET", f"/openai/v1/files/{ended['error_file_id']}/content").lines
    assert entry["response"]["status_code"] == 400
    assert "input" in entry["response"]["body"]["error"]["message"]


def test_a_canceled_batch_keeps_what_was_done(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(finish_after=None, partial_share=0.5, cancelling_for=0.05)
    batch = client.openai_batch(4)
    answer = client("POST", f"/openai/v1/batches/{batch['id']}/cancel").json
    assert answer["status"] == "cancelling"
    ended = client.until(f"/openai/v1/batches/{batch['id']}", lambda body: body["status"] == "cancelled")
    done = client("GET", f"/openai/v1/files/{ended['output_file_id']}/content").lines
    rest = client("GET", f"/openai/v1/files/{ended['error_file_id']}/content").lines
    assert {line["custom_id"] for line in done} == {"r0", "r1"}
    assert {(line["custom_id"], line["error"]["code"]) for line in rest} == {
        ("r2", "batch_cancelled"),
        ("r3", "batch_cancelled"),
    }


def test_a_second_cancel_changes_nothing_and_one_after_the_end_is_refused(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(finish_after=None, cancelling_for=0.4)
    path = f"/openai/v1/batches/{client.openai_batch(1)['id']}"
    first = client("POST", f"{path}/cancel").json
    time.sleep(0.2)
    assert client("POST", f"{path}/cancel").json == first
    time.sleep(0.2)
    assert client("GET", path).json["status"] == "cancelled"
    assert client("POST", f"{path}/cancel").status == 409


def test_an_unfinished_batch_expires_with_partial_results(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(finish_after=None, expires_after=0.05, partial_share=0.25)
    batch = client.openai_batch(4)
    ended = client.until(f"/openai/v1/batches/{batch['id']}", lambda body: body["status"] == "expired")
    assert len(client("GET", f"/openai/v1/files/{ended['output_file_id']}/content").lines) == 1
    rest = client("GET", f"/openai/v1/files/{ended['error_file_id']}/content").lines
    assert [line["error"]["code"] for line in rest] == ["batch_expired"] * 3


def test_a_batch_can_be_told_to_end_at_its_third_status_read(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(polls_to_finish=3)
    batch = client.openai_batch(1)
    seen = [client("GET", f"/openai/v1/batches/{batch['id']}").json["status"] for _ in range(3)]
    assert seen == ["in_progress", "in_progress", "completed"]


def test_batches_are_listed_newest_first_in_pages(client: Any) -> None:
    made = [client.openai_batch(1)["id"] for _ in range(3)]
    first = client("GET", "/openai/v1/batches?limit=2").json
    assert ([one["id"] for one in first["data"]], first["has_more"]) == ([made[2], made[1]], True)
    assert client("GET", "/openai/v1/batches?limit=3").json["has_more"] is False
    rest = client("GET", f"/openai/v1/batches?limit=2&after={first['last_id']}").json
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([made[0]], False)


def test_files_are_listed_newest_first_in_pages_by_purpose(client: Any, ended: dict[str, Any]) -> None:
    made = [client.upload(b"x").json["id"] for _ in range(2)]
    first = client("GET", "/openai/v1/files?limit=2&purpose=batch").json
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (made[::-1], True)
    rest = client("GET", f"/openai/v1/files?limit=2&purpose=batch&after={made[0]}").json
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([ended["input_file_id"]], False)
    results = client("GET", "/openai/v1/files?purpose=batch_output").json["data"]
    assert [one["id"] for one in results] == [ended["output_file_id"]]


def test_a_deleted_file_is_gone_and_its_batch_goes_on(client: Any) -> None:
    batch = client.openai_batch(2)
    path = f"/openai/v1/files/{batch['input_file_id']}"
    assert client("DELETE", path).json["deleted"] is True
    assert client("GET", path).status == 404
    ended = client("GET", f"/openai/v1/batches/{batch['id']}").json
    assert len(client("GET", f"/openai/v1/files/{ended['output_file_id']}/content").lines) == 2


def test_an_uploaded_file_comes_back_byte_for_byte(client: Any) -> None:
    content = bytes(range(256)) * 5_000 + b"\r\n--conftest-boundar"
    file = client.upload(content).json
    assert file["bytes"] == len(content)
    assert client("GET", f"/openai/v1/files/{file['id']}/content").body == content


def test_a_result_file_knows_its_size(client: Any, ended: dict[str, Any]) -> None:
    file = client("GET", f"/openai/v1/files/{ended['output_file_id']}").json
    assert file["bytes"] == len(client("GET", f"/openai/v1/files/{ended['output_file_id']}/content").body)


def test_the_same_result_reads_the_same_every_time(client: Any, ended: dict[str, Any]) -> None:
    path = f"/openai/v1/files/{ended['output_file_id']}/content"
    assert client("GET", path).body == client("GET", path).body


def test_a_file_over_the_limit_is_refused(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(max_bytes=10)
    answer = client.upload(b"x" * 11)
    assert (answer.status, answer.json["error"]["code"]) == (413, "file_too_large")
    assert sandbox.files() == []


def test_too_many_requests_make_the_batch_fail(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(max_requests=2)
    batch = client.openai_batch(3)
    assert client("GET", f"/openai/v1/batches/{batch['id']}").json["errors"]["data"][0]["code"] == "too_many_requests"


def test_create_refuses_a_bad_endpoint_a_bad_window_and_an_unknown_file(client: Any) -> None:
    file_id = client.upload(b"{}").json["id"]
    good = {"input_file_id": file_id, "endpoint": "/v1/responses", "completion_window": "24h"}
    for change in ({"endpoint": "/v1/audio"}, {"completion_window": "1h"}, {"input_file_id": "file-no"}):
        answer = client("POST", "/openai/v1/batches", good | change)
        assert (answer.status, answer.json["error"]["param"]) == (400, next(iter(change)))


def test_azure_sends_its_key_in_a_header_of_its_own(client: Any) -> None:
    headers = {"Authorization": "", "api-key": "azure"}
    assert client("GET", "/openai/v1/files?api-version=2025-04-01-preview", headers=headers).status == 200
    assert client("GET", "/openai/v1/files", headers={"Authorization": ""}).status == 401


def test_chat_and_embeddings_answer_in_their_own_shapes(client: Any) -> None:
    chat = {"model": "gpt-4.1", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "no"}]}
    chat["messages"] += [{"role": "assistant", "content": "ok"}, {"role": "user", "content": "hello"}]
    for endpoint, body, read in (
        ("/v1/chat/completions", chat, lambda answer: answer["choices"][0]["message"]["content"] == "You said: hello"),
        ("/v1/embeddings", {"model": "e", "input": ["a", "b"]}, lambda answer: len(answer["data"]) == 2),
    ):
        line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
        batch = client.openai_batch([line], endpoint=endpoint)
        ended = client("GET", f"/openai/v1/batches/{batch['id']}").json
        (entry,) = client("GET", f"/openai/v1/files/{ended['output_file_id']}/content").lines
        assert read(entry["response"]["body"]), json.dumps(entry)

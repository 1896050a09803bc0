"""xAI's wire format, by hand: there is no status word, only counts and a few dates."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any


def create(client: Any, count: int = 4, content: bytes | None = None) -> dict[str, Any]:
    body = {"model": "grok-4", "messages": [{"role": "user", "content": "hello"}]}
    lines = [
        {"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(count)
    ]
    file = client.upload(content or "\n".join(map(json.dumps, lines)).encode(), "/xai/v1").json
    answer = client("POST", "/xai/v1/batches", {"name": "job-7", "input_file_id": file["id"]})
    assert answer.status == 200
    return dict(answer.json)


def state(body: dict[str, Any]) -> tuple[int, ...]:
    names = ("num_requests", "num_pending", "num_success", "num_error", "num_cancelled")
    return tuple(body["state"][name] for name in names)


def read(client: Any, batch: dict[str, Any]) -> dict[str, Any]:
    return dict(client("GET", f"/xai/v1/batches/{batch['batch_id']}").json)


def results(client: Any, batch: dict[str, Any], limit: int) -> list[list[dict[str, Any]]]:
    pages, token = [], ""
    while not pages or token:
        path = f"/xai/v1/batches/{batch['batch_id']}/results?limit={limit}&pagination_token={token}"
        page = client("GET", path).json
        pages.append(page["results"])
        token = page["pagination_token"]
    return pages


def test_a_batch_goes_from_upload_to_pages_of_results(client: Any) -> None:
    batch = create(client, 5)
    assert (batch["name"], state(batch)) == ("job-7", (0, 0, 0, 0, 0))
    assert state(read(client, batch)) == (5, 0, 5, 0, 0)
    pages = results(client, batch, 2)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [len(page) for page in results(client, batch, 5)] == [5]
    entries = [entry for page in pages for entry in page]
    assert {entry["batch_request_id"] for entry in entries} == {f"r{n}" for n in range(5)}
    answer = entries[0]["batch_result"]["response"]["chat_get_completion"]
    assert answer["choices"][0]["message"]["content"] == "You said: hello"
    usage = answer["usage"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert reasoning > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] + reasoning


def test_a_cancel_is_final_at_once_and_keeps_what_was_done(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(finish_after=None, partial_share=0.5)
    batch = create(client)
    assert state(read(client, batch)) == (4, 2, 2, 0, 0)
    answer = client("POST", f"/xai/v1/batches/{batch['batch_id']}:cancel").json
    assert state(answer) == (4, 0, 2, 0, 2)
    assert datetime.fromisoformat(answer["cancel_time"]).tzinfo == UTC
    errors = [entry["batch_result"].get("error", {}).get("code") for entry in results(client, batch, 100)[0]]
    assert sorted(errors, key=str) == [1, 1, None, None]


def test_a_batch_canceled_before_its_file_is_read_has_no_counts(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(validating_for=60)
    batch = create(client)
    answer = client("POST", f"/xai/v1/batches/{batch['batch_id']}:cancel").json
    assert state(answer) == state(read(client, batch)) == (0, 0, 0, 0, 0)
    assert answer["cancel_time"]
    assert results(client, batch, 10) == [[]]


def test_an_expired_batch_has_a_past_date_and_pending_requests(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(finish_after=None, expires_after=0)
    batch = read(client, create(client))
    assert date.fromisoformat(batch["expire_time"]) < datetime.now(UTC).date()
    assert state(batch) == (4, 4, 0, 0, 0)


def test_a_file_that_is_no_list_of_requests_is_rejected_in_words(client: Any) -> None:
    batch = read(client, create(client, content=b'{"custom_id": "a"}\n'))
    assert "Line 1" in batch["cancel_by_xai_message"]
    assert state(batch) == (0, 0, 0, 0, 0)


def test_failed_requests_carry_a_code_and_words(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(fail_ids=["r1"], failure="rate_limit")
    batch = create(client, 2)
    assert state(read(client, batch)) == (2, 0, 1, 1, 0)
    (failed,) = [entry for entry in results(client, batch, 10)[0] if "error" in entry["batch_result"]]
    assert (failed["batch_request_id"], failed["batch_result"]["error"]["code"]) == ("r1", 8)


def test_lists_of_batches_and_files_come_in_pages(client: Any) -> None:
    made = [create(client, 1)["batch_id"] for _ in range(3)]
    first = client("GET", "/xai/v1/batches?limit=2").json
    rest = client("GET", f"/xai/v1/batches?limit=2&pagination_token={first['pagination_token']}").json
    assert [one["batch_id"] for one in first["batches"] + rest["batches"]] == made[::-1]
    assert rest["pagination_token"] is None
    files = client("GET", "/xai/v1/files").json["data"]
    assert client("DELETE", f"/xai/v1/files/{files[0]['id']}").json["deleted"] is True
    assert len(client("GET", "/xai/v1/files").json["data"]) == 2


def test_errors_come_in_xais_envelope(client: Any) -> None:
    missing = client("GET", "/xai/v1/batches/batch_nobody")
    assert (missing.status, set(missing.json)) == (404, {"code", "error"})
    assert client("GET", "/xai/v1/batches", headers={"Authorization": ""}).status == 401

"""What the SDKs do not show of Anthropic's and Gemini's wire formats."""

from __future__ import annotations

import json
from typing import Any

MESSAGES = "/anthropic/v1/messages/batches"
VERSION = {"anthropic-version": "2023-06-01"}


def anthropic_body(count: int) -> dict[str, Any]:
    params = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": 'a "quoted" [brace} \\'}]}
    return {"requests": [{"custom_id": f"r{n}", "params": params} for n in range(count)]}


def google_body(count: int, *, camel: bool) -> dict[str, Any]:
    requests = [
        {"request": {"contents": [{"parts": [{"text": "hi"}]}]}, "metadata": {"key": f"r{n}"}} for n in range(count)
    ]
    names = ("displayName", "inputConfig") if camel else ("display_name", "input_config")
    return {"batch": {names[0]: "job", names[1]: {"requests": {"requests": requests}}}}


def test_anthropic_wants_its_version_header(client: Any) -> None:
    assert client("POST", MESSAGES, anthropic_body(1)).status == 400
    assert client("POST", MESSAGES, anthropic_body(1), VERSION).status == 200


def test_anthropic_bodies_may_be_written_in_any_way(client: Any, sandbox: Any) -> None:
    body = anthropic_body(3)
    for text in (json.dumps(body, indent=2), json.dumps(body, separators=(",", ":")), json.dumps({"x": [[1]], **body})):
        assert client("POST", MESSAGES, text.encode(), VERSION).status == 200
    assert [batch["requests"] for batch in sandbox.batches()] == [3, 3, 3]
    assert len({batch["ids_sha"] for batch in sandbox.batches()}) == 1


def test_anthropic_refuses_what_is_not_json(client: Any, sandbox: Any) -> None:
    for body in (b"", b"[]", b'{"requests": [', b'{"requests": [{"custom_id": }]}', b'{"requests": []}'):
        assert client("POST", MESSAGES, body, VERSION).status == 400, body
    assert sandbox.batches() == []


def test_anthropics_results_url_leads_back_to_the_same_host(client: Any, sandbox: Any) -> None:
    batch = client("POST", MESSAGES, anthropic_body(2), VERSION).json
    ended = client("GET", f"{MESSAGES}/{batch['id']}").json
    assert ended["results_url"].startswith(sandbox.base_urls["anthropic"])
    results = client("GET", ended["results_url"].removeprefix(sandbox.base_url)).lines
    assert results[0]["result"]["message"]["content"][0]["text"] == 'You said: a "quoted" [brace} \\'


def test_anthropic_counts_cached_tokens_on_top_of_the_others(client: Any) -> None:
    batch = client("POST", MESSAGES, anthropic_body(20), VERSION).json
    results = client("GET", f"{MESSAGES}/{batch['id']}/results").lines
    usages = [one["result"]["message"]["usage"] for one in results]
    assert len({usage["input_tokens"] for usage in usages}) == 2
    assert len({usage["input_tokens"] + usage["cache_read_input_tokens"] for usage in usages}) == 1


def test_a_running_anthropic_batch_can_be_neither_read_nor_deleted(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(finish_after=None)
    path = f"{MESSAGES}/{client('POST', MESSAGES, anthropic_body(1), VERSION).json['id']}"
    assert client("GET", path + "/results").status == 404
    assert client("DELETE", path).status == 400


def test_gemini_takes_both_spellings_and_mirrors_its_results(client: Any) -> None:
    for camel in (True, False):
        body = google_body(2, camel=camel)
        made = client("POST", "/google/v1beta/models/gemini-2.5-flash:batchGenerateContent", body).json
        assert made["metadata"]["batchStats"] == {"requestCount": "2", "pendingRequestCount": "2"}
        ended = client("GET", f"/google/v1beta/{made['name']}").json
        assert (ended["done"], ended["metadata"]["state"]) == (True, "BATCH_STATE_SUCCEEDED")
        assert ended["metadata"]["batchStats"] == {"requestCount": "2", "successfulRequestCount": "2"}
        inline = ended["response"]["inlinedResponses"]["inlinedResponses"]
        assert {one["metadata"]["key"] for one in inline} == {"r0", "r1"}
        assert ended["metadata"]["output"]["inlinedResponses"]["inlinedResponses"] == inline


def test_gemini_loses_the_results_of_an_expired_batch(client: Any, sandbox: Any) -> None:
    sandbox.set_profile(finish_after=None, expires_after=0)
    made = client("POST", "/google/v1/models/m:batchGenerateContent", google_body(2, camel=True)).json
    ended = client("GET", f"/google/v1/{made['name']}").json
    assert (ended["metadata"]["state"], "response" in ended) == ("BATCH_STATE_EXPIRED", False)


def test_geminis_uploads_go_on_only_from_where_they_stopped(client: Any) -> None:
    start = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
    opened = client("POST", "/google/upload/v1beta/files", {"file": {"display_name": "d"}}, start)
    path = opened.headers["x-goog-upload-url"].removeprefix(client.sandbox.base_url)
    first = {"X-Goog-Upload-Command": "upload", "X-Goog-Upload-Offset": "0"}
    assert client("POST", path, b"abc", first).headers["x-goog-upload-status"] == "active"
    assert client("POST", path, b"abc", first).status == 400
    last = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "3"}
    done = client("POST", path, b"def", last)
    assert (done.headers["x-goog-upload-status"], done.json["file"]["sizeBytes"]) == ("final", "6")
    file = done.json["file"]["name"]
    assert client("GET", f"/google/v1beta/{file}:download?alt=media").status == 400
    assert client("GET", "/google/v1beta/files/nobody").status == 403

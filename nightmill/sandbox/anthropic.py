"""Anthropic's Message Batches API.

Facts: docs.claude.com/en/api/creating-message-batches and its neighbours, and the types of the official `anthropic`
package 2.12.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from nightmill.sandbox.answers import Answer, ToolCall, answer, text_of
from nightmill.sandbox.engine import Engine, new_batch
from nightmill.sandbox.gate import Call, Refused, Route
from nightmill.sandbox.http import Reply, Request, blocks, json_reply
from nightmill.sandbox.mangling import Entries, jsonl
from nightmill.sandbox.model import Batch, Lines, Outcome, Phase
from nightmill.sandbox.schemas import instance_of
from nightmill.sandbox.splitting import BodyTooLarge, receive_body, split
from nightmill.sandbox.uploads import whole_number

MAX_REQUESTS = 100_000  # docs.claude.com/en/docs/build-with-claude/batch-processing: "100,000 requests or 256 MB"
MAX_BYTES = 256 * 1024 * 1024  # same page
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # the API reference of `custom_id`

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

FAILURES = {
    "server_error": ("api_error", "Internal server error"),
    "rate_limit": ("overloaded_error", "Overloaded"),
    "invalid_request": ("invalid_request_error", "messages: text content blocks must be non-empty"),
}


class Anthropic:
    """See `gate.Provider`."""

    name = "anthropic"
    prefix = "/anthropic"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        batches = "/v1/messages/batches"
        self.routes = [
            Route("POST", batches, "batches.create", self.create_batch),
            Route("GET", batches, "batches.list", self.list_batches),
            Route("GET", batches + "/{id}", "batches.get", self.get_batch),
            Route("POST", batches + "/{id}/cancel", "batches.cancel", self.cancel_batch),
            Route("DELETE", batches + "/{id}", "batches.delete", self.delete_batch),
            Route("GET", batches + "/{id}/results", "results.get", self.get_results),
        ]

    def key_of(self, request: Request) -> str:
        """See `gate.Provider.key_of`."""
        bearer = request.headers.get("authorization", "")
        return request.headers.get("x-api-key") or bearer.removeprefix("Bearer ").strip()

    def refusal(self, refused: Refused) -> Reply:
        """See `gate.Provider.refusal`."""
        kind = TYPES.get(refused.status, "invalid_request_error" if refused.status < 500 else "api_error")
        request_id = f"req_{secrets.token_hex(12)}"
        error = {"type": "error", "error": {"type": kind, "message": refused.message}, "request_id": request_id}
        return json_reply(error, refused.status, {"request-id": request_id})

    def create_batch(self, call: Call) -> Reply:
        """Begin a batch; what is wrong with a request's params shows only in its result."""
        if "anthropic-version" not in call.request.headers:
            raise Refused(400, "anthropic-version: header is required")
        profile = self.engine.profile
        body, path = self.engine.spool(), self.engine.spool()
        try:
            receive_body(call.request, body, profile.max_bytes or MAX_BYTES)
            split(body, path, {("requests",)})
        except BodyTooLarge as error:
            raise Refused(413, f"Request exceeds the maximum size: {error}") from None
        finally:
            body.unlink(missing_ok=True)
        batch_id = "msgbatch_01" + secrets.token_hex(11)
        batch = new_batch(self.engine, self.name, batch_id, Lines(path), call.key_hash)
        custom_ids, failed = self._read(batch)
        limit = profile.max_requests or MAX_REQUESTS
        if not 0 < len(custom_ids) <= limit:
            raise Refused(400, f"requests: must have between 1 and {limit} items, not {len(custom_ids)}")
        self.engine.open_batch(batch, custom_ids, call.faults, failed=failed)
        call.about(batch, effect=True)
        return json_reply(self._batch_json(batch, call.request.origin))

    def _read(self, batch: Batch) -> tuple[list[str], list[bool]]:
        """Return the custom ids, and which requests will fail by themselves.

        Raises:
            Refused: A custom id is not allowed, or is there twice.
        """
        custom_ids: list[str] = []
        known: set[str] = set()
        failed: list[bool] = []
        for number, line in batch.lines.scan():
            at = f"requests.{number - 1}"
            try:
                request = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise Refused(400, f"The request body is not valid JSON: {error}") from None
            custom_id = request.get("custom_id") if isinstance(request, dict) else None
            if not isinstance(custom_id, str) or not CUSTOM_ID.fullmatch(custom_id):
                raise Refused(400, f"{at}.custom_id: String should match pattern '^{CUSTOM_ID.pattern}$'")
            if custom_id in known:
                raise Refused(400, f"{at}.custom_id: '{custom_id}' is not unique in the batch")
            if not isinstance(request.get("params"), dict):
                raise Refused(400, f"{at}.params: Field required")
            known.add(custom_id)
            custom_ids.append(custom_id)
            failed.append(problem_of(request["params"]) is not None)
            batch.model = batch.model or str(request["params"].get("model", ""))
        return custom_ids, failed

    def get_batch(self, call: Call) -> Reply:
        """Describe a batch."""
        return json_reply(self._batch_json(self._batch(call, poll=True), call.request.origin))

    def list_batches(self, call: Call) -> Reply:
        """List batches, newest first, in pages that go either way."""
        query = call.request.query
        limit = whole_number(query.get("limit"), self.engine.profile.page_size or 20, 1, 1000)
        found = self.engine.list_batches(self.name)
        places = {batch.id: place for place, batch in enumerate(found)}
        if "before_id" in query:
            end = places.get(query["before_id"], 0)
            start = max(0, end - limit)
            some, more = found[start:end], start > 0
        else:
            start = places.get(query.get("after_id", ""), -1) + 1
            some, more = found[start : start + limit], start + limit < len(found)
        data = [self._batch_json(batch, call.request.origin) for batch in some]
        ends = {"first_id": some[0].id if some else None, "last_id": some[-1].id if some else None}
        return json_reply({"data": data, "has_more": more, **ends})

    def cancel_batch(self, call: Call) -> Reply:
        """Ask for a batch's end."""
        batch = self._batch(call)
        if batch.phase.is_terminal:
            raise Refused(400, f"Batch {batch.id} cannot be canceled because it has ended.")
        self.engine.cancel(batch)
        call.about(batch, effect=True)
        return json_reply(self._batch_json(batch, call.request.origin))

    def delete_batch(self, call: Call) -> Reply:
        """Delete a batch that has ended."""
        batch = self._batch(call)
        if not batch.phase.is_terminal:
            raise Refused(400, f"Batch {batch.id} cannot be deleted while it is in progress; cancel it first.")
        batch.deleted = True
        call.about(batch, effect=True)
        return json_reply({"id": batch.id, "type": "message_batch_deleted"})

    def get_results(self, call: Call) -> Reply:
        """Send the results, made while they are sent."""
        batch = self._batch(call)
        if not batch.phase.is_terminal:
            raise Refused(404, f"Batch {batch.id} has no available results; it has not ended.")
        lines = jsonl(self._entries(batch), call.faults, lambda *what: forged(batch, *what))
        return Reply(200, blocks(lines), "application/x-jsonl")

    def _batch(self, call: Call, *, poll: bool = False) -> Batch:
        batch = self.engine.batch(self.name, call.params["id"], poll=poll)
        if batch is None:
            raise Refused(404, f"Batch {call.params['id']} not found.")
        call.about(batch)
        return batch

    def _batch_json(self, batch: Batch, origin: str) -> dict[str, Any]:
        ended = batch.phase.is_terminal
        asked_to_stop = batch.since.get(Phase.CANCELLING)
        results = f"{origin}{self.prefix}/v1/messages/batches/{batch.id}/results"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "canceling" if asked_to_stop else "in_progress",
            "request_counts": self._counts(batch),
            "ended_at": stamp(batch.since[batch.phase]) if ended else None,
            "created_at": stamp(batch.created_at),
            "expires_at": stamp(batch.expires_at),
            "archived_at": None,
            "cancel_initiated_at": stamp(asked_to_stop) if asked_to_stop else None,
            "results_url": results if ended else None,
        }

    def _counts(self, batch: Batch) -> dict[str, int]:
        total, rejected = len(batch.lines), batch.phase is Phase.FAILED
        names = {"succeeded": 0, "errored": 1, "canceled": 3, "expired": 2}
        if not batch.phase.is_terminal or rejected:
            nothing = dict.fromkeys(names, 0)
            return {"processing": 0, **nothing, "errored": total} if rejected else {"processing": total, **nothing}
        return {"processing": 0, **{name: batch.count(Outcome(number)) for name, number in names.items()}}

    def _entries(self, batch: Batch) -> Entries:
        for index, line in batch.lines.read(self.engine.result_order(batch)):
            request = orjson.loads(line)
            result = self._result(batch, request, batch.outcome(index))
            yield request["custom_id"], orjson.dumps({"custom_id": request["custom_id"], "result": result})

    def _result(self, batch: Batch, request: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
        digest = batch.digest(request["custom_id"])
        if outcome is Outcome.FAILED or batch.phase is Phase.FAILED:
            kinds = list(FAILURES)
            wanted = batch.profile.failure
            words = problem_of(request["params"]) or batch.reason
            kind, message = FAILURES[kinds[digest[2] % len(kinds)] if wanted == "mixed" else wanted]
            error = {"type": "invalid_request_error" if words else kind, "message": words or message}
            # the envelope of an HTTP error, one level deeper than one would think
            return {"type": "errored", "error": {"type": "error", "error": error, "request_id": f"req_{digest.hex()}"}}
        if outcome is not Outcome.SUCCEEDED:
            return {"type": "expired" if outcome is Outcome.EXPIRED else "canceled"}
        return {"type": "succeeded", "message": message_of(request["params"], digest, batch.profile.answer_chars)}


def forged(batch: Batch, custom_id: str, text: str) -> bytes:
    """Return a successful entry with the given text."""
    params = {"model": batch.model, "messages": []}
    result = {"type": "succeeded", "message": message_of(params, batch.digest(custom_id), None, text)}
    return orjson.dumps({"custom_id": custom_id, "result": result})


def problem_of(params: Mapping[str, Any]) -> str | None:
    """Return what the Messages API would refuse in a request, or None."""
    for name in ("model", "max_tokens", "messages"):
        if name not in params:
            return f"{name}: Field required"
    if not isinstance(params["max_tokens"], int) or params["max_tokens"] < 1:
        return "max_tokens: Input should be greater than or equal to 1"
    if not isinstance(params["messages"], list) or not params["messages"]:
        return "messages: at least one message is required"
    if params.get("stream"):
        return "stream: streaming is not supported in batches"
    return None


def message_of(params: Mapping[str, Any], digest: bytes, chars: int | None, text: str | None = None) -> dict[str, Any]:
    """Return the message that answers a request."""
    said = [one for one in params["messages"] if isinstance(one, Mapping) and one.get("role") == "user"]
    thinks = (params.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    asked = (params.get("output_config") or {}).get("format") or params.get("output_format") or {}
    prompt = text_of(said[-1].get("content")) if said else ""
    given = answer(digest, prompt, schema=asked.get("schema"), tool=_forced_tool(params), thinks=thinks, chars=chars)
    if text is not None:
        given = Answer(text, None, given.usage, digest)
    content: list[dict[str, Any]] = []
    if thinks:
        content.append({"type": "thinking", "thinking": "Let me see.", "signature": digest.hex()})
    if given.tool is None:
        content.append({"type": "text", "text": given.text})
    else:
        used = {"id": given.identifier("toolu_01"), "name": given.tool.name, "input": given.tool.arguments}
        content.append({"type": "tool_use", **used})
    usage = given.usage
    return {
        "id": given.identifier("msg_01"),
        "type": "message",
        "role": "assistant",
        "model": params.get("model"),
        "content": content,
        "stop_reason": "end_turn" if given.tool is None else "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage.prompt - usage.cached,  # cached tokens come on top of these
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached,
            "output_tokens": usage.visible + usage.reasoning,
            "service_tier": "batch",
        },
    }


def _forced_tool(params: Mapping[str, Any]) -> ToolCall | None:
    choice, tools = params.get("tool_choice") or {}, params.get("tools") or []
    if not tools or choice.get("type") not in ("tool", "any"):
        return None
    tool = next((one for one in tools if one.get("name") == choice.get("name")), tools[0])
    return ToolCall(tool["name"], instance_of(tool.get("input_schema") or {"type": "object"}))


def stamp(time: float) -> str:
    """Return a time as RFC 3339."""
    return datetime.fromtimestamp(time, UTC).isoformat()

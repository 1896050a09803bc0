"""OpenAI's Files and Batch APIs, also in their Azure flavour.

Facts: platform.openai.com/docs/api-reference/batch and /files, and the types of the official `openai` package 3.54.
"""

from __future__ import annotations

import secrets
from typing import Any

import orjson

from nightmill.sandbox import openai_answers
from nightmill.sandbox.engine import Engine, new_batch
from nightmill.sandbox.gate import Call, Refused, Route
from nightmill.sandbox.http import Reply, Request, blocks, json_reply
from nightmill.sandbox.mangling import Entries, jsonl
from nightmill.sandbox.model import Batch, Lines, Outcome, Phase, StoredFile
from nightmill.sandbox.uploads import content, page, receive, whole_number

MAX_REQUESTS = 50_000  # platform.openai.com/docs/guides/batch
MAX_BYTES = 200_000_000  # same page: 200 MB a file
MAX_ERRORS = 50  # a file of 50,000 bad lines must not make a status of 10 MB
METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512  # the API reference of `metadata`
ENDPOINTS = (openai_answers.RESPONSES, openai_answers.CHAT, openai_answers.EMBEDDINGS)

TYPES = {401: "invalid_request_error", 403: "permission_error", 429: "rate_limit_exceeded"}

UNREACHED = {
    Outcome.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    Outcome.CANCELLED: ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}


class OpenAI:
    """See `gate.Provider`."""

    name = "openai"
    prefix = "/openai"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.routes = [
            Route("POST", "/v1/files", "files.create", self.create_file),
            Route("GET", "/v1/files", "files.list", self.list_files),
            Route("GET", "/v1/files/{id}", "files.get", self.get_file),
            Route("GET", "/v1/files/{id}/content", "files.content", self.get_content),
            Route("DELETE", "/v1/files/{id}", "files.delete", self.delete_file),
            Route("POST", "/v1/batches", "batches.create", self.create_batch),
            Route("GET", "/v1/batches", "batches.list", self.list_batches),
            Route("GET", "/v1/batches/{id}", "batches.get", self.get_batch),
            Route("POST", "/v1/batches/{id}/cancel", "batches.cancel", self.cancel_batch),
        ]

    def key_of(self, request: Request) -> str:
        """See `gate.Provider.key_of`; Azure sends `api-key`."""
        bearer = request.headers.get("authorization", "")
        return bearer[7:].strip() if bearer.lower().startswith("bearer ") else request.headers.get("api-key", "")

    def refusal(self, refused: Refused) -> Reply:
        """See `gate.Provider.refusal`."""
        kind = TYPES.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
        error = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}
        return json_reply({"error": error}, refused.status, {"x-request-id": f"req_{secrets.token_hex(16)}"})

    # files

    def create_file(self, call: Call) -> Reply:
        """Keep an uploaded file."""
        file, form = receive(self.engine, call, MAX_BYTES)
        if not file.purpose:
            file.deleted = True
            raise Refused(400, "Missing required parameter: 'purpose'.", "missing_required_parameter", "purpose")
        if "expires_after[seconds]" in form.fields:
            file.expires_at = file.created_at + float(form.fields["expires_after[seconds]"])
        call.about(file, effect=True)
        return json_reply(self._file_json(file))

    def list_files(self, call: Call) -> Reply:
        """List files, newest first."""
        query = call.request.query
        found = [one for one in self.engine.list_files(self.name) if query.get("purpose") in (None, one.purpose)]
        if query.get("order") == "asc":
            found.reverse()
        some, more = page(found, whole_number(query.get("limit"), 10_000, 1, 10_000), query.get("after"))
        return self._list_json([self._file_json(one) for one in some], more)

    def get_file(self, call: Call) -> Reply:
        """Describe a file."""
        return json_reply(self._file_json(self._file(call)))

    def get_content(self, call: Call) -> Reply:
        """Send a file; a result is made while it is sent."""
        file = self._file(call)
        call.about(file)
        if file.path is not None:
            return Reply(200, content(file.path), "application/octet-stream")
        batch = self.engine.batches[file.batch_id or ""]
        lines = jsonl(self._entries(batch, file.part), call.faults, lambda *what: self._forged(batch, *what))
        return Reply(200, blocks(lines), "application/octet-stream")

    def delete_file(self, call: Call) -> Reply:
        """Delete a file; batches made from it go on."""
        file = self._file(call)
        file.deleted = True
        call.about(file, effect=True)
        return json_reply({"id": file.id, "object": "file", "deleted": True})

    def _file(self, call: Call) -> StoredFile:
        file = self.engine.file(self.name, call.params["id"])
        if file is None:
            raise Refused(404, f"No such File object: {call.params['id']}", None, "id")
        return file

    def _file_json(self, file: StoredFile) -> dict[str, Any]:
        if file.size is None:
            file.size = sum(
                len(data) + 1 for _, data in self._entries(self.engine.batches[file.batch_id or ""], file.part)
            )
        return {
            "object": "file",
            "id": file.id,
            "purpose": file.purpose,
            "filename": file.filename,
            "bytes": file.size,
            "created_at": int(file.created_at),
            "expires_at": None if file.expires_at is None else int(file.expires_at),
            "status": "processed",
            "status_details": None,
        }

    @staticmethod
    def _list_json(data: list[dict[str, Any]], more: bool) -> Reply:
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return json_reply({"object": "list", "data": data, **ends, "has_more": more})

    # batches

    def create_batch(self, call: Call) -> Reply:
        """Begin a batch; wrong lines show only once it is validated."""
        asked = call.request.json()
        if not isinstance(asked, dict):
            raise Refused(400, "The body must be an object.")
        endpoint = asked.get("endpoint")
        if endpoint not in ENDPOINTS:
            known = ", ".join(f"'{one}'" for one in ENDPOINTS)
            raise Refused(400, f"Invalid value: '{endpoint}'. Supported: {known}.", "invalid_value", "endpoint")
        if asked.get("completion_window") != "24h":
            words = f"Invalid value: '{asked.get('completion_window')}'. Supported values are: '24h'."
            raise Refused(400, words, "invalid_value", "completion_window")
        metadata = _checked_metadata(asked.get("metadata"))
        file = self.engine.file(self.name, str(asked.get("input_file_id")))
        if file is None or file.path is None:
            raise Refused(400, f"No such File object: {asked.get('input_file_id')}", None, "input_file_id")
        if file.purpose != "batch":
            raise Refused(400, f"File purpose is {file.purpose}; expected batch.", "invalid_purpose", "input_file_id")
        batch = new_batch(
            self.engine,
            self.name,
            f"batch_{secrets.token_hex(16)}",
            Lines(file.path),
            call.key_hash,
            endpoint=endpoint,
            metadata=metadata,
            tag=str(next(iter(metadata.values()))) if metadata else None,
            input_file_id=file.id,
        )
        custom_ids, failed = self._validate(batch)
        self.engine.open_batch(batch, custom_ids, call.faults, failed=failed)
        call.about(batch, effect=True)
        return json_reply(self._batch_json(batch))

    def _validate(self, batch: Batch) -> tuple[list[str], list[bool]]:
        """Read the requests, noting what is wrong; return their ids and which will fail by themselves."""
        custom_ids: list[str] = []
        failed: list[bool] = []
        known: set[str] = set()
        limit = batch.profile.max_requests or MAX_REQUESTS

        def wrong(code: str, message: str, line: int | None = None, param: str | None = None) -> None:
            if len(batch.errors) < MAX_ERRORS:
                batch.errors.append({"code": code, "message": message, "line": line, "param": param})

        for number, data in batch.lines.scan():
            try:
                request = orjson.loads(data)
                custom_id = request["custom_id"] if isinstance(request.get("custom_id"), str) else ""
            except (ValueError, AttributeError, KeyError):
                wrong("invalid_json_line", "This line is not parseable as valid JSON.", number)
                custom_ids.append("")
                failed.append(True)
                continue
            custom_ids.append(custom_id)
            body = request.get("body")
            failed.append(openai_answers.problem_of(batch.endpoint, body) is not None)
            model = body.get("model") if isinstance(body, dict) else None
            batch.model = batch.model or str(model or "")
            if not custom_id:
                wrong("missing_required_parameter", "Missing required parameter: 'custom_id'.", number, "custom_id")
            elif custom_id in known:
                wrong("duplicate_custom_id", f"The custom_id '{custom_id}' is a duplicate.", number, "custom_id")
            known.add(custom_id)
            if request.get("method") != "POST":
                wrong("invalid_method", "The method must be POST.", number, "method")
            if request.get("url") != batch.endpoint:
                wrong("invalid_url", f"The URL does not match the batch endpoint {batch.endpoint}.", number, "url")
            if not isinstance(body, dict):
                wrong("missing_required_parameter", "Missing required parameter: 'body'.", number, "body")
            elif model != batch.model:
                wrong("mismatched_model", f"The model {model!r} differs from {batch.model!r}.", number, "body.model")
        if not custom_ids:
            wrong("empty_file", "The input file is empty.")
        if len(custom_ids) > limit:
            wrong("too_many_requests", f"The input file has more than {limit} requests.")
        return custom_ids, failed

    def get_batch(self, call: Call) -> Reply:
        """Describe a batch."""
        batch = self._batch(call, poll=True)
        return json_reply(self._batch_json(batch))

    def list_batches(self, call: Call) -> Reply:
        """List batches, newest first."""
        query = call.request.query
        limit = whole_number(query.get("limit"), self.engine.profile.page_size or 20, 1, 100)
        some, more = page(self.engine.list_batches(self.name), limit, query.get("after"))
        return self._list_json([self._batch_json(one) for one in some], more)

    def cancel_batch(self, call: Call) -> Reply:
        """Ask for a batch's end."""
        batch = self._batch(call)
        if batch.phase.is_terminal:
            raise Refused(409, f"Cannot cancel a batch with status '{batch.phase}'.", "invalid_status")
        self.engine.cancel(batch)
        call.about(batch, effect=True)
        return json_reply(self._batch_json(batch))

    def _batch(self, call: Call, *, poll: bool = False) -> Batch:
        batch = self.engine.batch(self.name, call.params["id"], poll=poll)
        if batch is None:
            raise Refused(404, f"No batch found with id '{call.params['id']}'.", None, "id")
        call.about(batch)
        return batch

    def _batch_json(self, batch: Batch) -> dict[str, Any]:
        def when(phase: Phase) -> int | None:
            return int(batch.since[phase]) if phase in batch.since else None

        rejected = batch.phase is Phase.FAILED
        unread = batch.phase is Phase.VALIDATING or (rejected and Phase.IN_PROGRESS not in batch.since)
        reached = self.engine.progress(batch)
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "model": None if unread else batch.model,
            "errors": {"object": "list", "data": batch.errors} if rejected else None,
            "input_file_id": batch.input_file_id,
            "completion_window": "24h",
            "status": str(batch.phase),
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "created_at": int(batch.created_at),
            "in_progress_at": when(Phase.IN_PROGRESS),
            "expires_at": int(batch.expires_at),
            "finalizing_at": when(Phase.FINALIZING),
            "completed_at": when(Phase.COMPLETED),
            "failed_at": when(Phase.FAILED),
            "expired_at": when(Phase.EXPIRED),
            "cancelling_at": when(Phase.CANCELLING),
            "cancelled_at": when(Phase.CANCELLED),
            "request_counts": {
                "total": 0 if unread else len(batch.lines),
                "completed": 0 if unread else batch.count(Outcome.SUCCEEDED, reached),
                "failed": 0 if unread else batch.count(Outcome.FAILED, reached),
            },
            "metadata": batch.metadata,
        }

    # results

    def _entries(self, batch: Batch, part: str) -> Entries:
        for index, line in batch.lines.read(self.engine.result_order(batch)):
            outcome = batch.outcome(index)
            if (outcome is Outcome.SUCCEEDED) is (part == "output"):
                request = orjson.loads(line)
                yield request["custom_id"], orjson.dumps(self._entry(batch, request, outcome))

    def _entry(
        self, batch: Batch, request: dict[str, Any], outcome: Outcome, text: str | None = None
    ) -> dict[str, Any]:
        digest = batch.digest(request["custom_id"])
        entry = {"id": f"batch_req_{digest.hex()}", "custom_id": request["custom_id"]}
        if outcome in UNREACHED:
            code, words = UNREACHED[outcome]
            return {**entry, "response": None, "error": {"code": code, "message": words}}
        body, status = request["body"], 200
        if outcome is Outcome.FAILED:
            status, answer = failure(batch, digest, openai_answers.problem_of(batch.endpoint, body) or "")
        else:
            created, chars = int(batch.created_at), batch.profile.answer_chars
            answer = openai_answers.body_of(batch.endpoint, body, digest, created, chars=chars, text=text)
        response = {"status_code": status, "request_id": f"req_{digest.hex()}", "body": answer}
        return {**entry, "response": response, "error": None}

    def _forged(self, batch: Batch, custom_id: str, text: str) -> bytes:
        body = {"model": batch.model, "input": "", "messages": []}
        return orjson.dumps(self._entry(batch, {"custom_id": custom_id, "body": body}, Outcome.SUCCEEDED, text))


FAILURES = {
    "server_error": (500, "The server had an error while processing your request.", "server_error", None),
    "rate_limit": (429, "Rate limit reached.", "requests", "rate_limit_exceeded"),
    "invalid_request": (400, "Invalid value for 'temperature'.", "invalid_request_error", "invalid_value"),
}


def failure(batch: Batch, digest: bytes, words: str = "") -> tuple[int, dict[str, Any]]:
    """Return the status and body of a request that failed; `words` say why if it is the request's own fault."""
    kinds = list(FAILURES)
    wanted = batch.profile.failure
    kind = "invalid_request" if words else kinds[digest[2] % len(kinds)] if wanted == "mixed" else wanted
    status, message, type_, code = FAILURES[kind]
    return status, {"error": {"message": words or message, "type": type_, "param": None, "code": code}}


def _checked_metadata(metadata: Any) -> dict[str, Any] | None:
    if metadata is None:
        return None
    fits = isinstance(metadata, dict) and len(metadata) <= METADATA_PAIRS
    if not fits or any(
        not isinstance(value, str) or len(value) > METADATA_VALUE or len(name) > METADATA_KEY
        for name, value in metadata.items()
    ):
        raise Refused(400, "Invalid 'metadata': at most 16 pairs of short strings.", "invalid_type", "metadata")
    return dict(metadata)

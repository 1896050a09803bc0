"""Gemini's batch API (`models.batchGenerateContent`), inline and from files.

Facts: ai.google.dev/api/batch-api and the converters of the official `google-genai` package 3.4, which asks for /v1
where the documents say /v1beta. The sandbox serves both.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import product
from typing import Any

import orjson

from nightmill.sandbox import google_answers
from nightmill.sandbox.engine import Engine, new_batch
from nightmill.sandbox.faults import ENTRY_ACTIONS, Fault
from nightmill.sandbox.gate import Call, Refused, Route
from nightmill.sandbox.google_answers import either
from nightmill.sandbox.google_files import Files, pages, stamp
from nightmill.sandbox.http import Reply, Request, blocks, json_reply
from nightmill.sandbox.mangling import Entries, array, jsonl
from nightmill.sandbox.model import Batch, Lines, Outcome, Phase
from nightmill.sandbox.splitting import BodyTooLarge, receive_body, split

INLINE_MAX_BYTES = 20 * 1024 * 1024  # ai.google.dev/gemini-api/docs/batch-api: inline below 20 MB
WINDOW = 48 * 3600.0  # same page: a job that is not done after 48 hours expires
PAGE, MAX_PAGE = 50, 1000
TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main."
REQUESTS = set(product(("batch",), ("inputConfig", "input_config"), ("requests",), ("requests",)))
PLACE = "@results@"

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

STATES = {
    Phase.VALIDATING: "BATCH_STATE_PENDING",
    Phase.IN_PROGRESS: "BATCH_STATE_RUNNING",
    Phase.FINALIZING: "BATCH_STATE_RUNNING",
    Phase.CANCELLING: "BATCH_STATE_RUNNING",
    Phase.COMPLETED: "BATCH_STATE_SUCCEEDED",
    Phase.FAILED: "BATCH_STATE_FAILED",
    Phase.EXPIRED: "BATCH_STATE_EXPIRED",
    Phase.CANCELLED: "BATCH_STATE_CANCELLED",
}

FAILURES = {  # gRPC codes
    "server_error": (13, "Internal error encountered."),
    "rate_limit": (8, "Resource has been exhausted (e.g. check quota)."),
    "invalid_request": (3, "Request contains an invalid argument."),
}


class Google:
    """See `gate.Provider`."""

    name = "google"
    prefix = "/google"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.files = files = Files(engine)
        self.routes = [
            Route("POST", "/{version}/models/{model}:batchGenerateContent", "batches.create", self.create_batch),
            Route("GET", "/{version}/batches", "batches.list", self.list_batches),
            Route("GET", "/{version}/batches/{id}", "batches.get", self.get_batch),
            Route("POST", "/{version}/batches/{id}:cancel", "batches.cancel", self.cancel_batch),
            Route("DELETE", "/{version}/batches/{id}", "batches.delete", self.delete_batch),
            Route("POST", "/upload/{version}/files", "files.start", files.start),
            Route("POST", "/upload/{version}/sessions/{upload}", "files.create", files.upload),
            Route("PUT", "/upload/{version}/sessions/{upload}", "files.create", files.upload),
            Route("GET", "/{version}/files", "files.list", files.list),
            Route("GET", "/{version}/files/{id}", "files.get", files.get),
            Route("DELETE", "/{version}/files/{id}", "files.delete", files.delete),
            Route("GET", "/{version}/files/{id}:download", "files.content", self.get_content),
            Route("GET", "/download/{version}/files/{id}:download", "files.content", self.get_content),
        ]

    def key_of(self, request: Request) -> str:
        """See `gate.Provider.key_of`; the address of an upload stands for the key that opened it."""
        session = self.files.sessions.get(request.path.rpartition("/")[2])
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        sent = request.headers.get("x-goog-api-key") or request.query.get("key") or bearer
        return sent or (session.key if session else "")

    def refusal(self, refused: Refused) -> Reply:
        """See `gate.Provider.refusal`."""
        status = refused.code or STATUSES.get(refused.status, "UNKNOWN")
        status = status if status.isupper() else STATUSES.get(refused.status, "UNKNOWN")
        error = {"code": refused.status, "message": refused.message, "status": status}
        return json_reply({"error": error}, refused.status)

    # batches

    def create_batch(self, call: Call) -> Reply:
        """Begin a batch, from the requests in the body or from an uploaded file."""
        body, path = self.engine.spool(), self.engine.spool()
        profile = self.engine.profile
        try:
            receive_body(call.request, body, profile.inline_max_bytes or INLINE_MAX_BYTES)
            asked = split(body, path, REQUESTS).get("batch")
        except BodyTooLarge as error:
            raise Refused(400, f"Request payload size exceeds the limit: {error}.") from None
        finally:
            body.unlink(missing_ok=True)
        if not isinstance(asked, dict) or not (either(asked, "displayName") or "").strip():
            raise Refused(400, "batch.display_name is required.")
        file_name = either(either(asked, "inputConfig") or {}, "fileName")
        if file_name:
            file = self.engine.file(self.name, str(file_name).removeprefix("files/"))
            if file is None or file.path is None:
                raise Refused(404, f"File {file_name} not found.")
            path = file.path
        batch = new_batch(
            self.engine,
            self.name,
            secrets.token_hex(18),
            Lines(path),
            call.key_hash,
            endpoint="file" if file_name else "inline",
            model=f"models/{call.params['model']}",
            tag=either(asked, "displayName"),
            input_file_id=file_name,
            window=WINDOW,
        )
        custom_ids, failed = self._read(batch)
        if not custom_ids and not file_name:
            raise Refused(400, "batch.input_config.requests.requests is empty.")
        self.engine.open_batch(batch, custom_ids, call.faults, failed=failed)
        call.about(batch, effect=True)
        return json_reply(self._operation(batch))

    def _read(self, batch: Batch) -> tuple[list[str], list[bool]]:
        custom_ids: list[str] = []
        failed: list[bool] = []
        for number, line in batch.lines.scan():
            try:
                item = orjson.loads(line)
                custom_ids.append(key_of(item, number))
                failed.append(google_answers.problem_of(item.get("request")) is not None)
            except (ValueError, AttributeError):
                words = f"Line {number} of the input is not a request."
                if batch.endpoint == "inline":
                    raise Refused(400, words) from None
                batch.errors = batch.errors or [{"code": "3", "message": words, "line": number, "param": None}]
                custom_ids.append("")
                failed.append(True)
        limit = batch.profile.max_requests
        if not custom_ids or (limit and len(custom_ids) > limit):
            words = f"The input has {len(custom_ids)} requests."
            batch.errors = [{"code": "3", "message": words, "line": None, "param": None}]
        return custom_ids, failed

    def get_batch(self, call: Call) -> Reply:
        """Describe a batch, with its results if they are inline."""
        batch = self._batch(call, poll=True)
        if batch.endpoint == "file" or not has_results(batch):
            return json_reply(self._operation(batch))
        path = call.request.path
        faults = call.faults + call.plan.strike(self.name, "results.get", path, ENTRY_ACTIONS)
        return Reply(200, blocks(self._with_results(batch, faults)))

    def _with_results(self, batch: Batch, faults: list[Fault]) -> Iterator[bytes]:
        """Yield the operation with its results in both places where they are found."""
        whole = orjson.dumps(self._operation(batch, output={"inlinedResponses": {"inlinedResponses": [PLACE]}}))
        first, second, last = whole.split(b'"' + PLACE.encode() + b'"')
        for head in (first, second):
            yield head
            yield from array(self._entries(batch), faults, lambda *what: self._forged(batch, *what))
        yield last

    def list_batches(self, call: Call) -> Reply:
        """List batches, newest first, without inline results."""
        some, token = pages(call, self.engine.list_batches(self.name), self.engine.profile.page_size or PAGE, MAX_PAGE)
        listed: dict[str, Any] = {"operations": [self._operation(batch) for batch in some]} if some else {}
        return json_reply(listed | ({"nextPageToken": token} if token else {}))

    def cancel_batch(self, call: Call) -> Reply:
        """End a batch at once."""
        batch = self._batch(call)
        if batch.phase.is_terminal:
            raise Refused(400, f"batches/{batch.id} is not running.", "FAILED_PRECONDITION")
        self.engine.cancel(batch, at_once=True)
        call.about(batch, effect=True)
        return json_reply({})

    def delete_batch(self, call: Call) -> Reply:
        """Forget a batch; it is not canceled by that."""
        batch = self._batch(call)
        batch.deleted = True
        call.about(batch, effect=True)
        return json_reply({})

    def _batch(self, call: Call, *, poll: bool = False) -> Batch:
        batch = self.engine.batch(self.name, call.params["id"], poll=poll)
        if batch is None:
            raise Refused(404, f"Requested entity was not found: batches/{call.params['id']}")
        call.about(batch)
        return batch

    def _operation(self, batch: Batch, output: dict[str, Any] | None = None) -> dict[str, Any]:
        ended = batch.phase.is_terminal
        if batch.endpoint == "file" and has_results(batch) and batch.output_file_id:
            output = {"responsesFile": f"files/{batch.output_file_id}"}
        changed = stamp(batch.since[batch.phase])
        metadata: dict[str, Any] = {
            "@type": TYPE + "GenerateContentBatch",
            "model": batch.model,
            "displayName": batch.tag,
            "createTime": stamp(batch.created_at),
            "updateTime": changed,
            "batchStats": self._stats(batch),
            "state": STATES[batch.phase],
            "name": f"batches/{batch.id}",
        }
        metadata |= {"endTime": changed} if ended else {}
        metadata |= {"inputConfig": {"fileName": batch.input_file_id}} if batch.input_file_id else {}
        metadata |= {"output": output} if output else {}
        operation: dict[str, Any] = {"name": f"batches/{batch.id}", "metadata": metadata}
        if ended:
            operation["done"] = True
        if batch.phase is Phase.FAILED:
            operation["error"] = {"code": 3, "message": batch.reason}
        elif output:
            operation["response"] = {"@type": TYPE + "GenerateContentBatchOutput", **output}
        return operation

    def _stats(self, batch: Batch) -> dict[str, str]:
        reached = self.engine.progress(batch)
        succeeded, failed = batch.count(Outcome.SUCCEEDED, reached), batch.count(Outcome.FAILED, reached)
        counts = {
            "requestCount": len(batch.lines),
            "successfulRequestCount": succeeded,
            "failedRequestCount": failed,
            "pendingRequestCount": 0 if batch.phase is Phase.FAILED else len(batch.lines) - succeeded - failed,
        }
        return {name: str(count) for name, count in counts.items() if count}

    # results

    def get_content(self, call: Call) -> Reply:
        """Send a batch's result file; uploads cannot be downloaded."""
        file = self.files.file(call)
        batch = self.engine.batches.get(file.batch_id or "")
        if batch is None:
            raise Refused(400, f"The file {file.id} is not available for download.", "FAILED_PRECONDITION")
        call.about(file)
        lines = jsonl(self._entries(batch), call.faults, lambda *what: self._forged(batch, *what))
        return Reply(200, blocks(lines), "application/jsonl")

    def _entries(self, batch: Batch) -> Entries:
        for index, line in batch.lines.read(self.engine.result_order(batch)):
            outcome = batch.outcome(index)
            if outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
                item = orjson.loads(line)
                custom_id = key_of(item, batch.lines.numbers[index])
                yield custom_id, orjson.dumps(self._entry(batch, item, custom_id, outcome))

    def _entry(
        self, batch: Batch, item: dict[str, Any], custom_id: str, outcome: Outcome, text: str | None = None
    ) -> dict[str, Any]:
        digest = batch.digest(custom_id)
        request = item.get("request")
        if outcome is Outcome.FAILED:
            words = google_answers.problem_of(request)
            kinds, wanted = list(FAILURES), batch.profile.failure
            code, message = FAILURES[kinds[digest[2] % len(kinds)] if wanted == "mixed" else wanted]
            result: dict[str, Any] = {"error": {"code": 3 if words else code, "message": words or message}}
        else:
            chars = batch.profile.answer_chars
            result = {"response": google_answers.response_of(batch.model, request or {}, digest, chars, text)}
        if batch.endpoint == "file":
            return {"key": item["key"], **result} if "key" in item else result
        return {**result, "metadata": item["metadata"]} if "metadata" in item else result

    def _forged(self, batch: Batch, custom_id: str, text: str) -> bytes:
        item = {"key": custom_id, "metadata": {"key": custom_id}}
        return orjson.dumps(self._entry(batch, item, custom_id, Outcome.SUCCEEDED, text))


def has_results(batch: Batch) -> bool:
    """Whether results can be read; a canceled or expired batch loses them unless the profile wants a part kept."""
    if batch.phase in (Phase.CANCELLED, Phase.EXPIRED):
        return batch.profile.partial_share is not None
    return batch.phase is Phase.COMPLETED


def key_of(item: dict[str, Any], number: int) -> str:
    """Return an item's key, or its place among the others if it has none."""
    metadata = item.get("metadata")
    key = metadata.get("key") if isinstance(metadata, dict) else item.get("key")
    return str(key) if key is not None else f"#{number}"

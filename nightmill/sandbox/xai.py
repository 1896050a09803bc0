"""xAI's Files and Batch APIs.

Facts: docs.x.ai/docs/guides/batch-api and the messages of the official SDK's batch service. A batch has no status word;
its counts and two or three other fields say how it stands.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from nightmill.sandbox import openai_answers
from nightmill.sandbox.anthropic import stamp
from nightmill.sandbox.engine import Engine, new_batch
from nightmill.sandbox.gate import Call, Refused, Route
from nightmill.sandbox.http import Reply, Request, blocks, json_reply
from nightmill.sandbox.mangling import Entries, array
from nightmill.sandbox.model import Batch, Lines, Outcome, Phase, StoredFile
from nightmill.sandbox.openai import FAILURES
from nightmill.sandbox.uploads import content, page, receive, whole_number

MAX_REQUESTS = 1_000_000  # docs.x.ai calls more than that "very large" and throttles it
MAX_BYTES = 512 * 1024 * 1024  # the SDK's files service
PAGE, MAX_PAGE = 100, 1000

WRAPPERS = {openai_answers.CHAT: "chat_get_completion", openai_answers.RESPONSES: "responses"}
TICKS_PER_TOKEN = 10_000  # 1 tick is 1e-10 USD; an invented price


class XAI:
    """See `gate.Provider`."""

    name = "xai"
    prefix = "/xai"

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
            Route("GET", "/v1/batches/{id}/results", "results.get", self.get_results),
            Route("POST", "/v1/batches/{id}:cancel", "batches.cancel", self.cancel_batch),
        ]

    def key_of(self, request: Request) -> str:
        """See `gate.Provider.key_of`."""
        return request.headers.get("authorization", "").removeprefix("Bearer ").strip()

    def refusal(self, refused: Refused) -> Reply:
        """See `gate.Provider.refusal`."""
        return json_reply(
            {"code": refused.code or f"status_{refused.status}", "error": refused.message}, refused.status
        )

    # files

    def create_file(self, call: Call) -> Reply:
        """Keep an uploaded file."""
        file, _ = receive(self.engine, call, MAX_BYTES)
        call.about(file, effect=True)
        return json_reply(self._file_json(file))

    def list_files(self, call: Call) -> Reply:
        """List files, newest first."""
        found = self.engine.list_files(self.name)
        uploaded = [file for file in found if file.batch_id is None]  # results are not files here
        some, token = self._page(call, uploaded)
        return json_reply({"data": [self._file_json(file) for file in some], "pagination_token": token})

    def get_file(self, call: Call) -> Reply:
        """Describe a file."""
        return json_reply(self._file_json(self._file(call)))

    def get_content(self, call: Call) -> Reply:
        """Send a file."""
        file = self._file(call)
        return Reply(200, content(file.path) if file.path else b"", "application/octet-stream")

    def delete_file(self, call: Call) -> Reply:
        """Delete a file; batches made from it go on."""
        file = self._file(call)
        file.deleted = True
        call.about(file, effect=True)
        return json_reply({"id": file.id, "deleted": True})

    def _file(self, call: Call) -> StoredFile:
        file = self.engine.file(self.name, call.params["id"])
        if file is None or file.batch_id is not None:
            raise Refused(404, f"File {call.params['id']} not found.", "not_found")
        call.about(file)
        return file

    @staticmethod
    def _file_json(file: StoredFile) -> dict[str, Any]:
        return {
            "id": file.id,
            "object": "file",
            "bytes": file.size,
            "created_at": int(file.created_at),
            "expires_at": None,
            "filename": file.filename,
            "purpose": file.purpose,
        }

    # batches

    def create_batch(self, call: Call) -> Reply:
        """Begin a batch from a file. It is sealed; requests cannot be added later."""
        asked = call.request.json()
        if not isinstance(asked, dict) or not isinstance(asked.get("name"), str) or not asked["name"]:
            raise Refused(400, "name: a batch needs a name", "invalid_argument")
        file = self.engine.file(self.name, str(asked.get("input_file_id")))
        if file is None or file.path is None:
            raise Refused(404, f"File {asked.get('input_file_id')} not found.", "not_found")
        batch = new_batch(
            self.engine,
            self.name,
            f"batch_{uuid.uuid4()}",
            Lines(file.path),
            call.key_hash,
            tag=asked["name"],
            input_file_id=file.id,
        )
        custom_ids, failed = self._read(batch)
        self.engine.open_batch(batch, custom_ids, call.faults, failed=failed)
        call.about(batch, effect=True)
        return json_reply(self._batch_json(batch))

    def _read(self, batch: Batch) -> tuple[list[str], list[bool]]:
        custom_ids: list[str] = []
        failed: list[bool] = []
        for number, line in batch.lines.scan():
            try:
                request = orjson.loads(line)
                custom_id = str(request["custom_id"])
                problem = openai_answers.problem_of(request["url"], request["body"])
                batch.model = batch.model or str(request["body"].get("model", ""))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self._reject(batch, f"Line {number} of the input file is not a request: {error!r}")
                custom_id = problem = ""
            custom_ids.append(custom_id)
            failed.append(problem is not None)
        if len(set(custom_ids)) < len(custom_ids):
            self._reject(batch, "The input file holds a custom_id twice.")
        if not 0 < len(custom_ids) <= (batch.profile.max_requests or MAX_REQUESTS):
            self._reject(batch, f"The input file has {len(custom_ids)} requests.")
        return custom_ids, failed

    @staticmethod
    def _reject(batch: Batch, words: str) -> None:
        batch.errors.append({"code": "invalid_file", "message": words, "line": None, "param": None})
        batch.errors = batch.errors[:1]

    def get_batch(self, call: Call) -> Reply:
        """Describe a batch."""
        return json_reply(self._batch_json(self._batch(call, poll=True)))

    def list_batches(self, call: Call) -> Reply:
        """List batches, newest first."""
        some, token = self._page(call, self.engine.list_batches(self.name))
        return json_reply({"batches": [self._batch_json(one) for one in some], "pagination_token": token})

    def cancel_batch(self, call: Call) -> Reply:
        """End a batch at once; what is pending counts as canceled in the answer already."""
        batch = self._batch(call)
        if batch.phase.is_terminal:
            raise Refused(400, f"Batch {batch.id} has completed and cannot be canceled.", "failed_precondition")
        unread = batch.phase is Phase.VALIDATING
        self.engine.cancel(batch, at_once=True)
        call.about(batch, effect=True)
        return json_reply(self._batch_json(batch, unread=unread))

    def get_results(self, call: Call) -> Reply:
        """Send one page of what is there by now."""
        batch = self._batch(call)
        asked = whole_number(call.request.query.get("limit"), self.engine.profile.page_size or PAGE, 1, MAX_PAGE)
        start = self._place(call)
        ready = self._ready(batch)
        chosen = ready[start : start + asked]
        token = _token(start + asked) if start + asked < len(ready) else None
        entries = self._entries(batch, iter(chosen))
        elements = array(entries, call.faults, lambda *what: self._forged(batch, *what))
        tail = b'],"pagination_token":' + orjson.dumps(token) + b"}"
        return Reply(200, blocks(_between(b'{"results":[', elements, tail)))

    def _ready(self, batch: Batch) -> list[int]:
        if not batch.phase.is_terminal:
            return [index for index in self.engine.result_order(batch) if self._is_there(batch, index)]
        if batch.ready is None:  # kept, for the next thousand pages will ask again
            batch.ready = [index for index in self.engine.result_order(batch) if self._is_there(batch, index)]
        return batch.ready

    def _is_there(self, batch: Batch, index: int) -> bool:
        if Phase.IN_PROGRESS not in batch.since or batch.phase is Phase.FAILED:
            return False
        if index >= self.engine.progress(batch):
            return batch.phase is Phase.CANCELLED
        return batch.outcome(index) is not Outcome.EXPIRED

    def _batch(self, call: Call, *, poll: bool = False) -> Batch:
        batch = self.engine.batch(self.name, call.params["id"], poll=poll)
        if batch is None:
            raise Refused(404, f"Batch {call.params['id']} not found.", "not_found")
        call.about(batch)
        return batch

    def _page(self, call: Call, found: list[Any]) -> tuple[list[Any], str | None]:
        limit = whole_number(call.request.query.get("limit"), self.engine.profile.page_size or PAGE, 1, MAX_PAGE)
        start = self._place(call)
        some, more = page(found[start:], limit, None)
        return some, _token(start + limit) if more else None

    @staticmethod
    def _place(call: Call) -> int:
        token = call.request.query.get("pagination_token") or ""
        try:
            return int(base64.urlsafe_b64decode(token).decode()) if token else 0
        except ValueError:
            raise Refused(400, "pagination_token is not valid", "invalid_argument") from None

    def _batch_json(self, batch: Batch, *, unread: bool = False) -> dict[str, Any]:
        refused = batch.reason if batch.phase is Phase.FAILED else None
        canceled_at = batch.since.get(Phase.CANCELLED)
        expired = batch.phase is Phase.EXPIRED
        until = min(batch.expires_at, self.engine.clock() - 86_400) if expired else batch.expires_at
        described = {
            "batch_id": batch.id,
            "name": batch.tag,
            "create_time": stamp(batch.created_at),
            "expire_time": datetime.fromtimestamp(until, UTC).date().isoformat(),  # a bare date over REST
            "create_api_key_id": batch.key_hash,
            "cancel_time": stamp(canceled_at) if canceled_at else None,
            "cancel_by_xai_message": refused,
            "input_file_id": batch.input_file_id,
            "state": self._counts(batch, unread=unread),
        }
        if batch.phase.is_terminal:
            ticks = batch.count(Outcome.SUCCEEDED) * 40 * TICKS_PER_TOKEN
            described["cost_breakdown"] = {"total_cost_usd_ticks": ticks}
        return described

    def _counts(self, batch: Batch, *, unread: bool) -> dict[str, int]:
        names = ("num_requests", "num_pending", "num_success", "num_error", "num_cancelled")
        if unread or batch.phase in (Phase.VALIDATING, Phase.FAILED) or Phase.IN_PROGRESS not in batch.since:
            return dict.fromkeys(names, 0)  # the file is not parsed yet, or never was
        reached = self.engine.progress(batch)
        succeeded, failed = batch.count(Outcome.SUCCEEDED, reached), batch.count(Outcome.FAILED, reached)
        left = len(batch.lines) - succeeded - failed
        canceled = left if batch.phase is Phase.CANCELLED else 0
        return dict(zip(names, (len(batch.lines), left - canceled, succeeded, failed, canceled), strict=True))

    # results

    def _entries(self, batch: Batch, order: Iterator[int]) -> Entries:
        for index, line in batch.lines.read(order):
            request = orjson.loads(line)
            yield request["custom_id"], orjson.dumps(self._entry(batch, request, batch.outcome(index)))

    def _entry(
        self, batch: Batch, request: dict[str, Any], outcome: Outcome, text: str | None = None
    ) -> dict[str, Any]:
        custom_id, url, body = request["custom_id"], request["url"], request["body"]
        digest = batch.digest(custom_id)
        if outcome is Outcome.CANCELLED:
            return _error_entry(custom_id, 1, "Request was cancelled")  # gRPC's code for it
        if outcome is Outcome.FAILED:
            kinds, wanted = list(FAILURES), batch.profile.failure
            words = openai_answers.problem_of(url, body)
            status, message, *_ = FAILURES[kinds[digest[2] % len(kinds)] if wanted == "mixed" else wanted]
            return _error_entry(custom_id, 3 if words else GRPC[status], words or message)
        made, chars = int(batch.created_at), batch.profile.answer_chars
        answer = openai_answers.body_of(url, body, digest, made, chars=chars, text=text)
        return {"batch_request_id": custom_id, "batch_result": {"response": {WRAPPERS.get(url, "response"): answer}}}

    def _forged(self, batch: Batch, custom_id: str, text: str) -> bytes:
        body = {"model": batch.model, "messages": []}
        request = {"custom_id": custom_id, "url": openai_answers.CHAT, "body": body}
        return orjson.dumps(self._entry(batch, request, Outcome.SUCCEEDED, text))


GRPC = {400: 3, 429: 8, 500: 13}  # HTTP status to gRPC code, which is what xAI's entries carry


def _error_entry(custom_id: str, code: int, words: str) -> dict[str, Any]:
    error = {"code": code, "message": words, "details": []}
    return {"batch_request_id": custom_id, "batch_result": {"error": error}, "error_message": words}


def _token(place: int) -> str:
    return base64.urlsafe_b64encode(str(place).encode()).decode()


def _between(head: bytes, middle: Iterator[bytes], tail: bytes) -> Iterator[bytes]:
    yield head
    yield from middle
    yield tail

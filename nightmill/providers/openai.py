"""OpenAI's Batch API, also as Azure and other servers speak it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from nightmill.contracts import BatchStatus, Counts
from nightmill.errors import InvalidInput
from nightmill.providers import responses
from nightmill.providers.base import Candidate, Created, Entry, Limits, ProviderStatus, ResultSource
from nightmill.providers.chat import ChatUsage, Choice, chat_body, chat_usage, read_choices
from nightmill.providers.config import Adapter
from nightmill.providers.entries import RAW, decode, entry_error, id_pattern, one_line, savable
from nightmill.providers.wire import (
    cancel,
    count_of,
    delete_quietly,
    joined,
    objects,
    pages,
    refuse,
    required_id,
    splice,
    text_of,
    time_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nightmill.completions.neutral import NeutralRequest
    from nightmill.providers.base import RequestLines
    from nightmill.providers.config import ProviderConfig
    from nightmill.web.client import HttpClient

RESPONSES, CHAT, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"

TAG_KEY = "nightmill_tag"

# 50,000 requests and 200 MB a file, one model a file, 24 hours: platform.openai.com/docs/guides/batch (read 2026-11).
LIMITS = Limits(
    max_requests=50_000,
    max_bytes=200_000_000,
    max_request_bytes=200_000_000,
    expires_after=timedelta(hours=24),
)

STATUSES: Mapping[str, BatchStatus] = {
    "validating": BatchStatus.IN_PROGRESS,
    "in_progress": BatchStatus.IN_PROGRESS,
    "finalizing": BatchStatus.IN_PROGRESS,
    "cancelling": BatchStatus.CANCELING,
    "completed": BatchStatus.ENDED,  # perhaps without a single success
    "failed": BatchStatus.FAILED,
    "expired": BatchStatus.EXPIRED,
    "cancelled": BatchStatus.CANCELED,
}

# Over the quota of enqueued tokens. The provider takes the batch first and fails it later (openai-python#2084).
OVER_QUOTA = "token_limit_exceeded"

# Not for /v1/responses, /v1/chat/completions or /v1/embeddings, hence not for batches.
_NOT_BATCHABLE = re.compile(r"realtime|^(whisper|tts|dall-e|sora|gpt-image|chatgpt-4o-latest)|-(transcribe|tts|live)\b")

_MAX_REASONS = 20
_WIRE_ID = re.compile(r"[^\x00-\x1f\x7f\s](?:[^\x00-\x1f\x7f]{0,253}[^\x00-\x1f\x7f\s])?")
_ID_IN_LINE = id_pattern("custom_id")


class _Usage(ChatUsage):
    input_tokens: responses.Count | None = None
    output_tokens: responses.Count | None = None
    input_tokens_details: responses.Details | None = None
    output_tokens_details: responses.Details | None = None


class _Body(msgspec.Struct):
    """A body of any of the three endpoints: each has members that the others lack."""

    model: str | None = None
    status: str | None = None
    choices: list[Choice] | None = None
    output: list[responses.Item] | None = None
    data: msgspec.Raw = RAW
    incomplete_details: responses.Incomplete | None = None
    error: Any = None
    usage: _Usage | None = None


class _Response(msgspec.Struct):
    status_code: int | None = None
    body: _Body | str | None = None


class _Error(msgspec.Struct):
    code: Any = None
    message: Any = None
    type: Any = None


class _Line(msgspec.Struct):
    custom_id: str | None = None
    response: _Response | None = None
    error: _Error | None = None


_LINE = msgspec.json.Decoder(_Line)


class OpenAIProvider(Adapter):
    """See `BatchProvider`."""

    name = "openai"
    keeps_tags = True
    entries_decide = False
    batch_multiplier = "0.5"  # half price: platform.openai.com/docs/guides/batch (read 2026-11)
    cached_is_extra = False

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self.limits = config.limited(LIMITS)
        azure = config.auth_header == "api-key"
        self.endpoints: Sequence[str] = (RESPONSES, CHAT, EMBEDDINGS)
        if azure:  # Azure's own names for the same, learn.microsoft.com/azure/ai-services/openai/how-to/batch
            self.endpoints = (*self.endpoints, "/responses", "/chat/completions", "/embeddings")
        self._names_are_models = not azure  # elsewhere a model's name is the name of a deployment
        # In the path where there are no other parameters; `params` would replace it.
        self._query = f"?api-version={config.api_version}" if config.api_version else ""
        self._params = {"api-version": config.api_version} if config.api_version else {}

    def _connect(self) -> HttpClient:
        key = self._config.key()
        azure = self._config.auth_header == "api-key"
        return self._config.open_client({"api-key": key} if azure else {"Authorization": f"Bearer {key}"})

    def check_model(self, model: str) -> None:
        """See `BatchProvider.check_model`."""
        if self._names_are_models and _NOT_BATCHABLE.search(model):
            raise InvalidInput(f"model {model!r} cannot be used in batches")

    def is_wire_id(self, custom_id: str) -> bool:
        """See `BatchProvider.is_wire_id`: 1 to 255 characters, no control characters, no blank at either end."""
        return _WIRE_ID.fullmatch(custom_id) is not None

    def render(self, request: NeutralRequest, *, model: str, endpoint: str, wire_id: str) -> bytes:
        """See `BatchProvider.render`."""
        if request.native_body is not None and request.model is None:
            raise InvalidInput("native body: model is missing")
        body = splice(request, lambda: self._body(request, model, endpoint))
        custom_id, url = msgspec.json.encode(wire_id), msgspec.json.encode(endpoint)
        return b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}' % (custom_id, url, body)

    def _body(self, request: NeutralRequest, model: str, endpoint: str) -> dict[str, Any]:
        if endpoint.endswith("/chat/completions"):
            return chat_body(request, model)
        if endpoint.endswith("/responses"):
            return responses.responses_body(request, model)
        refuse(
            request,
            ("messages", "system", "max_output_tokens", "temperature", "response_schema", "tools"),
            f"{endpoint} takes a prompt and provider_options only",
        )
        return {"model": model, "input": request.prompt}

    def upload(self, lines: RequestLines, *, tag: str) -> str | None:
        """See `BatchProvider.upload`."""
        answer = self._client.upload_multipart(
            f"/files{self._query}",
            fields={"purpose": "batch"},
            file_name=f"{tag}.jsonl",
            content_type="application/jsonl",
            content=joined(lines, b"\n", end=b"\n"),
            length=lines.total_bytes + lines.count,
        )
        return required_id(answer.body, "id", what="POST /files")

    def find_upload(self, *, tag: str) -> str | None:
        """See `BatchProvider.find_upload`."""
        for page in self._pages("/files", {"purpose": "batch", "order": "desc", "limit": 1_000}):
            for file in objects(page.get("data")):
                if file.get("filename") == f"{tag}.jsonl":
                    return text_of(file.get("id"))
        return None

    def create(self, lines: RequestLines, *, tag: str, file_id: str | None, model: str, endpoint: str) -> Created:
        """See `BatchProvider.create`."""
        asked = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": "24h",  # the only one there is
            "metadata": {TAG_KEY: tag},
        }
        answer = self._client.request_json("POST", f"/batches{self._query}", json=asked)
        batch_id = required_id(answer.body, "id", what="POST /batches")
        return Created(provider_batch_id=batch_id, refs={"input_file_id": file_id})

    def _pages_of_batches(self) -> Iterator[list[Candidate]]:
        for page in self._pages("/batches", {"limit": 100}):
            yield [_candidate(batch) for batch in objects(page.get("data")) if text_of(batch.get("id"))]

    def status(self, provider_batch_id: str) -> ProviderStatus:
        """See `BatchProvider.status`."""
        return read_status(self._client.request_json("GET", f"/batches/{provider_batch_id}{self._query}").body)

    def cancel(self, provider_batch_id: str) -> ProviderStatus | None:
        """See `BatchProvider.cancel`."""
        path = f"/batches/{provider_batch_id}/cancel{self._query}"
        return cancel(
            lambda: self._client.request_json("POST", path, blank_ok=True),
            lambda: self.status(provider_batch_id),
            read_status,
        )

    def results(self, provider_batch_id: str, refs: Mapping[str, Any]) -> Iterator[ResultSource]:
        """See `BatchProvider.results`. The file of errors comes second; either may be missing."""
        for name, ref in (("output", "output_file_id"), ("errors", "error_file_id")):
            if file_id := text_of(refs.get(ref)):
                yield ResultSource(name=name, chunks=self._content(file_id))

    def _content(self, file_id: str) -> Iterator[bytes]:
        """Yield a file's bytes; the connection is made when the first are asked for."""
        with self._client.download(
            "GET",
            f"/files/{file_id}/content{self._query}",
            deadline=self._config.download_deadline,
            max_bytes=self._config.max_download_bytes,
        ) as download:
            yield from download

    def read_entry(self, line: bytes) -> Entry:
        """See `BatchProvider.read_entry`."""
        found = decode(_LINE, line, _ID_IN_LINE)
        entry = Entry(wire_id=found.custom_id)
        response = found.response
        status = 200 if response is None or response.status_code is None else response.status_code
        body = response.body if response is not None else None
        if response is None or not 200 <= status <= 299:
            _read_failure(entry, found, body, None if response is None else response.status_code)
        elif isinstance(body, _Body):
            _read_body(entry, body)
        return savable(entry, line)

    def clean_up(self, provider_batch_id: str | None, refs: Mapping[str, Any], *, file_id: str | None) -> None:
        """See `BatchProvider.clean_up`."""
        if found := text_of(file_id) or text_of(refs.get("input_file_id")):
            delete_quietly(self._client, f"/files/{found}{self._query}")

    def check_access(self) -> None:
        """See `BatchProvider.check_access`."""
        self._client.request_json("GET", "/batches", params={"limit": 1, **self._params})

    def _pages(self, path: str, params: Mapping[str, str | int]) -> Iterator[dict[str, Any]]:
        def next_cursor(body: Mapping[str, Any]) -> str | None:
            data = objects(body.get("data"))
            last = text_of(body.get("last_id")) or (text_of(data[-1].get("id")) if data else None)
            return last if body.get("has_more") is True else None

        return pages(self._client, path, params={**params, **self._params}, cursor="after", next_cursor=next_cursor)


def read_status(body: Mapping[str, Any]) -> ProviderStatus:
    """Return the status that a batch object tells."""
    raw = text_of(body.get("status"))
    status = STATUSES.get(raw or "")
    errors = body.get("errors")
    reasons = objects(errors.get("data")) if isinstance(errors, dict) else []
    names = ("input_file_id", "output_file_id", "error_file_id")
    return ProviderStatus(
        status=status or BatchStatus.IN_PROGRESS,
        raw=raw,
        known=status is not None,
        counts=_counts(body),
        reason=_reason(reasons),
        over_quota=status is BatchStatus.FAILED and any(error.get("code") == OVER_QUOTA for error in reasons),
        refs={name: body[name] for name in names if text_of(body.get(name))},
    )


def _candidate(batch: Mapping[str, Any]) -> Candidate:
    metadata = batch.get("metadata")
    status = STATUSES.get(str(batch.get("status")))
    return Candidate(
        provider_batch_id=batch["id"],
        tag=text_of(metadata.get(TAG_KEY)) if isinstance(metadata, dict) else None,
        created_at=time_of(batch.get("created_at")),
        requests=_counts(batch).total or None,
        ended=status is not None and status.is_terminal,
    )


def _counts(body: Mapping[str, Any]) -> Counts:
    counts = body.get("request_counts")
    if not isinstance(counts, dict):
        return Counts()
    total, done, failed = (count_of(counts.get(name)) for name in ("total", "completed", "failed"))
    pending = None if total is None else max(0, total - (done or 0) - (failed or 0))
    return Counts(total=total, succeeded=done, failed=failed, pending=pending)


def _reason(errors: list[dict[str, Any]]) -> str | None:
    """Return every reason with its line and code, as far as 1,000 characters go."""
    texts = []
    for error in errors[:_MAX_REASONS]:
        line = count_of(error.get("line"))
        code, message = text_of(error.get("code")), text_of(error.get("message"))
        place = f"line {line}: " if line is not None else ""
        texts.append(place + " ".join(part for part in (message, f"({code})" if code else None) if part))
    if len(errors) > _MAX_REASONS:
        texts.append(f"and {len(errors) - _MAX_REASONS} more")
    return one_line("; ".join(filter(None, texts))) or None


def _read_failure(entry: Entry, found: _Line, body: _Body | str | None, http_status: int | None) -> None:
    """Say why: the line's own error, else the one in the response's body."""
    default = f"OpenAI batch entry failed (status: {http_status or 'unknown'})"
    if found.error is not None and (found.error.message or found.error.code):
        error = found.error
    elif isinstance(body, _Body) and isinstance(body.error, dict):
        error = _Error(body.error.get("code"), body.error.get("message"), body.error.get("type"))
    else:
        error = _Error(message=body if isinstance(body, str) else None)
    entry.error = entry_error(error.message, default=default, kind=error.type, code=error.code, http_status=http_status)


def _read_body(entry: Entry, body: _Body) -> None:
    entry.model = body.model
    if body.usage is not None:
        entry.usage = chat_usage(body.usage, reasoning_is_extra=False) or responses.responses_usage(
            body.usage.input_tokens,
            body.usage.output_tokens,
            body.usage.input_tokens_details,
            body.usage.output_tokens_details,
        )
    if body.choices is not None:
        read_choices(entry, body.choices)
    elif body.output is not None:
        entry.finish_reason = responses.finish_reason(body.status, body.incomplete_details)
        if body.status == "failed" and isinstance(body.error, dict):
            entry.error = entry_error(
                body.error.get("message"), default="the response failed", code=body.error.get("code")
            )
        else:
            responses.read_items(entry, body.output)
    elif body.data:
        entry.output = bytes(body.data).decode()

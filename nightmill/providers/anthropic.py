"""Anthropic's Message Batches."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from nightmill.completions.neutral import TextPart
from nightmill.contracts import BatchStatus, Counts, ErrorCode
from nightmill.errors import InvalidInput
from nightmill.providers.base import Candidate, Created, Entry, Limits, ProviderStatus, ResultSource, Usage
from nightmill.providers.chat import single_prompt
from nightmill.providers.config import Adapter
from nightmill.providers.entries import RAW, Count, ToolCall, decode, entry_error, id_pattern, savable, tool_calls_json
from nightmill.providers.wire import (
    cancel,
    count_of,
    image_data,
    joined,
    objects,
    pages,
    required_id,
    splice,
    text_of,
    time_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nightmill.completions.neutral import ImagePart, Message, NeutralRequest
    from nightmill.providers.base import RequestLines
    from nightmill.providers.config import ProviderConfig
    from nightmill.web.client import HttpClient

# 100,000 requests or 256 MB, whichever comes first; 24 hours; any mix of models:
# docs.claude.com/en/docs/build-with-claude/batch-processing (read 2026-11).
LIMITS = Limits(
    max_requests=100_000,
    max_bytes=256_000_000,
    max_request_bytes=256_000_000,
    expires_after=timedelta(hours=24),
    mixed_models=True,
)

API_VERSION = "2023-06-01"

DEFAULT_MAX_TOKENS = 4_096
"""`max_tokens` is required; every model takes this much, and a smaller default would cut off ordinary answers."""

STATUSES: Mapping[str, BatchStatus] = {
    "in_progress": BatchStatus.IN_PROGRESS,
    "canceling": BatchStatus.CANCELING,
    "ended": BatchStatus.ENDED,  # also after a cancel and after 24 hours: the types of the entries tell
}

_BATCHES = "/v1/messages/batches"
_BEGIN, _SEPARATOR, _END = b'{"requests":[', b",", b"]}"
_WIRE_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ID_IN_LINE = id_pattern("custom_id")


class _Block(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = RAW


class _Usage(msgspec.Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None


class _Message(msgspec.Struct):
    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Result(msgspec.Struct):
    type: str | None = None
    message: _Message | None = None
    error: Any = None


class _Line(msgspec.Struct):
    custom_id: str | None = None
    result: _Result | None = None


_LINE = msgspec.json.Decoder(_Line)


class AnthropicProvider(Adapter):
    """See `BatchProvider`."""

    name = "anthropic"
    keeps_tags = False
    entries_decide = True
    batch_multiplier = "0.5"  # half price, on top of the cache's prices (same page as the limits)
    cached_is_extra = True

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self.limits = config.limited(LIMITS)
        self.endpoints: Sequence[str] = ()

    def _connect(self) -> HttpClient:
        return self._config.open_client(
            {"x-api-key": self._config.key()},
            base_url=self._config.base_url.rstrip("/").removesuffix("/v1"),
            headers={"anthropic-version": API_VERSION},
        )

    def check_model(self, model: str) -> None:
        """See `BatchProvider.check_model`: all active models can be batched."""

    def is_wire_id(self, custom_id: str) -> bool:
        """See `BatchProvider.is_wire_id`: 1 to 64 ASCII letters, digits, `_` and `-`."""
        return _WIRE_ID.fullmatch(custom_id) is not None

    def render(self, request: NeutralRequest, *, model: str, endpoint: str, wire_id: str) -> bytes:
        """See `BatchProvider.render`."""
        if request.native_body is not None and request.model is None:
            raise InvalidInput("native params: model is missing")
        params = splice(request, lambda: _params(request, model))
        return b'{"custom_id":"%b","params":%b}' % (wire_id.encode(), params)

    def upload(self, lines: RequestLines, *, tag: str) -> str | None:
        """See `BatchProvider.upload`: the create call carries the requests."""
        return None

    def find_upload(self, *, tag: str) -> str | None:
        """See `BatchProvider.find_upload`."""
        return None

    def create(self, lines: RequestLines, *, tag: str, file_id: str | None, model: str, endpoint: str) -> Created:
        """See `BatchProvider.create`. The provider keeps no tag."""
        separators = max(0, lines.count - 1) * len(_SEPARATOR)
        answer = self._client.stream_upload(
            "POST",
            _BATCHES,
            content=joined(lines, _SEPARATOR, begin=_BEGIN, end=_END),
            length=len(_BEGIN) + lines.total_bytes + separators + len(_END),
            headers={"Content-Type": "application/json"},
        )
        return Created(provider_batch_id=required_id(answer.body, "id", what=f"POST {_BATCHES}"))

    def _pages_of_batches(self) -> Iterator[list[Candidate]]:
        def next_cursor(body: Mapping[str, Any]) -> str | None:
            return text_of(body.get("last_id")) if body.get("has_more") is True else None

        for page in pages(self._client, _BATCHES, params={"limit": 1_000}, cursor="after_id", next_cursor=next_cursor):
            yield [_candidate(batch) for batch in objects(page.get("data")) if text_of(batch.get("id"))]

    def status(self, provider_batch_id: str) -> ProviderStatus:
        """See `BatchProvider.status`."""
        return read_status(self._client.request_json("GET", f"{_BATCHES}/{provider_batch_id}").body)

    def cancel(self, provider_batch_id: str) -> ProviderStatus | None:
        """See `BatchProvider.cancel`."""
        return cancel(
            lambda: self._client.request_json("POST", f"{_BATCHES}/{provider_batch_id}/cancel", blank_ok=True),
            lambda: self.status(provider_batch_id),
            read_status,
        )

    def results(self, provider_batch_id: str, refs: Mapping[str, Any]) -> Iterator[ResultSource]:
        """See `BatchProvider.results`. `ForeignHost` if they are elsewhere: the key would travel along."""
        if url := text_of(refs.get("results_url")):
            yield ResultSource(name="results", chunks=self._content(url))

    def _content(self, url: str) -> Iterator[bytes]:
        """Yield the results' bytes; the connection is made when the first are asked for."""
        with self._client.download(
            "GET", url, deadline=self._config.download_deadline, max_bytes=self._config.max_download_bytes
        ) as download:
            yield from download

    def read_entry(self, line: bytes) -> Entry:
        """See `BatchProvider.read_entry`."""
        found = decode(_LINE, line, _ID_IN_LINE)
        entry = Entry(wire_id=found.custom_id)
        result = found.result or _Result()
        if result.type == "succeeded" and result.message is not None:
            _read_message(entry, result.message)
        elif result.type in ("canceled", "expired"):
            entry.error = entry_error(None, default=f"Anthropic batch entry {result.type}")
            entry.error.code = ErrorCode(result.type)
            entry.error.retryable = result.type == "expired"
        else:
            outer = result.error if isinstance(result.error, dict) else {}
            # On the wire the error is an envelope around the error; some servers send it flat.
            inner = outer["error"] if isinstance(outer.get("error"), dict) else outer
            kind = f"Anthropic batch entry {result.type or 'without a type'}"
            entry.error = entry_error(inner.get("message"), default=kind, kind=inner.get("type"))
        return savable(entry, line)

    def clean_up(self, provider_batch_id: str | None, refs: Mapping[str, Any], *, file_id: str | None) -> None:
        """See `BatchProvider.clean_up`: nothing was uploaded as a file."""

    def check_access(self) -> None:
        """See `BatchProvider.check_access`."""
        self._client.request_json("GET", _BATCHES, params={"limit": 1})


def read_status(body: Mapping[str, Any]) -> ProviderStatus:
    """Return the status that a batch object tells."""
    raw = text_of(body.get("processing_status"))
    status = STATUSES.get(raw or "")
    url = text_of(body.get("results_url"))
    return ProviderStatus(
        status=status or BatchStatus.IN_PROGRESS,
        raw=raw,
        known=status is not None,
        counts=_counts(body),
        refs={"results_url": url} if url else {},
    )


def _candidate(batch: Mapping[str, Any]) -> Candidate:
    return Candidate(
        provider_batch_id=batch["id"],
        created_at=time_of(batch.get("created_at")),
        requests=_counts(batch).total,
        ended=batch.get("processing_status") == "ended",
    )


def _counts(body: Mapping[str, Any]) -> Counts:
    """Return the counts; until the end all requests are `processing`, and the sum is always the total."""
    counts = body.get("request_counts")
    if not isinstance(counts, dict):
        return Counts()
    names = ("processing", "succeeded", "errored", "canceled", "expired")
    pending, succeeded, failed, canceled, expired = (count_of(counts.get(name)) for name in names)
    total = sum(count or 0 for count in (pending, succeeded, failed, canceled, expired))
    return Counts(total=total, succeeded=succeeded, failed=failed, canceled=canceled, expired=expired, pending=pending)


def _params(request: NeutralRequest, model: str) -> dict[str, Any]:
    system = [request.system] if request.system is not None else []
    turns: list[dict[str, Any]] = []
    for message in request.messages:
        if message.role in ("system", "developer"):  # Anthropic knows no such turn
            system.append(_plain_text(message))
        elif isinstance(message.content, str):
            turns.append({"role": message.role, "content": message.content})
        else:
            turns.append({"role": message.role, "content": [_part(part) for part in message.content]})
    if request.prompt is not None:
        turns.append({"role": "user", "content": single_prompt(request)})
    params: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_output_tokens or DEFAULT_MAX_TOKENS,
        "messages": turns,
    }
    if system:
        params["system"] = "\n\n".join(system)
    if request.temperature is not None:
        params["temperature"] = request.temperature
    if request.response_schema is not None:
        params["output_config"] = {"format": {"type": "json_schema", "schema": request.response_schema}}
    if request.tools:
        params["tools"] = [
            {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "input_schema": tool.parameters,
            }
            for tool in request.tools
        ]
    return params


def _plain_text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    if not all(isinstance(part, TextPart) for part in message.content):
        raise InvalidInput(f"messages: a {message.role} message takes text only")
    return "\n".join(part.text for part in message.content if isinstance(part, TextPart))


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    data = image_data(part.image_url.url)
    if data is None:
        return {"type": "image", "source": {"type": "url", "url": part.image_url.url}}
    return {"type": "image", "source": {"type": "base64", "media_type": data[0], "data": data[1]}}


def _read_message(entry: Entry, message: _Message) -> None:
    entry.model = message.model
    entry.finish_reason = message.stop_reason
    blocks = message.content or []
    texts = [block.text for block in blocks if block.type == "text" and block.text is not None]
    entry.text = "".join(texts) if texts else None  # citations cut one text into several blocks
    calls = [ToolCall(block.id, block.name, block.input or None) for block in blocks if block.type == "tool_use"]
    if calls:
        entry.tool_calls = tool_calls_json(calls)
    usage = message.usage
    if usage is not None and (usage.input_tokens is not None or usage.output_tokens is not None):
        entry.usage = Usage(
            input=usage.input_tokens or 0,
            output=usage.output_tokens or 0,
            cached=usage.cache_read_input_tokens or 0,
            cache_write=usage.cache_creation_input_tokens or 0,
        )

"""xAI's Batch API. It has no status word: a batch's counts and a few other fields tell how it stands."""

from __future__ import annotations

import contextlib
import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from nightmill.contracts import BatchStatus, Counts
from nightmill.errors import InvalidInput, ProviderUnavailable
from nightmill.providers.arrays import ArraySplitter
from nightmill.providers.base import Candidate, Created, Entry, Limits, ProviderStatus, ResultSource
from nightmill.providers.chat import ChatUsage, Choice, chat_body, chat_usage, read_choices
from nightmill.providers.config import Adapter
from nightmill.providers.entries import decode, id_pattern, one_line, rpc_error, savable
from nightmill.providers.wire import (
    cancel,
    count_of,
    delete_quietly,
    joined,
    objects,
    pages,
    required_id,
    splice,
    text_of,
    time_of,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from nightmill.completions.neutral import NeutralRequest
    from nightmill.providers.base import RequestLines
    from nightmill.providers.config import ProviderConfig
    from nightmill.web.client import HttpClient

CHAT = "/v1/chat/completions"

# 100,000 requests: what older versions of docs.x.ai/docs/guides/batch-api call very large (newer: 1,000,000, perhaps
# throttled). 512 MB a file: the SDK's files service. 24 hours: "most batches complete within" (read 2026-11).
LIMITS = Limits(
    max_requests=100_000,
    max_bytes=512_000_000,
    max_request_bytes=512_000_000,
    expires_after=timedelta(hours=24),
    mixed_models=True,
)

RESULTS_PAGE = 1_000
"""Entries in a page of results: the most that it gives."""

WHOLE_PAGE_BYTES = 16 * 1024 * 1024
"""A page up to this is decoded at once, at an eighth of the cost of following its brackets."""

# Refused in batches: 98 of 98 attempts failed (read 2026-11).
_NOT_BATCHABLE = re.compile(r"^grok-4\.5(-|$)|image|imagine")
_WIRE_ID = re.compile(r"[A-Za-z0-9_.:/@+-]{1,255}")
_ID_IN_LINE = id_pattern("batch_request_id")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class _Chat(msgspec.Struct):
    model: str | None = None
    choices: list[Choice] | None = None
    usage: ChatUsage | None = None


class _Response(msgspec.Struct):
    chat_get_completion: _Chat | None = None


class _Error(msgspec.Struct):
    code: Any = None
    message: Any = None


class _Result(msgspec.Struct):
    response: _Response | None = None
    error: _Error | str | None = None


class _Line(msgspec.Struct):
    batch_request_id: str | None = None
    batch_result: _Result | None = None
    error: Any = None
    error_message: Any = None


class _Page(msgspec.Struct):
    results: list[msgspec.Raw]
    pagination_token: str | None = None


_LINE = msgspec.json.Decoder(_Line)
_PAGE = msgspec.json.Decoder(_Page)


class XaiProvider(Adapter):
    """See `BatchProvider`."""

    name = "xai"
    keeps_tags = True
    entries_decide = False
    batch_multiplier = "0.5"  # docs.x.ai/docs/models once said half price; today "reduced" (read 2026-11)
    cached_is_extra = False

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self.limits = config.limited(LIMITS)
        self.endpoints: Sequence[str] = (CHAT,)

    def _connect(self) -> HttpClient:
        return self._config.open_client({"Authorization": f"Bearer {self._config.key()}"})

    def check_model(self, model: str) -> None:
        """See `BatchProvider.check_model`."""
        if _NOT_BATCHABLE.search(model):
            raise InvalidInput(f"model {model!r} cannot be used in batches")

    def is_wire_id(self, custom_id: str) -> bool:
        """See `BatchProvider.is_wire_id`: up to 255 letters, digits and `_.:/@+-`; it documents no rule."""
        return _WIRE_ID.fullmatch(custom_id) is not None

    def render(self, request: NeutralRequest, *, model: str, endpoint: str, wire_id: str) -> bytes:
        """See `BatchProvider.render`. Bodies carry no `stream` fields; a native one loses them and nothing else."""
        if request.native_body is not None and request.model is None:
            raise InvalidInput("native body: model is missing")
        body = splice(request, lambda: chat_body(request, model))
        if b'"stream' in body:
            fields = msgspec.json.decode(body)
            if fields.keys() & {"stream", "stream_options"}:
                body = msgspec.json.encode({k: v for k, v in fields.items() if k not in ("stream", "stream_options")})
        return b'{"custom_id":"%b","method":"POST","url":"%b","body":%b}' % (wire_id.encode(), endpoint.encode(), body)

    def upload(self, lines: RequestLines, *, tag: str) -> str | None:
        """See `BatchProvider.upload`."""
        answer = self._client.upload_multipart(
            "/files",
            fields={},
            file_name=f"{tag}.jsonl",
            content_type="application/jsonl",
            content=joined(lines, b"\n", end=b"\n"),
            length=lines.total_bytes + lines.count,
        )
        return required_id(answer.body, "id", "file_id", what="POST /files")

    def find_upload(self, *, tag: str) -> str | None:
        """See `BatchProvider.find_upload`."""
        for page in self._pages("/files"):
            for file in objects(page.get("data")) or objects(page.get("files")):
                if file.get("filename") == f"{tag}.jsonl":
                    return text_of(file.get("id")) or text_of(file.get("file_id"))
        return None

    def create(self, lines: RequestLines, *, tag: str, file_id: str | None, model: str, endpoint: str) -> Created:
        """See `BatchProvider.create`."""
        answer = self._client.request_json("POST", "/batches", json={"name": tag, "input_file_id": file_id})
        batch_id = required_id(answer.body, "batch_id", "id", what="POST /batches")
        return Created(provider_batch_id=batch_id, refs={"input_file_id": file_id})

    def _pages_of_batches(self) -> Iterator[list[Candidate]]:
        for page in self._pages("/batches"):
            batches = objects(page.get("batches")) or objects(page.get("data"))
            yield [_candidate(batch, name) for batch in batches if (name := _id_of(batch))]

    def status(self, provider_batch_id: str) -> ProviderStatus:
        """See `BatchProvider.status`."""
        return read_status(self._client.request_json("GET", f"/batches/{provider_batch_id}").body)

    def cancel(self, provider_batch_id: str) -> ProviderStatus | None:
        """See `BatchProvider.cancel`. The answer is final: what was pending counts as canceled at once."""
        return cancel(
            lambda: self._client.request_json("POST", f"/batches/{provider_batch_id}:cancel", blank_ok=True),
            lambda: self.status(provider_batch_id),
            lambda body: read_status(body, cancel_ack=True),
        )

    def results(self, provider_batch_id: str, refs: Mapping[str, Any]) -> Iterator[ResultSource]:
        """See `BatchProvider.results`."""
        yield ResultSource(name="results", chunks=self._entries(f"/batches/{provider_batch_id}/results"))

    def _entries(self, path: str) -> Iterator[bytes]:
        """Yield the entries of all pages.

        Raises:
            ProviderUnavailable: A page's token comes a second time, which would make the list endless.
        """
        seen: set[str] = set()
        params: dict[str, str | int] = {"limit": RESULTS_PAGE}
        while True:
            with self._client.download(
                "GET",
                path,
                params=params,
                deadline=self._config.download_deadline,
                max_bytes=self._config.max_download_bytes,
            ) as download:
                token = text_of((yield from _read_page(download)))
            if token is None:
                return
            if token in seen:
                raise ProviderUnavailable(f"GET {path}: the list repeats the page after {token[:60]!r}")
            seen.add(token)
            params["pagination_token"] = token

    def read_entry(self, line: bytes) -> Entry:
        """See `BatchProvider.read_entry`."""
        found = decode(_LINE, line, _ID_IN_LINE)
        entry = Entry(wire_id=found.batch_request_id)
        result = found.batch_result or _Result()
        chat = result.response.chat_get_completion if result.response is not None else None
        if chat is not None:
            entry.model = chat.model
            entry.usage = chat_usage(chat.usage, reasoning_is_extra=True)
            read_choices(entry, chat.choices or [])
        else:
            _read_failure(entry, found, result)
        return savable(entry, line)

    def clean_up(self, provider_batch_id: str | None, refs: Mapping[str, Any], *, file_id: str | None) -> None:
        """See `BatchProvider.clean_up`."""
        if found := text_of(file_id) or text_of(refs.get("input_file_id")):
            delete_quietly(self._client, f"/files/{found}")

    def check_access(self) -> None:
        """See `BatchProvider.check_access`."""
        self._client.request_json("GET", "/batches", params={"limit": 1})

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        return pages(
            self._client,
            path,
            params={"limit": 100},
            cursor="pagination_token",
            next_cursor=lambda body: text_of(body.get("pagination_token")),
        )


def _read_page(chunks: Iterator[bytes]) -> Generator[bytes, None, str | None]:
    """Yield the entries of a page, one a line, and return the token of the next page."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size > WHOLE_PAGE_BYTES:
            break
    else:
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):
            page = _PAGE.decode(b"".join(held))
            lines = b"\n".join([bytes(entry).replace(b"\n", b" ") for entry in page.results])
            yield lines + b"\n"
            return page.pagination_token
    # Too large to be held, or one entry is poisoned, which must not cost the others.
    splitter = ArraySplitter("results")
    yield from splitter.split(itertools.chain(held, chunks))
    token = splitter.rest().get("pagination_token")
    return token if isinstance(token, str) else None


def read_status(body: Any, *, cancel_ack: bool = False, now: datetime | None = None) -> ProviderStatus:
    """Derive the status of a batch object.

    The order matters: a rejected batch has counts of zero like one whose file is not parsed yet, and a canceled one
    keeps pending requests for a while.

    Args:
        body: The batch object.
        cancel_ack: It is the answer to a cancel.
        now: The present; None: the clock's.
    """
    if not isinstance(body, dict):
        return ProviderStatus(status=BatchStatus.IN_PROGRESS, raw=None)
    state = body.get("state")
    counts = state if isinstance(state, dict) else {}
    names = ("num_requests", "num_success", "num_error", "num_cancelled", "num_pending")
    total, succeeded, failed, canceled, pending = (count_of(counts.get(name)) for name in names)
    rejected = text_of(body.get("cancel_by_xai_message"))
    expires = _end_of(body.get("expire_time"))
    if rejected:
        status = BatchStatus.FAILED
    elif text_of(body.get("cancel_time")):
        status = BatchStatus.CANCELED
    elif expires is not None and expires <= (now or datetime.now(UTC)) and (pending or 0) > 0:
        status = BatchStatus.EXPIRED
    elif pending is None or pending > 0:
        status = BatchStatus.IN_PROGRESS
    elif cancel_ack:
        status = BatchStatus.CANCELED
    elif not total:
        status = BatchStatus.IN_PROGRESS  # the file is not parsed yet
    elif canceled:
        status = BatchStatus.CANCELED
    else:
        status = BatchStatus.ENDED
    file_id = text_of(body.get("input_file_id"))
    return ProviderStatus(
        status=status,
        raw=str(status),
        counts=Counts(total=total, succeeded=succeeded, failed=failed, canceled=canceled, pending=pending),
        reason=one_line(rejected) if rejected else None,
        refs={"input_file_id": file_id} if file_id else {},
    )


def _id_of(batch: Mapping[str, Any]) -> str | None:
    return text_of(batch.get("batch_id")) or text_of(batch.get("id"))


def _candidate(batch: Mapping[str, Any], batch_id: str) -> Candidate:
    status = read_status(batch)
    return Candidate(
        provider_batch_id=batch_id,
        tag=text_of(batch.get("name")),
        created_at=time_of(batch.get("create_time")),
        requests=status.counts.total or None,
        ended=status.status.is_terminal,
    )


def _end_of(value: Any) -> datetime | None:
    """Return when a time is over; a bare date, as REST gives it, is over at the end of that day, UTC."""
    time = time_of(value)
    if time is not None and isinstance(value, str) and _DATE.fullmatch(value):
        return time + timedelta(days=1)
    return time


def _read_failure(entry: Entry, found: _Line, result: _Result) -> None:
    error = result.error
    if isinstance(error, str):
        error = _Error(message=error)
    elif error is None and isinstance(found.error, dict):
        error = _Error(found.error.get("code"), found.error.get("message"))
    elif error is None:
        error = _Error(message=found.error)
    message = error.message if text_of(error.message) else found.error_message
    code = error.code if error.code != 0 else None  # 0 means success, yet there is no completion
    entry.error = rpc_error(message, default="xAI batch entry without a completion", code=code)

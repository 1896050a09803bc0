"""Gemini's Batch API (the Developer API, not Vertex), inline and by file."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nightmill.contracts import BatchStatus, Counts
from nightmill.errors import AccessDenied, AnswerLost
from nightmill.providers.arrays import ArraySplitter
from nightmill.providers.base import Candidate, Created, Entry, Limits, ProviderStatus, ResultSource
from nightmill.providers.config import Adapter
from nightmill.providers.entries import one_line
from nightmill.providers.gemini import generate_content_body, read_gemini_entry
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
    from collections.abc import Iterator, Mapping, Sequence

    from nightmill.completions.neutral import NeutralRequest
    from nightmill.providers.base import RequestLines
    from nightmill.providers.config import ProviderConfig
    from nightmill.web.client import HttpClient

# 2 GB an uploaded file, 48 hours, one model: ai.google.dev/gemini-api/docs/batch-api (read 2026-11). It names no number
# of requests; 200,000 is what Vertex takes for the same models.
LIMITS = Limits(
    max_requests=200_000,
    max_bytes=2_000_000_000,
    max_request_bytes=2_000_000_000,
    expires_after=timedelta(hours=48),
)

INLINE_BYTES = 20_000_000
"""A create call below this carries the requests itself (same page: "under 20 MB"); others upload a file first."""

STATUS_DEADLINE = timedelta(seconds=100)
"""For one look at a batch: an inline one comes with all its results, and a poll may take two minutes in all."""

# REST says BATCH_STATE_…, the SDKs JOB_STATE_….
STATES: Mapping[str, BatchStatus] = {
    "UNSPECIFIED": BatchStatus.IN_PROGRESS,
    "PENDING": BatchStatus.IN_PROGRESS,
    "QUEUED": BatchStatus.IN_PROGRESS,
    "RUNNING": BatchStatus.IN_PROGRESS,
    "PROCESSING": BatchStatus.IN_PROGRESS,
    "PAUSED": BatchStatus.IN_PROGRESS,
    "UPDATING": BatchStatus.IN_PROGRESS,
    "CANCELLING": BatchStatus.CANCELING,
    "SUCCEEDED": BatchStatus.ENDED,
    "PARTIALLY_SUCCEEDED": BatchStatus.ENDED,
    "FAILED": BatchStatus.FAILED,
    "CANCELLED": BatchStatus.CANCELED,
    "EXPIRED": BatchStatus.EXPIRED,
}

_API = "/v1beta"
# A stored line is {"key":"K","request":R}, as a file holds it; inline it becomes {"request":R,"metadata":{"key":"K"}}.
# Keys are of characters that JSON never escapes, so the first `","request":` ends the key and nothing need be parsed.
_LINE_BEGIN, _LINE_MIDDLE, _LINE_END = b'{"key":"', b'","request":', b"}"
_ITEM_BEGIN, _ITEM_MIDDLE, _ITEM_END = b'{"request":', b',"metadata":{"key":"', b'"}}'
_ITEM_GROWTH = sum(map(len, (_ITEM_BEGIN, _ITEM_MIDDLE, _ITEM_END))) - sum(
    map(len, (_LINE_BEGIN, _LINE_MIDDLE, _LINE_END))
)
_WIRE_ID = re.compile(r"[A-Za-z0-9_.:/@+-]{1,255}")
_ARRAYS = ("inlinedResponses", "inlined_responses")


class GoogleProvider(Adapter):
    """See `BatchProvider`."""

    name = "google"
    keeps_tags = True
    entries_decide = False
    batch_multiplier = "0.5"  # half price: ai.google.dev/gemini-api/docs/batch-api (read 2026-11)
    cached_is_extra = False

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self.limits = config.limited(LIMITS)
        self.endpoints: Sequence[str] = ()

    def _connect(self) -> HttpClient:
        base = self._config.base_url.rstrip("/").removesuffix("/v1beta").removesuffix("/v1")
        return self._config.open_client({"x-goog-api-key": self._config.key()}, base_url=base)

    def check_model(self, model: str) -> None:
        """See `BatchProvider.check_model`: the provider publishes no list of exceptions."""

    def is_wire_id(self, custom_id: str) -> bool:
        """See `BatchProvider.is_wire_id`: up to 255 letters, digits and `_.:/@+-`, which JSON never escapes."""
        return _WIRE_ID.fullmatch(custom_id) is not None

    def render(self, request: NeutralRequest, *, model: str, endpoint: str, wire_id: str) -> bytes:
        """See `BatchProvider.render`."""
        body = splice(request, lambda: generate_content_body(request))
        return b"".join((_LINE_BEGIN, wire_id.encode(), _LINE_MIDDLE, body, _LINE_END))

    def upload(self, lines: RequestLines, *, tag: str) -> str | None:
        """See `BatchProvider.upload`: None for what is small enough to be sent inline."""
        if self._inline_length(lines, tag) < INLINE_BYTES:
            return None
        length = lines.total_bytes + lines.count
        started = self._client.request_json(
            "POST",
            f"/upload{_API}/files",
            json={"file": {"display_name": tag}},
            headers={
                "X-Goog-Upload-Protocol": "resumable",
                "X-Goog-Upload-Command": "start",
                "X-Goog-Upload-Header-Content-Length": str(length),
                "X-Goog-Upload-Header-Content-Type": "application/jsonl",
            },
            blank_ok=True,
        )
        url = started.headers.get("x-goog-upload-url")
        if not url:
            raise AnswerLost("POST /upload/v1beta/files: the answer has no X-Goog-Upload-URL")
        answer = self._client.stream_upload(
            "POST",
            url,
            content=joined(lines, b"\n", end=b"\n"),
            length=length,
            headers={"X-Goog-Upload-Offset": "0", "X-Goog-Upload-Command": "upload, finalize"},
        )
        file = answer.body.get("file")
        return required_id(file if isinstance(file, dict) else {}, "name", what="upload of a file")

    def find_upload(self, *, tag: str) -> str | None:
        """See `BatchProvider.find_upload`."""
        for page in self._pages(f"{_API}/files"):
            for file in objects(page.get("files")):
                if file.get("displayName") == tag and file.get("state") != "FAILED":
                    return text_of(file.get("name"))
        return None

    def create(self, lines: RequestLines, *, tag: str, file_id: str | None, model: str, endpoint: str) -> Created:
        """See `BatchProvider.create`."""
        path = f"{_API}/models/{quote(model.removeprefix('models/'), safe='')}:batchGenerateContent"
        if file_id is not None:
            asked = {"batch": {"display_name": tag, "input_config": {"file_name": file_id}}}
            answer = self._client.request_json("POST", path, json=asked)
        else:
            begin, end = _envelope(tag)
            answer = self._client.stream_upload(
                "POST",
                path,
                content=joined(map(_as_item, lines), b",", begin=begin, end=end),
                length=self._inline_length(lines, tag),
                headers={"Content-Type": "application/json"},
            )
        name = required_id(answer.body, "name", what=f"POST {path}")
        return Created(provider_batch_id=name.removeprefix("batches/"), refs={"input_file": file_id} if file_id else {})

    @staticmethod
    def _inline_length(lines: RequestLines, tag: str) -> int:
        commas = max(0, lines.count - 1)
        return sum(map(len, _envelope(tag))) + lines.total_bytes + lines.count * _ITEM_GROWTH + commas

    def _pages_of_batches(self) -> Iterator[list[Candidate]]:
        for page in self._pages(f"{_API}/batches"):
            batches = objects(page.get("operations")) or objects(page.get("batches"))
            yield [_candidate(batch) for batch in batches if text_of(batch.get("name"))]

    def status(self, provider_batch_id: str) -> ProviderStatus:
        """See `BatchProvider.status`. Results that come along are read over, not kept."""
        splitter = ArraySplitter(*_ARRAYS)
        with self._client.download(
            "GET",
            f"{_API}/batches/{provider_batch_id}",
            deadline=STATUS_DEADLINE,
            max_bytes=self._config.max_download_bytes,
        ) as download:
            for _ in splitter.split(download):
                pass
        return read_status(splitter.rest(), inline=splitter.elements > 0)

    def cancel(self, provider_batch_id: str) -> ProviderStatus | None:
        """See `BatchProvider.cancel`."""
        return cancel(
            lambda: self._client.request_json("POST", f"{_API}/batches/{provider_batch_id}:cancel", blank_ok=True),
            lambda: self.status(provider_batch_id),
            read_status,
        )

    def results(self, provider_batch_id: str, refs: Mapping[str, Any]) -> Iterator[ResultSource]:
        """See `BatchProvider.results`."""
        if file := text_of(refs.get("responses_file")):
            path = f"/download{_API}/{file}:download"
            yield ResultSource(name="results", chunks=self._content(path, {"alt": "media"}))
        elif refs.get("inline", True):
            chunks = self._content(f"{_API}/batches/{provider_batch_id}", {})
            yield ResultSource(name="results", chunks=_elements(chunks))

    def _content(self, path: str, params: Mapping[str, str]) -> Iterator[bytes]:
        """Yield a body's bytes; the connection is made when the first are asked for."""
        with self._client.download(
            "GET",
            path,
            params=params,
            deadline=self._config.download_deadline,
            max_bytes=self._config.max_download_bytes,
        ) as download:
            yield from download

    def read_entry(self, line: bytes) -> Entry:
        """See `BatchProvider.read_entry`."""
        return read_gemini_entry(line)

    def clean_up(self, provider_batch_id: str | None, refs: Mapping[str, Any], *, file_id: str | None) -> None:
        """See `BatchProvider.clean_up`."""
        if found := text_of(file_id) or text_of(refs.get("input_file")):
            try:
                delete_quietly(self._client, f"{_API}/{found}")
            except AccessDenied as error:
                # 403 is what it says of files that are not there, so as not to tell whose they are.
                if error.http_status != 403:
                    raise

    def check_access(self) -> None:
        """See `BatchProvider.check_access`."""
        self._client.request_json("GET", f"{_API}/batches", params={"pageSize": 1})

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        return pages(
            self._client,
            path,
            params={"pageSize": 100},
            cursor="pageToken",
            next_cursor=lambda body: text_of(body.get("nextPageToken")),
        )


def _envelope(tag: str) -> tuple[bytes, bytes]:
    # The name twice is what the API wants: the field is a message whose only field has the same name.
    begin = b'{"batch":{"display_name":"%b","input_config":{"requests":{"requests":[' % tag.encode()
    return begin, b"]}}}}"


def _as_item(line: bytes) -> bytes:
    key, middle, request = line[len(_LINE_BEGIN) : -len(_LINE_END)].partition(_LINE_MIDDLE)
    if not middle:
        raise ValueError("a stored line is not of this provider")
    return b"".join((_ITEM_BEGIN, request, _ITEM_MIDDLE, key, _ITEM_END))


def _elements(chunks: Iterator[bytes]) -> Iterator[bytes]:
    splitter = ArraySplitter(*_ARRAYS)
    yield from splitter.split(chunks)
    splitter.rest()  # an answer that ends early is no answer


def _metadata(body: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = body.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def read_status(body: Mapping[str, Any], *, inline: bool = False) -> ProviderStatus:
    """Return the status that a batch object (a long-running operation) tells.

    Args:
        body: The object, with or without its inline results.
        inline: Whether results came with it.
    """
    raw = text_of(_metadata(body).get("state")) or text_of(body.get("state"))
    error = body.get("error")
    if raw is not None:
        status = STATES.get(raw.removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_"))
    elif body.get("done") is True:
        status = BatchStatus.FAILED if isinstance(error, dict) else BatchStatus.ENDED
    else:
        status = BatchStatus.IN_PROGRESS
    refs: dict[str, Any] = {"inline": inline}
    if file := _responses_file(body):
        refs["responses_file"] = file
    return ProviderStatus(
        status=status or BatchStatus.IN_PROGRESS,
        raw=raw,
        known=status is not None,
        counts=_counts(body),
        reason=one_line(str(error.get("message") or error.get("status") or "")) or None
        if isinstance(error, dict)
        else None,
        refs=refs,
    )


def _candidate(batch: Mapping[str, Any]) -> Candidate:
    metadata = _metadata(batch)
    return Candidate(
        provider_batch_id=batch["name"].removeprefix("batches/"),
        tag=text_of(metadata.get("displayName")) or text_of(metadata.get("display_name")),
        created_at=time_of(metadata.get("createTime")),
        requests=_counts(batch).total,
        ended=read_status(batch).status.is_terminal,
    )


def _responses_file(body: Mapping[str, Any]) -> str | None:
    for place in (body.get("response"), body.get("dest"), _metadata(body).get("output"), _metadata(body).get("dest")):
        if isinstance(place, dict):
            for name in ("responsesFile", "responses_file", "fileName", "file_name"):
                if file := text_of(place.get(name)):
                    return file
    return None


def _counts(body: Mapping[str, Any]) -> Counts:
    """Return the counts, which come as strings, and of which zeros are left out."""
    metadata = _metadata(body)
    stats = next((s for s in (metadata.get("batchStats"), body.get("batchStats")) if isinstance(s, dict)), None)
    if stats is None:
        return Counts()
    names = ("requestCount", "successfulRequestCount", "failedRequestCount", "pendingRequestCount")
    total, succeeded, failed, pending = (count_of(stats.get(name, 0)) for name in names)
    return Counts(total=total or None, succeeded=succeeded, failed=failed, pending=pending)

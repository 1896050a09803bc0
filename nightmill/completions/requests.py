"""Requests as users give them, checked to the last line and rendered for their provider.

Two ways in, JSON lines and Python objects; one way out, a stream of `StoredRequest`. Whatever is wrong is collected and
raised as one `InvalidInput` at the end, so whoever stores the stream does it in one transaction.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightmill.completions.lines import Problems, split_lines
from nightmill.completions.neutral import GivenRequest, NeutralRequest, decode_line, read_given
from nightmill.completions.planning import ENVELOPE_BYTES, SEPARATOR_BYTES
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from nightmill.providers.base import BatchProvider

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_CUSTOM_ID = 512
"""Longest custom id, in characters; what OpenAI takes for a metadata value, and plenty for a key."""

MADE_ID = "nm_"
"""Begin of the wire ids that we make. Custom ids that begin so are replaced as well, hence the two never collide."""

_NUL = "\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """One request as it is stored.

    Attributes:
        seq: Position in the batch, from 0.
        custom_id: The user's id.
        wire_id: The id as sent to the provider.
        line: The rendered line, without line end.
        response_schema: JSON schema of the answer, as text.
    """

    seq: int
    custom_id: str
    wire_id: str
    line: bytes
    response_schema: str | None = None


class RequestReader:
    """Iterates once over the requests as stored, then raises `InvalidInput` if anything was wrong.

    Memory grows by about 100 bytes a request, for telling duplicates.

    Attributes:
        endpoint: The endpoint of all requests; certain once the iteration is over. Empty where the provider has none.
        count: Requests seen so far, wrong ones included.
    """

    def __init__(
        self,
        lines: Iterator[tuple[str, bytes | str]],
        *,
        provider: BatchProvider,
        model: str,
        endpoint: str | None,
        source: str,
    ) -> None:
        self.endpoint = endpoint or ""
        self.count = 0
        self._lines = lines
        self._provider = provider
        self._model = model
        self._settled = bool(endpoint)  # whether something said which endpoint it is
        self._source = source
        self._problems = Problems()
        self._seen: set[bytes] = set()
        self._models: set[str] = {model}

    def __iter__(self) -> Iterator[StoredRequest]:
        problems = self._problems
        self._check_batch()
        for place, line in self._lines:
            seq = self.count
            self.count += 1
            try:
                stored = self._read(seq, line)
            except InvalidInput as error:
                problems.add(place, str(error))
                continue
            if not problems.count:  # the caller is going to roll back anyway
                yield stored
        if not self.count:
            problems.add(self._source, "no requests")
        problems.raise_any()

    def _check_batch(self) -> None:
        """Check what concerns the whole batch before its first line."""
        try:
            _check_name(self._model)
            self._provider.check_model(self._model)
            if self._settled:
                self._check_endpoint(self.endpoint)
        except InvalidInput as error:
            self._problems.add(self._source, str(error))

    def _read(self, seq: int, line: bytes | str) -> StoredRequest:
        if isinstance(line, str):  # what is wrong with the line as a whole
            raise InvalidInput(line)
        given = decode_line(line)
        custom_id = self._custom_id(given)
        request = read_given(given, custom_id)
        self._settle_endpoint(given, request)
        self._check_model(request.model)
        provider = self._provider
        wire_id = wire_id_of(custom_id, provider)
        rendered = provider.render(request, model=self._model, endpoint=self.endpoint, wire_id=wire_id)
        limits = provider.limits
        most = min(limits.max_request_bytes, limits.max_bytes - ENVELOPE_BYTES - SEPARATOR_BYTES)
        if len(rendered) > most:
            raise InvalidInput(f"the request is {len(rendered):,} bytes; {provider.name} takes at most {most:,}")
        schema = bytes(given.response_schema).decode() if request.response_schema is not None else None
        return StoredRequest(seq=seq, custom_id=custom_id, wire_id=wire_id, line=rendered, response_schema=schema)

    def _custom_id(self, given: GivenRequest) -> str:
        custom_id = given.custom_id if given.custom_id is not None else given.key
        if custom_id is None or not custom_id.strip():
            raise InvalidInput("blank custom_id")
        if len(custom_id) > MAX_CUSTOM_ID:
            raise InvalidInput(
                f"custom_id {custom_id[:40]!r}… is {len(custom_id):,} characters; {MAX_CUSTOM_ID} at most"
            )
        if _NUL in custom_id:
            raise InvalidInput(f"custom_id {custom_id[:80]!r} has a NUL character, which databases cannot store")
        # 120 bits: two ids among a million collide with a chance of 1e-24, and the object takes 48 bytes, not 64.
        digest = hashlib.blake2b(custom_id.encode(), digest_size=15).digest()
        if digest in self._seen:
            raise InvalidInput(f"duplicate custom_id {custom_id[:80]!r}")
        self._seen.add(digest)
        return custom_id

    def _settle_endpoint(self, given: GivenRequest, request: NeutralRequest) -> None:
        """Take the first word on the endpoint and refuse a second one that differs."""
        known = self._provider.endpoints
        said = given.url
        if given.method is not None and given.method.upper() != "POST":
            raise InvalidInput(f"method {given.method[:20]!r}: batches take POST only")
        if said is None and request.native_body is not None and "/v1/chat/completions" in known and not self._settled:
            # A body without an envelope shows what it is for.
            said = "/v1/chat/completions" if request.is_chat else None
        if said is None:
            if not self._settled:
                self.endpoint, self._settled = (known[0] if known else ""), True
            return
        self._check_endpoint(said)
        if self._settled and said != self.endpoint:
            raise InvalidInput(f"url {said!r}: mixed endpoints, the batch is for {self.endpoint!r}")
        self.endpoint, self._settled = said, True

    def _check_endpoint(self, endpoint: str) -> None:
        known = self._provider.endpoints
        if endpoint and endpoint not in known:
            takes = f"takes {', '.join(known)}" if known else "has no choice of endpoints"
            raise InvalidInput(f"endpoint {endpoint[:80]!r}: {self._provider.name} {takes}")

    def _check_model(self, model: str | None) -> None:
        if model is None or model in self._models:
            return
        if not self._provider.limits.mixed_models and model.removeprefix("models/") != self._model:
            raise InvalidInput(f"model {model[:80]!r}: mixed models, the batch is for {self._model!r}")
        self._provider.check_model(model)
        if len(self._models) < 1_000:
            self._models.add(model)


def read_requests(
    chunks: Iterable[bytes], *, provider: BatchProvider, model: str, endpoint: str | None = None, source: str
) -> RequestReader:
    """Read requests from JSON lines.

    A line is provider-neutral, or native: `{custom_id, method, url, body}` (OpenAI's batch line), `{custom_id, body}`,
    `{custom_id, params}` (Anthropic) or `{key, request}` (Gemini). Blank lines are skipped.

    Args:
        chunks: The file's bytes, cut anywhere.
        provider: Renders the lines and knows the limits.
        model: The batch's model.
        endpoint: The batch's endpoint; None: the first native line's `url`, or the provider's default.
        source: Name of the file for messages, such as `requests.jsonl`.
    """
    lines = ((f"{source}:{number}", line) for number, line in split_lines(chunks, limit=MAX_LINE_BYTES))
    return RequestReader(lines, provider=provider, model=model, endpoint=endpoint, source=source)


def read_request_objects(
    requests: Iterable[Mapping[str, Any]],
    *,
    provider: BatchProvider,
    model: str,
    endpoint: str | None = None,
    source: str = "requests",
) -> RequestReader:
    """Read requests from Python objects of the same shapes; see `read_requests`.

    Raises:
        InvalidInput: `requests` is a single string or object, which would be read as one request a character or key.
    """
    if isinstance(requests, str | bytes | Mapping):
        raise InvalidInput(f"{source}: give a list of requests, not a single {type(requests).__name__}")
    lines = ((f"{source}[{index}]", _as_line(request)) for index, request in enumerate(requests))
    return RequestReader(lines, provider=provider, model=model, endpoint=endpoint, source=source)


def wire_id_of(custom_id: str, provider: BatchProvider) -> str:
    """Return the id to send: the custom id itself, or a made one of 46 letters, digits, `_` and `-`.

    The same custom id always gets the same wire id, and different ones get different ones (SHA-256).
    """
    if provider.is_wire_id(custom_id) and not custom_id.startswith(MADE_ID):
        return custom_id
    digest = hashlib.sha256(custom_id.encode()).digest()
    return MADE_ID + urlsafe_b64encode(digest).decode().rstrip("=")


def _check_name(model: str) -> None:
    if _NUL in model or not model.strip():
        raise InvalidInput(f"model {model[:80]!r} is blank or has a NUL character")


def _as_line(request: Any) -> bytes | str:
    """Return the object as a JSON line, or what is wrong with it."""
    if not isinstance(request, Mapping):
        return f"a request is an object, not {type(request).__name__}"
    try:
        # The standard encoder is the strict one: it refuses NaN, which the fast ones turn into null.
        text = json.dumps(dict(request), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        return f"cannot be expressed as JSON: {error}"

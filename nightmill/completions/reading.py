"""What one line of results comes to: an answer, a failure, or poison that fails its own request alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightmill.completions.output import judge
from nightmill.completions.pricing import Price, cost_picodollars
from nightmill.contracts import ErrorCode
from nightmill.providers.base import MalformedEntry
from nightmill.storage.outcomes import NewOutcome

if TYPE_CHECKING:
    from nightmill.completions.lines import Line
    from nightmill.providers.base import BatchProvider, Entry, Usage
    from nightmill.storage.models import BatchRow, ProviderBatchRow
    from nightmill.storage.outcomes import Known

MAX_RAW = 256 * 1024
"""Characters kept of a failed entry; the whole line is in the stored file."""

_BOM = b"\xef\xbb\xbf"
_MAX_INT = 2**31 - 1


@dataclass(slots=True)
class Reading:
    """A line as the provider's adapter reads it.

    Attributes:
        number: Number of the line.
        line: Its bytes; of a line over the cap, the first ones.
        length: Its length in bytes.
        wire_id: The request it answers, where one could be found.
        entry: The entry, None where the line cannot be read.
        problem: Why it cannot be read.
        too_long: Whether it is over the cap.
    """

    number: int
    line: bytes
    length: int
    wire_id: str | None
    entry: Entry | None = None
    problem: str | None = None
    too_long: bool = False


class EntryReader:
    """Reads the lines of one provider batch's results."""

    def __init__(
        self,
        provider: BatchProvider,
        part: ProviderBatchRow,
        batch: BatchRow,
        *,
        canceled_as: ErrorCode = ErrorCode.CANCELED,
    ) -> None:
        self._provider = provider
        self._canceled_as = canceled_as
        # Plain values: reading a mapped attribute costs as much as everything else that is done with it.
        self._batch_key, self._round = part.batch_key, part.round
        self._price = Price.from_json(batch.prices) if batch.prices else None
        self._cached_is_extra = provider.cached_is_extra

    def is_cut(self, line: Line) -> bool:
        """Whether this is a last line that looks as if the rest of it were missing."""
        return not line.complete and self.read(line).entry is None

    def read(self, line: Line) -> Reading:
        """Read a line that is not blank."""
        data = line.data
        if data is None:
            reading = self._read(line, line.head or b"")
            reading.entry, reading.too_long = None, True
            reading.problem = f"the line is longer than allowed: {reading.length:,} bytes"
            return reading
        if line.number == 1:
            data = data.removeprefix(_BOM)
        return self._read(line, data)

    def _read(self, line: Line, data: bytes) -> Reading:
        length = line.end - line.start
        try:
            entry = self._provider.read_entry(data)
        except MalformedEntry as error:
            return Reading(line.number, data, length, _storable(error.wire_id), problem=str(error)[:300])
        except Exception as error:  # noqa: BLE001 - whatever one entry makes an adapter trip over, the others go on
            return Reading(line.number, data, length, None, problem=f"unexpected {type(error).__name__}")
        if entry.wire_id is None:
            return Reading(line.number, data, length, None, problem="the entry names no request")
        return Reading(line.number, data, length, _storable(entry.wire_id), entry)

    def outcome(self, reading: Reading, request: Known) -> NewOutcome:
        """Return what the request came to."""
        entry = reading.entry
        if entry is None:
            return self._failed(request.seq, reading.problem or "", reading.line)
        usage = entry.usage
        if usage is not None and not _is_sane(usage):
            return self._failed(request.seq, "a number of tokens is out of range", reading.line)
        output, error = entry.output, entry.error
        if error is None:
            output, error = judge(entry, request.schema)
        elif error.code is ErrorCode.CANCELED:
            error.code = self._canceled_as
        row = NewOutcome(  # by position, which is half the price
            self._batch_key,
            request.seq,
            self._round,
            error is None,
            entry.finish_reason,
            entry.model,
            None if usage is None else usage.input,
            None if usage is None else usage.output,
            None if usage is None else usage.cached,
            None if usage is None else usage.reasoning,
            cost_picodollars(usage, self._price, cached_is_extra=self._cached_is_extra),
            None if error is None else error.code.value,
            None if error is None else error.provider_type,
            None if error is None else error.provider_code,
            None if error is None else error.message,
            None if error is None else error.http_status,
            None if error is None else error.retryable,
            entry.text,
            output,
            entry.tool_calls,
            None if error is None else raw_text(reading.line),
        )
        # PostgreSQL refuses what SQLite stores: the rule is the same for both.
        return self.unsavable(row, reading.line) if _has_nul(row) else row

    def unsavable(self, row: NewOutcome, line: bytes) -> NewOutcome:
        """Return what is stored of an entry that no database takes: its failure, and its raw text made harmless."""
        return self._failed(row.seq, "the entry has characters or numbers that databases cannot store", line)

    def _failed(self, seq: int, problem: str, line: bytes) -> NewOutcome:
        return NewOutcome(
            batch_key=self._batch_key,
            seq=seq,
            round=self._round,
            ok=False,
            error_code=ErrorCode.MALFORMED_ENTRY.value,
            error_message=_harmless(problem),
            error_retryable=False,
            raw=raw_text(line),
        )


def raw_text(line: bytes) -> str:
    """Return a line as text that every database takes: bytes that are no UTF-8 and NUL are shown as escapes."""
    text = _harmless(line[: 4 * MAX_RAW].decode(errors="backslashreplace"))
    return text if len(text) <= MAX_RAW else text[: MAX_RAW - 1] + "…"


def _has_nul(row: NewOutcome) -> bool:
    texts = [row.text, row.output, row.tool_calls, row.finish_reason, row.model]
    if not row.ok:
        texts += [row.error_type, row.error_provider_code, row.error_message]
    return "\0" in "".join([text for text in texts if text])


def _harmless(text: str) -> str:
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\u0000")


def _storable(wire_id: str | None) -> str | None:
    """Return the id if a database can be asked for it; no request has another one."""
    if wire_id is None or "\0" in wire_id:
        return None
    try:
        wire_id.encode()
    except UnicodeEncodeError:
        return None
    return wire_id


def _is_sane(usage: Usage) -> bool:
    numbers = (usage.input, usage.output, usage.cached, usage.reasoning, usage.cache_write)
    return min(numbers) >= 0 and max(numbers) <= _MAX_INT

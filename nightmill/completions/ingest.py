"""Brings a provider batch's results into the database: fetched once, applied by pages, each entry once.

A source of results is first streamed into the file store and then read from there, so that a killed worker goes on at
the last committed page without asking the provider again. What an entry comes to is decided in `reading`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nightmill.completions.lines import Line, iter_lines
from nightmill.completions.reading import EntryReader, Reading
from nightmill.contracts import ErrorCode
from nightmill.errors import FileMissing, ResultsIncomplete, StorageUnavailable
from nightmill.storage.outcomes import Known, Moved, NewOutcome, OutcomeRepository, Position

if TYPE_CHECKING:
    from nightmill.providers.base import BatchProvider, ResultSource
    from nightmill.storage.files import FileStore
    from nightmill.storage.models import BatchRow, ProviderBatchRow

logger = logging.getLogger(__name__)

MAX_LINE = 32 * 1024 * 1024
"""Longest line of results that is read; an answer of 100,000 tokens has about 1 MiB."""

REFETCH_DELAYS = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=10))
"""Pauses before results that look incomplete are fetched again; after the last one they are taken as they are."""

PAGE_ROWS = 1_000
PAGE_BYTES = 4 * 1024 * 1024
"""A page ends at whichever comes first. It is in memory whole, as lines, texts and rows; larger ones were no faster."""

_MAX_NAMED = 20  # lines of one kind that are logged one by one; a file full of them is told by its count
_HEARTBEAT_SECONDS = 1.0


@dataclass
class HarvestReport:
    """What a harvest did, by number of lines.

    Attributes:
        downloaded: Bytes fetched from the provider.
        lines: Lines read, blank ones not included.
        applied: Outcomes that were new.
        repeated: Entries that were there already with the same content.
        conflicts: Entries for a request that has another result; the first one stays.
        unknown: Entries for no request of this provider batch.
        malformed: Lines that cannot be read.
        too_long: Lines over the cap.
        incomplete: Whether fewer results than the provider's counts promise were accepted in the end.
    """

    downloaded: int = 0
    lines: int = 0
    applied: int = 0
    repeated: int = 0
    conflicts: int = 0
    unknown: int = 0
    malformed: int = 0
    too_long: int = 0
    incomplete: bool = False


class Harvester:
    """Harvests provider batches. Any thread may use it, for any number of them."""

    def __init__(
        self,
        outcomes: OutcomeRepository,
        files: FileStore,
        *,
        max_line: int = MAX_LINE,
        refetch_delays: Sequence[timedelta] = REFETCH_DELAYS,
    ) -> None:
        self._outcomes = outcomes
        self._files = files
        self._max_line = max_line
        self._refetch_delays = refetch_delays

    def harvest(
        self,
        provider: BatchProvider,
        part: ProviderBatchRow,
        batch: BatchRow,
        *,
        heartbeat: Callable[[dict[str, Any]], None],
        fail_point: Callable[[str], None] = lambda _: None,
        canceled_as: ErrorCode = ErrorCode.CANCELED,
    ) -> HarvestReport:
        """Store every result that the provider has for a provider batch; requests without one are left as they are.

        Run again at any time, it goes on where the last run stopped. Its files stay in the store, under
        `batches/<batch id>/<round>-<part>/`.

        Args:
            provider: The provider.
            part: The provider batch, in a terminal status.
            batch: Its batch.
            heartbeat: Called about once a second with where it stands.
            fail_point: Called at each named place where tests kill the process.
            canceled_as: Error of requests that the provider reports as canceled; at max age, when nobody but we asked
                for the cancel, they have expired.

        Raises:
            ResultsIncomplete: The provider's counts say that there are more; they are fetched again by the next run.
            TransientError: Results could not be fetched or stored now; what was stored stays.
            PermanentError: The provider does not give the results until someone changes something.
            BatchNotFound: The provider batch is gone.
            BatchConflict: The provider batch is settled.
        """
        run = _Harvest(
            self._outcomes,
            self._files,
            self._max_line,
            provider,
            part,
            batch,
            heartbeat,
            fail_point,
            canceled_as,
            self._refetch_delays,
        )
        try:
            return run.run()
        except FileMissing as error:  # another worker has found it incomplete and deleted it
            raise StorageUnavailable(f"{error}; it is fetched again") from error


@dataclass
class _Harvest:
    """One run over one provider batch."""

    outcomes: OutcomeRepository
    files: FileStore
    max_line: int
    provider: BatchProvider
    part: ProviderBatchRow
    batch: BatchRow
    heartbeat: Callable[[dict[str, Any]], None]
    fail_point: Callable[[str], None]
    canceled_as: ErrorCode
    refetch_delays: Sequence[timedelta]
    report: HarvestReport = field(default_factory=HarvestReport)
    beaten: float = 0.0

    def __post_init__(self) -> None:
        assert self.part.key is not None  # noqa: S101 - a loaded row has its key
        self.part_key = self.part.key
        self.folder = f"batches/{self.batch.id}/{self.part.round}-{self.part.part}"
        self.reader = EntryReader(self.provider, self.part, self.batch, canceled_as=self.canceled_as)
        self.named: dict[str, int] = {}

    def run(self) -> HarvestReport:
        assert self.part.provider_batch_id is not None  # noqa: S101 - without a provider batch there are no results
        refs, counts = dict(self.part.refs), dict(self.part.counts)
        if self.part.fetches:  # incomplete last time: the addresses may have been too early as well
            status = self.provider.status(self.part.provider_batch_id)
            refs.update(status.refs)
            counts.update(status.counts.model_dump(exclude_none=True))
        final = self.part.fetches >= len(self.refetch_delays)
        cut: list[str] = []
        for source in self.provider.results(self.part.provider_batch_id, refs):
            self._fetch(source)
            if not self._apply(source.name, takes_cut_line=final):
                cut.append(source.name)
        self._insist_on_all(counts, final=final, cut=bool(cut))
        for name in cut:
            self._apply(name, takes_cut_line=True)
        self.fail_point("harvest.end")
        return self.report

    def _insist_on_all(self, counts: dict[str, Any], *, final: bool, cut: bool) -> None:
        """Have the results fetched again if there should be more, a few times at most."""
        said = [counts[name] for name in ("succeeded", "failed") if counts.get(name) is not None]
        promised = min(sum(said), self.part.requests)
        found = self.outcomes.found(self.part)
        if found >= promised if said else not cut:
            return
        about = {"found": found, "promised": promised if said else None, "fetches": self.part.fetches}
        if final:
            self.report.incomplete = True
            self._warn("results stay incomplete", **about)
            return
        self._warn("results incomplete, fetching them again", **about)
        self.outcomes.fetch_again(self.part_key)
        self.files.delete(self.folder)
        promise = f"{promised:,} of {self.part.requests:,}" if said else "a whole last line"
        raise ResultsIncomplete(
            f"batch {self.batch.id}: {found:,} results found, the provider's counts say {promise}",
            retry_after=self.refetch_delays[self.part.fetches],
        )

    def _fetch(self, source: ResultSource) -> None:
        """Bring a source into the file store, unless it is there or was applied to its end."""
        position = self.outcomes.position(self.part_key, source.name)
        key = self._key(source.name)
        if position.done or self.files.size(key) is not None:
            _close(source.chunks)
            return
        try:
            self.report.downloaded += self.files.write(key, self._watched(source))
        finally:
            _close(source.chunks)
        if position != Position():  # the new file need not have its lines where the old one had them
            self.outcomes.restart(self.part_key, source.name)
        self.fail_point("harvest.downloaded")

    def _watched(self, source: ResultSource) -> Iterator[bytes]:
        fetched = 0
        for chunk in source.chunks:
            fetched += len(chunk)
            self._beat(source.name, downloaded=fetched)
            yield chunk

    def _apply(self, name: str, *, takes_cut_line: bool) -> bool:
        """Apply a stored source from where it was left; return False if a last line without end was left out."""
        while True:
            position = self.outcomes.position(self.part_key, name)
            if position.done:
                return True
            try:
                return self._apply_from(position, name, takes_cut_line=takes_cut_line)
            except Moved:  # by another worker, which was thought dead; whoever commits first goes on
                self._warn("another worker applies the same results", source=name)

    def _apply_from(self, position: Position, name: str, *, takes_cut_line: bool) -> bool:
        chunks = self.files.read(self._key(name), offset=position.bytes)
        lines = iter_lines(chunks, max_line=self.max_line, first_number=position.lines + 1, first_offset=position.bytes)
        whole = True
        for page in _pages(lines):
            if not takes_cut_line and self.reader.is_cut(page[-1]):
                self._warn("the last line is cut", source=name, line=page.pop().number)
                whole = False
            if page:
                position = self._apply_page(position, name, page)
        if whole:
            self._append(name, [], {}, position, replace(position, done=True))
        return whole

    def _apply_page(self, position: Position, name: str, page: list[Line]) -> Position:
        read = [self.reader.read(line) for line in page if line.data is None or line.data.strip()]
        ids = list({reading.wire_id for reading in read if reading.wire_id is not None})
        known = self.outcomes.lookup(self.part, ids)
        rows: dict[int, NewOutcome] = {}
        raws: dict[int, bytes] = {}
        again: list[tuple[Reading, NewOutcome, Known]] = []
        tally = HarvestReport(lines=len(read))
        skipped = 0
        for reading in read:
            request = known.get(reading.wire_id) if reading.wire_id is not None else None
            self._tell(name, reading, tally, unknown=request is None)
            if request is None:
                skipped += 1
                continue
            row = self.reader.outcome(reading, request)
            if request.answered or request.seq in rows:
                again.append((reading, row, request))
            else:
                rows[request.seq] = row
                raws[request.seq] = reading.line
        self._compare(name, again, rows, tally)
        reached = Position(
            bytes=page[-1].end + page[-1].complete,  # the line end is one byte
            lines=position.lines + len(page),
            skipped=position.skipped + skipped,
        )
        tally.applied = self._append(name, list(rows.values()), raws, position, reached)
        self._count(tally)
        self.fail_point("harvest.page")
        self._beat(name, applied=reached.bytes, lines=reached.lines)
        return reached

    def _append(
        self, name: str, rows: list[NewOutcome], raws: dict[int, bytes], known: Position, reached: Position
    ) -> int:
        def instead(row: NewOutcome) -> NewOutcome:
            self._name("entry cannot be stored", source=name, seq=row.seq)
            return self.reader.unsavable(row, raws[row.seq])

        return self.outcomes.append(
            self.part_key,
            name,
            rows,
            known=known,
            reached=reached,
            instead=instead,
            before_commit=lambda: self.fail_point("harvest.in_transaction"),
        )

    def _compare(
        self,
        name: str,
        again: list[tuple[Reading, NewOutcome, Known]],
        rows: dict[int, NewOutcome],
        tally: HarvestReport,
    ) -> None:
        """Tell what is only repeated from what contradicts the first result; that one stays in any case."""
        if not again:
            return
        stored = self.outcomes.stored(self.part, [known.seq for _, _, known in again if known.answered])
        for reading, row, known in again:
            if row.says_the_same(rows.get(known.seq) or stored.get(known.seq)):
                tally.repeated += 1
            else:
                tally.conflicts += 1
                self._name("conflicting results, the first one stays", source=name, line=reading.number, seq=known.seq)

    def _tell(self, name: str, reading: Reading, tally: HarvestReport, *, unknown: bool) -> None:
        if reading.too_long:
            tally.too_long += 1
            self._name("line over the cap", source=name, line=reading.number, bytes=reading.length)
        elif reading.problem is not None:
            tally.malformed += 1
            self._name("malformed line", source=name, line=reading.number, problem=reading.problem)
        elif unknown:
            tally.unknown += 1
            self._name("result of an unknown request", source=name, line=reading.number)

    def _count(self, tally: HarvestReport) -> None:
        for name in ("lines", "applied", "repeated", "conflicts", "unknown", "malformed", "too_long"):
            setattr(self.report, name, getattr(self.report, name) + getattr(tally, name))

    def _name(self, message: str, **about: Any) -> None:
        """Log the first few of a kind; their number is in the report."""
        self.named[message] = number = self.named.get(message, 0) + 1
        if number <= _MAX_NAMED:
            self._warn(message, **about)

    def _warn(self, message: str, **about: Any) -> None:
        names = {"batch": self.batch.id, "round": self.part.round, "part": self.part.part}
        logger.warning(message, extra=names | about)

    def _beat(self, source: str, **where: int) -> None:
        now = time.monotonic()
        if now - self.beaten >= _HEARTBEAT_SECONDS:
            self.beaten = now
            self.heartbeat({"source": source, **where})

    def _key(self, source: str) -> str:
        return f"{self.folder}/{source}.jsonl"


def _pages(lines: Iterable[Line]) -> Iterator[list[Line]]:
    page: list[Line] = []
    size = 0
    for line in lines:
        page.append(line)
        size += line.end - line.start
        if len(page) >= PAGE_ROWS or size >= PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _close(chunks: Iterator[bytes]) -> None:
    """End a download that is not read to its end; most iterators of one can be closed."""
    close = getattr(chunks, "close", None)
    if close is not None:
        close()

"""Batches and slicings that ended at different times, made by the real repositories, with the files that they leave."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from nightmill.completions.requests import StoredRequest
from nightmill.contracts import BatchStatus, FinishSlicing, ProgramOutcome, SlicingRef, SlicingStatus
from nightmill.retention.pruning import Pruner
from nightmill.slicing import keys
from nightmill.storage.batches import BatchRepository
from nightmill.storage.engine import Database
from nightmill.storage.files import LocalFileStore
from nightmill.storage.models import BatchRow, ProviderBatchRow
from nightmill.storage.outcomes import NewOutcome, OutcomeRepository, Position
from nightmill.storage.requests import RequestRepository
from nightmill.storage.slices import NewSlice
from nightmill.storage.slicing_attempts import AttemptRepository, NewAttempt
from nightmill.storage.slicing_notices import NoticeRepository
from nightmill.storage.slicings import SlicingRepository

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MONTH = timedelta(days=30)
SECOND = timedelta(seconds=1)
ROWS = ("completions", "outcomes")


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


@dataclass
class Scene:
    """A database, a folder of files, and what is put there."""

    database: Database
    folder: Path

    @property
    def files(self) -> LocalFileStore:
        return LocalFileStore(self.folder)

    @property
    def pruner(self) -> Pruner:
        return Pruner(self.database, self.files)

    @property
    def batches(self) -> BatchRepository:
        return BatchRepository(self.database)

    @property
    def outcomes(self) -> OutcomeRepository:
        return OutcomeRepository(self.database)

    def store(self, batch_id: str, count: int = 4, **columns: Any) -> tuple[BatchRow, ProviderBatchRow]:
        """Store a batch with its provider batch, the first half of its requests answered and one failed."""
        given: dict[str, Any] = {
            "provider": "openai",
            "model": "gpt-x",
            "poll_schedule": [60.0],
            "max_age": 1.0,
            "created_at": ago(90),
        }
        line = b'{"prompt": "say it"}'
        wanted = [
            StoredRequest(seq=seq, custom_id=f"r{seq}", wire_id=f"r{seq}", line=line, response_schema=None)
            for seq in range(count)
        ]
        batch = RequestRepository(self.database).store(BatchRow(id=batch_id, **given | columns), wanted)
        part = ProviderBatchRow(
            batch_key=batch.key or 0,
            first=0,
            last=count - 1,
            requests=count,
            bytes=count * len(line),
            provider="openai",
            model="gpt-x",
            provider_batch_id=f"at-provider-{batch_id}",
            created_at=ago(2),
            refs={"requeued": [f"older-{batch_id}"]},
        )
        with self.database.transaction() as session:
            session.add(part)
        answers = [
            NewOutcome(batch.key or 0, seq, 0, True, text=f"answer {seq}", input_tokens=3, cost_picodollars=10**9)
            for seq in range(count // 2)
        ]
        failed = NewOutcome(batch.key or 0, count - 1, 0, False, error_code="provider_error", error_retryable=True)
        self.outcomes.append(
            part.key or 0,
            "output",
            [*answers, failed],
            known=Position(),
            reached=Position(bytes=10, lines=len(answers) + 1),
            instead=lambda row: row,
        )
        self.files.write(f"batches/{batch_id}/0-0/output.jsonl", [b"x" * 100])
        return batch, part

    def ended(self, batch_id: str, days: float = 40, count: int = 4, **columns: Any) -> BatchRow:
        """Store a batch that ended so many days ago, and change columns of its row then."""
        _, part = self.store(batch_id, count)
        with self.database.transaction() as session:
            session.add(part)
            part.settled_at, part.status = ago(days), BatchStatus.ENDED
        self.batches.finish(batch_id, BatchStatus.ENDED, reason=None, now=ago(days), dispatch=False)
        with self.database.transaction() as session:
            row = self.batches.get(batch_id)
            for name, value in columns.items():
                setattr(row, name, value)
            session.add(row)
        return self.batches.get(batch_id)

    def prune(self, older_than: timedelta = MONTH, **given: Any) -> dict[str, int]:
        """Prune, and return how many things of each sort went."""
        tally = self.pruner.prune(older_than, now=NOW, **given)
        return {what: pile.number for (_, what), pile in tally.piles.items() if pile.number}

    def count(self, older_than: timedelta = MONTH, **given: Any) -> dict[str, int]:
        """Return what a prune would delete, as `prune` does."""
        tally = self.pruner.count(older_than, now=NOW, **given)
        return {what: pile.number for (_, what), pile in tally.piles.items() if pile.number}

    def rows(self, *tables: str) -> int:
        """Return how many rows some tables have together."""
        with self.database.reading() as session:
            return sum(
                session.connection().execute(text(f"SELECT count(*) FROM {each}")).scalar_one() for each in tables
            )

    def let_files_be_old(self, days: float = 40) -> None:
        """Let all files and folders be that old."""
        for path in self.folder.rglob("*"):
            os.utime(path, (ago(days).timestamp(),) * 2)

    def stored(self) -> list[str]:
        """Return what the file storage holds."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


def ref(run: str = "r1", digit: str = "a", profile: str = "gazette") -> SlicingRef:
    return SlicingRef(sha256=digit * 64, profile=profile, run_id=run)


class Slicer:
    """PDFs, sliced by the real repositories, with the files of their runs."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.files = scene, scene.files
        self.slicings = SlicingRepository(scene.database)
        self.attempts = AttemptRepository(scene.database)
        self.notices = NoticeRepository(scene.database)

    def sliced(
        self,
        which: SlicingRef,
        days: float,
        *,
        status: SlicingStatus = SlicingStatus.SLICED,
        notify: tuple[str, ...] = (),
    ) -> None:
        self.files.write(keys.original(which.sha256), [b"%PDF" * 10])
        self.slicings.open(which, name="g", source="g", size=40, notify=notify, metadata=None, now=ago(days + 0.1))
        self.attempts.record(
            NewAttempt(
                ref=which, attempt=1, step="slice", command="c", started_at=ago(days), duration=SECOND, exit_code=0
            )
        )
        for key in (keys.slice_file(which, 0), keys.result(which), keys.raw_output(which, "slice", 1)):
            self.files.write(key, [b"0123456789"])
        slices = [NewSlice(position=0, start_page=0, end_page=3, file_key=keys.slice_file(which, 0), file_size=10)]
        found = ProgramOutcome(slices=1, page_count=4)
        self.slicings.finish(FinishSlicing(ref=which, status=status, result=found), slices, now=ago(days))

    def asked_for(self, which: SlicingRef, days: float = 0) -> None:
        self.slicings.add(
            which.sha256, which.profile, name="g", source="stored:g", notify=[], metadata={}, now=ago(days)
        )  # fmt: skip


@pytest.fixture
def scene(database: Database, tmp_path: Path) -> Scene:
    """An empty database of each kind, and an empty folder."""
    return Scene(database, tmp_path / "files")

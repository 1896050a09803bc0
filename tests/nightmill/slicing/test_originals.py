"""Where PDFs come from: what can be no source is refused, and what cannot be read has a reason."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nightmill.contracts import OpenSlicing, SlicingErrorCode, SlicingInput, SlicingRef, SlicingStatus
from nightmill.errors import InvalidInput
from nightmill.settings.slicing import SlicingSettings
from nightmill.slicing.breaker import Breaker
from nightmill.slicing.faults import Unreadable
from nightmill.slicing.jobs import SlicingJobs
from nightmill.slicing.originals import Originals
from nightmill.storage.breakers import BreakerRepository
from nightmill.storage.engine import Database
from nightmill.storage.files import open_file_store
from nightmill.storage.slicing_attempts import AttemptRepository
from nightmill.storage.slicing_models import SlicingRow
from nightmill.storage.slicings import SlicingRepository

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def originals(tmp_path: Path) -> Originals:
    def fetch(url: str) -> Iterator[bytes]:
        raise AssertionError(url)

    return Originals(open_file_store(f"file://{tmp_path}/files"), (tmp_path,), fetch, max_size=1_000)


@pytest.mark.parametrize("source", ["https://[x/a.pdf", "//[x", "https://user:secret@h℀.example/a.pdf"])
def test_what_is_no_address_is_refused_at_once_and_not_repeated(source: str) -> None:
    with pytest.raises(ValidationError, match="neither a path nor an address") as refused:
        SlicingInput(source=source)
    assert "secret" not in str(refused.value.errors(include_input=False))


def test_metadata_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ValidationError, match="metadata"):
        SlicingInput(source="a.pdf", metadata={"share": math.nan})


def test_a_path_that_the_system_does_not_take_is_a_fault_with_a_reason(originals: Originals) -> None:
    with pytest.raises(Unreadable, match="File name too long"):
        originals.put(Path("/tmp") / ("x" * 300))


@pytest.mark.parametrize("begun", [False, True])
def test_a_stored_document_whose_run_is_refused_says_so_and_waits_for_nobody(
    originals: Originals, database: Database, tmp_path: Path, begun: bool
) -> None:
    other, settings = tmp_path / "other.pdf", SlicingSettings()
    other.write_bytes(b"%PDF-1.4 another one")
    slicings = SlicingRepository(database)
    breaker = Breaker(BreakerRepository(database), settings)
    jobs = SlicingJobs(settings, originals, originals.files, slicings, AttemptRepository(database), breaker)
    sha256 = hashlib.sha256(b"what the id says").hexdigest()
    slicings.add(sha256, "gazette", name="g", source="g", notify=(), metadata={}, now=NOON)
    if begun:
        run = SlicingRef(sha256=sha256, profile="gazette", run_id="r0")
        slicings.open(run, name="g", source="g", size=1, notify=None, metadata=None, now=NOON)
    asked = OpenSlicing(
        ref=SlicingRef(sha256=sha256, profile="gazette", run_id="r1"), asked=SlicingInput(source=str(other))
    )
    with pytest.raises(InvalidInput, match="the workflow id says"):
        jobs.open(asked, scheduled_at=NOON, now=NOON)
    row = slicings.get(sha256, "gazette")
    if begun:
        assert (row.status, row.run_id) == (SlicingStatus.QUEUED, "r0")
    else:
        assert (row.status, row.error_code) == (SlicingStatus.FAILED, SlicingErrorCode.UNREADABLE)
        assert "the workflow id says" in (row.error or "")


def test_a_pdf_that_a_prune_takes_away_before_there_is_a_row_is_kept_once_more(
    originals: Originals, database: Database, tmp_path: Path
) -> None:
    pdf, settings = tmp_path / "g.pdf", SlicingSettings()
    pdf.write_bytes(b"%PDF-1.4 the same again")
    sha256 = originals.put(pdf)

    class Late(SlicingRepository):
        def open(self, ref: SlicingRef, **given: Any) -> SlicingRow:
            originals.files.delete(f"slicings/{sha256}")
            return super().open(ref, **given)

    breaker = Breaker(BreakerRepository(database), settings)
    jobs = SlicingJobs(settings, originals, originals.files, Late(database), AttemptRepository(database), breaker)
    ref = SlicingRef(sha256=sha256, profile="gazette", run_id="r1")
    jobs.open(OpenSlicing(ref=ref, asked=SlicingInput(source=str(pdf))), scheduled_at=NOON, now=NOON)
    assert originals.files.size(f"slicings/{sha256}/original.pdf") == len(pdf.read_bytes())

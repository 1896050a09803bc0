"""A batch that ends leaves one record and is counted once; a poll is counted by what came of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from nightmill.assembly import Assembly, assembled
from nightmill.completions.polling import Poller
from nightmill.contracts import BatchStatus, BatchSummary, Counts, PartRef, PollInput, Tokens
from nightmill.errors import AccessDenied, NightmillError, ProviderUnavailable
from nightmill.providers.base import ProviderStatus
from nightmill.recovery.closing import Closer
from nightmill.settings import Settings
from nightmill.storage.models import BatchRow, ProviderBatchRow
from nightmill.telemetry import metrics
from nightmill.telemetry.batches import record_batch
from tests.measuring import Measured

HOUR = timedelta(hours=1)


@pytest.fixture
def assembly(database_url: str) -> Iterator[Assembly]:
    with assembled(Settings(_env_file=None, database_url=database_url)) as found:
        yield found


def stored(assembly: Assembly, *, requests: int = 0, **columns: Any) -> BatchRow:
    """Store a batch of xai's with one provider batch."""
    given: dict[str, Any] = {"provider": "xai", "model": "grok", "poll_schedule": [60.0], "max_age": 9_000.0}
    batch = BatchRow(id="b1", created_at=datetime.now(UTC) - HOUR, requests=requests, **given)
    with assembly.database.transaction() as session:
        session.add(batch)
        session.flush()
        part: dict[str, Any] = {"first": 0, "last": 0, "requests": 1, "bytes": 1, "provider": "xai", "model": "grok"}
        session.add(ProviderBatchRow(batch_key=batch.key or 0, **part | columns))
    return batch


def a_summary(**fields: Any) -> BatchSummary:
    given: dict[str, Any] = {"batch_id": "b1", "status": BatchStatus.ENDED, "total": 5, "completed": 5}
    return BatchSummary(**given | fields)


def record(summary: BatchSummary) -> None:
    record_batch(summary, provider="openai", model="gpt-x", duration=timedelta(minutes=25))


def test_an_ended_batch_is_counted_by_what_its_summary_says(measured: Measured) -> None:
    tokens = Tokens(input=1_000, output=200, cached=300, reasoning=50)
    record(
        a_summary(
            completed=2,
            failed=3,
            failed_by_code={"expired": 1, "invalid_output": 2},
            tokens=tokens,
            cost=Decimal("0.25"),
        )
    )
    assert measured.series(metrics.BATCH_ENDED) == {("openai", "ended"): 1}
    assert measured.sums(metrics.BATCH_DURATION) == {("openai", "ended"): 1_500}
    assert measured.series(metrics.BATCH_ENTRIES) == {
        ("openai", ""): 2, ("openai", "expired"): 1, ("openai", "invalid_output"): 2,
    }  # fmt: skip
    assert measured.series(metrics.BATCH_TOKENS) == {
        ("openai", "gpt-x", "input"): 1_000, ("openai", "gpt-x", "output"): 200, ("openai", "gpt-x", "cached"): 300,
        ("openai", "gpt-x", "reasoning"): 50,
    }  # fmt: skip
    assert measured.series(metrics.BATCH_COST) == {("openai", "gpt-x"): 0.25}


def test_a_batch_whose_price_is_not_known_has_no_cost_rather_than_none(measured: Measured) -> None:
    record(a_summary(cost=None))
    assert metrics.BATCH_COST.name not in measured.points()


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({}, "INFO"),
        ({"completed": 1, "failed": 4, "failed_by_code": {"expired": 4}, "status": BatchStatus.EXPIRED}, "INFO"),
        ({"completed": 0, "failed": 5, "all_failed": True}, "ERROR"),
        ({"completed": 0, "failed": 5, "all_failed": True, "status": BatchStatus.CANCELED}, "INFO"),
        ({"status": BatchStatus.FAILED, "reason": "no such model"}, "ERROR"),
    ],
)
def test_an_end_that_somebody_must_look_at_is_an_error_in_the_log(
    measured: Measured, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], level: str
) -> None:
    caplog.set_level(logging.INFO, "nightmill.batches")
    record(a_summary(**fields))
    [line] = caplog.records
    values = vars(line)
    assert (line.levelname, line.getMessage(), values["batch"], values["model"]) == (
        level,
        "batch ended",
        "b1",
        "gpt-x",
    )
    assert (values["duration_ms"], values["requests"]) == (1_500_000, 5)


def test_of_several_that_end_a_batch_at_once_one_counts(
    assembly: Assembly, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    """Lost runs of a step, which all read that the batch had not ended."""
    caplog.set_level(logging.INFO, "nightmill.batches")
    batch = stored(assembly)
    together = threading.Barrier(4)

    def finish() -> None:
        together.wait(10)
        assembly.settler.finish(batch, BatchStatus.EXPIRED, reason="too late")

    threads = [threading.Thread(target=finish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert measured.series(metrics.BATCH_ENDED) == {("xai", "expired"): 1}
    assert measured.sums(metrics.BATCH_DURATION) == {("xai", "expired"): pytest.approx(3_600, abs=60)}
    assert len(caplog.records) == 1


def test_a_batch_that_recovery_refuses_is_counted_as_well_and_once(assembly: Assembly, measured: Measured) -> None:
    stored(assembly)
    closer = Closer(assembly.batches, assembly.settler)
    assert [closer.refuse("b1", "no such model") for _ in range(2)] == [BatchStatus.FAILED] * 2
    assert measured.series(metrics.BATCH_ENDED) == {("xai", "failed"): 1}


class Provider:
    """Gives one answer."""

    def __init__(self, answer: ProviderStatus | NightmillError) -> None:
        self.answer = answer

    def status(self, _: str) -> ProviderStatus:
        if isinstance(self.answer, NightmillError):
            raise self.answer
        return self.answer


def answered(status: BatchStatus, **fields: Any) -> ProviderStatus:
    return ProviderStatus(status=status, raw=str(status), counts=Counts(), **fields)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (answered(BatchStatus.IN_PROGRESS), "open"),
        (answered(BatchStatus.ENDED), "terminal"),
        (answered(BatchStatus.FAILED, over_quota=True), "over_quota"),
        (ProviderUnavailable("503"), "transient"),
        (AccessDenied("401"), "permanent"),
    ],
)
def test_a_poll_is_counted_by_what_came_of_it(
    assembly: Assembly, measured: Measured, answer: Any, outcome: str
) -> None:
    due = datetime.now(UTC) - timedelta(minutes=6)
    stored(assembly, provider_batch_id="pb1", next_poll_at=due, created_at=due)
    ref = PartRef(batch_id="b1", round=0, part=0)
    asked = PollInput(part=ref, next_poll_at=datetime.now(UTC) + HOUR, attempt=1)
    poller = Poller(provider_for=lambda *_: Provider(answer), parts=assembly.parts)  # type: ignore[arg-type,return-value]
    try:
        poller.poll(asked)
    except NightmillError:
        assert isinstance(answer, NightmillError)
    assert measured.series(metrics.BATCH_POLLS) == {("xai", outcome): 1}
    assert measured.sums(metrics.BATCH_POLL_LAG) == {("xai",): pytest.approx(360, abs=60)}


def test_a_poll_before_its_time_is_not_late(assembly: Assembly, measured: Measured) -> None:
    stored(assembly, provider_batch_id="pb1", next_poll_at=datetime.now(UTC) + HOUR, created_at=datetime.now(UTC))
    asked = PollInput(part=PartRef(batch_id="b1", round=0, part=0), next_poll_at=datetime.now(UTC) + HOUR, attempt=1)
    provider = Provider(answered(BatchStatus.IN_PROGRESS))
    Poller(provider_for=lambda *_: provider, parts=assembly.parts).poll(asked)  # type: ignore[arg-type,return-value]
    assert measured.sums(metrics.BATCH_POLL_LAG) == {("xai",): 0}

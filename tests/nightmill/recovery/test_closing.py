"""Ends that runs could not write, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from nightmill.assembly import Assembly, assembled
from nightmill.contracts import BatchStatus, ErrorCode, PartRef
from nightmill.errors import BatchConflict, BatchNotFound, InvalidInput
from nightmill.recovery.closing import Closer
from nightmill.recovery.decisions import GAVE_UP
from nightmill.settings import Settings

IDS = ["a", "b", "c"]
WEBHOOK = {"kind": "webhook", "url": "https://host.example/done", "on": []}
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def assembly(database_url: str) -> Iterator[Assembly]:
    with assembled(Settings(_env_file=None, database_url=database_url)) as built:
        yield built


@pytest.fixture
def closer(assembly: Assembly) -> Closer:
    return Closer(batches=assembly.batches, settler=assembly.settler)


def store(assembly: Assembly, build: Any, *, planned: int = 0, **columns: Any) -> None:
    """Store batch `b1` of three requests, with as many provider batches of one request as are planned."""
    batch = assembly.requests.store(build.batch(**columns), build.requests(IDS))
    for number in range(planned):
        build.part(assembly.database, batch, number, number, part=number)


@pytest.mark.parametrize("planned", [0, 3])
def test_a_refused_batch_has_failed_with_every_request_and_somebody_is_to_be_told(
    assembly: Assembly, closer: Closer, build: Any, planned: int
) -> None:
    store(assembly, build, planned=planned, completion_handler=WEBHOOK)

    assert closer.refuse("b1", "no such model") is BatchStatus.FAILED

    batch = assembly.batches.get("b1")
    assert (batch.status, batch.reason) == (BatchStatus.FAILED, "no such model")
    assert batch.results_fetched_at is not None
    assert batch.handler_dispatched_at is None
    assert [
        (each.custom_id, each.error and (each.error.code, each.error.message))
        for each in assembly.outcomes.results("b1")
    ] == [(name, (ErrorCode.NOT_SUBMITTED, "no such model")) for name in IDS]
    parts = assembly.batches.parts("b1")
    assert len(parts) == max(planned, 1)
    assert all(part.settled_at and part.status is BatchStatus.FAILED for part in parts)
    assert sum(part.requests for part in parts) == 3


@pytest.mark.parametrize("handler", [None, WEBHOOK | {"on": ["ended"]}])
def test_nobody_is_to_be_told_of_a_refusal_who_does_not_want_to_hear_of_it(
    assembly: Assembly, closer: Closer, build: Any, handler: dict[str, Any] | None
) -> None:
    store(assembly, build, completion_handler=handler)

    closer.refuse("b1", "no such model")

    assert assembly.batches.get("b1").handler_dispatched_at is not None


def test_to_refuse_again_or_after_the_end_changes_nothing(assembly: Assembly, closer: Closer, build: Any) -> None:
    store(assembly, build, planned=3)
    closer.refuse("b1", "first")
    before = [row.model_dump() for row in (assembly.batches.get("b1"), *assembly.batches.parts("b1"))]

    assert closer.refuse("b1", "second") is BatchStatus.FAILED
    assert [row.model_dump() for row in (assembly.batches.get("b1"), *assembly.batches.parts("b1"))] == before


def test_a_batch_that_has_ended_stays_as_it_ended(assembly: Assembly, closer: Closer, build: Any) -> None:
    batch = assembly.requests.store(build.batch(), build.requests(IDS))
    build.part(assembly.database, batch, 0, 2, create_sent_at=NOW, provider_batch_id="pb1", settled_at=NOW)
    assembly.batches.finish("b1", BatchStatus.ENDED, reason=None, now=NOW, dispatch=False)

    assert closer.refuse("b1", "no such model") is BatchStatus.ENDED


def test_a_refusal_that_was_cut_short_is_brought_to_its_end(assembly: Assembly, closer: Closer, build: Any) -> None:
    store(assembly, build, planned=2)
    first = PartRef(batch_id="b1", round=0, part=0)
    assembly.parts.settle(first, BatchStatus.FAILED, reason="first", now=NOW)

    assert closer.refuse("b1", "first") is BatchStatus.FAILED
    assert all(part.settled_at for part in assembly.batches.parts("b1"))


def test_a_request_that_fits_no_provider_batch_does_not_keep_its_batch_open(database_url: str, build: Any) -> None:
    settings = Settings(_env_file=None, database_url=database_url, openai={"max_bytes": 1_024})
    with assembled(settings) as assembly:
        store(assembly, build)
        with pytest.raises(InvalidInput):  # what the run fails with
            assembly.settler.plan_round(assembly.batches.get("b1"), 0, now=NOW)

        assert Closer(assembly.batches, assembly.settler).refuse("b1", "too large") is BatchStatus.FAILED
        assert assembly.outcomes.progress("b1").failed == 3


@pytest.mark.parametrize(
    "columns",
    [{"create_sent_at": NOW}, {"create_sent_at": NOW, "provider_batch_id": "pb1"}, {"epoch": 1}],
    ids=["a create was on its way", "it was created", "the provider took it back"],
)
def test_what_was_ever_submitted_is_not_refused(
    assembly: Assembly, closer: Closer, build: Any, columns: dict[str, Any]
) -> None:
    batch = assembly.requests.store(build.batch(), build.requests(IDS))
    build.part(assembly.database, batch, 0, 0)
    build.part(assembly.database, batch, 1, 2, part=1, **columns)

    with pytest.raises(BatchConflict, match="batch b1 was submitted"):
        closer.refuse("b1", "no such model")

    assert assembly.batches.get("b1").status is BatchStatus.PENDING
    assert not any(part.settled_at for part in assembly.batches.parts("b1"))
    assert assembly.outcomes.progress("b1").failed == 0


def test_a_batch_that_is_gone_is_not_refused(closer: Closer) -> None:
    with pytest.raises(BatchNotFound):
        closer.refuse("b1", "no such model")


def test_a_recorded_delivery_sets_the_gate_once(assembly: Assembly, closer: Closer, build: Any) -> None:
    store(assembly, build, completion_handler=WEBHOOK)
    closer.refuse("b1", "no such model")
    closer.needs_attention("b1", "repaired 3 times")

    closer.record_delivery("b1")
    first = assembly.batches.get("b1")
    closer.record_delivery("b1")

    assert first.handler_dispatched_at is not None
    assert first.needs_attention is None
    assert assembly.batches.get("b1").handler_dispatched_at == first.handler_dispatched_at
    assert not assembly.batches.begin_dispatch("b1", 1)


def test_attention_is_news_once_and_names_recovery(assembly: Assembly, closer: Closer, build: Any) -> None:
    store(assembly, build)

    assert closer.needs_attention("b1", "repaired 3 times")
    assert not closer.needs_attention("b1", f"{GAVE_UP}repaired 3 times")
    assert assembly.batches.get("b1").needs_attention == f"{GAVE_UP}repaired 3 times"
    assert closer.needs_attention("b1", "x" * 5_000)
    assert len(assembly.batches.get("b1").needs_attention or "") == 1_000
    assert not closer.needs_attention("b2", "gone")


def test_only_recovery_s_own_attention_is_withdrawn(assembly: Assembly, closer: Closer, build: Any) -> None:
    store(assembly, build)
    assert not closer.goes_on("b1")
    closer.needs_attention("b1", "repaired 3 times")
    assert closer.goes_on("b1")
    assert assembly.batches.get("b1").needs_attention is None

    assembly.batches.set_attention("b1", "the key is refused")
    assert not closer.goes_on("b1")
    assert assembly.batches.get("b1").needs_attention == "the key is refused"
    assert not closer.goes_on("b2")

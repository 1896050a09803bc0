"""While results cannot be had for now, a batch does not look stuck: its workflow comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightmill.assembly import Assembly, assembled
from nightmill.completions.requests import StoredRequest
from nightmill.contracts import BatchStatus, PartRef, PollInput, SettleInput
from nightmill.errors import ProviderUnavailable, RequestRefused
from nightmill.sandbox import Fault, Profile, Sandbox
from nightmill.settings import Settings
from nightmill.storage.models import BatchRow

REF = PartRef(batch_id="b1", round=0, part=0)
LINE = (
    b'{"custom_id":"r0","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-5-mini",'
    b'"messages":[{"role":"user","content":"hello"}]}}'
)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(profile=Profile(finish_after=0)) as running:
        yield running


@pytest.fixture
def nightmill(database_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[Assembly]:
    """One of a batch that has ended at the provider, and whose next poll would have been due a minute ago."""
    openai = {"base_url": sandbox.base_urls["openai"], "api_key": "sandbox-key"}
    settings = {"database_url": database_url, "storage_url": str(tmp_path / "files"), "openai": openai}
    now = datetime.now(UTC)
    batch = BatchRow(id="b1", provider="openai", model="gpt-5-mini", poll_schedule=[60.0], max_age=9e9, created_at=now)
    batch.endpoint = "/v1/chat/completions"
    with assembled(Settings.model_validate(settings)) as assembly:
        request = StoredRequest(seq=0, custom_id="r0", wire_id="r0", line=LINE)
        assembly.settler.plan_round(assembly.requests.store(batch, [request]), 0, now=now)
        assembly.submitter.submit(REF, now=now, looked_for=None)
        assembly.poller.poll(PollInput(part=REF, next_poll_at=now - timedelta(minutes=1)))
        yield assembly


def harvest(nightmill: Assembly, *, ended: timedelta = timedelta(0)) -> None:
    end = SettleInput(part=REF, status=BatchStatus.ENDED, ended_at=datetime.now(UTC) - ended)
    nightmill.settler.settle_part(end, heartbeat=lambda _: None)


def due_in(nightmill: Assembly) -> timedelta | None:
    batch, part = nightmill.parts.get(REF)
    assert batch.next_poll_at == part.next_poll_at
    return None if batch.next_poll_at is None else batch.next_poll_at - datetime.now(UTC)


def test_a_harvest_that_fails_for_now_is_overdue_only_when_its_workflow_does_not_come_back(
    nightmill: Assembly, sandbox: Sandbox
) -> None:
    for minutes, retry_after, expected in ((0, None, 2), (5, None, 10), (10, 600, 20), (40, None, 45), (0, 3_600, 62)):
        sandbox.add_faults(Fault("status", operation="results.get", status=503, retry_after=retry_after))
        with pytest.raises(ProviderUnavailable):
            harvest(nightmill, ended=timedelta(minutes=minutes))
        left = due_in(nightmill)
        assert left is not None
        assert timedelta(minutes=expected - 1) < left < timedelta(minutes=expected + 1)
    harvest(nightmill)
    assert due_in(nightmill) is None


def test_a_harvest_that_waits_for_an_operator_is_not_put_off(nightmill: Assembly, sandbox: Sandbox) -> None:
    sandbox.add_faults(Fault("status", operation="results.get", status=400))
    with pytest.raises(RequestRefused):
        harvest(nightmill)
    left = due_in(nightmill)
    assert left is not None
    assert left < timedelta(0)

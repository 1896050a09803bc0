"""What a worker measures of real work is what the rows and the providers' own records say of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from temporalio.testing import ActivityEnvironment

from activities.documents import DocumentActivities
from nightmill.assembly import Assembly
from nightmill.contracts import BatchStatus, BatchSummary, RoundInput, SyncInput, SyncResult, Trigger
from nightmill.documents.links import read_link
from nightmill.sandbox import Fault, Sandbox
from nightmill.storage.document_models import DocumentRow
from nightmill.storage.documents import NewDocument
from nightmill.telemetry import metrics
from tests.lanes import MODELS, PATIENCE, running, until
from tests.measuring import Measured
from tests.site import Page, Site, failure
from tests.stack import Stack, requests

pytestmark = pytest.mark.server

PARAGRAPH = (
    "<p>The harbour has {} piers, of which most are in use today by fishing boats and by ferries to the isles.</p>"
)
STORY = "<html><body><main><h1>Harbour</h1>" + "".join(PARAGRAPH.format(n) for n in range(9)) + "</main></body></html>"
ATTEMPTS = """
    SELECT b.provider, b.model, o.ok, o.error_code, o.input_tokens, o.output_tokens, o.cached_tokens,
        o.reasoning_tokens, o.cost_picodollars, NOT EXISTS (
            SELECT 1 FROM outcomes later
            WHERE later.batch_key = o.batch_key AND later.seq = o.seq AND later.round > o.round) AS is_last
    FROM outcomes o JOIN batches b ON b.key = o.batch_key
"""


def rows(assembly: Assembly, query: str) -> list[Any]:
    with assembly.database.reading() as session:
        return list(session.execute(text(query)))


def test_batches_of_all_kinds_of_ends(
    stack: Stack, sandbox: Sandbox, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    """A second round, a lost create, polls without an answer, a refusal, a cancel: all counted, none of them twice."""
    caplog.set_level(logging.INFO, "nightmill.batches")
    sandbox.add_faults(
        Fault("drop", provider="anthropic", operation="batches.create", when="after"),
        Fault("status", provider="anthropic", operation="batches.get", status=500, times=2),
        Fault("status", provider="google", operation="batches.create", status=400),
    )

    async def go() -> dict[str, BatchSummary]:
        async with running(stack) as nightmill:
            ids = {}
            for provider in ("xai", "openai", "anthropic", "google"):
                sandbox.set_profile(
                    finish_after=60.0 if provider == "xai" else 0.3, fail_ids=["r1", "r2"], failure="mixed"
                )
                ids[provider] = await nightmill.submit(
                    requests(8), provider=provider, model=MODELS[provider], retry_rounds=1
                )
                await until(
                    lambda wanted=provider: wanted == "google" or rows(nightmill.assembly, CREATED.format(wanted))
                )
            await nightmill.cancel(ids["xai"])
            waits = [nightmill.wait(batch_id, timeout=PATIENCE) for batch_id in ids.values()]
            return dict(zip(ids, await asyncio.gather(*waits), strict=True))

    ended = asyncio.run(go())
    statuses = {provider: summary.status.value for provider, summary in ended.items()}
    assert statuses == {"xai": "canceled", "openai": "ended", "anthropic": "ended", "google": "failed"}
    with stack.assembly() as assembly:
        attempts = rows(assembly, ATTEMPTS)
        asked = RoundInput(batch_id=ended["openai"].batch_id, round=1, now=datetime.now(UTC))
        again = assembly.settler.settle_round(asked).summary  # as a worker does that lost the answer's way
    assert again == ended["openai"]

    assert measured.series(metrics.BATCH_ENDED) == dict.fromkeys(statuses.items(), 1)
    assert measured.series(metrics.BATCH_DURATION) == dict.fromkeys(statuses.items(), 1)
    assert measured.series(metrics.BATCH_ENTRIES) == Counter(
        (row.provider, row.error_code or "") for row in attempts if row.is_last
    )
    tokens: Counter[tuple[str, ...]] = Counter()
    costs: Counter[tuple[str, ...]] = Counter()
    for row in attempts:
        costs[row.provider, row.model] += row.cost_picodollars or 0
        for kind in ("input", "output", "cached", "reasoning"):
            tokens[row.provider, row.model, kind] += getattr(row, f"{kind}_tokens") or 0
    assert measured.series(metrics.BATCH_TOKENS) == +tokens
    assert measured.series(metrics.BATCH_COST) == pytest.approx({k: v / 10**12 for k, v in (+costs).items()})
    created = Counter(batch["provider"] for batch in sandbox.batches())
    assert measured.series(metrics.BATCH_CREATED) == {(provider,): number for provider, number in created.items()}
    counted = measured.series(metrics.BATCH_POLLS)
    assert counted["anthropic", "transient"] == 2
    assert counted["openai", "terminal"] == 2  # one a round
    by_provider: Counter[str] = Counter()
    for (provider, _), number in counted.items():
        by_provider[provider] += number
    assert by_provider == Counter(entry["provider"] for entry in sandbox.log(operation="batches.get"))
    assert measured.series(metrics.BATCH_POLL_LAG) == {(provider,): number for provider, number in by_provider.items()}

    records = [vars(record) for record in caplog.records if record.getMessage() == "batch ended"]
    assert Counter((record["provider"], record["status"], record["levelname"]) for record in records) == Counter(
        [
            ("xai", "canceled", "INFO"),
            ("openai", "ended", "INFO"),
            ("anthropic", "ended", "INFO"),
            ("google", "failed", "ERROR"),
        ]
    )
    assert all(record["model"] == MODELS[record["provider"]] and record["requests"] == 8 for record in records)
    assert "Say 1" not in json.dumps(records, default=str), "no prompt is in a log"


CREATED = "SELECT 1 FROM provider_batches WHERE provider = '{}' AND provider_batch_id IS NOT NULL"


@pytest.mark.kill
def test_an_end_whose_worker_was_killed_after_it_was_counted_is_not_counted_again(
    stack: Stack, sandbox: Sandbox, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nightmill.batches")
    sandbox.set_profile(finish_after=0.2)

    async def go() -> BatchSummary:
        with stack.assembly() as assembly:
            nightmill = await stack.nightmill(assembly)
            batch_id = await nightmill.submit(requests(3), provider="openai", model=MODELS["openai"])
            await until(lambda: doomed.poll() is not None)
        async with running(stack) as nightmill:
            return await nightmill.wait(batch_id, timeout=PATIENCE)

    doomed = stack.fork_worker(NIGHTMILL_FAIL_POINT="round.finished")
    assert asyncio.run(go()).status is BatchStatus.ENDED
    assert doomed.poll() == -9
    told = [line for line in stack.worker_log().splitlines() if '"batch ended"' in line]
    assert len(told) == 1
    assert not [record for record in caplog.records if record.getMessage() == "batch ended"]
    assert measured.series(metrics.BATCH_ENDED) == {}


def test_syncs_and_how_late_they_begin(sqlite_url: str, measured: Measured) -> None:
    """A sweep's sync an hour late, the second attempt of it, and one that a person asked for."""
    from nightmill.assembly import assembled
    from nightmill.settings import Settings

    settings = Settings(
        _env_file=None, database_url=sqlite_url, documents={"allow_private_addresses": True, "host_delay": 0}
    )
    with assembled(settings) as assembly, Site({"/a": Page(STORY)}) as site:
        present = datetime.now(UTC)
        assembly.accounts.add("acme", "daily", now=present)
        link = read_link(site.url("/a"))
        assembly.documents.add(NewDocument(account="acme", collection="c", link=link, id="d1"), present)
        with assembly.database.transaction() as session:
            due = {"next_sync_at": present - timedelta(hours=1)}
            session.connection().execute(update(DocumentRow).values(**due))
        activities = DocumentActivities(assembly.syncer, assembly.syncs, assembly.alerts)

        def sync(trigger: Trigger, run_id: str) -> Any:
            asked = SyncInput(document_id="d1", trigger=trigger, run_id=run_id)
            return ActivityEnvironment().run(activities.sync_document, asked)

        site.answers["/a"] = [failure(503)]
        with pytest.raises(Exception, match="attempt 1 failed"):
            sync(Trigger.SWEEP, "run-1")
        assert sync(Trigger.SWEEP, "run-1").result is SyncResult.UPDATED
        assert sync(Trigger.MANUAL, "run-2").result is SyncResult.NOT_MODIFIED
    results = {("transient_failure",): 1, ("updated",): 1, ("not_modified",): 1}
    assert measured.series(metrics.DOCUMENT_SYNC_DURATION) == results
    assert sum(measured.sums(metrics.DOCUMENT_SYNC_DURATION).values()) < 30, "seconds"
    assert measured.series(metrics.DOCUMENT_SYNCS) == {
        ("transient_failure", "fetch_failed"): 1, ("updated", ""): 1, ("not_modified", ""): 1,
    }  # fmt: skip
    assert measured.series(metrics.DOCUMENT_SYNC_LAG) == {(): 1}
    assert measured.sums(metrics.DOCUMENT_SYNC_LAG) == {(): pytest.approx(3_600, abs=60)}

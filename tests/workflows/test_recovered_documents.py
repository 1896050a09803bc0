"""Syncs that are lost, and changes that nobody tells: after a tick of the reconciler all is as if nothing had been."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, Finding, PageOutcome, Source, SyncStatus
from nightmill.storage.document_models import DocumentRow
from tests.lanes import Lane, in_a_lane, until
from tests.pages import article
from tests.recovering import lose, recovering_at_once, tick
from tests.site import Site

pytestmark = pytest.mark.server


async def added(nightmill: Nightmill, lane: Lane, site: Site, *, auto_sync: bool = False) -> str:
    """Make a document of an account that has a handler, and that nobody syncs yet."""
    await nightmill.documents.add_account("acme", "daily", auto_sync=auto_sync, change_handler=lane.handler)
    return await nightmill.documents.add(site.url("/0"), account="acme", collection="docs", sync=False)


def row_of(nightmill: Nightmill, document_id: str) -> DocumentRow:
    return nightmill.assembly.documents.get(document_id).row


def told(lane: Lane) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in lane.webhook.received]


def pages(site: Site) -> int:
    """Return how often the page was asked for."""
    return len(site.visits("/0"))


def findings(outcome: PageOutcome) -> list[tuple[Finding, Action]]:
    return [(each.finding, each.action) for each in outcome.repairs]


async def check_in_order(nightmill: Nightmill, lane: Lane, document_id: str) -> None:
    """The document is synced, its handler was told once, and another tick finds nothing to do."""
    await nightmill.documents.wait(document_id)
    row = row_of(nightmill, document_id)
    assert (row.sync_status, row.needs_attention) == (SyncStatus.SYNCED, None)
    assert row.handled_fingerprint == row.content_fingerprint is not None
    assert [each["number"] for each in told(lane)] == [1]
    assert (await tick(nightmill, Source.DOCUMENTS)).candidates == 0


@pytest.mark.parametrize(
    ("way", "finding", "auto_sync"),
    [("terminated", Finding.TERMINATED, True), ("deleted", Finding.NOT_FOUND, False)],
    ids=["terminated", "deleted"],
)
@in_a_lane
async def test_a_sync_that_is_lost_while_it_fetches_is_done_again_once(
    lane: Lane, way: str, finding: Finding, auto_sync: bool
) -> None:
    recovering_at_once(lane)
    with Site({"/0": article(0, delay=0.6)}) as site:
        async with lane.running() as nightmill:
            document_id = await added(nightmill, lane, site, auto_sync=auto_sync)
            await nightmill.documents.sync_now(document_id)
            await until(lambda: pages(site))
            assert findings(await tick(nightmill, Source.DOCUMENTS)) == [], "it runs"
            await lose(nightmill.temporal, ids.document_workflow_id(document_id), way)
            outcomes = await asyncio.gather(*(tick(nightmill, Source.DOCUMENTS) for _ in range(3)))
            assert [found for each in outcomes for found in findings(each)] == [(finding, Action.START)]
            assert findings(await tick(nightmill, Source.DOCUMENTS)) == [], "it runs again"
            await check_in_order(nightmill, lane, document_id)
        assert pages(site) == 2


@in_a_lane
async def test_a_change_whose_sync_was_lost_before_its_handler_knew_is_told_once(lane: Lane) -> None:
    recovering_at_once(lane)
    with Site({"/0": article(0)}) as site:
        lane.webhook.answers = [503]
        async with lane.running() as nightmill:
            document_id = await added(nightmill, lane, site)
            await nightmill.documents.sync_now(document_id)
            await until(lambda: not lane.webhook.answers)  # it is called again in 5 s
            row = row_of(nightmill, document_id)
            assert (row.sync_status, row.handled_fingerprint) == (SyncStatus.SYNCING, None)
            await lose(nightmill.temporal, ids.document_workflow_id(document_id), "terminated")
            assert findings(await tick(nightmill, Source.DOCUMENTS)) == [(Finding.TERMINATED, Action.START)]
            await check_in_order(nightmill, lane, document_id)
        assert pages(site) == 2


@in_a_lane
async def test_a_change_that_a_canceled_sync_left_untold_is_told_where_no_sweep_will(lane: Lane) -> None:
    recovering_at_once(lane)
    with Site({"/0": article(0)}) as site:
        lane.webhook.answers = [503]
        async with lane.running() as nightmill:
            document_id = await added(nightmill, lane, site)
            await nightmill.documents.sync_now(document_id)
            await until(lambda: not lane.webhook.answers)
            await nightmill.temporal.get_workflow_handle(ids.document_workflow_id(document_id)).cancel()
            await nightmill.documents.wait(document_id)
            assert row_of(nightmill, document_id).sync_status is SyncStatus.SYNCED
            assert findings(await tick(nightmill, Source.DOCUMENTS)) == [(Finding.CANCELED, Action.START)]
            await check_in_order(nightmill, lane, document_id)

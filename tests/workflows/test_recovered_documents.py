"""Syncs that are lost, and changes that nobody tells: after a tick of the reconciler all is as if nothing had been."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import Action, Finding, Source, SyncStatus
from nightmill.storage.document_models import DocumentRow
from tests.lanes import Lane, in_a_lane, until
from tests.pages import article
from tests.recovering import found, lose, recovering_at_once, tick
from tests.site import Site

pytestmark = pytest.mark.server


def row_of(nightmill: Nightmill, document_id: str) -> DocumentRow:
    return nightmill.assembly.documents.get(document_id).row


def told(lane: Lane) -> Counter[str]:
    """Return how often the handler was told of each document."""
    return Counter(json.loads(body)["document_id"] for _, body in lane.webhook.received)


async def check_in_order(nightmill: Nightmill, document_id: str) -> None:
    """The document is synced, and its handler knows."""
    await nightmill.documents.wait(document_id)
    row = row_of(nightmill, document_id)
    assert (row.sync_status, row.needs_attention) == (SyncStatus.SYNCED, None)
    assert row.handled_fingerprint == row.content_fingerprint is not None


@in_a_lane
async def test_whatever_loses_a_sync_one_tick_has_it_done_once_more_and_its_change_told_once(lane: Lane) -> None:
    """Two are lost while they fetch; of two the content is stored, but their handler refuses what it is told."""
    recovering_at_once(lane)
    lane.webhook.answers = [503] * 20
    texts = {"/unheard": article(0), "/canceled": article(1), "/terminated": article(2, delay=2)}
    # A host is asked for one page at a time.
    with Site(texts) as site, Site({"/deleted": article(3, delay=2)}, address="127.0.0.2") as other:
        async with lane.running() as nightmill:
            for name, auto_sync in (("hand", False), ("automatic", True)):
                await nightmill.documents.add_account(name, "daily", auto_sync=auto_sync, change_handler=lane.handler)

            async def added(link: str, account: str = "hand") -> str:
                document_id = await nightmill.documents.add(link, account=account, collection="c", sync=False)
                await nightmill.documents.sync_now(document_id)
                return document_id

            unheard, canceled = [await added(site.url(path)) for path in ("/unheard", "/canceled")]
            await until(lambda: all(row_of(nightmill, each).content_fingerprint for each in (unheard, canceled)))
            terminated = await added(site.url("/terminated"), "automatic")
            deleted = await added(other.url("/deleted"))
            await until(lambda: site.visits("/terminated") and other.visits("/deleted"))
            everything = {unheard, canceled, terminated, deleted}
            assert set(found(nightmill, Source.DOCUMENTS)) == everything
            assert await tick(nightmill) == {}, "all of them run"

            await nightmill.temporal.get_workflow_handle(ids.document_workflow_id(canceled)).cancel()
            await nightmill.documents.wait(canceled)
            for document_id, way in ((unheard, "terminated"), (terminated, "terminated"), (deleted, "deleted")):
                await lose(nightmill.temporal, ids.document_workflow_id(document_id), way)
            rows = [row_of(nightmill, each) for each in (unheard, canceled, terminated)]
            assert [row.sync_status for row in rows] == [SyncStatus.SYNCING, SyncStatus.SYNCED, SyncStatus.SYNCING]
            assert told(lane) == Counter()
            lane.webhook.answers.clear()

            assert await tick(nightmill) == {
                unheard: (Finding.TERMINATED, Action.START),
                canceled: (Finding.CANCELED, Action.START),
                terminated: (Finding.TERMINATED, Action.START),
                deleted: (Finding.NOT_FOUND, Action.START),
            }
            for document_id in everything:
                await check_in_order(nightmill, document_id)
            assert found(nightmill, Source.DOCUMENTS) == []
        assert [len(site.visits(path)) for path in texts] == [2, 2, 2]
        assert len(other.visits("/deleted")) == 2
    assert told(lane) == Counter(everything)

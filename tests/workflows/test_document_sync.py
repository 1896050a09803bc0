"""Documents from end to end: a real site on loopback, a real Temporal server, a real worker."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.client import WorkflowExecutionStatus

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SyncErrorCode, SyncOutcome, SyncResult, SyncStatus
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.site import Page, Site, failure, redirect, robots

pytestmark = pytest.mark.server

STORY = "".join(
    f"<p>Paragraph {n} says that the harbour of the town was built in {1700 + n} by people from the north, and "
    f"that it has {n + 2} piers of which {n + 1} are still in use today by fishing boats and ferries.</p>"
    for n in range(12)
)


def page(body: str = STORY, *, title: str = "The harbour", clock: str = "12:00") -> Page:
    return Page(
        f"<!doctype html><html><head><title>{title}</title></head><body><nav><a href='/'>Home</a></nav>"
        f"<main><article><h1>{title}</h1>{body}</article></main><footer>It is {clock}</footer></body></html>"
    )


async def added(nightmill: Nightmill, site: Site, path: str = "/harbour", **options: Any) -> str:
    """Make an account and a document that nobody syncs yet."""
    await nightmill.documents.add_account("acme", "daily", change_handler=options.pop("handler", None))
    return await nightmill.documents.add(site.url(path), account="acme", collection="docs", sync=False, **options)


async def sync(nightmill: Nightmill, document_id: str) -> SyncOutcome:
    """Sync now, and return what came of it."""
    await nightmill.documents.sync_now(document_id)
    async with asyncio.timeout(PATIENCE.total_seconds()):
        return await nightmill.documents.wait(document_id)


def changes(lane: Lane) -> list[dict[str, Any]]:
    """Return what the change handler was told."""
    return [json.loads(body) for _, body in lane.webhook.received]


@in_a_lane
async def test_a_page_is_delivered_once_then_unchanged_then_delivered_when_it_really_changes(lane: Lane) -> None:
    with Site({"/harbour": page()}) as site:
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site, handler=lane.handler)
            first = await sync(nightmill, document_id)
            second = await sync(nightmill, document_id)
            site.pages["/harbour"] = page(clock="12:01")
            third = await sync(nightmill, document_id)
            site.pages["/harbour"] = page(STORY.replace("piers of which 3", "piers of which 4"), clock="12:02")
            fourth = await sync(nightmill, document_id)
            row = nightmill.assembly.documents.get(document_id).row
            content = nightmill.assembly.documents.content(document_id)
    results = [outcome.result for outcome in (first, second, third, fourth)]
    assert results == [SyncResult.UPDATED, SyncResult.NOT_MODIFIED, SyncResult.UNCHANGED, SyncResult.UPDATED]
    assert (row.sync_status, row.sync_step, row.name) == (SyncStatus.SYNCED, None, "The harbour")
    assert row.handled_fingerprint == row.content_fingerprint
    told = changes(lane)
    assert [change["kind"] for change in told] == ["changed", "changed"]
    assert told[1]["old_fingerprint"] == told[0]["new_fingerprint"]
    assert (told[1]["diff"]["added"], told[1]["diff"]["removed"]) == (1, 1)
    assert "harbour of the town" not in json.dumps(told), "the content is never carried"
    assert content is not None
    assert "piers of which 4" in content.content
    assert len({headers["webhook-id"] for headers, _ in lane.webhook.received}) == 2


@in_a_lane
async def test_a_second_request_is_answered_at_once_while_the_first_one_runs(lane: Lane) -> None:
    lane.in_the_workflow_sandbox()
    site_page = page()
    with Site({"/harbour": Page(site_page.body, delay=2.0)}) as site:
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site)
            assert await nightmill.documents.sync_now(document_id) == "started"
            await until(lambda: site.visits("/harbour"))
            assert await nightmill.documents.sync_now(document_id) == "already_syncing"
            outcome = await nightmill.documents.wait(document_id)
    assert outcome.result is SyncResult.UPDATED
    assert len(site.visits("/harbour")) == 1


@in_a_lane
async def test_a_failure_that_may_pass_is_tried_again_and_sync_now_does_not_wait_for_it(lane: Lane) -> None:
    with Site({"/harbour": page()}) as site:
        site.answers["/harbour"] = [failure(503)]
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site)
            await nightmill.documents.sync_now(document_id)
            row = await until(lambda: _waiting(nightmill, document_id))
            assert (row.sync_status, row.last_sync_error_code) == (SyncStatus.SYNCING, SyncErrorCode.FETCH_FAILED)
            assert row.next_attempt_at - datetime.now(UTC) > timedelta(seconds=15)
            outcome = await sync(nightmill, document_id)
            row = nightmill.assembly.documents.get(document_id).row
    assert (outcome.result, outcome.attempt) == (SyncResult.UPDATED, 2)
    assert (row.spent_transient, row.last_sync_error_code) == (1, None)
    assert [visit.status for visit in site.visits("/harbour")] == [503, 200]


def _waiting(nightmill: Nightmill, document_id: str) -> Any:
    row = nightmill.assembly.documents.get(document_id).row
    return row if row.spent_transient and row.next_attempt_at else None


@in_a_lane
async def test_what_will_not_come_is_a_result_of_its_own_and_the_last_good_content_stays(lane: Lane) -> None:
    broken = {
        "gone": (failure(404), "not_found", None),
        "denied": (failure(403), "access_denied", None),
        "binary": (Page(b"\x00\x01" * 400, content_type="application/zip"), "unsupported_type", "application/zip"),
        "shell": (Page("<title>App</title><div id=root></div><script src=a.js></script>"), "content_empty", None),
        "home": (redirect("/"), "not_found", "redirect_to_home"),
        "soft": (Page("<title>Page not found</title><h1>404 Not Found</h1><p>Sorry."), "not_found", "soft_404"),
    }  # fmt: skip
    with Site({"/": page(), **{f"/{name}": page() for name in broken}}) as site:
        async with lane.running() as nightmill:
            ids = {name: await added(nightmill, site, f"/{name}") for name in broken}
            for document_id in ids.values():
                assert (await sync(nightmill, document_id)).result is SyncResult.UPDATED
            for name, (answer, _, _) in broken.items():
                site.pages[f"/{name}"] = answer
            outcomes = {name: await sync(nightmill, document_id) for name, document_id in ids.items()}
            rows = {name: nightmill.assembly.documents.get(document_id).row for name, document_id in ids.items()}
            contents = [nightmill.assembly.documents.content(document_id) for document_id in ids.values()]
    for name, (_, code, reason) in broken.items():
        outcome = outcomes[name]
        assert (outcome.result, outcome.error_code) == (SyncResult.PERMANENT_FAILURE, code), name
        assert reason is None or outcome.reason == reason, name
        assert rows[name].sync_status is SyncStatus.FAILED
    assert all(content and "harbour of the town" in content.content for content in contents)


@in_a_lane
async def test_a_text_that_shrinks_to_almost_nothing_is_believed_the_second_time(lane: Lane) -> None:
    with Site({"/harbour": page()}) as site:
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site, handler=lane.handler)
            await sync(nightmill, document_id)
            site.pages["/harbour"] = page("<p>We moved our office to the other side of the river last week.</p>")
            held = await sync(nightmill, document_id)
            kept = nightmill.assembly.documents.content(document_id)
            believed = await sync(nightmill, document_id)
    assert (held.result, held.reason) == (SyncResult.UNCHANGED, "shrunk")
    assert kept is not None
    assert "harbour of the town" in kept.content
    assert believed.result is SyncResult.UPDATED
    assert len(changes(lane)) == 2


@in_a_lane
async def test_a_change_whose_handler_failed_is_told_by_the_next_sync_that_finds_nothing_new(lane: Lane) -> None:
    lane.webhook.answers[:] = [400]
    with Site({"/harbour": page()}) as site:
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site, handler=lane.handler)
            first = await sync(nightmill, document_id)
            between = nightmill.assembly.documents.get(document_id).row
            second = await sync(nightmill, document_id)
            row = nightmill.assembly.documents.get(document_id).row
    assert first.result is SyncResult.UPDATED
    assert between.handled_fingerprint is None
    assert "400" in (between.needs_attention or "")
    assert second.result is SyncResult.NOT_MODIFIED
    assert row.handled_fingerprint == row.content_fingerprint
    assert row.needs_attention is None
    assert len(changes(lane)) == 1


@in_a_lane
async def test_the_path_of_a_webhook_is_called_but_stays_out_of_histories(lane: Lane) -> None:
    lane.webhook.answers[:] = [400]
    handler = {"kind": "webhook", "url": f"{lane.webhook.url}/hooks/T0K3N?key=K3Y"}
    with Site({"/harbour": page()}) as site:
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site, handler=handler)
            await sync(nightmill, document_id)
            first = await nightmill.temporal.get_workflow_handle(f"document/{document_id}").fetch_history()
            await sync(nightmill, document_id)
            second = await nightmill.temporal.get_workflow_handle(f"document/{document_id}").fetch_history()
            needs = nightmill.assembly.documents.get(document_id).row.needs_attention
    assert len(changes(lane)) == 1
    assert needs is None
    written = b"".join(event.SerializeToString() for event in [*first.events, *second.events])
    assert b"webhook" in written
    assert b"T0K3N" not in written
    assert b"K3Y" not in written


@in_a_lane
async def test_robots_txt_is_obeyed_fetched_once_and_asked_before_a_redirect_is_followed(lane: Lane) -> None:
    pages = {"/robots.txt": robots("User-agent: *\nDisallow: /secret"), "/secret": page(), "/a": page()}
    closed = {"/robots.txt": robots("User-agent: *\nDisallow: /"), "/b": page()}
    with Site(pages) as site, Site(closed) as other:
        site.pages["/out"] = redirect(other.url("/b"))
        async with lane.running() as nightmill:
            outcomes = {}
            for path in ("/secret", "/a", "/out"):
                outcomes[path] = await sync(nightmill, await added(nightmill, site, path))
    assert (outcomes["/secret"].error_code, outcomes["/secret"].reason) == ("access_denied", "robots")
    assert outcomes["/a"].result is SyncResult.UPDATED
    assert (outcomes["/out"].error_code, outcomes["/out"].reason) == ("access_denied", "robots")
    assert len(site.visits("/robots.txt")) == 1
    assert not site.visits("/secret")
    assert not other.visits("/b")


@in_a_lane
async def test_a_slow_host_is_asked_one_page_at_a_time_and_holds_up_nobody_else(lane: Lane) -> None:
    lane.set(WORKER__MAX_ACTIVITIES="4")
    slow_pages = {f"/{n}": Page(page().body, delay=1.0) for n in range(8)}
    with Site(slow_pages) as slow, Site({"/quick": page()}) as quick:
        async with lane.running() as nightmill:
            waiting = [await added(nightmill, slow, path) for path in slow_pages]
            for document_id in waiting:
                await nightmill.documents.sync_now(document_id)
            await until(lambda: len(slow.log) > 1)
            outcome = await sync(nightmill, await added(nightmill, quick, "/quick"))
            finished = len([visit for visit in slow.log if visit.path != "/robots.txt"])
            outcomes = [await nightmill.documents.wait(document_id) for document_id in waiting]
    assert outcome.result is SyncResult.UPDATED
    assert finished < len(slow_pages), "the quick host's page came before the slow host had finished"
    assert Counter(one.result for one in outcomes) == {SyncResult.UPDATED: len(slow_pages)}
    assert slow.most_at_once == 1


@in_a_lane
async def test_a_document_that_is_deleted_during_the_fetch_is_not_made_again_and_is_no_error(lane: Lane) -> None:
    with Site({"/harbour": Page(page().body, delay=1.5)}) as site:
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site)
            await nightmill.documents.sync_now(document_id)
            await until(lambda: site.visits("/harbour"))
            with nightmill.assembly.database.transaction() as session:
                session.execute(text("DELETE FROM documents"))
            outcome = await nightmill.documents.wait(document_id)
            with nightmill.assembly.database.reading() as session:
                left = session.execute(text("SELECT count(*) FROM documents")).scalar_one()
    assert (outcome.result, outcome.reason) == (SyncResult.SKIPPED, "gone")
    assert left == 0


@in_a_lane
async def test_a_canceled_sync_leaves_the_document_at_rest(lane: Lane) -> None:
    with Site({"/harbour": page()}) as site:
        site.answers["/harbour"] = [failure(503)]
        async with lane.running() as nightmill:
            document_id = await added(nightmill, site)
            await nightmill.documents.sync_now(document_id)
            await until(lambda: _waiting(nightmill, document_id))
            handle = nightmill.temporal.get_workflow_handle(f"document/{document_id}")
            await handle.cancel()
            await until(lambda: nightmill.assembly.documents.get(document_id).row.sync_status is SyncStatus.FAILED)
            description = await handle.describe()
            row = nightmill.assembly.documents.get(document_id).row
    assert description.status in (WorkflowExecutionStatus.CANCELED, WorkflowExecutionStatus.RUNNING)
    assert row.sync_step is None
    assert row.next_attempt_at is None

"""The demonstration's second half: a site is crawled, synced, changed, and synced again, with a proof at the end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from nightmill.cli.output import note, print_table, say

if TYPE_CHECKING:
    from nightmill.cli.demo_site import DemoSite
    from nightmill.cli.receiver import WebhookReceiver
    from nightmill.client.nightmill import Nightmill

ACCOUNT, COLLECTION = "demo", "harbour"
CHANGED, CLOCK_ONLY = "/prices", "/ferries"

PATIENCE = timedelta(minutes=3)
"""How long all of it may take; it takes a quarter of a minute on two cores."""


@dataclass
class Step:
    """One step.

    Attributes:
        name: What was done.
        pages: How many pages it was about.
        outcome: What it came to.
        seconds: How long it took.
        wrong: What is not as it should be.
    """

    name: str
    pages: int = 0
    outcome: str = ""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, found: object, expected: object) -> None:
        """Remember what is not as it should be."""
        if found != expected:
            self.wrong.append(f"{what}: {found} in place of {expected}")


async def keep_fresh(nightmill: Nightmill, site: DemoSite, receiver: WebhookReceiver) -> list[Step]:
    """Crawl the site and sync it twice, with two pages changed between; return the steps, judged."""
    steps: list[Step] = []
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await _run(nightmill, site, receiver, steps)
    except TimeoutError:
        steps.append(Step("end", wrong=[f"not reached within {PATIENCE}"]))
    return steps


async def _run(nightmill: Nightmill, site: DemoSite, receiver: WebhookReceiver, steps: list[Step]) -> None:
    documents, pages = nightmill.documents, len(site.paths)
    await documents.add_account(ACCOUNT, "daily")

    started = time.monotonic()
    crawl_id = await documents.crawl(site.url("/"), account=ACCOUNT, collection=COLLECTION)
    crawled = await documents.wait_crawl(crawl_id)
    step = Step("crawl", crawled.visited, f"{crawled.added} new documents, {crawled.refused} kept out by robots.txt")
    step.seconds = time.monotonic() - started
    step.expect("new documents", crawled.added, pages)
    step.expect("kept out", crawled.refused, 1)
    step.expect("requests for what robots.txt forbids", site.answers["/staff", 404], 0)
    steps.append(step)

    first, step = await _sync(nightmill, "first sync")
    step.expect("outcomes", first, Counter(updated=pages))
    steps.append(step)

    # From here on somebody wants to know.
    await documents.add_account(ACCOUNT, "daily", change_handler={"kind": "webhook", "url": receiver.url})
    site.raise_price(CHANGED)
    site.turn_clock(CLOCK_ONLY)
    not_modified = site.answered(304)
    second, step = await _sync(nightmill, "second sync")
    step.expect("outcomes", second, Counter(updated=1, unchanged=1, not_modified=pages - 2))
    step.expect("answers without a body", site.answered(304) - not_modified, pages - 2)
    steps.append(step)

    changed = [(each.row.external_link, receiver.changes(each.row.id)) for each in await documents.listed(limit=1_000)]
    changed = [(link, count) for link, count in changed if count]
    step = Step("webhooks", len(changed), f"{sum(count for _, count in changed)} received, signed")
    step.expect("told of", [(link.removeprefix(site.url("")), count) for link, count in changed], [(CHANGED, 1)])
    steps.append(step)


async def _sync(nightmill: Nightmill, name: str) -> tuple[Counter[str], Step]:
    started = time.monotonic()
    ids = [stored.row.id for stored in await nightmill.documents.listed(limit=1_000)]
    found: Counter[str] = Counter()
    async for outcome in nightmill.documents.sync_many(ids):
        found[outcome.result.value] += 1
    text = ", ".join(f"{count} {result}" for result, count in sorted(found.items(), key=lambda each: each[1]))
    return found, Step(name, len(ids), text, time.monotonic() - started)


def report(steps: list[Step]) -> None:
    """Print the steps, and what is wrong."""
    headers = ["documents", "pages", "seconds", "proof", "came to"]
    rows = [
        [step.name, f"{step.pages}", f"{step.seconds:.1f}", "wrong" if step.wrong else "right", step.outcome]
        for step in steps
    ]
    print_table(headers, rows, numbers=["pages", "seconds"])
    for step in steps:
        for wrong in step.wrong:
            note(f"nightmill: {step.name}: {wrong}")
    if not any(step.wrong for step in steps):
        say("Of two pages that changed, one only in its footer: the other one was updated, and told once, signed.")

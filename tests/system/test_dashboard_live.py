"""What dashboard and alert rules ask for is what a worker has to tell, once it has done a little of everything."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from temporalio.client import Client

from nightmill.client.connection import register_search_attributes
from nightmill.sandbox import Profile, Sandbox
from tests import mixed, promql
from tests.stack import Stack, TemporalServer
from workflows.story import SEARCH_ATTRIBUTES

pytestmark = [pytest.mark.server, pytest.mark.system]  # it takes as long as the tests of whole tools do

BESIDE = {
    "up": {"job", "instance"},  # Prometheus makes these two itself
    "ALERTS": {"alertname", "alertstate"},
    # Only while Temporal does not answer a worker's polls.
    "temporal_long_request_failure_total": {"operation", "status_code"},
    # Of `nightmill events`, which is a process of its own: tests/nightmill/cli/test_events.py.
    "nightmill_events_total": {"provider", "outcome"},
}


def told(port: int) -> dict[str, set[str]]:
    """Return the series of a worker, each with its labels and those that Prometheus adds."""
    found: dict[str, set[str]] = {}
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                found.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    return found


@pytest.fixture
def stack(temporal_server: TemporalServer, tmp_path: Path, sqlite_url: str) -> Iterator[Stack]:
    with Sandbox(profile=Profile(finish_after=0.5, fail_ids=("r1",))) as sandbox:
        built = Stack(tmp_path, temporal_server, sandbox, sqlite_url, "nightmill-scraped")
        yield built
        built.stop()


async def saved_queries_are_taken(stack: Stack) -> None:
    text = (promql.DEPLOY.parent / "docs" / "temporal-ui.md").read_text()
    section = text[text.index("## Queries to save") :]
    client = await Client.connect(stack.server.address)
    queries = re.findall(r"\| `([^`]+)` \|", section)
    assert len(queries) > 5
    for query in queries:
        async for _ in client.list_workflows(query):
            break


def test_every_metric_and_label_that_is_asked_for_is_told(stack: Stack) -> None:
    port = mixed.measured_by(stack)
    worker = stack.fork_worker()

    async def work() -> None:
        with stack.assembly() as assembly, mixed.site() as pages:
            nightmill = await stack.nightmill(assembly)
            await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
            await asyncio.gather(
                mixed.batches(nightmill, stack.sandbox),
                mixed.documents(nightmill, pages),
                mixed.slicings(nightmill, stack.folder),
            )
            await mixed.losses(nightmill, stack.sandbox, stack.task_queue)

    asyncio.run(work())
    asyncio.run(saved_queries_are_taken(stack))
    time.sleep(2)  # the core's measurements are taken over every second
    assert worker.poll() is None
    known = told(port) | BESIDE
    made = promql.recorded()
    for name, query in made.items():
        assert not list(promql.missing(query, known)), name
    known |= {name: promql.named(query)[1] for name, query in made.items()}
    asked = [rule["expr"] for rule in promql.alerts()] + [q for panel in promql.panels() for q in promql.queries(panel)]
    assert not sorted({lacking for query in asked for lacking in promql.missing(query, known)})

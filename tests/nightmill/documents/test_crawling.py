"""A crawl's looks at pages, without Temporal: what is tried again, and when it is given up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from nightmill.assembly import Assembly, assembled
from nightmill.contracts import CrawlInput
from nightmill.documents import crawling
from nightmill.settings import DocumentSettings, Settings
from tests.pages import article
from tests.site import Break, Page, Site

START = Page("<main><p>The ferries of <a href='/bad'>today</a> and <a href='/1'>tomorrow</a>.</p></main>")


@pytest.fixture
def assembly(database_url: str) -> Iterator[Assembly]:
    documents = DocumentSettings(allow_private_addresses=True, host_delay=timedelta(0))
    with assembled(Settings(_env_file=None, database_url=database_url, documents=documents)) as built:
        built.accounts.add("acme", "daily", now=datetime.now(UTC))
        yield built


def test_a_page_that_keeps_failing_is_given_up_and_the_crawl_ends(
    assembly: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawling, "AGAIN", (timedelta(0), timedelta(0)))
    with Site({"/": Page("", breaks=Break.RESET)}) as site:
        asked = CrawlInput(account="acme", collection="docs", start_url=site.url("/"))
        assembly.crawler.begin("c1", asked, now=datetime.now(UTC))
        step = assembly.crawler.step("c1")
        assert len(site.visits("/")) == 3
    assert step.is_done
    assert (step.progress.visited, step.progress.failed, step.progress.added) == (1, 1, 0)


def test_until_a_page_is_to_be_looked_at_again_the_crawl_waits(assembly: Assembly) -> None:
    with Site({"/": Page("", 503)}) as site:
        asked = CrawlInput(account="acme", collection="docs", start_url=site.url("/"))
        assembly.crawler.begin("c1", asked, now=datetime.now(UTC))
        step = assembly.crawler.step("c1")
        assert len(site.visits("/")) == 1
    assert not step.is_done
    assert step.wait is not None
    assert timedelta(seconds=10) < step.wait <= crawling.AGAIN[0]


def test_a_page_that_provokes_a_bug_is_given_up_and_the_others_are_added(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawling, "AGAIN", (timedelta(0),))
    documents = DocumentSettings(allow_private_addresses=True, host_delay=timedelta(0))
    with (
        assembled(Settings(_env_file=None, database_url=sqlite_url, documents=documents)) as assembly,
        Site({"/": START, "/bad": article(2), "/1": article(1)}) as site,
    ):
        assembly.accounts.add("acme", "daily", now=datetime.now(UTC))
        with assembly.database.transaction() as session:
            session.execute(
                text(
                    "CREATE TRIGGER bug BEFORE INSERT ON documents WHEN NEW.link LIKE '%/bad' "
                    "BEGIN SELECT RAISE(ABORT, 'provoked'); END"
                )
            )
        asked = CrawlInput(account="acme", collection="docs", start_url=site.url("/"))
        assembly.crawler.begin("c1", asked, now=datetime.now(UTC))
        step = assembly.crawler.step("c1")
    assert step.is_done
    assert (step.progress.added, step.progress.failed) == (2, 1)

"""A crawl knows what it found, stays within its bounds, and counts from its rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from nightmill.contracts import CrawlInput, CrawlLimits, CrawlProgress
from nightmill.errors import AccountNotFound, CrawlNotFound
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.crawls import CrawlRepository
from nightmill.storage.engine import Database

ASKED = CrawlInput(
    account="acme",
    collection="help",
    start_url="https://site.example/",
    limits=CrawlLimits(pages=10, depth=2, duration=timedelta(hours=1)),
)


@pytest.fixture
def crawls(database: Database, given: Any) -> CrawlRepository:
    AccountRepository(database).add("acme", "daily", now=given.noon)
    crawls = CrawlRepository(database)
    crawls.create("c1", ASKED, now=given.noon)
    return crawls


def links(*numbers: int) -> list[str]:
    return [f"https://site.example/{number}" for number in numbers]


def test_a_crawl_is_made_once_an_id(crawls: CrawlRepository, given: Any) -> None:
    other = ASKED.model_copy(update={"start_url": "https://other.example/"})
    assert crawls.create("c1", other, now=given.at(1)).input == ASKED
    assert crawls.get("c1").row.created_at == given.noon
    crawls.create("c2", other, now=given.at(1))
    assert [crawl.row.id for crawl in crawls.newest()] == ["c2", "c1"]
    with pytest.raises(AccountNotFound):
        crawls.create("c3", ASKED.model_copy(update={"account": "nobody"}), now=given.noon)
    for call in (crawls.get, crawls.progress, crawls.room):
        with pytest.raises(CrawlNotFound):
            call("c3")


def test_each_link_is_looked_at_once_and_the_nearest_first(crawls: CrawlRepository, given: Any) -> None:
    assert crawls.add_links("c1", links(3, 4), depth=1, kind="page") == 2
    assert crawls.add_links("c1", [*links(0, 3, 0), "x" * 2_001], depth=0, kind="page") == 1
    assert crawls.add_links("c1", links(9), depth=2, kind="sitemap") == 1
    assert [page.link for page in crawls.next_pages("c1", 9, now=given.noon)] == links(9, 0, 3, 4)
    crawls.record_page("c1", links(0)[0], state="done", is_new=True)
    crawls.record_page("c1", links(0)[0], state="failed")
    crawls.record_page("c1", "https://site.example/unknown", state="failed")
    assert [page.link for page in crawls.next_pages("c1", 2, now=given.noon)] == links(9, 3)
    assert crawls.progress("c1").failed == 0


def test_a_crawl_takes_no_more_pages_than_it_may(crawls: CrawlRepository, given: Any) -> None:
    assert crawls.add_links("c1", links(*range(8)), depth=0, kind="page") == 8
    assert crawls.room("c1") == 2
    assert crawls.add_links("c1", links(*range(8)), depth=0, kind="page") == 0
    assert crawls.progress("c1").limit_hit is None
    assert crawls.add_links("c1", links(*range(20)), depth=1, kind="page") == 2
    assert crawls.progress("c1").limit_hit == "pages"
    assert crawls.room("c1") == 0
    assert crawls.add_links("c1", links(30), depth=1, kind="sitemap") == 1
    crawls.end("c1", limit_hit=None, now=given.at(1))
    crawls.end("c1", limit_hit="duration", now=given.at(2))
    assert crawls.progress("c1").limit_hit == "pages"
    assert crawls.progress("c1").ended_at == given.at(1)


def test_progress_counts_pages_and_what_sitemaps_list(crawls: CrawlRepository, given: Any) -> None:
    assert crawls.progress("c1") == CrawlProgress(crawl_id="c1", created_at=given.noon)
    crawls.add_links("c1", links(100), depth=0, kind="sitemap")
    for _ in range(2):
        crawls.record_sitemap("c1", links(100)[0], found=9, new=4, known=1, left=False)
    crawls.add_links("c1", links(1, 2, 3, 4, 5), depth=1, kind="page")
    assert crawls.room("c1") == 0
    crawls.record_page("c1", links(1)[0], state="done", is_new=True)
    crawls.record_page("c1", links(2)[0], state="done", is_new=False)
    crawls.record_page("c1", links(3)[0], state="failed")
    crawls.record_page("c1", links(4)[0], state="refused")
    assert crawls.progress("c1") == CrawlProgress(
        crawl_id="c1", created_at=given.noon, found=14, visited=5, added=5, known=2, failed=1, refused=1
    )


def test_a_sitemap_that_lists_too_much_hits_the_bound(crawls: CrawlRepository, given: Any) -> None:
    crawls.add_links("c1", links(1), depth=0, kind="sitemap")
    crawls.record_sitemap("c1", links(1)[0], found=50, new=10, known=0, left=True)
    assert (crawls.room("c1"), crawls.progress("c1").limit_hit) == (0, "pages")
    crawls.end("c1", limit_hit="duration", now=given.at(1))
    assert crawls.progress("c1").limit_hit == "duration"


def test_a_page_keeps_its_place_in_its_hosts_line(crawls: CrawlRepository, given: Any) -> None:
    crawls.add_links("c1", links(1), depth=0, kind="page")
    crawls.wait_in_line("c1", links(1)[0], ticket=given.at(1))
    assert crawls.next_pages("c1", 1, now=given.noon)[0].gate_at == given.at(1)


def test_a_page_that_failed_is_left_out_until_it_is_to_be_looked_at_again(crawls: CrawlRepository, given: Any) -> None:
    crawls.add_links("c1", links(1, 2), depth=0, kind="page")
    assert crawls.postponed("c1") is None
    crawls.wait_in_line("c1", links(1)[0], ticket=given.at(1))
    crawls.try_again("c1", links(1)[0], at=given.at(2))
    assert [page.link for page in crawls.next_pages("c1", 9, now=given.at(1))] == links(2)
    crawls.record_page("c1", links(2)[0], state="done", is_new=True)
    assert crawls.postponed("c1") == given.at(2)
    [page] = crawls.next_pages("c1", 9, now=given.at(2))
    assert (page.tries, page.gate_at) == (1, None)
    crawls.record_page("c1", page.link, state="failed")
    assert crawls.postponed("c1") is None

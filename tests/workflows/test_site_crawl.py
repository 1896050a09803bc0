"""Sites made into documents: by sitemaps and by links, politely, once, and within their bounds."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import pytest

from nightmill.client.nightmill import Nightmill
from nightmill.contracts import CrawlLimits, CrawlProgress
from nightmill.storage.documents import DocumentFilter
from tests.lanes import PATIENCE, Lane, in_a_lane
from tests.pages import article
from tests.site import Page, Site, failure, gz_file, redirect, robots, sitemap, sitemap_index

pytestmark = pytest.mark.server


def linking(number: int, *targets: str) -> Page:
    """Return page `number` with links to these."""
    links = "".join(f"<a href='{target}'>more</a>" for target in targets)
    return Page(article(number).read().decode().replace("<footer>", f"<p>{links}</p><footer>"))


async def crawled(nightmill: Nightmill, url: str, **limits: Any) -> CrawlProgress:
    """Crawl from a start, and return what came of it."""
    await nightmill.documents.add_account("acme", "daily")
    crawl_id = await nightmill.documents.crawl(url, account="acme", collection="docs", limits=CrawlLimits(**limits))
    async with asyncio.timeout(PATIENCE.total_seconds()):
        return await nightmill.documents.wait_crawl(crawl_id)


async def paths(nightmill: Nightmill, site: Site) -> list[str]:
    """Return the paths of all documents."""
    found = await nightmill.documents.listed(DocumentFilter(collection="docs"), limit=1000)
    assert all(one.row.link.startswith(site.url("")) for one in found)
    return sorted(one.row.link.removeprefix(site.url("").rstrip("/")) for one in found)


@in_a_lane
async def test_an_index_of_sitemaps_makes_each_page_a_document_once_also_when_it_is_crawled_again(lane: Lane) -> None:
    with Site() as site:
        site.pages["/sitemap.xml"] = sitemap_index([site.url("/maps/a.xml.gz"), site.url("/maps/inner.xml")])
        site.pages["/maps/inner.xml"] = sitemap_index([site.url("/maps/b.xml")])
        site.pages["/maps/a.xml.gz"] = gz_file(
            sitemap([site.url("/1"), site.url("/2#part"), site.url("/2"), site.url("/manual.pdf")])
        )
        site.pages["/maps/b.xml"] = sitemap([site.url("/2"), site.url("/3?a=1&b=2"), "http://elsewhere.example/4"])
        async with lane.running() as nightmill:
            first = await crawled(nightmill, site.url("/sitemap.xml"))
            found = await paths(nightmill, site)
            second = await crawled(nightmill, site.url("/sitemap.xml"))
            again = await paths(nightmill, site)
    assert found == again == ["/1", "/2", "/3?a=1&b=2"]
    assert (first.added, first.failed, first.refused, first.limit_hit) == (3, 0, 0, None)
    assert first.ended_at is not None
    assert (second.added, second.limit_hit) == (0, None)
    assert second.known >= 3
    asked = {visit.path for visit in site.log}
    assert asked == {"/robots.txt", "/sitemap.xml", "/maps/a.xml.gz", "/maps/inner.xml", "/maps/b.xml"}
    assert site.most_at_once == 1


@in_a_lane
async def test_a_start_page_is_followed_by_its_links_within_the_site_and_robots_txt(lane: Lane) -> None:
    with Site({"/away": article(9)}) as other, Site() as site:
        site.pages |= {
            "/": linking(0, "/1", "/1#part", "/1?utm_source=x", "/secret", other.url("/away"), "mailto:a@example.org"),
            "/1": linking(1, "/", "/2", "/old", "/manual.pdf", "javascript:void(0)"),
            "/2": linking(2, "/1"),
            "/old": redirect("/2"),
            "/secret": article(5),
            "/robots.txt": robots("User-agent: *\nDisallow: /secret"),
        }
        async with lane.running() as nightmill:
            progress = await crawled(nightmill, site.url("/"))
            found = await paths(nightmill, site)
            again = await crawled(nightmill, site.url("/"))
    assert found == ["/", "/1", "/2"]
    assert (progress.added, progress.refused, progress.failed, progress.limit_hit) == (3, 1, 0, None)
    assert (again.added, again.known) == (0, 4), "the page that redirects leads to one that is known"
    assert other.log == []
    assert not site.visits("/secret")
    assert not site.visits("/manual.pdf")
    assert len(site.visits("/robots.txt")) == 1
    assert site.most_at_once <= 2, "a redirect may be followed before the site has closed what it answered"


@in_a_lane
async def test_the_bounds_of_a_crawl_are_kept_and_told(lane: Lane) -> None:
    lane.in_the_workflow_sandbox()
    with Site({"/": article(50)}) as site:  # to which every page links
        for number in range(12):
            site.pages[f"/{number}"] = linking(number, f"/{number + 1}")
        site.pages["/sitemap.xml"] = sitemap(site.url(f"/{number}") for number in range(12))
        async with lane.running() as nightmill:
            deep = await crawled(nightmill, site.url("/0"), depth=2)
            by_depth = await paths(nightmill, site)
            few = await crawled(nightmill, site.url("/0"), depth=20, pages=5)
            by_pages = await paths(nightmill, site)
            listed = await crawled(nightmill, site.url("/sitemap.xml"), pages=8)
            by_sitemap = await paths(nightmill, site)
    assert by_depth == ["/", "/0", "/1", "/2"]
    assert deep.limit_hit == "depth"
    assert by_pages == ["/", "/0", "/1", "/2", "/3"]
    assert few.limit_hit == "pages"
    assert by_sitemap == ["/", *(f"/{number}" for number in range(8))]
    assert listed.limit_hit == "pages"


@in_a_lane
async def test_a_crawl_ends_when_its_time_is_over(lane: Lane) -> None:
    lane.set(DOCUMENTS__HOST_DELAY="2.5")
    with Site() as site:
        site.pages["/"] = linking(0, "/1", "/2", "/3", "/4", "/5")
        site.pages |= {f"/{number}": article(number) for number in range(1, 6)}
        async with lane.running() as nightmill:
            progress = await crawled(nightmill, site.url("/"), duration=timedelta(seconds=4))
    assert progress.limit_hit == "duration"
    assert 1 <= progress.added < 6
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(site.log)]
    assert min(gaps) > 2.4, "the host's pause is kept, also after robots.txt"


@in_a_lane
async def test_pages_that_fail_are_counted_and_end_nothing(lane: Lane) -> None:
    with Site() as site:
        site.pages["/"] = linking(0, "/1", "/gone", "/broken")
        site.pages["/1"] = article(1)
        site.pages["/broken"] = Page("oops", 403)
        async with lane.running() as nightmill:
            progress = await crawled(nightmill, site.url("/"))
            found = await paths(nightmill, site)
    assert found == ["/", "/1"]
    assert (progress.visited, progress.added, progress.failed) == (4, 2, 2)


@in_a_lane
async def test_what_the_site_fails_to_give_is_asked_for_again_before_the_crawl_goes_on_without_it(lane: Lane) -> None:
    with Site({"/": linking(0, "/1"), "/1": article(1)}) as site:
        site.pages["/sitemap.xml"] = sitemap([site.url("/1")])
        site.answers["/sitemap.xml"] = [failure(503, retry_after=1)]
        async with lane.running() as nightmill:
            progress = await crawled(nightmill, site.url("/sitemap.xml"))
    assert (progress.added, progress.failed) == (1, 0)
    first, second = site.visits("/sitemap.xml")
    assert (first.status, second.status) == (503, 200)
    assert second.at - first.at > 14

"""The steps of a crawl. Each may run more than once; what was seen before is not looked at again."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import activity

from activities.boundary import temporal_errors
from activities.heartbeats import tell
from nightmill.contracts import CrawlProgress, CrawlRef, CrawlStep
from nightmill.documents.crawling import Crawler
from nightmill.errors import InvalidInput


@dataclass(frozen=True)
class CrawlActivities:
    """Make documents of a site's pages.

    Attributes:
        crawler: Looks at pages.
    """

    crawler: Crawler

    @activity.defn
    def begin_crawl(self, crawl: CrawlRef) -> CrawlProgress:
        """Store the crawl and its start; a second run finds it."""
        with temporal_errors():
            if crawl.asked is None:
                raise InvalidInput("begin_crawl: asked is missing")
            return self.crawler.begin(crawl.crawl_id, crawl.asked, now=crawl.now)

    @activity.defn
    def crawl_pages(self, crawl: CrawlRef) -> CrawlStep:
        """Look at pages for some seconds; a second run goes on with those that are left."""
        with temporal_errors():
            step = self.crawler.step(crawl.crawl_id)
            tell({"visited": step.progress.visited})
            return step

    @activity.defn
    def end_crawl(self, crawl: CrawlRef) -> CrawlProgress:
        """Write that the crawl is over; a second run changes nothing."""
        with temporal_errors():
            return self.crawler.end(crawl.crawl_id, limit_hit=crawl.limit_hit, now=crawl.now)

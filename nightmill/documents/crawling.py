"""Adding a site: its pages become documents, once, from a sitemap or by following links from a start page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.contracts import CrawlInput, CrawlProgress, CrawlStep
from nightmill.documents.attempts import now
from nightmill.documents.fetching import FetchedPage
from nightmill.documents.links import Link, is_pdf, read_link, same_site
from nightmill.documents.sitemaps import read_sitemap
from nightmill.errors import (
    HostBusy,
    InvalidInput,
    NightmillError,
    PageAccessDenied,
    PageBlocked,
    PageFetchFailed,
    PageRefused,
    PageUnavailable,
)
from nightmill.failpoints import fail_point
from nightmill.storage.documents import NewDocument

if TYPE_CHECKING:
    from nightmill.documents.extractor import Extractor
    from nightmill.documents.fetching import PageFetcher
    from nightmill.documents.politeness import Politeness
    from nightmill.settings import DocumentSettings
    from nightmill.storage.accounts import AccountRepository
    from nightmill.storage.crawls import CrawlRepository, Kind, Limit
    from nightmill.storage.document_models import CrawlPageRow
    from nightmill.storage.documents import DocumentRepository

logger = logging.getLogger(__name__)

STEP = timedelta(seconds=20)
"""How long one call looks at pages before it says how far it has come."""

DEEPEST_SITEMAP = 2
"""An index in an index; sitemaps.org knows one level, sites use two."""

AGAIN = (timedelta(seconds=15), timedelta(minutes=2))
"""Pauses before a page is looked at again whose site failed; after the last one the crawl goes on without it."""

_LATER = frozenset({408, 425, 429})
_SITEMAP_ENDS = (".xml", ".xml.gz", "sitemap.txt")
_SITEMAP_BYTES = 50 * 1024 * 1024  # sitemaps.org/protocol.html: 50 MB uncompressed (read 2026-11)


@dataclass(frozen=True)
class Crawler:
    """Crawls sites; any thread may use it.

    Attributes:
        accounts: To know that the account exists.
        crawls: What was found and what is left.
        documents: What pages become.
        politeness: Turns at hosts.
        fetcher: Gets pages.
        extractor: Finds their links, in processes that can be killed.
        settings: Bounds.
    """

    accounts: AccountRepository
    crawls: CrawlRepository
    documents: DocumentRepository
    politeness: Politeness
    fetcher: PageFetcher
    extractor: Extractor
    settings: DocumentSettings

    def begin(self, crawl_id: str, asked: CrawlInput, *, now: datetime) -> CrawlProgress:
        """Store the crawl and its start; a second call finds it.

        Raises:
            AccountNotFound: There is no such account.
            InvalidInput: The start is no URL that can be fetched.
        """
        start = read_link(asked.start_url)
        self.accounts.get(asked.account)
        self.crawls.create(crawl_id, asked, now=now)
        kind: Kind = "sitemap" if start.canonical.partition("?")[0].endswith(_SITEMAP_ENDS) else "page"
        self.crawls.add_links(crawl_id, [start.canonical], depth=0, kind=kind)
        fail_point("crawl.begun")
        return self.crawls.progress(crawl_id)

    def step(self, crawl_id: str) -> CrawlStep:
        """Look at pages for some seconds; a second call goes on with those that are left.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        crawl = self.crawls.get(crawl_id)
        start = read_link(crawl.row.start_url)
        ends = time.monotonic() + STEP.total_seconds()
        while time.monotonic() < ends:
            page = next(iter(self.crawls.next_pages(crawl_id, 1, now=now())), None)
            if page is None:
                again = self.crawls.postponed(crawl_id)
                wait = None if again is None else max(again - now(), timedelta(seconds=1))
                return CrawlStep(progress=self.crawls.progress(crawl_id), wait=wait, is_done=again is None)
            try:
                self._look(crawl_id, crawl.input, start, page)
            except HostBusy as error:
                self.crawls.wait_in_line(crawl_id, page.link, ticket=error.ticket)
                return CrawlStep(
                    progress=self.crawls.progress(crawl_id), wait=error.retry_after or timedelta(seconds=1)
                )
        return CrawlStep(progress=self.crawls.progress(crawl_id))

    def end(self, crawl_id: str, *, limit_hit: Limit | None, now: datetime) -> CrawlProgress:
        """Write that the crawl is over; a second call changes nothing."""
        self.crawls.end(crawl_id, limit_hit=limit_hit, now=now)
        return self.crawls.progress(crawl_id)

    def _look(self, crawl_id: str, asked: CrawlInput, start: Link, page: CrawlPageRow) -> None:
        """Look at one page or sitemap, and write what it was and which links it has."""
        host = read_link(page.link).host
        try:
            with self.politeness.visit(host, ticket=page.gate_at, urgent=False) as visit:
                try:
                    if page.kind == "sitemap":
                        self._read_sitemap(crawl_id, asked, start, page, visit.allow)
                    else:
                        self._read_page(crawl_id, asked, start, page, visit.allow)
                except PageUnavailable as error:
                    visit.failed(error)
                    raise
        except PageUnavailable as error:
            logger.info("crawled page", extra={"crawl": crawl_id, "state": error.code, "link": page.link})
            self._try_again(crawl_id, page, error.retry_after)
        except (PageRefused, InvalidInput) as error:
            refused = isinstance(error, PageBlocked) or (
                isinstance(error, PageAccessDenied) and error.reason == "robots"
            )
            logger.info("crawled page", extra={"crawl": crawl_id, "state": error.code, "link": page.link})
            self.crawls.record_page(crawl_id, page.link, state="refused" if refused else "failed")
        except NightmillError:
            raise  # not our turn, the database or our own programs: the page is not to blame
        except Exception:
            # A bug that one page provokes must not end what others are found by.
            logger.exception("crawled page", extra={"crawl": crawl_id, "link": page.link})
            self._try_again(crawl_id, page, None)

    def _try_again(self, crawl_id: str, page: CrawlPageRow, asked_for: timedelta | None) -> None:
        """Look at the page again later, or go on without it."""
        if page.tries < len(AGAIN):
            pause = max(AGAIN[page.tries], asked_for or timedelta(0))
            self.crawls.try_again(crawl_id, page.link, at=now() + pause)
        else:
            self.crawls.record_page(crawl_id, page.link, state="failed")

    def _read_sitemap(
        self, crawl_id: str, asked: CrawlInput, start: Link, page: CrawlPageRow, allow: Callable[[str], None]
    ) -> None:
        answer = self.fetcher.fetch_text(page.link, max_bytes=_SITEMAP_BYTES, allowed=allow)
        if answer.status in _LATER or answer.status >= 500:
            raise PageFetchFailed(
                f"status {answer.status}", retry_after=answer.retry_after, failed_host=answer.host, reason="sitemap"
            )
        if not 200 <= answer.status < 300:
            raise InvalidInput(f"status {answer.status}")
        fail_point("crawl.fetched")
        found = read_sitemap(answer.body, page.link)
        mine = [link for link in map(_readable, found.links) if link and same_site(link, start) and not is_pdf(link)]
        room = self.crawls.room(crawl_id)
        new, known = self.documents.add_many((self._document(asked, link) for link in mine[:room]), now=now())
        children = [link.canonical for link in map(_readable, found.children) if link and same_site(link, start)]
        if page.depth < DEEPEST_SITEMAP:
            self.crawls.add_links(crawl_id, children, depth=page.depth + 1, kind="sitemap")
        self.crawls.record_sitemap(crawl_id, page.link, found=len(mine), new=new, known=known, left=len(mine) > room)
        fail_point("crawl.saved")

    def _read_page(
        self, crawl_id: str, asked: CrawlInput, start: Link, page: CrawlPageRow, allow: Callable[[str], None]
    ) -> None:
        answer = self.fetcher.fetch(page.link, None, allowed=allow)
        fail_point("crawl.fetched")
        if not isinstance(answer, FetchedPage):
            raise InvalidInput("304 without a question")
        link = read_link(answer.url)
        if not same_site(link, start):
            raise PageBlocked("redirects to another site", reason="other_site")
        found = self.extractor.links(answer.body, url=answer.url, charset=answer.charset)
        mine = [one.canonical for one in map(_readable, found) if one and same_site(one, start) and not is_pdf(one)]
        if page.depth < asked.limits.depth:
            self.crawls.add_links(crawl_id, mine, depth=page.depth + 1, kind="page")
        else:
            self.crawls.leave_links(crawl_id, mine)
        _, is_new = self.documents.add(self._document(asked, link), now=now())
        self.crawls.record_page(crawl_id, page.link, state="done", is_new=is_new)
        fail_point("crawl.saved")

    @staticmethod
    def _document(asked: CrawlInput, link: Link) -> NewDocument:
        return NewDocument(account=asked.account, collection=asked.collection, link=link)


def _readable(text: str) -> Link | None:
    try:
        return read_link(text)
    except InvalidInput:
        return None

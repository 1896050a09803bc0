"""Crawls of sites: which links were found, which were looked at, and what came of them, all counted from rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import or_
from sqlmodel import Session, col, func, select

from nightmill.contracts import CrawlInput, CrawlProgress
from nightmill.errors import CrawlNotFound
from nightmill.storage.accounts import UPSERT, check_name, load_account
from nightmill.storage.columns import storable
from nightmill.storage.document_models import AccountRow, CrawlPageRow, CrawlRow
from nightmill.storage.documents import MAX_LINK

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

Kind = Literal["page", "sitemap"]
State = Literal["waiting", "done", "failed", "refused"]
Limit = Literal["pages", "depth", "duration"]

MAX_SITEMAPS = 1_000
"""Sitemaps of one crawl at most: of 50,000 links each, far more than a crawl takes pages."""

_AT_ONCE = 500


@dataclass(frozen=True)
class StoredCrawl:
    """A crawl and what was asked."""

    row: CrawlRow
    input: CrawlInput


@dataclass(frozen=True)
class CrawlRepository:
    """Reads and moves crawls along. Any thread may use it."""

    database: Database

    def create(self, crawl_id: str, asked: CrawlInput, *, now: datetime) -> StoredCrawl:
        """Store a crawl and return it; one that is there already stays as it is.

        Raises:
            AccountNotFound: There is no such account.
        """
        with self.database.transaction() as session:
            account = load_account(session, asked.account)
            insert = UPSERT[self.database.dialect](CrawlRow).values(
                id=crawl_id,
                account_key=account.key,
                collection=storable(check_name("collection", asked.collection)),
                start_url=asked.start_url,
                limits=asked.limits.model_dump(mode="json"),
                created_at=now,
            )
            session.connection().execute(insert.on_conflict_do_nothing(index_elements=["id"]))
            return _load(session, crawl_id)

    def get(self, crawl_id: str) -> StoredCrawl:
        """Return a crawl.

        Raises:
            CrawlNotFound: There is none.
        """
        with self.database.reading() as session:
            return _load(session, crawl_id)

    def newest(self, *, limit: int = 50) -> list[StoredCrawl]:
        """Return crawls, newest first."""
        query = _joined().order_by(col(CrawlRow.key).desc()).limit(limit)
        with self.database.reading() as session:
            return [_stored(row, account) for row, account in session.exec(query)]

    def add_links(self, crawl_id: str, links: Iterable[str], *, depth: int, kind: Kind) -> int:
        """Add links that were found, as far as there is room; return how many are new.

        Where there is none, `pages` is noted as the bound that was hit. A link that is longer than a document's may be
        is left out.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        usable = (link for link in map(storable, links) if len(link.encode()) <= MAX_LINK)
        unique, new = iter(dict.fromkeys(usable)), 0
        with self._locked(crawl_id) as (session, crawl):
            room = _room(session, crawl) if kind == "page" else MAX_SITEMAPS - _count(session, crawl, kind)
            while some := list(islice(unique, _AT_ONCE)):
                query = select(CrawlPageRow.link).where(CrawlPageRow.crawl_key == crawl.row.key)
                known = set(session.exec(query.where(col(CrawlPageRow.link).in_(some))))
                fresh = [link for link in some if link not in known]
                if len(fresh) > room - new and kind == "page":
                    crawl.row.limit_hit = crawl.row.limit_hit or "pages"
                for link in fresh[: max(0, room - new)]:
                    session.add(CrawlPageRow(crawl_key=crawl.row.key or 0, link=link, depth=depth, kind=kind))
                    new += 1
                session.flush()
        return new

    def leave_links(self, crawl_id: str, links: Iterable[str]) -> None:
        """Note `depth` as the bound that was hit, where links that are too deep are none of the crawl's yet.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        unique = iter(dict.fromkeys(link for link in map(storable, links) if len(link.encode()) <= MAX_LINK))
        with self._locked(crawl_id) as (session, crawl):
            query = select(func.count()).where(CrawlPageRow.crawl_key == crawl.row.key)
            while crawl.row.limit_hit is None and (some := list(islice(unique, _AT_ONCE))):
                if session.exec(query.where(col(CrawlPageRow.link).in_(some))).one() < len(some):
                    crawl.row.limit_hit = "depth"

    def room(self, crawl_id: str) -> int:
        """Return how many more pages the crawl may take.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        with self.database.reading() as session:
            return _room(session, _load(session, crawl_id))

    def next_pages(self, crawl_id: str, number: int, *, now: datetime) -> list[CrawlPageRow]:
        """Return what is to be looked at next: sitemaps before pages, those nearest to the start first.

        What failed and is to be looked at again later is left out; `postponed` says when.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        with self.database.reading() as session:
            crawl = _load(session, crawl_id)
            query = select(CrawlPageRow).where(CrawlPageRow.crawl_key == crawl.row.key, CrawlPageRow.state == "waiting")
            again = col(CrawlPageRow.try_again_at)
            query = query.where(or_(again.is_(None), again <= now))
            order = (col(CrawlPageRow.kind).desc(), col(CrawlPageRow.depth), col(CrawlPageRow.key))
            return list(session.exec(query.order_by(*order).limit(number)))

    def postponed(self, crawl_id: str) -> datetime | None:
        """Return when the next page is to be looked at again that failed; None: nothing waits.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        with self.database.reading() as session:
            crawl = _load(session, crawl_id)
            query = select(func.min(CrawlPageRow.try_again_at)).where(
                CrawlPageRow.crawl_key == crawl.row.key, CrawlPageRow.state == "waiting"
            )
            return session.exec(query).one()

    def try_again(self, crawl_id: str, link: str, *, at: datetime) -> None:
        """Note that a look at a page failed for a reason that may pass, and when to look again.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        with self._page(crawl_id, link) as page:
            page.tries, page.try_again_at, page.gate_at = page.tries + 1, at, None

    def wait_in_line(self, crawl_id: str, link: str, *, ticket: datetime | None) -> None:
        """Note a page's place in its host's line.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        with self._page(crawl_id, link) as page:
            page.gate_at = ticket

    def record_page(self, crawl_id: str, link: str, *, state: State, is_new: bool | None = None) -> None:
        """Store what a look at a page came to; a second call changes nothing.

        Args:
            crawl_id: The crawl.
            link: The page.
            state: What it came to.
            is_new: Whether it made a new document; None where it made none.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        with self._page(crawl_id, link) as page:
            if page.state == "waiting":
                page.state, page.is_new = state, is_new

    def record_sitemap(self, crawl_id: str, link: str, *, found: int, new: int, known: int, left: bool) -> None:
        """Store what a sitemap lists; a second call changes nothing.

        Args:
            crawl_id: The crawl.
            link: The sitemap.
            found: Pages of the site that it lists.
            new: Of these, those that made new documents.
            known: Of these, those that were documents before.
            left: Whether pages were left out, because there is no room for them.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        with self._locked(crawl_id) as (session, crawl):
            page = _page(session, crawl, link)
            if page is not None and page.state == "waiting":
                page.state, page.listed, page.added, page.known = "done", found, new, known
                session.add(page)
            if left:
                crawl.row.limit_hit = crawl.row.limit_hit or "pages"

    def progress(self, crawl_id: str) -> CrawlProgress:
        """Return how a crawl stands.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        page = CrawlPageRow
        kinds = (col(page.kind), col(page.state), col(page.is_new))
        query = select(*kinds, func.count()).group_by(*kinds)
        sums = select(func.sum(page.listed), func.sum(page.added), func.sum(page.known))
        with self.database.reading() as session:
            row = _load(session, crawl_id).row
            groups = session.exec(query.where(page.crawl_key == row.key)).all()
            listed, added, known = session.exec(sums.where(page.crawl_key == row.key)).one()
        pages = [(state, is_new, number) for kind, state, is_new, number in groups if kind == "page"]

        def count(*states: State) -> int:
            return sum(number for _, state, _, number in groups if state in states)

        return CrawlProgress(
            crawl_id=row.id,
            created_at=row.created_at,
            found=(listed or 0) + sum(number for _, _, number in pages),
            visited=count("done", "failed", "refused"),
            added=(added or 0) + sum(number for _, is_new, number in pages if is_new),
            known=(known or 0) + sum(number for _, is_new, number in pages if is_new is False),
            failed=count("failed"),
            refused=count("refused"),
            limit_hit=row.limit_hit,
            ended_at=row.ended_at,
        )

    def end(self, crawl_id: str, *, limit_hit: Limit | None, now: datetime) -> None:
        """Write that a crawl is over; a second call changes nothing. Without a bound the one noted before stays.

        Raises:
            CrawlNotFound: There is no such crawl.
        """
        with self._locked(crawl_id) as (_, crawl):
            if crawl.row.ended_at is None:
                crawl.row.ended_at = now
                crawl.row.limit_hit = limit_hit or crawl.row.limit_hit

    @contextmanager
    def _locked(self, crawl_id: str) -> Iterator[tuple[Session, StoredCrawl]]:
        """Hold the crawl's row; what the block changes in it is stored."""
        with self.database.transaction() as session:
            crawl = _load(session, crawl_id, lock=True)
            yield session, crawl
            session.add(crawl.row)

    @contextmanager
    def _page(self, crawl_id: str, link: str) -> Iterator[CrawlPageRow]:
        """Hold a page's row; a link that the crawl does not know is none of its pages, and nothing is stored."""
        with self._locked(crawl_id) as (session, crawl):
            page = _page(session, crawl, link)
            if page is None:
                yield CrawlPageRow(crawl_key=0, link=link, depth=0)
                return
            yield page
            session.add(page)


def _joined() -> Any:
    return select(CrawlRow, AccountRow).join(AccountRow, col(AccountRow.key) == col(CrawlRow.account_key))


def _load(session: Session, crawl_id: str, *, lock: bool = False) -> StoredCrawl:
    query = _joined().where(CrawlRow.id == storable(crawl_id))
    found = session.exec(query.with_for_update(of=CrawlRow) if lock else query).first()
    if found is None:
        raise CrawlNotFound(f"no crawl {crawl_id[:80]!r}")
    return _stored(*found)


def _stored(row: CrawlRow, account: AccountRow) -> StoredCrawl:
    asked = CrawlInput.model_validate(
        {
            "account": account.name,
            "collection": row.collection,
            "start_url": row.start_url,
            "limits": row.limits,
        }
    )
    return StoredCrawl(row, asked)


def _page(session: Session, crawl: StoredCrawl, link: str) -> CrawlPageRow | None:
    query = select(CrawlPageRow).where(CrawlPageRow.crawl_key == crawl.row.key, CrawlPageRow.link == link)
    return session.exec(query).first()


def _count(session: Session, crawl: StoredCrawl, kind: Kind) -> int:
    query = select(func.count()).select_from(CrawlPageRow).where(CrawlPageRow.crawl_key == crawl.row.key)
    return session.exec(query.where(CrawlPageRow.kind == kind)).one()


def _room(session: Session, crawl: StoredCrawl) -> int:
    query = select(func.sum(CrawlPageRow.added + CrawlPageRow.known)).where(CrawlPageRow.crawl_key == crawl.row.key)
    listed = session.exec(query).one() or 0
    return max(0, crawl.input.limits.pages - _count(session, crawl, "page") - listed)

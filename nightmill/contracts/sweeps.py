"""Sweeps and crawls: the inputs of their workflows, what goes between these and their activities, what they come to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, Field

from nightmill.contracts.base import Contract, Duration, Outcome
from nightmill.contracts.documents import DocumentId, Name


class SweepInput(Contract):
    """Input of the workflow `DocumentSyncSweep`.

    Attributes:
        limit: Documents at most; default `NIGHTMILL_DOCUMENTS__SWEEP_LIMIT`.
        account: Only this account's documents.
    """

    limit: int | None = Field(default=None, ge=1, le=100_000)
    account: Name | None = None


class SweepPick(Outcome):
    """A document that a sweep is to start.

    Attributes:
        document_id: The document.
        account: Its account, the fairness key.
        weight: Its plan's weight.
        delay: How long it is not yet due.
        has_begun: Whether a sync of it has begun since the sweep took it.
    """

    document_id: str
    account: str
    weight: float = 1.0
    delay: timedelta = timedelta(0)
    has_begun: bool = False


class SweepSummary(Outcome):
    """Result of the workflow `DocumentSyncSweep`.

    Attributes:
        accounts_scanned: Accounts looked at.
        accounts_enabled: Of these, those with automatic sync.
        accounts_scheduled: Of these, those of which a document was taken.
        enqueued: Documents whose sync was started.
        skipped: Documents that were being synced already, or could not be started.
        capacity_left: How many more the sweep could have taken.
        cap_hit: Whether due work was left behind for the next sweep.
    """

    accounts_scanned: int = 0
    accounts_enabled: int = 0
    accounts_scheduled: int = 0
    enqueued: int = 0
    skipped: int = 0
    capacity_left: int = 0
    cap_hit: bool = False


LONGEST_CRAWL = timedelta(days=30)


class CrawlLimits(Contract):
    """Bounds of a crawl.

    Attributes:
        pages: Pages at most.
        depth: Links at most between the start page and a page; of no account for sitemaps.
        duration: Time at most, up to 30 days: a workflow cannot wait for a day that no calendar has.
    """

    pages: int = Field(default=500, ge=1, le=100_000)
    depth: int = Field(default=3, ge=0, le=20)
    duration: Duration = Field(default=timedelta(hours=6), gt=timedelta(0), le=LONGEST_CRAWL)


class CrawlInput(Contract):
    """Input of the workflow `SiteCrawl`, which runs by the id `crawl/<crawl id>`.

    Attributes:
        account: Whose documents they become; it must exist.
        collection: And in which collection.
        start_url: A page, or a sitemap (`….xml`, `….xml.gz`).
        limits: Bounds.
    """

    account: Name
    collection: Name
    start_url: str = Field(min_length=1, max_length=2_000)
    limits: CrawlLimits = CrawlLimits()


class CrawlProgress(Outcome):
    """How a crawl stands; also the result of the workflow `SiteCrawl` and the answer of its query `progress`.

    Attributes:
        crawl_id: The crawl.
        found: Links that belong to the site.
        visited: Pages that were looked at.
        added: Documents that are new.
        known: Documents that were there before.
        failed: Pages that could not be read.
        refused: Pages that robots.txt or the guard keeps out.
        limit_hit: The bound that ended it, if one did: `pages`, `depth` or `duration`.
        created_at: When it began.
        ended_at: When it ended.
    """

    crawl_id: str
    created_at: datetime | None = None
    found: int = 0
    visited: int = 0
    added: int = 0
    known: int = 0
    failed: int = 0
    refused: int = 0
    limit_hit: Literal["pages", "depth", "duration"] | None = None
    ended_at: datetime | None = None


class CrawlStep(Outcome):
    """What one look at a site came to.

    Attributes:
        progress: How the crawl stands.
        wait: How long it is not our turn at the site's host.
        is_done: Whether nothing is left.
    """

    progress: CrawlProgress
    wait: timedelta | None = None
    is_done: bool = False


class CrawlRef(Contract):
    """Input of the activities of a crawl.

    Attributes:
        crawl_id: The crawl.
        asked: The workflow's input; given to `begin_crawl`.
        limit_hit: The bound that ended it; given to `end_crawl`.
        now: The workflow's present.
    """

    crawl_id: DocumentId
    asked: CrawlInput | None = None
    limit_hit: Literal["pages", "depth", "duration"] | None = None
    now: AwareDatetime


class TakeInput(Contract):
    """Input of `take_due_documents`; a second run with the same sweep finds what the first one took.

    Attributes:
        sweep_id: The sweep's workflow run.
        limit: Documents at most; None: as the settings say.
        account: Only this account's documents.
    """

    sweep_id: str
    limit: int | None = None
    account: Name | None = None


class SweepTaken(Outcome):
    """What a sweep has taken.

    Attributes:
        accounts_scanned: Accounts looked at.
        accounts_enabled: Of these, those with automatic sync.
        accounts_scheduled: Of these, those of which a document was taken.
        taken: Documents that were taken.
        capacity_left: How many more could have been.
        cap_hit: Whether due work was left behind.
    """

    accounts_scanned: int = 0
    accounts_enabled: int = 0
    accounts_scheduled: int = 0
    taken: int = 0
    capacity_left: int = 0
    cap_hit: bool = False


class StartInput(Contract):
    """Input of `start_document_syncs`: which of the documents that a sweep has taken.

    Attributes:
        sweep_id: The sweep.
        first: Position of the first one, 0 being the sweep's first.
        count: How many.
        task_queue: Where their workflows run.
    """

    sweep_id: str
    first: int = Field(ge=0)
    count: int = Field(ge=1, le=1_000)
    task_queue: str


class StartOutcome(Outcome):
    """How many syncs were started, and how many documents were being synced already or are gone."""

    enqueued: int = 0
    skipped: int = 0

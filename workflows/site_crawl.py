"""Adding a site: look at its pages, politely, until nothing is left or a bound is reached."""

from __future__ import annotations

from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.crawls import CrawlActivities
    from nightmill import ids
    from nightmill.contracts import CrawlInput, CrawlProgress, CrawlRef
    from nightmill.errors import InvalidInput

from workflows import policies, story


@workflow.defn(name="SiteCrawl", failure_exception_types=[TypeError])
class SiteCrawl:
    """Make documents of a site's pages.

    1. `begin_crawl` stores the crawl and its start page or sitemap.
    2. `crawl_pages` looks at pages for some seconds, again and again; between two of them the workflow waits where the
       site's host is not to be asked yet.
    3. `end_crawl` writes which bound ended it, if one did.

    Every page that was found is a row, so that a run that starts with the same id goes on where the last one stopped.
    """

    def __init__(self) -> None:
        self._crawl_id = ""
        self._progress: CrawlProgress | None = None

    @workflow.run
    async def run(self, asked: CrawlInput) -> CrawlProgress:
        """Return what was found; fail only for input that cannot be used."""
        try:
            self._crawl_id = ids.crawl_id_of(workflow.info().workflow_id)
        except InvalidInput as error:
            raise ApplicationError(f"invalid CrawlInput: {error}", type="InvalidInput", non_retryable=True) from None
        begun = await workflow.execute_activity_method(
            CrawlActivities.begin_crawl,
            self._ref(asked=asked),
            **policies.titled(policies.CRAWLING, "store the crawl and its start"),
        )
        limit_hit = await self._look(asked, begun.created_at or workflow.now())
        self._progress = await workflow.execute_activity_method(
            CrawlActivities.end_crawl,
            self._ref(limit_hit=limit_hit),
            **policies.titled(policies.DATABASE_WRITE, "the crawl is over"),
        )
        story.show_crawl(self._progress)
        return self._progress

    @workflow.query(description="Pages found, visited, added, refused")
    def progress(self) -> CrawlProgress:
        """Return how the crawl stands."""
        return self._progress or CrawlProgress(crawl_id=self._crawl_id)

    async def _look(self, asked: CrawlInput, began_at: datetime) -> str | None:
        """Look at pages until none is left; return the bound that was reached, if one was."""
        while True:
            step = await workflow.execute_activity_method(
                CrawlActivities.crawl_pages,
                self._ref(),
                **policies.titled(policies.CRAWLING, "look at pages"),
            )
            self._progress = step.progress
            story.show_crawl(step.progress)
            if step.is_done:
                return step.progress.limit_hit
            if workflow.now() >= began_at + asked.limits.duration:
                return "duration"
            if step.wait is not None:
                await workflow.sleep(step.wait, summary="the site's host is not to be asked yet")
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(asked)

    def _ref(self, *, asked: CrawlInput | None = None, limit_hit: str | None = None) -> CrawlRef:
        return CrawlRef.model_validate(
            {"crawl_id": self._crawl_id, "asked": asked, "limit_hit": limit_hit, "now": workflow.now()}
        )

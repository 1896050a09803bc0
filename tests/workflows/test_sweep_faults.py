"""A sweep over rows that nobody can start."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from tests.lanes import PATIENCE, Lane, in_a_lane

pytestmark = pytest.mark.server


@in_a_lane
async def test_a_document_that_cannot_be_started_holds_up_no_other(lane: Lane) -> None:
    async with lane.running() as nightmill:
        await nightmill.documents.add_account("acme", "daily")
        ids = [
            await nightmill.documents.add(f"http://127.0.0.1:1/{n}", account="acme", collection="c", sync=False)
            for n in range(3)
        ]
        with nightmill.assembly.database.transaction() as session:
            statement = text("UPDATE documents SET id = 'no id of ours!' WHERE id = :id")
            session.connection().execute(statement, {"id": ids[1]})
        async with asyncio.timeout(PATIENCE.total_seconds()):
            summary = await nightmill.documents.sweep()
        again = await nightmill.documents.sweep()
    assert (summary.enqueued, summary.skipped) == (2, 1)
    assert (again.enqueued, again.skipped) == (0, 0)

"""A program of a host: mypy checks it with the rest, and tests/nightmill/client/test_host_program.py runs it.

Each `type: ignore` stands at a mistake; where mypy finds none there, it complains of the `type: ignore`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from nightmill import client

PATIENCE = timedelta(seconds=60)
URL = "https://example.com/"
ONE = [{"custom_id": "a", "prompt": "Say hello"}]


def do_a_batch(batch_id: str) -> tuple[client.BatchSummary, list[client.Result]]:
    """Do all that a script does with a batch."""
    usual: client.BatchOptions = {"budget": Decimal(2), "max_age": "PT1H"}
    options: client.BatchOptions = {**usual, "metadata": {"order": 17}}
    options["poll_schedule"] = [timedelta(seconds=0.5), "PT0.5S", 0.5]
    client.submit(ONE, provider="openai", model="gpt-5-mini", batch_id=batch_id, **options)
    ended: client.BatchSummary = client.wait(batch_id, timeout=PATIENCE)
    assert ended == client.summary(batch_id)
    return ended, list(client.results(batch_id))


def slice_a_pdf(path: Path) -> list[client.SliceRow]:
    """Do all that a script does with a PDF."""
    sha256 = client.slice_pdf(str(path), profile="outline", metadata={"shelf": 7})
    ended: client.SlicingSummary = client.wait_slicing(sha256, "outline", timeout=60)
    found = list(client.slices(sha256, "outline"))
    assert len(found) == ended.slices
    return found


def add_a_page() -> str:
    """Add a page of an account that is not there."""
    return client.add_document(URL, account="nobody", collection="help", interval=timedelta(hours=6), sync=False)


async def cancel_a_batch(nightmill: client.Nightmill, batch_id: str) -> client.BatchSummary:
    """Do as a service does, on a connection that is kept."""
    await nightmill.submit(ONE, provider="openai", model="gpt-5-mini", batch_id=batch_id, retry_rounds=2, account=None)
    asked: client.BatchStatus = await nightmill.cancel(batch_id)
    assert not asked.is_terminal
    return await nightmill.wait(batch_id, timeout=PATIENCE)


async def read_a_slicing(nightmill: client.Nightmill, sha256: str) -> tuple[client.SlicingRow, list[client.SliceRow]]:
    """Return a slicing and its slices, by its name as by its row."""
    row: client.SlicingRow = await nightmill.slicings.find(sha256, "outline")
    found = [each async for each in nightmill.slicings.slices(sha256, "outline")]
    assert found == [each async for each in nightmill.slicings.slices(row)]
    return row, found


MISTAKES: dict[str, tuple[type[Exception], Callable[[], object]]] = {
    "poll_shedule": (client.InvalidInput, lambda: client.submit(ONE, provider="openai", model="m", poll_shedule=[2])),  # type: ignore[call-arg]
    "retry_rounds": (client.InvalidInput, lambda: client.submit(ONE, provider="openai", model="m", retry_rounds="x")),  # type: ignore[arg-type]
    "requests_uri": (client.InvalidInput, lambda: client.submit(ONE, provider="openai", model="m", requests_uri="x")),  # type: ignore[call-arg]
    "model": (TypeError, lambda: client.submit(ONE, provider="openai")),  # type: ignore[call-arg]
    "sumbit": (AttributeError, lambda: client.sumbit(ONE, provider="openai", model="m")),  # type: ignore[attr-defined]
    "intervall": (TypeError, lambda: client.add_document(URL, account="a", collection="c", intervall=6)),  # type: ignore[call-arg]
    "note": (TypeError, lambda: client.slice_pdf(Path("x.pdf"), note="x")),  # type: ignore[call-arg]
    "batch id 17": (client.InvalidInput, lambda: client.submit(ONE, provider="openai", model="m", batch_id=17)),  # type: ignore[arg-type]
    "timeout: '1h'": (client.InvalidInput, lambda: client.wait("any", timeout="1h")),  # type: ignore[arg-type]
}
"""By what the message names: the error when it is run, and the mistake."""

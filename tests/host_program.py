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
    options: client.BatchOptions = {"metadata": {"order": 17}, "budget": Decimal(2), "max_age": "PT1H"}
    options["poll_schedule"] = [timedelta(seconds=0.5), "PT0.5S", 0.5]
    client.submit(ONE, provider="openai", model="gpt-5-mini", batch_id=batch_id, **options)
    ended: client.BatchSummary = client.wait(batch_id, timeout=PATIENCE)
    assert ended == client.summary(batch_id)
    return ended, list(client.results(batch_id))


def slice_a_pdf(path: Path) -> list[client.SliceRow]:
    """Do all that a script does with a PDF."""
    sha256 = client.slice_pdf(path, profile="outline", metadata={"shelf": 7})
    ended: client.SlicingSummary = client.wait_slicing(sha256, "outline", timeout=PATIENCE)
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


MISTAKES: dict[str, Callable[[], object]] = {
    "poll_shedule": lambda: client.submit(ONE, provider="openai", model="m", poll_shedule=[2]),  # type: ignore[call-arg]
    "retry_rounds": lambda: client.submit(ONE, provider="openai", model="m", retry_rounds="x"),  # type: ignore[arg-type]
    "requests_uri": lambda: client.submit(ONE, provider="openai", model="m", requests_uri="x"),  # type: ignore[call-arg]
    "model": lambda: client.submit(ONE, provider="openai"),  # type: ignore[call-arg]
    "sumbit": lambda: client.sumbit(ONE, provider="openai", model="m"),  # type: ignore[attr-defined]
    "intervall": lambda: client.add_document(URL, account="a", collection="c", intervall=6),  # type: ignore[call-arg]
    "note": lambda: client.slice_pdf(Path("x.pdf"), note="x"),  # type: ignore[call-arg]
}
"""By what the message names."""

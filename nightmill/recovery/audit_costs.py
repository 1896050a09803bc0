"""What a provider batch costs: exactly where its outcomes are stored, else by its requests and prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING

from nightmill.completions.pricing import Price, Tally, dollars
from nightmill.errors import BatchNotFound

if TYPE_CHECKING:
    from nightmill.providers.base import BatchProvider
    from nightmill.storage.audit_reads import AuditReads
    from nightmill.storage.models import BatchRow, ProviderBatchRow
    from nightmill.storage.requests import RequestRepository

SAMPLE = 1_000
"""Requests of a provider batch that an estimate is made from; the others are taken to be like them."""

_MICRODOLLAR = Decimal("0.000001")


@dataclass(frozen=True)
class AuditCosts:
    """Says what provider batches cost. Any thread may use it.

    Attributes:
        reads: Sums up outcomes.
        requests: The stored requests.
        renderer: Gives an adapter that needs no key.
    """

    reads: AuditReads
    requests: RequestRepository
    renderer: Callable[[str], BatchProvider]

    def of_row(self, batch: BatchRow, part: ProviderBatchRow) -> tuple[Decimal | None, bool]:
        """Return what a row's provider batch cost by its outcomes, and whether that is exact; else an estimate."""
        charged = self.reads.charged(part)
        if charged.picodollars is None:
            return self.estimated(batch, part), False
        return dollars(charged.picodollars), charged.unpriced == 0

    def estimated(self, batch: BatchRow, part: ProviderBatchRow) -> Decimal | None:
        """Return what the requests of a row cost at its batch's frozen prices; None where either is not known.

        As `Tally` estimates before a batch is submitted: rather too much, for the answers may be shorter.
        """
        if batch.prices is None or part.key is None:
            return None
        tally = Tally(self.renderer(part.provider), Price.from_json(batch.prices))
        try:
            for line in islice(self.requests.lines(part.key), SAMPLE):
                tally.add(line)
        except BatchNotFound:  # deleted just now
            return None
        estimate = tally.estimate()
        if estimate.cost is None or not estimate.requests:
            return None
        return (estimate.cost * part.requests / estimate.requests).quantize(_MICRODOLLAR)

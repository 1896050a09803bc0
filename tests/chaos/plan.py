"""What happens in a run, drawn from its seed before anything begins: who asks for what and when, and what breaks.

Times are seconds from the start of the storm. What is drawn depends on the seed and the scale alone; what a trouble
meets depends on the machine, too, so a replay is the same storm over work that may be a step further.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from nightmill.sandbox import Fault

Kind = Literal["batch", "part", "document", "slicing", "reconciler"]
HandlerKind = Literal["webhook", "workflow", "activity"]

Ending = Literal["terminate", "delete", "reset"]

PER_KILL, PER_BATCH = 3.3, 0.45
"""Seconds of storm for each kill, so that each of three workers lives for ten and gets something done; and for each
batch, as two cores work on two a second."""

PART = 5
"""Requests of a provider batch at most."""

PROVIDERS = ("openai", "openai", "anthropic", "google", "xai")
HANDLERS: tuple[HandlerKind, ...] = ("webhook",) * 7 + ("workflow", "activity")
KINDS: tuple[Kind, ...] = ("batch", "batch", "batch", "part", "document", "slicing", "reconciler")


ENDINGS: tuple[Ending, ...] = ("terminate", "terminate", "terminate", "delete", "reset")


@dataclass(frozen=True)
class Scale:
    """How much there is of everything.

    Attributes:
        batches: Batches of `PART` requests; a few have three times as many, and thus three provider batches.
        documents: Pages that are kept fresh.
        versions: Contents that each page has, one after the other.
        slicings: PDFs that are sliced.
        gazettes: How many of them are gazettes; the others are small, with a slicer that takes no time.
        workers: Workers at once.
        kills: Workers that are killed.
        restarts: Times that the Temporal server is killed and started again.
        outages: Times that the database is away.
        terminations: Workflow runs that somebody terminates; some are deleted, and some are reset to their beginning.
        ticks: Times that somebody reconciles by hand, beside the schedule.
        storm: Seconds over which all this happens.
        lost: Share of creates whose answer is lost.
        errors: Share of other requests, to providers, sites and the host, that fail.
        database: `sqlite` or `postgresql`.
    """

    batches: int
    documents: int
    slicings: int
    gazettes: int
    workers: int
    kills: int
    restarts: int
    outages: int
    terminations: int
    ticks: int
    storm: float
    versions: int = 3
    lost: float = 0.1
    errors: float = 0.05
    database: str = "sqlite"


@dataclass(frozen=True)
class BatchJob:
    """A batch. `cancel_after` is in seconds after it was submitted; None: never."""

    number: int
    at: float
    provider: str
    requests: int
    handler: HandlerKind
    cancel_after: float | None

    @property
    def id(self) -> str:
        """The batch's id."""
        return f"chaos-{self.number:04}"

    @property
    def parts(self) -> list[list[str]]:
        """Custom ids by provider batch."""
        names = [f"{self.id}-{request}" for request in range(self.requests)]
        return [names[start : start + PART] for start in range(0, self.requests, PART)]


@dataclass(frozen=True)
class DocumentJob:
    """A page: when each of its contents is published and synced, and which of them are refused once before."""

    number: int
    at: tuple[float, ...]
    refused: tuple[bool, ...]


@dataclass(frozen=True)
class SlicingJob:
    """A PDF."""

    number: int
    at: float
    gazette: bool


@dataclass(frozen=True)
class Trouble:
    """Something that breaks. `pick`, from 0 to 1, chooses among what is there; `seconds` is how long it stays away."""

    at: float
    what: Literal["kill", "restart", "outage", "tick"] | Ending
    pick: float
    seconds: float = 0.0
    kind: Kind = "batch"

    def __str__(self) -> str:
        detail = {
            "kill": f"a worker, another one after {self.seconds:.1f} s",
            "restart": f"the Temporal server, away for {self.seconds:.1f} s",
            "outage": f"the database, away for {self.seconds:.1f} s",
            "terminate": f"a {self.kind} that runs",
            "delete": f"a {self.kind} that runs, with its history",
            "reset": f"a {self.kind} that runs, to its beginning",
            "tick": "of the reconciler, by hand",
        }
        return f"{self.at:7.1f} s  {self.what:<9}  {detail[self.what]}"


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    seed: int
    scale: Scale
    batches: tuple[BatchJob, ...]
    documents: tuple[DocumentJob, ...]
    slicings: tuple[SlicingJob, ...]
    troubles: tuple[Trouble, ...]
    faults: tuple[Fault, ...]

    def lines(self) -> Iterator[str]:
        """Yield the plan for people."""
        given = self.scale
        yield f"seed {self.seed}: {given.storm:.0f} s of storm over {given.workers} workers and {given.database}"
        yield (
            f"{len(self.batches)} batches of {sum(job.requests for job in self.batches)} requests "
            f"in {sum(len(job.parts) for job in self.batches)} provider batches, "
            f"{sum(job.cancel_after is not None for job in self.batches)} of them canceled; "
            f"{len(self.documents)} documents of {given.versions} versions; "
            f"{len(self.slicings)} slicings, {given.gazettes} of them gazettes"
        )
        handlers = Counter(job.handler for job in self.batches)
        providers = Counter(job.provider for job in self.batches)
        yield ", ".join(f"{count} {name}" for name, count in sorted((providers + handlers).items()))
        for fault in self.faults:
            yield f"{fault.probability:7.1%}    {fault.action:<9}  {fault.operation} ({fault.when})"
        yield from map(str, self.troubles)


def draw(seed: int, scale: Scale) -> Plan:
    """Return the plan of a seed."""
    chance = random.Random(f"chaos {seed}")
    return Plan(
        seed=seed,
        scale=scale,
        batches=tuple(_batch(chance, number, scale) for number in range(scale.batches)),
        documents=tuple(_document(chance, number, scale) for number in range(scale.documents)),
        slicings=tuple(
            SlicingJob(number, chance.uniform(0, 0.7) * scale.storm, gazette=number < scale.gazettes)
            for number in range(scale.slicings)
        ),
        troubles=tuple(sorted(_troubles(chance, scale), key=lambda trouble: trouble.at)),
        faults=_faults(seed, scale),
    )


def _batch(chance: random.Random, number: int, scale: Scale) -> BatchJob:
    return BatchJob(
        number=number,
        at=scale.storm * 0.85 * number / scale.batches,
        provider=chance.choice(PROVIDERS),
        requests=PART * (3 if chance.random() < 0.06 else 1),
        handler=chance.choice(HANDLERS),
        cancel_after=chance.uniform(0, 6) if chance.random() < 0.06 else None,
    )


def _document(chance: random.Random, number: int, scale: Scale) -> DocumentJob:
    times = [scale.storm * 0.85 * (version + chance.random()) / scale.versions for version in range(scale.versions)]
    return DocumentJob(number, tuple(times), tuple(chance.random() < scale.errors for _ in times))


def _troubles(chance: random.Random, scale: Scale) -> Iterator[Trouble]:
    def spread(count: int, begin: float, end: float) -> Iterator[float]:
        """Yield moments, about evenly far from each other."""
        for number in range(count):
            yield scale.storm * (begin + (end - begin) * (number + chance.random()) / count)

    for at in spread(scale.kills, 0.05, 1.0):
        yield Trouble(at, "kill", chance.random(), chance.uniform(0, 2))
    for at in spread(scale.restarts, 0.2, 0.9):
        yield Trouble(at, "restart", 0, chance.uniform(0.5, 4))
    for at in spread(scale.outages, 0.1, 0.9):
        yield Trouble(at, "outage", 0, chance.uniform(2, 6))
    for at in spread(scale.terminations, 0.1, 1.0):
        yield Trouble(at, chance.choice(ENDINGS), chance.random(), kind=chance.choice(KINDS))
    for at in spread(scale.ticks, 0.1, 1.0):
        yield Trouble(at, "tick", 0)


def _faults(seed: int, scale: Scale) -> tuple[Fault, ...]:
    def often(action: str, operation: str, share: float, when: str = "before", status: int = 500) -> Fault:
        return Fault(action, operation=operation, times=None, probability=share, seed=seed, when=when, status=status)

    faults = (
        often("drop", "batches.create", scale.lost, "after"),
        often("status", "batches.create", scale.errors, status=503),
        often("drop", "files.create", scale.errors, "after"),
        often("status", "batches.get", scale.errors),
        often("drop", "batches.get", scale.errors),
        often("cut", "results.get", scale.errors),
        often("status", "batches.cancel", scale.errors, status=503),
        often("status", "files.delete", scale.errors),
    )
    return tuple(fault for fault in faults if fault.probability)

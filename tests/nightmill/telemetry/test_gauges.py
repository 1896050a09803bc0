"""Whoever collects sees how things stand now, and a gap where nobody can tell."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from nightmill.assembly import assembled
from nightmill.contracts import BatchStatus, BreakerState, SlicingStatus
from nightmill.errors import StorageUnavailable
from nightmill.serving import served
from nightmill.settings import Settings
from nightmill.storage.document_models import AccountRow, DocumentRow
from nightmill.storage.gauge_reads import DueDocuments, OpenBatches
from nightmill.storage.models import BatchRow
from nightmill.storage.slicing_models import SlicerBreakerRow, SlicingRow
from nightmill.telemetry import gauges, instruments, metrics
from nightmill.telemetry import looks as looks_module
from nightmill.telemetry.exposition import metrics_app
from nightmill.telemetry.instruments import Instruments
from nightmill.telemetry.kinds import Counter, Metric
from nightmill.telemetry.looks import Looks
from nightmill.telemetry.observing import observe
from nightmill.web.library import httpx
from tests.measuring import Measured
from tests.stack import eventually

MiB = 1024 * 1024


def ago(**duration: float) -> datetime:
    return datetime.now(UTC) - timedelta(**duration)


def batches(**fields: Any) -> OpenBatches:
    given: dict[str, Any] = {"numbers": {}, "oldest": {}, "due": None, "attention": 0, "waiting": {}}
    return OpenBatches(**given | fields)


class Clock:
    """Seconds that go on when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_open_batches_are_shown_and_nothing_is_shown_as_0_for_providers_with_a_key(measured: Measured) -> None:
    found = batches(numbers={("xai", "pending"): 3}, oldest={"xai": ago(hours=2)}, due=ago(minutes=7), attention=2)
    gauges.observe_batches(lambda: found, providers=["openai"])
    numbers = measured.series(metrics.BATCH_OPEN)
    assert {labels: number for labels, number in numbers.items() if number} == {("xai", "pending"): 3}
    assert {status for provider, status in numbers if provider == "openai"} == {
        "pending", "submitted", "in_progress", "canceling",
    }  # fmt: skip
    assert measured.series(metrics.BATCH_OLDEST) == {("xai",): pytest.approx(7_200, abs=5), ("openai",): 0}
    assert measured.series(metrics.BATCH_OVERDUE) == {(): pytest.approx(420, abs=5)}
    assert measured.series(metrics.BATCH_ATTENTION) == {(): 2}


def test_a_poll_that_is_yet_to_come_is_not_overdue(measured: Measured) -> None:
    gauges.observe_batches(lambda: batches(due=ago(minutes=-7)), providers=[])
    assert measured.series(metrics.BATCH_OVERDUE) == {(): 0}


def test_accounts_without_work_vanish_from_the_backlog(measured: Measured) -> None:
    found = [batches(waiting={"acme": 5, None: 2}), batches()]
    due = DueDocuments(number=9, since=ago(hours=1), waiting={"acme": 9}, attention=0)
    gauges.observe_accounts(lambda: found.pop(0), lambda: due)
    assert measured.series(metrics.ACCOUNT_BACKLOG) == {
        ("acme", "batch"): 5, ("(default)", "batch"): 2, ("acme", "document"): 9,
    }  # fmt: skip
    assert measured.series(metrics.ACCOUNT_BACKLOG) == {("acme", "document"): 9}


def test_slicings_are_shown_by_profile(measured: Measured) -> None:
    ages: list[timedelta | None] = [timedelta(minutes=21), None]
    states = {"outline": BreakerState.HELD_OPEN}
    gauges.observe_slicings(
        oldest_running=lambda: (ages.pop(0),),
        breakers=lambda: states,
        waiting=lambda: {"own": 4},
        profiles=["gazette"],
    )
    points = measured.points()
    assert [point.value for point in points["nightmill.slicing.oldest"]] == [1_260]
    assert {p.attributes["profile"]: p.value for p in points["nightmill.slicing.breaker"]} == {
        "gazette": 0,
        "outline": 3,
    }
    assert {p.attributes["profile"]: p.value for p in points["nightmill.slicing.waiting"]} == {"gazette": 0, "own": 4}
    assert measured.series(metrics.SLICING_OLDEST) == {(): 0}  # none runs


def test_every_process_shows_what_it_takes_of_its_machine(measured: Measured) -> None:
    gauges.observe_process()
    with tempfile.TemporaryFile():
        points = measured.points()
        here = sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1
    [memory] = points["nightmill.worker.memory"]
    assert 20 * MiB < memory.value < 2_000 * MiB
    [descriptors] = points["nightmill.worker.open_descriptors"]
    assert abs(descriptors.value - here) <= 2


def test_a_look_is_kept_for_a_quarter_of_a_minute() -> None:
    clock, asked = Clock(), [0]

    def look() -> int:
        asked[0] += 1
        return asked[0]

    kept = Looks(clock).kept(look)
    assert [kept(), kept()] == [1, 1]
    clock.now += 14.9
    assert kept() == 1
    clock.now += 0.2
    assert kept() == 2


def test_several_that_collect_at_once_look_once() -> None:
    inside, go = threading.Event(), threading.Event()
    asked: list[int] = []

    def look() -> int:
        asked.append(1)
        inside.set()
        go.wait(10)
        return 7

    kept = Looks().kept(look)
    found: list[int | None] = []
    threads = [threading.Thread(target=lambda: found.append(kept())) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert (found, asked) == ([7, 7, 7], [1])


def test_a_database_that_is_away_leaves_a_gap_and_one_line_and_is_asked_again_later(
    measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    clock, is_away, asked = Clock(), [True], [0]

    def look() -> OpenBatches:
        asked[0] += 1
        if is_away[0]:
            raise StorageUnavailable("the database is away")
        return batches(attention=1)

    def due() -> DueDocuments:
        assert not is_away[0], "would wait for the same database in vain"
        return DueDocuments(number=9, since=None, waiting={}, attention=0)

    looks = Looks(clock)
    gauges.observe_process()
    gauges.observe_batches(looks.kept(look), providers=["openai"])
    gauges.observe_documents(looks.kept(due))
    points = measured.points()
    assert not any(points.get(metric.name) for metric in metrics.METRICS if ".batch." in metric.name)
    assert points["nightmill.worker.memory"]
    [record] = caplog.records
    assert (record.levelname, record.getMessage(), record.exc_info) == ("WARNING", "no measurement", None)
    is_away[0] = False
    assert measured.series(metrics.BATCH_ATTENTION) == {}
    clock.now += 15.1
    assert measured.series(metrics.BATCH_ATTENTION) == {(): 1}
    assert measured.series(metrics.DOCUMENT_DUE) == {(): 9}
    assert asked == [2]


def test_a_look_that_takes_long_is_given_up_goes_on_alone_and_is_shown_once_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(looks_module, "PATIENCE", 0.2)
    clock, go, ended, asked = Clock(), threading.Event(), threading.Event(), [0]

    def look() -> int:
        asked[0] += 1
        go.wait(10)
        return 7

    def after() -> int:
        ended.set()
        return 8

    looks = Looks(clock)
    one, other = looks.kept(look), looks.kept(after)
    began = time.monotonic()
    assert [one(), other(), one(), other()] == [None] * 4
    assert time.monotonic() - began < 1, "who collects waits once"
    assert asked == [1]
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", "no measurement")
    clock.now += 20
    go.set()
    assert ended.wait(10)
    clock.now += 14
    eventually(lambda: other() == 8)
    assert one() == 7, "it counts from its end: nobody has seen it yet"
    assert asked == [1]
    clock.now += 2
    assert one() == 7
    assert asked == [2]


def test_who_scrapes_is_answered_soon_while_the_database_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond Prometheus' patience, what needs no database would be lacking as well, every second time."""
    monkeypatch.setattr(looks_module, "PATIENCE", 0.5)
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    made = Instruments(provider.get_meter("nightmill"))
    monkeypatch.setattr(instruments, "of_this_process", lambda: made)

    async def scraped(times: int) -> list[tuple[float, str]]:
        found = []
        async with (
            served(metrics_app(registry), "127.0.0.1", 0, setting="PORT") as address,
            httpx.AsyncClient(trust_env=False, base_url=address, timeout=20) as client,
        ):
            for _ in range(times):
                began = time.monotonic()
                text = (await client.get("/metrics")).text
                found.append((time.monotonic() - began, text))
        return found

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=4"
        with assembled(settings_of(url)) as assembly:
            observe(assembly, ["nightmill", "nightmill-slicing"])
            found = asyncio.run(scraped(3))
    assert found[0][0] < 2
    assert found[1][0] + found[2][0] < 0.5
    for _, text in found:
        assert "nightmill_worker_memory_bytes" in text
        assert "nightmill_batch_polls_total" in text
        assert "nightmill_batch_overdue" not in text
        assert "nightmill_slicing_oldest" not in text


def test_a_look_that_fails_in_another_way_is_an_error_and_a_gap_as_well(
    measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> OpenBatches:
        raise KeyError("no such column")

    gauges.observe_process()
    gauges.observe_batches(Looks(Clock()).kept(broken), providers=["openai"])
    assert set(measured.points()) == {"nightmill.worker.memory", "nightmill.worker.open_descriptors"}
    [record] = caplog.records  # of four gauges
    assert (record.levelname, record.getMessage(), bool(record.exc_info)) == ("ERROR", "no measurement", True)


def test_an_old_value_is_not_shown_for_ever_once_the_database_is_away() -> None:
    clock, answers = Clock(), [1]

    def look() -> int:
        if not answers:
            raise StorageUnavailable("the database is away")
        return answers.pop()

    kept = Looks(clock).kept(look)
    assert kept() == 1
    clock.now += 15.1
    assert kept() is None


def settings_of(url: str, **given: Any) -> Settings:
    return Settings(_env_file=None, database_url=url, openai={"api_key": "k"}, xai={"api_key": "k"}, **given)


def shown(measured: Measured) -> dict[str, Any]:
    return {name: {p.value for p in points} for name, points in measured.points().items()}


@pytest.mark.parametrize(
    ("queues", "jobs"),
    [
        (["nightmill"], {"batch", "document", "worker"}),
        (["nightmill-slicing"], {"slicing", "worker"}),
        (["nightmill", "nightmill-slicing"], {"batch", "document", "slicing", "worker"}),
    ],
)
def test_a_worker_shows_the_work_of_the_queues_that_it_serves(
    measured: Measured, sqlite_url: str, queues: list[str], jobs: set[str]
) -> None:
    with assembled(settings_of(sqlite_url)) as assembly:
        observe(assembly, queues)
        seen = {name.split(".")[1] for name in measured.points()}
    begun = {"reconciler", "audit"} if "nightmill" in queues else set()
    assert seen == jobs | begun


def test_what_a_worker_shows_is_what_the_database_holds(measured: Measured, database_url: str) -> None:
    given: Mapping[str, Any] = {"provider": "openai", "model": "m", "poll_schedule": [60.0], "max_age": 3600.0}
    with assembled(settings_of(database_url)) as assembly:
        with assembly.database.transaction() as session:
            session.add(BatchRow(id="b1", status=BatchStatus.PENDING, created_at=ago(hours=1), **given))
            late = {"next_poll_at": ago(minutes=9), "needs_attention": "no key"}
            session.add(
                BatchRow(id="b2", status=BatchStatus.IN_PROGRESS, created_at=ago(hours=3), account="k", **late, **given)
            )
            owner = AccountRow(name="acme", plan="Daily", created_at=ago(days=1))
            session.add(owner)
            session.flush()
            page: Mapping[str, Any] = {"account_key": owner.key, "collection": "c", "host": "h:1", "external_link": "x"}
            session.add(
                DocumentRow(
                    id="d1", link="1", created_at=ago(days=1), next_sync_at=ago(hours=2), needs_attention="x", **page
                )
            )
            session.add(
                SlicingRow(
                    sha256="a" * 64,
                    profile="gazette",
                    name="x",
                    source="x",
                    status=SlicingStatus.SLICING,
                    queued_at=ago(hours=1),
                    started_at=ago(minutes=5),
                    created_at=ago(hours=1),
                )
            )
            session.add(SlicerBreakerRow(profile="gazette", state=BreakerState.OPEN))
        observe(assembly, ["nightmill", "nightmill-slicing"])
        points = measured.points()

    def values(metric: Metric) -> dict[tuple[str, ...], float]:
        return {tuple(p.attributes[label] for label in metric.labels): p.value for p in points[metric.name]}

    def about(seconds: float) -> Any:
        return pytest.approx(seconds, abs=30)

    assert {k: v for k, v in values(metrics.BATCH_OPEN).items() if v} == {
        ("openai", "pending"): 1, ("openai", "in_progress"): 1,
    }  # fmt: skip
    assert values(metrics.BATCH_OLDEST) == {("openai",): about(10_800), ("xai",): 0}
    assert values(metrics.BATCH_OVERDUE) == {(): about(540)}
    assert values(metrics.BATCH_ATTENTION) == {(): 1}
    assert values(metrics.DOCUMENT_DUE) == {(): 1}
    assert values(metrics.DOCUMENT_OVERDUE) == {(): about(7_200)}
    assert values(metrics.DOCUMENT_ATTENTION) == {(): 1}
    assert values(metrics.ACCOUNT_BACKLOG) == {("(default)", "batch"): 1, ("acme", "document"): 1}
    assert values(metrics.SLICING_OLDEST) == {(): about(300)}
    assert {k: v for k, v in values(metrics.SLICING_BREAKER).items() if v} == {("gazette",): 2}
    assert values(metrics.SLICING_WAITING)["gazette",] == 0


def test_what_alerts_count_begins_at_0_so_that_they_see_the_first_event(measured: Measured, sqlite_url: str) -> None:
    with assembled(settings_of(sqlite_url)) as assembly:
        observe(assembly, ["nightmill", "nightmill-slicing"])
        points = measured.points()
    counters = [metric for metric in metrics.METRICS if isinstance(metric, Counter) and metric.name in points]
    assert {metric.name for metric in counters} == {
        "nightmill.batch.ended", "nightmill.batch.polls", "nightmill.batch.created", "nightmill.document.syncs",
        "nightmill.slicing.outcomes", "nightmill.slicing.failed", "nightmill.reconciler.repairs",
        "nightmill.audit.failures",
    }  # fmt: skip
    assert {point.value for metric in counters for point in points[metric.name]} == {0}
    assert {p.attributes["provider"] for p in points["nightmill.batch.polls"]} == {"openai", "xai"}
    assert {p.attributes["state"] for p in points["nightmill.reconciler.repairs"]} == {"failed"}

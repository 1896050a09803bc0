"""The audit against the sandbox: real lists, real rows, batches made behind our back and taken away behind it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from nightmill.completions.planning import Part
from nightmill.completions.pricing import Price
from nightmill.completions.requests import read_request_objects
from nightmill.completions.submission import Submitter
from nightmill.contracts import AuditKind, AuditOutcome, AuditTarget, BatchStatus, PartRef, SubmitState
from nightmill.errors import AccessDenied, NotConfigured, ProviderUnavailable
from nightmill.ids import TaggedPart, part_of_tag, part_tag
from nightmill.providers.base import BatchProvider
from nightmill.providers.config import ProviderConfig
from nightmill.providers.registry import PROVIDER_NAMES, open_provider
from nightmill.recovery.audit import Auditor
from nightmill.recovery.audit_costs import AuditCosts
from nightmill.retention.pruning import Pruner
from nightmill.sandbox import Fault, Profile, Sandbox
from nightmill.settings import DatabaseSettings, load_settings
from nightmill.storage.audit_reads import AuditReads
from nightmill.storage.batches import BatchRepository
from nightmill.storage.engine import Database, open_database
from nightmill.storage.files import LocalFileStore
from nightmill.storage.models import BatchRow, OutcomeRow, ProviderBatchRow
from nightmill.storage.provider_batches import ProviderBatchRepository
from nightmill.storage.requests import RequestRepository

MODELS = {
    "openai": "gpt-5-mini",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
    "xai": "grok-4-fast",
}
TAGGING = [name for name in PROVIDER_NAMES if name != "anthropic"]
PRICE = Price(input=Decimal("0.001"), output=Decimal("0.01"), cached=Decimal(0), cache_write=Decimal(0))
LONG_AGO = timedelta(hours=1)


@dataclass
class Scene:
    """A database, the sandbox, and what leads from one to the other."""

    database: Database
    sandbox: Sandbox
    close: ExitStack
    keys: list[tuple[str, str | None]] = field(default_factory=list)
    key: str = "sk-test-key"
    providers: dict[tuple[str, str | None], BatchProvider] = field(default_factory=dict)

    def provider(self, name: str, account: str | None = None) -> BatchProvider:
        if account == "keyless":
            raise NotConfigured("no API key for openai: set NIGHTMILL_ACCOUNTS__KEYLESS__OPENAI__API_KEY")
        if (name, account) not in self.providers:
            config = ProviderConfig(api_key=SecretStr(self.key), base_url=self.sandbox.base_urls[name])
            self.providers[name, account] = provider = open_provider(name, config)
            self.close.callback(provider.close)
        return self.providers[name, account]

    def planned(self, batch_id: str, count: int = 3, *, provider: str = "openai", **columns: Any) -> PartRef:
        """Store a batch of one part that nobody has submitted."""
        adapter = self.provider(provider)
        asked = [{"custom_id": f"{batch_id}-{n}", "prompt": f"say {n}", "max_output_tokens": 10} for n in range(count)]
        stored = list(read_request_objects(asked, provider=adapter, model=MODELS[provider]))
        given = {"poll_schedule": [60.0], "max_age": 1.0, "created_at": datetime.now(UTC)} | columns
        batch = BatchRow(id=batch_id, provider=provider, model=MODELS[provider], **given)
        if adapter.endpoints:
            batch.endpoint = adapter.endpoints[0]
        RequestRepository(self.database).store(batch, stored)
        size = sum(len(one.line) for one in stored)
        part = Part(first=0, last=count - 1, requests=count, bytes=size)
        BatchRepository(self.database).start_round(batch_id, 0, [part], now=datetime.now(UTC))
        return PartRef(batch_id=batch_id)

    @property
    def submitter(self) -> Submitter:
        parts, requests = ProviderBatchRepository(self.database), RequestRepository(self.database)
        return Submitter(self.provider, parts, requests, dict.fromkeys(PROVIDER_NAMES, 50))

    def submitted(self, batch_id: str, count: int = 3, *, age: timedelta = LONG_AGO, **given: Any) -> str:
        """Submit a batch of one part as its workflow does, some time ago; return the provider's id."""
        ref = self.planned(batch_id, count, **given)
        done = self.submitter.submit(ref, now=datetime.now(UTC), looked_for=None)
        assert done.state is SubmitState.SUBMITTED
        self.change(batch_id, created_at=datetime.now(UTC) - age)
        return str(done.provider_batch_id)

    def part(self, batch_id: str) -> ProviderBatchRow:
        return ProviderBatchRepository(self.database).get(PartRef(batch_id=batch_id))[1]

    def change(self, batch_id: str, **columns: Any) -> None:
        part = self.part(batch_id)
        with self.database.transaction() as session:
            for name, value in columns.items():
                setattr(part, name, value)
            session.add(part)

    def behind_our_back(self, tag: str, *, like: str, provider: str = "openai") -> str:
        """Create a provider batch of a stored batch's requests, of which no row hears."""
        adapter, part = self.provider(provider), self.part(like)
        lines = RequestRepository(self.database).lines(part.key or 0)
        file_id = adapter.upload(lines, tag=tag)
        endpoint = adapter.endpoints[0] if adapter.endpoints else ""
        made = adapter.create(lines, tag=tag, file_id=file_id, model=MODELS[provider], endpoint=endpoint)
        return made.provider_batch_id

    def lose(self, provider_batch_id: str) -> None:
        self.sandbox._engine.batches[provider_batch_id].deleted = True

    @property
    def auditor(self) -> Auditor:
        reads = AuditReads(self.database)
        costs = AuditCosts(reads, RequestRepository(self.database), self.provider)
        return Auditor(self.provider, reads, costs, self.keys)

    def audit(self, provider: str = "openai", account: str | None = None, *, days: float = 30) -> AuditOutcome:
        since = datetime.now(UTC) - timedelta(days=days)
        target = AuditTarget(provider=provider, account=account, since=since)
        return self.auditor.audit(target, now=datetime.now(UTC), heartbeat=lambda _: None)

    def asked(self, operation: str) -> int:
        return len(self.sandbox.log(operation=operation))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(profile=Profile(finish_after=0)) as running:
        yield running


@pytest.fixture
def anywhere(database: Database, sandbox: Sandbox) -> Iterator[Scene]:
    """On each kind of database: a test for every query."""
    with ExitStack() as close:
        yield Scene(database, sandbox, close)


@pytest.fixture
def scene(sqlite_url: str, sandbox: Sandbox) -> Iterator[Scene]:
    """On one kind of database, which is quicker: for what providers say."""
    database = open_database(sqlite_url, DatabaseSettings())
    with ExitStack() as close:
        close.callback(database.close)
        yield Scene(database, sandbox, close)


def found(outcome: AuditOutcome) -> list[tuple[AuditKind, str]]:
    assert sum(outcome.counts.values()) == len(outcome.findings)
    return [(one.kind, one.provider_batch_id) for one in outcome.findings]


def test_a_tag_is_read_as_it_was_made_and_nothing_else_is_taken_for_one() -> None:
    for batch_id in ("b", "b-1", "b-1-2-3-4", "nm-b", "-", "x" * 64, "0198-7a_b"):
        assert part_of_tag(part_tag(batch_id, 3, 0, 17)) == TaggedPart(batch_id, 3, 0, 17)
    others = ("", "nm-", "nm-b-1-2", "nm--1-2-3", "my batch", "xm-b-1-2-3", "nm-b-1-2-3\n", "nm-b-01-2-3", "nm-b-1-2-٣")
    assert [part_of_tag(tag) for tag in (*others, f"nm-{'x' * 65}-0-0-0", "nm-b-0-0-9999999999")] == [None] * 11


@pytest.mark.parametrize("provider", PROVIDER_NAMES)
def test_what_is_as_it_should_be_is_counted_and_not_reported(scene: Scene, provider: str) -> None:
    for number in range(3):
        scene.submitted(f"b{number}", provider=provider)
    outcome = scene.audit(provider)
    assert found(outcome) == []
    assert (outcome.listed, outcome.owned, outcome.unclear, outcome.untagged_suspects) == (3, 3, 0, 0)
    assert scene.asked("batches.get") == 0, "what is listed need not be asked for"


@pytest.mark.parametrize("provider", TAGGING)
def test_a_batch_with_our_tag_that_no_row_owns_is_an_orphan(scene: Scene, provider: str) -> None:
    scene.submitted("b0", provider=provider, prices=PRICE.to_json())
    gone = scene.behind_our_back(part_tag("deleted", 0, 0, 0), like="b0", provider=provider)
    later = scene.behind_our_back(part_tag("b0", 0, 0, 7), like="b0", provider=provider)
    scene.behind_our_back("somebody else's", like="b0", provider=provider)
    outcome = scene.audit(provider)
    assert found(outcome) == [(AuditKind.ORPHAN, later), (AuditKind.ORPHAN, gone)], "newest first"
    assert (outcome.listed, outcome.owned) == (4, 1)
    of_ours, of_nobody = outcome.findings
    assert (of_nobody.batch_id, of_nobody.cost, of_nobody.requests) == (None, None, 3)
    assert of_nobody.tag == part_tag("deleted", 0, 0, 0)
    assert of_ours.batch_id == "b0"
    assert of_ours.cost is not None
    assert not of_ours.cost_is_exact
    size = sum(len(line) for line in RequestRepository(scene.database).lines(scene.part("b0").key or 0))
    assert Decimal("0.3") + size * PRICE.input / 4 <= of_ours.cost < Decimal("0.31") + size * PRICE.input / 4
    assert scene.asked("batches.cancel") == scene.asked("batches.delete") == 0


@pytest.mark.parametrize("provider", TAGGING)
def test_a_create_whose_answer_was_lost_is_no_orphan_before_it_is_found_nor_after(scene: Scene, provider: str) -> None:
    ref = scene.planned("b0", provider=provider)
    scene.sandbox.add_faults(Fault("drop", provider=provider, operation="batches.create", when="after"))
    assert scene.submitter.submit(ref, now=datetime.now(UTC), looked_for=None).state is SubmitState.UNCERTAIN
    before = scene.audit(provider)
    assert (found(before), before.listed, before.owned, before.on_their_way) == ([], 1, 0, 1)
    assert scene.submitter.find(ref).state is SubmitState.SUBMITTED
    after = scene.audit(provider)
    assert (found(after), after.owned, after.on_their_way) == ([], 1, 0)


def test_a_create_that_was_given_up_is_an_orphan(anywhere: Scene) -> None:
    ref = anywhere.planned("b0")
    anywhere.sandbox.add_faults(Fault("drop", operation="batches.create", when="after"))
    anywhere.submitter.submit(ref, now=datetime.now(UTC), looked_for=None)
    made = anywhere.sandbox.batches()[0]["id"]
    anywhere.change("b0", settled_at=datetime.now(UTC))
    assert found(anywhere.audit()) == [(AuditKind.ORPHAN, made)]


@pytest.mark.parametrize("provider", TAGGING)
def test_two_with_one_tag_are_told_from_orphans(scene: Scene, provider: str) -> None:
    owned = scene.submitted("b0", provider=provider, prices=PRICE.to_json())
    double = scene.behind_our_back(part_tag("b0", 0, 0, 0), like="b0", provider=provider)
    twins = [scene.behind_our_back(part_tag("gone", 0, 0, 0), like="b0", provider=provider) for _ in range(2)]
    outcome = scene.audit(provider)
    assert found(outcome) == [
        (AuditKind.ORPHAN, twins[1]),
        (AuditKind.DUPLICATE, twins[0]),
        (AuditKind.DUPLICATE, double),
    ]
    assert [one.twin for one in outcome.findings] == [None, twins[1], owned]
    assert [one.cost is None for one in outcome.findings] == [True, True, False]


def test_a_second_create_while_the_first_is_looked_for_shows_as_a_duplicate(scene: Scene) -> None:
    ref = scene.planned("b0")
    scene.sandbox.add_faults(Fault("drop", operation="batches.create", when="after"))
    scene.submitter.submit(ref, now=datetime.now(UTC), looked_for=None)
    second = scene.behind_our_back(part_tag("b0", 0, 0, 0), like="b0")
    outcome = scene.audit()
    first = scene.sandbox.batches()[0]["id"]
    assert found(outcome) == [(AuditKind.DUPLICATE, first)]
    assert (outcome.findings[0].twin, outcome.on_their_way) == (second, 1)


@pytest.mark.parametrize("provider", TAGGING)
def test_what_was_failed_for_lack_of_quota_is_owned_though_its_row_has_another(scene: Scene, provider: str) -> None:
    ref = PartRef(batch_id="b0")
    ids = [scene.submitted("b0", provider=provider)]
    for _ in range(2):
        ProviderBatchRepository(scene.database).requeue(ref, ids[-1], reason="over quota")
        done = scene.submitter.submit(ref, now=datetime.now(UTC), looked_for=None)
        ids.append(str(done.provider_batch_id))
    outcome = scene.audit(provider)
    assert (found(outcome), outcome.listed, outcome.owned) == ([], 3, 3)
    double = scene.behind_our_back(part_tag("b0", 0, 0, 1), like="b0", provider=provider)
    outcome = scene.audit(provider)
    assert found(outcome) == [(AuditKind.DUPLICATE, double)]
    assert outcome.findings[0].twin == ids[1], "the one that was created at the same time"


def test_what_was_failed_for_lack_of_quota_too_often_to_be_remembered_is_no_orphan(scene: Scene) -> None:
    made = scene.submitted("b0")
    scene.change("b0", provider_batch_id=None, epoch=21, refs={"requeued": [f"old-{n}" for n in range(20)]})
    assert made == scene.sandbox.batches()[0]["id"]
    assert (found(scene.audit()), scene.audit().owned) == ([], 1)


@pytest.mark.parametrize("provider", PROVIDER_NAMES)
def test_a_row_whose_batch_the_provider_does_not_know_is_missing_it(scene: Scene, provider: str) -> None:
    made = {name: scene.submitted(name, provider=provider, age=LONG_AGO) for name in ("there", "gone", "settled")}
    scene.change("settled", settled_at=datetime.now(UTC))
    young = scene.submitted("young", provider=provider, age=timedelta(0))
    for lost in (made["gone"], made["settled"], young):
        scene.lose(lost)
    outcome = scene.audit(provider)
    assert found(outcome) == [(AuditKind.MISSING, made["settled"]), (AuditKind.MISSING, made["gone"])], "newest first"
    assert [one.ended for one in outcome.findings] == [True, False]
    assert [one.batch_id for one in outcome.findings] == ["settled", "gone"]
    assert (outcome.listed, outcome.owned) == (1, 1)


def test_what_is_missing_costs_what_its_outcomes_did_or_what_is_to_be_expected(anywhere: Scene) -> None:
    def outcomes(batch_id: str, *costs: int | None) -> None:
        with anywhere.database.transaction() as session:
            key = anywhere.part(batch_id).batch_key
            for seq, cost in enumerate(costs):
                session.add(OutcomeRow(batch_key=key, seq=seq, round=0, ok=True, cost_picodollars=cost))
                session.add(OutcomeRow(batch_key=key, seq=seq, round=1, ok=True, cost_picodollars=10**15))

    for name in ("exact", "partly", "estimated", "unpriced"):
        prices = None if name == "unpriced" else PRICE.to_json()
        anywhere.lose(anywhere.submitted(name, prices=prices))
    outcomes("exact", 10**12, 10**11, 1)
    outcomes("partly", 10**12, None)
    found = {one.batch_id: (one.cost, one.cost_is_exact) for one in anywhere.audit().findings}
    assert found["exact"] == (Decimal("1.100000000001"), True), "of its round only"
    assert found["partly"] == (Decimal(1), False)
    assert found["unpriced"] == (None, False)
    cost, is_exact = found["estimated"]
    assert cost is not None
    assert cost > Decimal("0.3"), "three answers of at most ten tokens"
    assert not is_exact


def test_rows_older_than_the_window_are_looked_for_only_while_they_are_open(anywhere: Scene) -> None:
    ids = {name: anywhere.submitted(name, age=timedelta(days=40)) for name in ("open", "settled")}
    for one in ids.values():
        anywhere.lose(one)
    anywhere.change("settled", settled_at=datetime.now(UTC))
    assert found(anywhere.audit()) == [(AuditKind.MISSING, ids["open"])]


def test_orphans_older_than_the_window_are_left_alone(scene: Scene) -> None:
    scene.submitted("b0")
    orphan = scene.behind_our_back(part_tag("gone", 0, 0, 0), like="b0")
    scene.sandbox._engine.batches[orphan].created_at -= 3 * 86_400
    assert found(scene.audit(days=4)) == [(AuditKind.ORPHAN, orphan)]
    assert found(scene.audit(days=2)) == []


def test_a_batch_that_is_not_listed_and_yet_known_is_not_missing(scene: Scene) -> None:
    made = scene.submitted("b0")
    scene.sandbox._engine.batches[made].created_at -= 60 * 86_400
    scene.sandbox.add_faults(Fault("patch", operation="batches.list", body={"data": [], "has_more": False}))
    assert found(scene.audit()) == []
    assert scene.asked("batches.get") == 1


def test_a_batch_that_cannot_be_asked_for_does_not_hide_the_others(scene: Scene) -> None:
    ids = [scene.submitted(f"b{number}") for number in range(4)]
    for one in ids:
        scene.lose(one)
    for number, status in ((0, 400), (2, 503)):
        scene.sandbox.add_faults(Fault("status", path=f"*{ids[number]}", status=status, times=None))
    outcome = scene.audit()
    assert found(outcome) == [(AuditKind.MISSING, ids[3]), (AuditKind.MISSING, ids[1])]
    assert outcome.unclear == 2


def test_a_provider_that_goes_away_fails_the_audit_of_its_key(scene: Scene) -> None:
    for number in range(4):
        scene.lose(scene.submitted(f"b{number}"))
    scene.sandbox.add_faults(Fault("status", operation="batches.get", status=503, times=None))
    with pytest.raises(ProviderUnavailable):
        scene.audit()
    assert scene.asked("batches.get") == 3


def test_a_key_that_is_refused_fails_its_audit(scene: Scene) -> None:
    scene.key = "invalid"
    with pytest.raises(AccessDenied):
        scene.audit()


def test_all_pages_of_a_list_are_compared(scene: Scene, sandbox: Sandbox) -> None:
    scene.submitted("b0")
    adapter_pages = 250
    for number in range(adapter_pages):
        original = next(iter(sandbox._engine.batches.values()))
        tag = {"nightmill_tag": part_tag(f"other-{number}", 0, 0, 0)}
        sandbox._engine.batches[f"o{number}"] = replace(original, id=f"o{number}", metadata=tag, created_at=1e9 * 2)
    outcome = scene.audit()
    assert (outcome.listed, outcome.owned) == (251, 1)
    assert outcome.counts == {AuditKind.ORPHAN: 250}
    assert [one.provider_batch_id for one in outcome.findings] == [f"o{n}" for n in range(249, 149, -1)]
    assert scene.asked("batches.list") == 3


def test_untagged_batches_are_suspects_where_a_create_of_ours_was_on_its_way(anywhere: Scene) -> None:
    ref = anywhere.planned("b0", 3, provider="anthropic")
    anywhere.sandbox.add_faults(Fault("drop", operation="batches.create", when="after"))
    assert anywhere.submitter.submit(ref, now=datetime.now(UTC), looked_for=None).state is SubmitState.UNCERTAIN
    assert anywhere.audit("anthropic").untagged_suspects == 1
    anywhere.planned("b1", 2, provider="anthropic")
    anywhere.behind_our_back("", like="b1", provider="anthropic")
    assert anywhere.audit("anthropic").untagged_suspects == 1, "of another size"
    long_before = anywhere.behind_our_back("", like="b0", provider="anthropic")
    anywhere.sandbox._engine.batches[long_before].created_at -= 3_600
    outcome = anywhere.audit("anthropic")
    assert (found(outcome), outcome.listed, outcome.untagged_suspects) == ([], 3, 1), "made before we asked"
    assert anywhere.submitter.find(ref).state is SubmitState.SUBMITTED
    outcome = anywhere.audit("anthropic")
    assert (outcome.owned, outcome.untagged_suspects) == (1, 0)


def test_a_create_that_was_answered_long_ago_makes_no_suspects(scene: Scene) -> None:
    scene.submitted("b0", provider="anthropic", age=timedelta(0))
    soon = scene.behind_our_back("", like="b0", provider="anthropic")
    later = scene.behind_our_back("", like="b0", provider="anthropic")
    scene.sandbox._engine.batches[later].created_at += 300
    assert scene.audit("anthropic").untagged_suspects == 1
    scene.lose(soon)
    assert scene.audit("anthropic").untagged_suspects == 0


def test_an_account_is_asked_for_its_own_rows_however_it_is_spelled(anywhere: Scene) -> None:
    lost = {}
    for name, account in (("b0", None), ("b1", "acme"), ("b2", "ACME"), ("b3", "other")):
        lost[name] = anywhere.submitted(name, account=account)
        anywhere.lose(lost[name])
    assert found(anywhere.audit(account=None)) == [(AuditKind.MISSING, lost["b0"])]
    assert found(anywhere.audit(account="acme")) == [(AuditKind.MISSING, lost["b2"]), (AuditKind.MISSING, lost["b1"])]
    assert found(anywhere.audit(account="nobody")) == []


def test_keys_that_are_set_and_keys_that_rows_need_are_looked_at(
    anywhere: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMILL_OPENAI__API_KEY", "k")
    monkeypatch.setenv("NIGHTMILL_XAI__API_KEY", "")
    monkeypatch.setenv("NIGHTMILL_ACCOUNTS__ACME__XAI__API_KEY", "k")
    anywhere.keys = load_settings().keys_given()
    assert sorted(anywhere.keys, key=str) == [("openai", None), ("xai", "acme")]
    anywhere.submitted("b0", provider="google")
    anywhere.submitted("b1", account="Acme")
    since = datetime.now(UTC) - timedelta(days=30)
    seen = [(one.provider, one.account) for one in anywhere.auditor.targets(since).targets]
    assert seen == [("google", None), ("openai", None), ("openai", "acme"), ("xai", "acme")]
    with pytest.raises(NotConfigured):
        anywhere.audit(account="keyless")


def add(scene: Scene, batch_key: int, upto: int) -> None:
    """Give the provider and the database so many batches, each of which the other one knows."""
    known = scene.sandbox._engine.batches
    original, first = next(iter(known.values())), len(known)
    for number in range(first, upto):
        made = replace(original, id=f"batch_{number}")
        known[made.id] = made
    columns = (
        "batch_key, round, part, first, last, requests, bytes, provider, model, epoch, status, counts, refs, polls,"
        " fetched, fetches, created_at, provider_batch_id"
    )
    values = ":key, 0, :part, 0, 2, 3, 9, 'anthropic', 'claude', 0, 'ended', '{}', '{}', 1, '{}', 0, :created, :made"
    created = (datetime.now(UTC) - LONG_AGO).isoformat(" ")
    rows = [{"key": batch_key, "part": n, "created": created, "made": f"batch_{n}"} for n in range(first, upto)]
    with scene.database.transaction() as session:
        session.connection().execute(text(f"INSERT INTO provider_batches ({columns}) VALUES ({values})"), rows)


def test_ten_thousand_batches_are_compared_in_the_memory_of_two_thousand(scene: Scene) -> None:
    scene.submitted("b0", provider="anthropic")  # whose lists have the largest pages
    key = scene.part("b0").batch_key

    def peak(upto: int) -> int:
        add(scene, key, upto)
        scene.lose(f"batch_{upto - 1}")
        tracemalloc.start()
        try:
            outcome = scene.audit("anthropic")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert outcome.listed == outcome.owned == upto - outcome.counts[AuditKind.MISSING]

    peak(1_001)  # what is made once: statements, connections
    few, lots = peak(2_000), peak(10_000)
    assert lots < few + 1_000_000


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_batch_that_was_deleted_here_is_no_orphan_there_and_nobody_misses_it(
    scene: Scene, provider: str, tmp_path: Path
) -> None:
    """What was done with it twice by mistake is still told."""
    scene.submitted("b1", provider=provider, prices=PRICE.to_json())
    batches = BatchRepository(scene.database)
    ours = scene.submitted("b0", provider=provider, prices=PRICE.to_json())
    scene.change("b0", settled_at=datetime.now(UTC))
    batches.finish("b0", BatchStatus.ENDED, reason=None, now=datetime.now(UTC), dispatch=False)
    assert Pruner(scene.database, LocalFileStore(tmp_path)).deleter.delete("b0")
    outcome = scene.audit(provider)
    assert found(outcome) == []
    assert (outcome.listed, outcome.owned, outcome.untagged_suspects) == (2, 2, 0)
    if provider in TAGGING:
        twin = scene.behind_our_back(part_tag("b0", 0, 0, 0), like="b1", provider=provider)
        outcome = scene.audit(provider)
        assert [(one.kind, one.provider_batch_id, one.twin, one.cost) for one in outcome.findings] == [
            (AuditKind.DUPLICATE, twin, ours, None)
        ]
        scene.lose(twin)
    scene.lose(ours)
    outcome = scene.audit(provider)
    assert found(outcome) == []
    assert outcome.unclear == 0

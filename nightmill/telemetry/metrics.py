"""Every metric that Nightmill makes, in one place; docs/metrics.md's table is written from here (`make docs`).

No label names a document, a batch or a request: labels are kept for ever, and those come and go. Providers, models,
profiles and plans are the operator's own, few; of accounts, only those with most work are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What becomes of the values of a metric."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: OpenTelemetry's name.
        kind: Counter, histogram, or a gauge that is read whenever somebody collects.
        unit: UCUM; what is counted stands in braces.
        meaning: What it says, in a line.
        when: When a value is recorded or read.
        labels: Names of its labels.
        bounds: Of a histogram: the upper bounds of its buckets.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    when: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """The name of its series in Prometheus; a histogram's end in `_bucket`, `_count` and `_sum` besides."""
        suffix = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return self.name.replace(".", "_") + suffix + ("_total" if self.kind is Kind.COUNTER else "")


_MINUTE, _HOUR = 60, 3_600

# Alerts look at 5 min (the reconciler's grace), providers promise 24 h, max age is 26 h and more.
_LAGS = (1, 2, 5, 10, 30, _MINUTE, 120, 300, 600, 1_800, _HOUR, 2 * _HOUR, 6 * _HOUR, 24 * _HOUR)
_BATCH = tuple(m * _MINUTE for m in (1, 2, 5, 10, 20, 30)) + tuple(
    h * _HOUR for h in (1, 2, 4, 6, 8, 12, 18, 24, 26, 36, 48)
)
_SYNC = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
# Documents are due in hours to weeks, and a sweep comes hourly.
_SYNC_LAGS = (1, 10, _MINUTE, 300, 900, 1_800, _HOUR, 2 * _HOUR, 6 * _HOUR, 24 * _HOUR, 72 * _HOUR, 168 * _HOUR)
# Targets and alerts are at 10 min (average), 15 min (a program) and 20 min (a job): each has a boundary of its own.
_SLICING = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900, 1_200, 1_800, 3_600)
_BYTES = tuple(2**power for power in range(24, 34))  # 16 MiB to 8 GiB
_RATES = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_TICK = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# opentelemetry.io/docs/specs/semconv/http/http-metrics (read 2026-11), and longer: uploads take minutes.
_HTTP = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120, 300)

_AT_THE_END = "a batch's end is committed"
_READ = "read from the database, at most every 15 s"

BATCH_ENDED = Metric(
    "nightmill.batch.ended", Kind.COUNTER, "{batch}", "batches that ended, by status", _AT_THE_END,
    ("provider", "status"),
)  # fmt: skip
BATCH_DURATION = Metric(
    "nightmill.batch.duration", Kind.HISTOGRAM, "s", "from the acceptance of a batch to its end", _AT_THE_END,
    ("provider", "status"), _BATCH,
)  # fmt: skip
BATCH_ENTRIES = Metric(
    "nightmill.batch.entries", Kind.COUNTER, "{entry}",
    "requests of ended batches, by the code of their error; no code: answered", _AT_THE_END, ("provider", "code"),
)  # fmt: skip
BATCH_TOKENS = Metric(
    "nightmill.batch.tokens", Kind.COUNTER, "{token}",
    "tokens of all attempts: input, output, cached (part of input), reasoning (part of output)", _AT_THE_END,
    ("provider", "model", "kind"),
)  # fmt: skip
BATCH_COST = Metric(
    "nightmill.batch.cost", Kind.COUNTER, "{USD}", "US dollars of all attempts whose price is known", _AT_THE_END,
    ("provider", "model"),
)  # fmt: skip
BATCH_POLLS = Metric(
    "nightmill.batch.polls", Kind.COUNTER, "{poll}",
    "questions for the status of a provider batch: open, terminal, over_quota, transient (failed, is tried again),"
    " permanent (failed, waits for somebody)", "the provider has answered, or could not be asked",
    ("provider", "outcome"),
)  # fmt: skip
BATCH_POLL_LAG = Metric(
    "nightmill.batch.poll.lag", Kind.HISTOGRAM, "s", "how late a poll was asked after it was due; an early one: 0",
    "the provider is about to be asked", ("provider",), _LAGS,
)  # fmt: skip
BATCH_CREATED = Metric(
    "nightmill.batch.created", Kind.COUNTER, "{batch}", "provider batches that were created",
    "the provider has said so, or one was found whose create had no answer", ("provider",),
)  # fmt: skip
BATCH_OPEN = Metric(
    "nightmill.batch.open", Kind.GAUGE, "{batch}",
    "batches that have not ended: pending, submitted, in_progress, canceling", _READ, ("provider", "status"),
)  # fmt: skip
BATCH_OLDEST = Metric(
    "nightmill.batch.oldest", Kind.GAUGE, "s", "age of the oldest batch that has not ended; 0: there is none", _READ,
    ("provider",),
)  # fmt: skip
BATCH_OVERDUE = Metric(
    "nightmill.batch.overdue", Kind.GAUGE, "s", "how late the most overdue poll is now; 0: none is", _READ
)
BATCH_ATTENTION = Metric("nightmill.batch.attention", Kind.GAUGE, "{batch}", "batches that wait for an operator", _READ)

EVENTS = Metric(
    "nightmill.events", Kind.COUNTER, "{event}", "events of providers, by what came of them",
    "`nightmill events` has answered one", ("provider", "outcome"),
)  # fmt: skip

DOCUMENT_SYNCS = Metric(
    "nightmill.document.syncs", Kind.COUNTER, "{sync}", "attempts to sync a document, by what they came to",
    "an attempt has ended", ("result", "error_code"),
)  # fmt: skip
DOCUMENT_SYNC_DURATION = Metric(
    "nightmill.document.sync.duration", Kind.HISTOGRAM, "s", "how long attempts to sync a document took",
    "an attempt has ended", ("result",), _SYNC,
)  # fmt: skip
DOCUMENT_SYNC_LAG = Metric(
    "nightmill.document.sync.lag", Kind.HISTOGRAM, "s",
    "how late a sync that a sweep asked for began after the document was due; early ones count as 0",
    "its first attempt has ended", (), _SYNC_LAGS,
)  # fmt: skip
DOCUMENT_DUE = Metric("nightmill.document.due", Kind.GAUGE, "{document}", "documents that are due", _READ)
DOCUMENT_OVERDUE = Metric(
    "nightmill.document.overdue", Kind.GAUGE, "s",
    "since when the document is due that is due longest; 0: none is", _READ,
)  # fmt: skip
DOCUMENT_ATTENTION = Metric(
    "nightmill.document.attention", Kind.GAUGE, "{document}", "documents that wait for a person", _READ
)
ACCOUNT_BACKLOG = Metric(
    "nightmill.account.backlog", Kind.GAUGE, "{item}",
    "work of an account that waits for us, of the ten accounts with most of each kind: batches that are not submitted"
    " yet, documents that are due", _READ, ("account", "kind"),
)  # fmt: skip

SLICING_DURATION = Metric(
    "nightmill.slicing.duration", Kind.HISTOGRAM, "s", "slicings, from the first start of the slicer to the end",
    "a slicing has ended", ("profile", "status"), _SLICING,
)  # fmt: skip
SLICING_OUTCOMES = Metric(
    "nightmill.slicing.outcomes", Kind.COUNTER, "{slicing}", "slicings, by what they came to", "a slicing has ended",
    ("profile", "status", "error_code"),
)  # fmt: skip
SLICING_FAILED = Metric(
    "nightmill.slicing.failed", Kind.COUNTER, "{slicing}", "slicings that failed for good", "a slicing has ended",
    ("profile", "error_code"),
)  # fmt: skip
SLICING_RATE = Metric(
    "nightmill.slicing.pages_per_second", Kind.HISTOGRAM, "{page}/s",
    "pages of a document for each second that it took", "a document has been sliced", ("profile",), _RATES,
)  # fmt: skip
SLICING_QUEUE_WAIT = Metric(
    "nightmill.slicing.queue.wait", Kind.HISTOGRAM, "s", "from the request to the first start of the slicer",
    "a slicing has ended", ("profile",), _SLICING,
)  # fmt: skip
PROGRAM_DURATION = Metric(
    "nightmill.slicing.program.duration", Kind.HISTOGRAM, "s", "programs, by step", "a program has ended",
    ("profile", "step", "error_code"), _SLICING,
)  # fmt: skip
PROGRAM_MEMORY = Metric(
    "nightmill.slicing.program.memory", Kind.HISTOGRAM, "By", "memory of a program's processes together, at most",
    "a program has ended", ("profile", "step"), _BYTES,
)  # fmt: skip
SLICING_OLDEST = Metric(
    "nightmill.slicing.oldest", Kind.GAUGE, "s", "age of the oldest running slicing; 0: none runs", _READ
)
SLICING_WAITING = Metric(
    "nightmill.slicing.waiting", Kind.GAUGE, "{slicing}", "slicings that are queued or parked", _READ, ("profile",)
)
SLICING_BREAKER = Metric(
    "nightmill.slicing.breaker", Kind.GAUGE, "",
    "0 closed, 1 its canary is being sliced, 2 open, 3 held open", _READ, ("profile",),
)  # fmt: skip

RECONCILER_FINDINGS = Metric(
    "nightmill.reconciler.findings", Kind.COUNTER, "{candidate}", "candidates by what was found of them",
    "a candidate was looked at", ("subject", "finding"),
)  # fmt: skip
RECONCILER_REPAIRS = Metric(
    "nightmill.reconciler.repairs", Kind.COUNTER, "{repair}",
    "repairs by action and how far they came: asked, done, failed, void", "a repair's state is stored",
    ("subject", "action", "state"),
)  # fmt: skip
RECONCILER_DURATION = Metric(
    "nightmill.reconciler.duration", Kind.HISTOGRAM, "s", "how long a run of the reconciler or a sweep took",
    "a run has ended", ("workflow",), _TICK,
)  # fmt: skip
AUDIT_LISTED = Metric(
    "nightmill.audit.listed", Kind.COUNTER, "{batch}", "provider batches that audits listed", "an audit has ended"
)
AUDIT_FAILURES = Metric(
    "nightmill.audit.failures", Kind.COUNTER, "{key}", "keys that audits could not look at", "an audit has ended"
)
AUDIT_FINDINGS = Metric(
    "nightmill.audit.findings", Kind.COUNTER, "{batch}",
    "provider batches with which something is wrong, by kind; each audit counts what is still there again",
    "an audit has ended", ("kind",),
)  # fmt: skip

WORKER_MEMORY = Metric(
    "nightmill.worker.memory", Kind.GAUGE, "By", "memory of this process", "read when somebody collects (Linux)"
)
WORKER_DESCRIPTORS = Metric(
    "nightmill.worker.open_descriptors", Kind.GAUGE, "{descriptor}", "open files, sockets and pipes of this process",
    "read when somebody collects (Linux)",
)  # fmt: skip
PROVIDER_REQUESTS = Metric(
    "http.client.request.duration", Kind.HISTOGRAM, "s", "requests to providers, with the reading of their answers",
    "a request has ended",
    ("http.request.method", "server.address", "http.response.status_code", "error.type"), _HTTP,
)  # fmt: skip

METRICS: tuple[Metric, ...] = tuple(found for found in dict(globals()).values() if isinstance(found, Metric))
"""All of them, in the order above."""

"""Every metric that Nightmill makes, in one place; docs/metrics.md's table is written from here (`make docs`).

No label names a document, a batch or a request: labels are kept for ever, and those come and go. Providers, models,
profiles and plans are the operator's own, few; of accounts, only those with most work are shown.
"""

from __future__ import annotations

from nightmill.telemetry.kinds import Counter, Gauge, Histogram, Metric

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

BATCH_ENDED = Counter(
    "nightmill.batch.ended",
    unit="{batch}",
    labels=("provider", "status"),
    meaning="batches that ended, by status",
    when=_AT_THE_END,
)
BATCH_DURATION = Histogram(
    "nightmill.batch.duration",
    unit="s",
    labels=("provider", "status"),
    bounds=_BATCH,
    meaning="from the acceptance of a batch to its end",
    when=_AT_THE_END,
)
BATCH_ENTRIES = Counter(
    "nightmill.batch.entries",
    unit="{entry}",
    labels=("provider", "code"),
    meaning="requests of ended batches, by the code of their error; no code: answered",
    when=_AT_THE_END,
)
BATCH_TOKENS = Counter(
    "nightmill.batch.tokens",
    unit="{token}",
    labels=("provider", "model", "kind"),
    meaning="tokens of all attempts: input, output, cached (part of input), reasoning (part of output)",
    when=_AT_THE_END,
)
BATCH_COST = Counter(
    "nightmill.batch.cost",
    unit="{USD}",
    labels=("provider", "model"),
    meaning="US dollars of all attempts whose price is known",
    when=_AT_THE_END,
)
BATCH_POLLS = Counter(
    "nightmill.batch.polls",
    unit="{poll}",
    labels=("provider", "outcome"),
    meaning=(
        "questions for the status of a provider batch: open, terminal, over_quota, transient (failed, is tried "
        "again), permanent (failed, waits for somebody)"
    ),
    when="the provider has answered, or could not be asked",
)
BATCH_POLL_LAG = Histogram(
    "nightmill.batch.poll.lag",
    unit="s",
    labels=("provider",),
    bounds=_LAGS,
    meaning="how late a poll was asked after it was due; an early one: 0",
    when="the provider is about to be asked",
)
BATCH_CREATED = Counter(
    "nightmill.batch.created",
    unit="{batch}",
    labels=("provider",),
    meaning="provider batches that were created",
    when="the provider has said so, or one was found whose create had no answer",
)
BATCH_OPEN = Gauge(
    "nightmill.batch.open",
    unit="{batch}",
    labels=("provider", "status"),
    meaning="batches that have not ended: pending, submitted, in_progress, canceling",
    when=_READ,
)
BATCH_OLDEST = Gauge(
    "nightmill.batch.oldest",
    unit="s",
    labels=("provider",),
    meaning="age of the oldest batch that has not ended; 0: there is none",
    when=_READ,
)
BATCH_OVERDUE = Gauge(
    "nightmill.batch.overdue",
    unit="s",
    meaning="how late the most overdue poll is now; 0: none is",
    when=_READ,
)
BATCH_ATTENTION = Gauge(
    "nightmill.batch.attention",
    unit="{batch}",
    meaning="batches that wait for an operator",
    when=_READ,
)

EVENTS = Counter(
    "nightmill.events",
    unit="{event}",
    labels=("provider", "outcome"),
    meaning="events of providers, by what came of them",
    when="`nightmill events` has answered one",
)

DOCUMENT_SYNCS = Counter(
    "nightmill.document.syncs",
    unit="{sync}",
    labels=("result", "error_code"),
    meaning="attempts to sync a document, by what they came to",
    when="an attempt has ended",
)
DOCUMENT_SYNC_DURATION = Histogram(
    "nightmill.document.sync.duration",
    unit="s",
    labels=("result",),
    bounds=_SYNC,
    meaning="how long attempts to sync a document took",
    when="an attempt has ended",
)
DOCUMENT_SYNC_LAG = Histogram(
    "nightmill.document.sync.lag",
    unit="s",
    bounds=_SYNC_LAGS,
    meaning="how late a sync that a sweep asked for began after the document was due; early ones count as 0",
    when="its first attempt has ended",
)
DOCUMENT_DUE = Gauge(
    "nightmill.document.due",
    unit="{document}",
    meaning="documents that are due",
    when=_READ,
)
DOCUMENT_OVERDUE = Gauge(
    "nightmill.document.overdue",
    unit="s",
    meaning="since when the document is due that is due longest; 0: none is",
    when=_READ,
)
DOCUMENT_ATTENTION = Gauge(
    "nightmill.document.attention",
    unit="{document}",
    meaning="documents that wait for a person",
    when=_READ,
)
ACCOUNT_BACKLOG = Gauge(
    "nightmill.account.backlog",
    unit="{item}",
    labels=("account", "kind"),
    meaning=(
        "work of an account that waits for us, of the ten accounts with most of each kind: batches that are not "
        "submitted yet, documents that are due"
    ),
    when=_READ,
)

SLICING_DURATION = Histogram(
    "nightmill.slicing.duration",
    unit="s",
    labels=("profile", "status"),
    bounds=_SLICING,
    meaning="slicings, from the first start of the slicer to the end",
    when="a slicing has ended",
)
SLICING_OUTCOMES = Counter(
    "nightmill.slicing.outcomes",
    unit="{slicing}",
    labels=("profile", "status", "error_code"),
    meaning="slicings, by what they came to",
    when="a slicing has ended",
)
SLICING_FAILED = Counter(
    "nightmill.slicing.failed",
    unit="{slicing}",
    labels=("profile", "error_code"),
    meaning="slicings that failed for good",
    when="a slicing has ended",
)
SLICING_RATE = Histogram(
    "nightmill.slicing.pages_per_second",
    unit="{page}/s",
    labels=("profile",),
    bounds=_RATES,
    meaning="pages of a document for each second that it took",
    when="a document has been sliced",
)
SLICING_QUEUE_WAIT = Histogram(
    "nightmill.slicing.queue.wait",
    unit="s",
    labels=("profile",),
    bounds=_SLICING,
    meaning="from the request to the first start of the slicer",
    when="a slicing has ended",
)
PROGRAM_DURATION = Histogram(
    "nightmill.slicing.program.duration",
    unit="s",
    labels=("profile", "step", "error_code"),
    bounds=_SLICING,
    meaning="programs, by step",
    when="a program has ended",
)
PROGRAM_MEMORY = Histogram(
    "nightmill.slicing.program.memory",
    unit="By",
    labels=("profile", "step"),
    bounds=_BYTES,
    meaning="memory of a program's processes together, at most",
    when="a program has ended",
)
SLICING_OLDEST = Gauge(
    "nightmill.slicing.oldest",
    unit="s",
    meaning="age of the oldest running slicing; 0: none runs",
    when=_READ,
)
SLICING_WAITING = Gauge(
    "nightmill.slicing.waiting",
    unit="{slicing}",
    labels=("profile",),
    meaning="slicings that are queued or parked",
    when=_READ,
)
SLICING_BREAKER = Gauge(
    "nightmill.slicing.breaker",
    unit="",
    labels=("profile",),
    meaning="0 closed, 1 its canary is being sliced, 2 open, 3 held open",
    when=_READ,
)

RECONCILER_FINDINGS = Counter(
    "nightmill.reconciler.findings",
    unit="{candidate}",
    labels=("subject", "finding"),
    meaning="candidates by what was found of them",
    when="a candidate was looked at",
)
RECONCILER_REPAIRS = Counter(
    "nightmill.reconciler.repairs",
    unit="{repair}",
    labels=("subject", "action", "state"),
    meaning="repairs by action and how far they came: asked, done, failed, void",
    when="a repair's state is stored",
)
RECONCILER_DURATION = Histogram(
    "nightmill.reconciler.duration",
    unit="s",
    labels=("workflow",),
    bounds=_TICK,
    meaning="how long a run of the reconciler or a sweep took",
    when="a run has ended",
)
AUDIT_LISTED = Counter(
    "nightmill.audit.listed",
    unit="{batch}",
    meaning="provider batches that audits listed",
    when="an audit has ended",
)
AUDIT_FAILURES = Counter(
    "nightmill.audit.failures",
    unit="{key}",
    meaning="keys that audits could not look at",
    when="an audit has ended",
)
AUDIT_FINDINGS = Counter(
    "nightmill.audit.findings",
    unit="{batch}",
    labels=("kind",),
    meaning="provider batches with which something is wrong, by kind; each audit counts what is still there again",
    when="an audit has ended",
)

WORKER_MEMORY = Gauge(
    "nightmill.worker.memory",
    unit="By",
    meaning="memory of this process",
    when="read when somebody collects (Linux)",
)
WORKER_DESCRIPTORS = Gauge(
    "nightmill.worker.open_descriptors",
    unit="{descriptor}",
    meaning="open files, sockets and pipes of this process",
    when="read when somebody collects (Linux)",
)
PROVIDER_REQUESTS = Histogram(
    "http.client.request.duration",
    unit="s",
    labels=("http.request.method", "server.address", "http.response.status_code", "error.type"),
    bounds=_HTTP,
    meaning="requests to providers, with the reading of their answers",
    when="a request has ended",
)

METRICS: tuple[Metric, ...] = tuple(found for found in dict(globals()).values() if isinstance(found, Metric))
"""All of them, in the order above."""

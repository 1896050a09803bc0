"""The face to programs.

From a script or a notebook:

    from nightmill import client

    batch_id = client.submit(
        [{"custom_id": "a", "prompt": "Say hello"}], provider="openai", model="gpt-5-mini"
    )
    summary = client.wait(batch_id)
    for result in client.results(batch_id):
        print(result.custom_id, result.text)

The same for pages that are kept fresh (`add_document`, `sync_document`, `document_content`) and for PDFs that are cut
into their documents (`slice_pdf`, `wait_slicing`, `slices`). Each call makes a connection of its own and blocks.

From a service with an event loop: `async with Nightmill.connect() as nightmill:`, and its methods; see docs/python.md.
Requests are stored through the database and storage settings (`NIGHTMILL_DATABASE_URL`, `NIGHTMILL_STORAGE_URL`), which
are the worker's; Temporal is found as `TEMPORAL_ADDRESS` and the SDK's other variables say.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nightmill.errors import (
    AccountNotFound,
    BatchConflict,
    BatchDeleted,
    BatchNotFound,
    CrawlNotFound,
    DocumentNotFound,
    FileMissing,
    InvalidInput,
    NightmillError,
    NotConfigured,
    OverBudget,
    PermanentError,
    SchemaOutdated,
    SlicingConflict,
    SlicingNotFound,
    SlicingSuperseded,
    StorageFull,
    StorageUnavailable,
    TemporalUnreachable,
    TransientError,
    WorkflowFailed,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import TypeVar, Unpack

    from nightmill.assembly import Assembly
    from nightmill.client.failures import Timeout
    from nightmill.client.nightmill import Nightmill
    from nightmill.client.options import BatchOptions, DocumentOptions, SlicingOptions
    from nightmill.client.schedule_looks import ScheduleLook
    from nightmill.contracts import (
        ActivityHandler,
        BatchStatus,
        BatchSummary,
        CanaryOutcome,
        CrawlLimits,
        CrawlProgress,
        ErrorCode,
        Progress,
        ReconcileSummary,
        SlicingErrorCode,
        SlicingProgress,
        SlicingStatus,
        SlicingSummary,
        Subject,
        SweepSummary,
        SyncErrorCode,
        SyncOutcome,
        SyncResult,
        WebhookHandler,
        WorkflowHandler,
    )
    from nightmill.retention.model import Pile
    from nightmill.settings import Settings
    from nightmill.storage.document_models import AccountRow, DocumentEventRow, VersionRow
    from nightmill.storage.documents import DocumentFilter, StoredDocument
    from nightmill.storage.recovery_models import RepairRow
    from nightmill.storage.results import Result, ResultError
    from nightmill.storage.slices import SliceHead
    from nightmill.storage.slicing_models import SlicerBreakerRow, SliceRow, SlicingRow

    _T = TypeVar("_T")

__all__ = [
    "AccountNotFound",
    "AccountRow",
    "ActivityHandler",
    "BatchConflict",
    "BatchDeleted",
    "BatchNotFound",
    "BatchOptions",
    "BatchStatus",
    "BatchSummary",
    "CanaryOutcome",
    "CrawlLimits",
    "CrawlNotFound",
    "CrawlProgress",
    "DocumentEventRow",
    "DocumentFilter",
    "DocumentNotFound",
    "DocumentOptions",
    "ErrorCode",
    "FileMissing",
    "InvalidInput",
    "Nightmill",
    "NightmillError",
    "NotConfigured",
    "OverBudget",
    "PermanentError",
    "Pile",
    "Progress",
    "ReconcileSummary",
    "RepairRow",
    "Result",
    "ResultError",
    "ScheduleLook",
    "SchemaOutdated",
    "Settings",
    "SliceHead",
    "SliceRow",
    "SlicerBreakerRow",
    "SlicingConflict",
    "SlicingErrorCode",
    "SlicingNotFound",
    "SlicingOptions",
    "SlicingProgress",
    "SlicingRow",
    "SlicingStatus",
    "SlicingSummary",
    "SlicingSuperseded",
    "StorageFull",
    "StorageUnavailable",
    "StoredDocument",
    "Subject",
    "SweepSummary",
    "SyncErrorCode",
    "SyncOutcome",
    "SyncResult",
    "TemporalUnreachable",
    "TransientError",
    "VersionRow",
    "WebhookHandler",
    "WorkflowFailed",
    "WorkflowHandler",
    "add_document",
    "cancel",
    "document_content",
    "results",
    "retry_failed",
    "slice_pdf",
    "slices",
    "start",
    "submit",
    "summary",
    "sync_document",
    "wait",
    "wait_slicing",
]

_FOUND_IN = {
    "Nightmill": "nightmill.client.nightmill",
    "BatchOptions": "nightmill.client.options",
    "DocumentOptions": "nightmill.client.options",
    "SlicingOptions": "nightmill.client.options",
    "ScheduleLook": "nightmill.client.schedule_looks",
    "Pile": "nightmill.retention.model",
    "Settings": "nightmill.settings",
    "AccountRow": "nightmill.storage.document_models",
    "DocumentEventRow": "nightmill.storage.document_models",
    "VersionRow": "nightmill.storage.document_models",
    "DocumentFilter": "nightmill.storage.documents",
    "StoredDocument": "nightmill.storage.documents",
    "RepairRow": "nightmill.storage.recovery_models",
    "Result": "nightmill.storage.results",
    "ResultError": "nightmill.storage.results",
    "SliceHead": "nightmill.storage.slices",
    "SliceRow": "nightmill.storage.slicing_models",
    "SlicerBreakerRow": "nightmill.storage.slicing_models",
    "SlicingRow": "nightmill.storage.slicing_models",
}
"""Where the types are that are loaded when first asked for; the others are in `nightmill.contracts`.

A host that imports this package, and perhaps never calls it, does not wait for the database's and Temporal's libraries.
"""

if not TYPE_CHECKING:  # a type checker would take every misspelled name for one that this function finds

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_FOUND_IN.get(name, "nightmill.contracts")), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def _call(work: Callable[[Nightmill], Awaitable[_T]]) -> _T:
    from nightmill.client.blocking import call

    return call(work)


def _look(question: Callable[[Assembly], _T]) -> _T:
    from nightmill.client.blocking import look

    return look(question)


def _read(question: Callable[[Assembly], Iterator[_T]]) -> Iterator[_T]:
    from nightmill.client.blocking import read

    return read(question)


# --- batches


def submit(
    requests: Iterable[Mapping[str, Any]],
    *,
    provider: str,
    model: str,
    batch_id: str | None = None,
    **options: Unpack[BatchOptions],
) -> str:
    """Store requests, start their batch, and return its id. See `Nightmill.submit`, and `BatchOptions` for options."""
    return _call(lambda to: to.submit(requests, provider=provider, model=model, batch_id=batch_id, **options))


def start(batch_id: str) -> None:
    """Start a batch that is stored and does not run; one that runs goes on undisturbed. See `Nightmill.start`."""
    return _call(lambda to: to.start(batch_id))


def wait(batch_id: str, *, timeout: Timeout = None) -> BatchSummary:
    """Return the summary once the batch has ended and its handler has succeeded. See `Nightmill.wait`."""
    return _call(lambda to: to.wait(batch_id, timeout=timeout))


def summary(batch_id: str) -> BatchSummary:
    """Return how the batch stands, or what became of it. See `Nightmill.summary`."""
    return _look(lambda stored: stored.outcomes.summarize(batch_id))


def results(batch_id: str) -> Iterator[Result]:
    """Yield each completion in the order of the requests, also while the batch is running.

    Raises:
        BatchNotFound: There is no such batch; raised at once.
        BatchDeleted: It was deleted, perhaps while it was read.
    """
    return _read(lambda stored: stored.outcomes.results(batch_id))


def cancel(batch_id: str) -> BatchStatus:
    """Ask for a cancel and return the status from now on. See `Nightmill.cancel`."""
    return _call(lambda to: to.cancel(batch_id))


def retry_failed(batch_id: str, *, only_retriable: bool = False) -> str:
    """Make and start a new batch of an ended one's failed completions; return its id. See `Nightmill.retry_failed`."""
    return _call(lambda to: to.retry_failed(batch_id, only_retriable=only_retriable))


# --- documents


def add_document(url: str, *, account: str, collection: str, **options: Unpack[DocumentOptions]) -> str:
    """Add a page and return its document's id; by default it is synced. See `Documents.add`, and `DocumentOptions`."""
    return _call(lambda to: to.documents.add(url, account=account, collection=collection, **options))


def sync_document(document_id: str, *, timeout: Timeout = None) -> SyncOutcome:
    """Sync a document now and return what it came to. See `Documents.sync`."""
    return _call(lambda to: to.documents.sync(document_id, timeout=timeout))


def document_content(document_id: str) -> str | None:
    """Return a document's text as Markdown; None where it has none yet.

    Raises:
        DocumentNotFound: There is no such document.
    """
    found = _look(lambda stored: stored.documents.content(document_id))
    return found.content if found is not None else None


# --- slicings


def slice_pdf(path: Path | str, **options: Unpack[SlicingOptions]) -> str:
    """Store a PDF of this machine, start slicing it, return its SHA-256. See `Slicings.slice`, and `SlicingOptions`."""
    return _call(lambda to: to.slicings.slice(path, **options))


def wait_slicing(sha256: str, profile: str = "gazette", *, timeout: Timeout = None) -> SlicingSummary:
    """Return what a slicing came to once it has ended and those who asked were told. See `Slicings.wait`."""
    return _call(lambda to: to.slicings.wait(sha256, profile, timeout=timeout))


def slices(sha256: str, profile: str = "gazette") -> Iterator[SliceRow]:
    """Yield a document's slices with their texts, in order.

    Raises:
        SlicingNotFound: There is no such document; raised at once.
        SlicingSuperseded: It was sliced again meanwhile: what came before is of the earlier run.
    """
    return _read(lambda stored: stored.slicing.slices.stream(stored.slicing.slicings.get(sha256, profile)))

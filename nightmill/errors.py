"""What can go wrong, said once.

    NightmillError
    ├── TransientError              the same call may succeed later
    │   ├── ProviderUnreachable     no connection: the request certainly had no effect
    │   ├── AnswerLost              sent, but no answer: whether it had an effect is unknown
    │   ├── ProviderUnavailable     408, 409, 425, 5xx, or an answer that is not JSON
    │   │   └── RateLimited         429: certainly without effect
    │   ├── ResultsIncomplete       fewer results than the provider's own counts promise
    │   ├── StorageUnavailable      database or file storage away, pool exhausted, locked
    │   │   └── StorageFull         no space left
    │   ├── SourceAway              where a PDF is to be fetched does not answer
    │   ├── TemporalUnreachable     no Temporal server, or no worker, answers
    │   ├── PageUnavailable         a page that cannot be had now
    │   │   ├── PageTimeout         it takes too long; 408, 504
    │   │   └── PageFetchFailed     name, connection, TLS, 429, every other status
    │   ├── HostBusy                it is not this request's turn at the host
    │   ├── ExtractorUnavailable    our own program that reads pages does not run
    │   ├── NetworkDown             no site at all can be reached from here
    │   └── NotificationFailed
    └── PermanentError              someone must change something first
        ├── AccessDenied            401, 403
        ├── NotFound                404, 410
        ├── RequestRefused          any other 4xx
        ├── ForeignHost             an address that a credential must not travel to
        ├── AddressRefused          an address that the guard does not connect to
        ├── BodyTooLarge            an answer over its bound, after decompression
        ├── FileMissing             no file under this key
        ├── InvalidSignature        a webhook that is not from whom it says
        ├── NotificationRefused     a mail server or a channel that will not have it
        ├── InvalidInput            the user's input, with every offending line
        │   └── OverBudget          the estimate is over the cap
        ├── PageRefused             a page that will not be had like this
        │   ├── PageNotFound        404, 410, or a page that only says so
        │   ├── PageAccessDenied    401, 403, 407, 451, robots.txt
        │   ├── PageEmpty           no content is left without the boilerplate
        │   ├── PageBlocked         an address that the guard does not connect to
        │   ├── PageTooLarge        over the bound of bytes, or of the time to read it
        │   └── PageUnsupported     not a text document
        ├── AccountNotFound
        ├── DocumentNotFound
        ├── SyncSuperseded          another attempt syncs the document by now
        ├── CrawlNotFound
        ├── SlicingNotFound
        ├── SlicingConflict         the slicing is in a state that does not allow this
        ├── SlicingSuperseded       the run has ended, or another one works on the document by now
        ├── BatchNotFound
        │   └── BatchDeleted        its requests and results were deleted
        ├── WorkflowFailed          a bug: batches end in a status, workflows do not fail
        ├── BatchConflict           the batch is in a state that does not allow this
        ├── RunSuperseded           the run was reset or started afresh: another one goes on
        ├── NotConfigured           a setting, key or extra is missing
        └── SchemaOutdated          the database is of another version

Anything else that is raised is a bug.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from datetime import datetime, timedelta


class NightmillError(Exception):
    """Base of everything that Nightmill raises on purpose. `str()` is one line: what, where, what to do.

    Attributes:
        code: Stable word for the database and for programs; never changes once released.
        http_status: The provider's answer, where there was one.
        provider_code: The provider's own code, where it gave one.
        provider_type: The provider's own type of error, where it gave one.
        retry_after: How long the provider asks to be left alone.
    """

    code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        provider_code: str | None = None,
        provider_type: str | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.provider_code = provider_code
        self.provider_type = provider_type
        self.retry_after = retry_after


class TransientError(NightmillError):
    """The same call may succeed later."""

    code = "transient"


class PermanentError(NightmillError):
    """The same call fails again until someone changes something."""

    code = "permanent"


class ProviderUnreachable(TransientError):
    """No connection could be made; the request certainly had no effect."""

    code = "unreachable"


class AnswerLost(TransientError):
    """The request was sent and no answer came; whether it had an effect is unknown."""

    code = "answer_lost"


class ProviderUnavailable(TransientError):
    """The provider answered that it cannot answer now (408, 409, 425, 5xx, blank or non-JSON body)."""

    code = "unavailable"


class RateLimited(ProviderUnavailable):
    """429; the request certainly had no effect."""

    code = "rate_limited"


class ResultsIncomplete(TransientError):
    """Fewer results arrived than the provider's own counts promise."""

    code = "results_incomplete"


class StorageUnavailable(TransientError):
    """The database or the file storage cannot be used right now."""

    code = "storage_unavailable"


class StorageFull(StorageUnavailable):
    """No space is left where the data belongs; nothing half-written was kept."""

    code = "storage_full"


class NotificationFailed(TransientError):
    """A notification could not be delivered."""

    code = "notification_failed"


class PageUnavailable(TransientError):
    """A page cannot be had now.

    Attributes:
        reason: One word for more about the code, such as `dns` or `robots_unreachable`.
        failed_host: `host:port` whose `retry_after` holds for all requests there, if it gave one.
    """

    code = "fetch_failed"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        http_status: int | None = None,
        retry_after: timedelta | None = None,
        failed_host: str | None = None,
    ) -> None:
        super().__init__(message, http_status=http_status, retry_after=retry_after)
        self.reason = reason
        self.failed_host = failed_host


class PageTimeout(PageUnavailable):
    """Connecting, reading, or the whole of it took too long; 408, 504."""

    code = "timeout"


class PageFetchFailed(PageUnavailable):
    """The name, the connection or TLS failed, redirects go in a circle, 429, or any status that is not listed."""

    code = "fetch_failed"


class HostBusy(TransientError):
    """It is not this request's turn at the host; `retry_after` says when. Not a failure of anything.

    Attributes:
        ticket: The place in the host's line, to come back with.
    """

    code = "host_busy"

    def __init__(self, message: str, *, retry_after: timedelta, ticket: datetime | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.ticket = ticket


class ExtractorUnavailable(TransientError):
    """The program that reads pages cannot be run: ours to mend, not the page's fault."""

    code = "extractor_unavailable"


class NetworkDown(TransientError):
    """No site at all can be reached from here: our network is to be mended, and no page is to blame."""

    code = "network_down"


class TemporalUnreachable(TransientError):
    """No Temporal server answers at the configured address, or no worker takes what it is asked."""

    code = "temporal_unreachable"


class SourceAway(TransientError):
    """The place where a document is to be fetched does not answer."""

    code = "source_away"


class AccessDenied(PermanentError):
    """The provider does not accept the key (401) or what it may do (403)."""

    code = "access_denied"


class NotFound(PermanentError):
    """The provider does not know the object (404, 410)."""

    code = "not_found"


class RequestRefused(PermanentError):
    """The provider refuses the request as it is (any other 4xx)."""

    code = "refused"


class ForeignHost(PermanentError):
    """An address outside the configured origin; the key does not travel there."""

    code = "foreign_host"


class AddressRefused(PermanentError):
    """An address that must not be connected to (private, loopback, metadata, wrong port)."""

    code = "address_refused"


class BodyTooLarge(PermanentError):
    """A body is larger than the bound, after decompression."""

    code = "too_large"


class FileMissing(PermanentError):
    """There is no file under this key."""

    code = "file_missing"


class InvalidSignature(PermanentError):
    """A webhook is not from whom it says, or is older or newer than five minutes."""

    code = "invalid_signature"


class NotificationRefused(PermanentError):
    """A notification is refused, and would be again: no such mailbox, a login that is not accepted."""

    code = "notification_refused"


class InvalidInput(PermanentError):
    """The user's input cannot be used; the message names every offending place, up to a bound."""

    code = "invalid_input"


class OverBudget(InvalidInput):
    """The estimated cost is over the batch's budget, or cannot be estimated."""

    code = "over_budget"


class PageRefused(PermanentError):
    """A page will not be had until it, or our asking, changes.

    Attributes:
        reason: One word for more about the code, such as `robots` or `soft_404`.
    """

    code = "access_denied"

    def __init__(self, message: str, *, reason: str | None = None, http_status: int | None = None) -> None:
        super().__init__(message, http_status=http_status)
        self.reason = reason


class PageNotFound(PageRefused):
    """404, 410, or a page that only says so."""

    code = "not_found"


class PageAccessDenied(PageRefused):
    """401, 403, 407, 451, or robots.txt."""

    code = "access_denied"


class PageEmpty(PageRefused):
    """No content is left without the boilerplate."""

    code = "content_empty"


class PageBlocked(PageRefused):
    """The page or a redirect leads to an address, port or scheme that is not connected to."""

    code = "blocked_address"


class PageTooLarge(PageRefused):
    """Over the bound of bytes, also after decompression, or of the time that reading it may take."""

    code = "too_large"


class PageUnsupported(PageRefused):
    """Not a text document."""

    code = "unsupported_type"


class AccountNotFound(PermanentError):
    """No account has this name."""

    code = "account_not_found"


class DocumentNotFound(PermanentError):
    """No document has this id."""

    code = "document_not_found"


class SyncSuperseded(PermanentError):
    """Another attempt syncs the document by now; what this one wanted to write was not written."""

    code = "sync_superseded"


class CrawlNotFound(PermanentError):
    """No crawl has this id."""

    code = "crawl_not_found"


class SlicingNotFound(PermanentError):
    """No document with this content was sliced by this profile, or it has no such slice."""

    code = "slicing_not_found"


class SlicingConflict(PermanentError):
    """The slicing is in a state that does not allow what was asked."""

    code = "slicing_conflict"


class SlicingSuperseded(PermanentError):
    """The run has ended, or another one works on the document by now; what this one wanted to write was not written."""

    code = "slicing_superseded"


class BatchNotFound(PermanentError):
    """No batch has this id."""

    code = "batch_not_found"


class BatchDeleted(BatchNotFound):
    """The batch was deleted: what had become of it is known, its requests and results are gone."""

    code = "batch_deleted"


class WorkflowFailed(PermanentError):
    """The batch's workflow failed for something else than its input, which is a bug."""

    code = "workflow_failed"


class BatchConflict(PermanentError):
    """The batch is in a state that does not allow what was asked."""

    code = "conflict"


class RunSuperseded(PermanentError):
    """The run was reset or started afresh, and another one goes on; what this one wanted to write was not written."""

    code = "run_superseded"


class NotConfigured(PermanentError):
    """A setting, a key or an optional extra is missing."""

    code = "not_configured"


class SchemaOutdated(PermanentError):
    """The database was made by another version; `nightmill db upgrade` mends it."""

    code = "schema_outdated"

"""Tell the host application that a document has changed, or that its page is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nightmill.contracts import (
    GONE,
    ChangePayload,
    ChangeRef,
    ChangeTold,
    CompletionHandler,
    ParagraphDiff,
    WebhookHandler,
)
from nightmill.documents.differences import compare
from nightmill.errors import DocumentNotFound, InvalidInput
from nightmill.failpoints import fail_point

if TYPE_CHECKING:
    from nightmill.storage.document_models import DocumentRow
    from nightmill.storage.document_syncs import SyncRepository
    from nightmill.storage.documents import DocumentRepository

logger = logging.getLogger(__name__)

PostSigned = Callable[[str, str, bytes], None]
"""Posts (url, message id, body), signed; returns after a 2xx answer, raises `nightmill.errors` otherwise."""


@dataclass(frozen=True)
class ChangeDeliverer:
    """Finds out what the handler is to be told, calls webhooks, and keeps what has been told.

    Attributes:
        documents: The documents and their texts.
        syncs: What is written about them.
        post_signed: Sends one signed webhook.
    """

    documents: DocumentRepository
    syncs: SyncRepository
    post_signed: PostSigned

    def begin(self, change: ChangeRef) -> ChangePayload | None:
        """Return what the handler is to be told now; None: nothing any more. Only reads.

        The content may have moved on since the change was found. Then it is the present one that is told: nobody needs
        to hear of a content that cannot be read any longer.
        """
        try:
            stored = self.documents.get(change.document_id)
        except DocumentNotFound:
            logger.warning("document not found", extra={"document": change.document_id})
            return None
        row = stored.row
        fingerprint = _to_tell(row, change)
        if fingerprint is None or stored.handler is None:
            logger.info("nothing to tell", extra={"document": row.id})
            return None
        number = row.changes_told + 1
        return ChangePayload(
            change_id=f"{row.id}.{number}.{fingerprint}",
            number=number,
            document_id=row.id,
            account=stored.account.name,
            collection=row.collection,
            link=row.external_link,
            name=row.name,
            kind="removed" if fingerprint == GONE else "changed",
            old_fingerprint=row.handled_fingerprint,
            new_fingerprint=fingerprint,
            diff=self._difference(row, fingerprint),
            content=f"document/{row.id}",
        )

    def deliver(self, change: ChangeRef) -> bool:
        """Post the payload and store that it was told; return False where there was nothing to tell any more.

        At least once: if this process dies between the answer and the record, the receiver is called again with the
        same `webhook-id`, which is the payload's `change_id`.

        Raises:
            TransientError: The receiver is away or answered 408, 409, 425, 429 or 5xx.
            PermanentError: It refused, or its address is not allowed.
        """
        fail_point("change.start")
        if not isinstance(change.handler, WebhookHandler):
            raise InvalidInput(f"the handler of document {change.document_id} is no webhook")
        payload = self.begin(change)
        handler = self._handler(change.document_id) if payload is not None else None
        if payload is None or not isinstance(handler, WebhookHandler):  # another kind by now: the next sync tells it
            return False
        self.post_signed(handler.url, payload.change_id, payload.model_dump_json().encode())
        fail_point("change.answered")
        self.record(
            ChangeTold(document_id=payload.document_id, number=payload.number, fingerprint=payload.new_fingerprint)
        )
        return True

    def _handler(self, document_id: str) -> CompletionHandler | None:
        """Return whom to tell, with its whole address, which the change does not carry."""
        try:
            return self.documents.get(document_id).handler
        except DocumentNotFound:
            return None

    def record(self, told: ChangeTold) -> None:
        """Store that the handler was told of a content; a second call changes nothing.

        A content that came meanwhile stays to be told.
        """
        try:
            self.syncs.delivered(told.document_id, told.fingerprint, number=told.number, now=datetime.now(UTC))
        except DocumentNotFound:
            logger.warning("document not found", extra={"document": told.document_id})
            return
        fail_point("change.saved")
        logger.info("change delivered", extra={"document": told.document_id, "fingerprint": told.fingerprint})

    def _difference(self, row: DocumentRow, fingerprint: str) -> ParagraphDiff:
        if fingerprint == GONE:
            return ParagraphDiff()
        old = self._text(row, row.handled_fingerprint)
        return compare(old, self._text(row, fingerprint) or "")

    def _text(self, row: DocumentRow, fingerprint: str | None) -> str | None:
        """Return a stored text; None where it is too long ago, or there was none."""
        if fingerprint is None or fingerprint == GONE:
            return None
        version = self.documents.content(row.id, fingerprint)
        return None if version is None else version.content


def _to_tell(row: DocumentRow, change: ChangeRef) -> str | None:
    """Return the fingerprint that is to be told, `gone` included; None where there is none, or the handler knows it.

    Who was never told of the page is not told that it is gone.
    """
    handled = row.handled_fingerprint
    if row.gone_days > 0 and GONE in (change.fingerprint, handled):
        return GONE if handled not in (None, GONE) else None
    return row.content_fingerprint if row.content_fingerprint != handled else None

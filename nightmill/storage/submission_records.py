"""The record that makes the submission of a provider batch exactly-once.

The steps, each written before or after the call that it guards:

    pending ── begin_upload ──(upload)── record_upload ── begin_create ──(create)── record_created ── polls ── settle

A row with `create_sent_at` and no `provider_batch_id` says: a create may have taken effect. Only looking for its tag at
the provider, or the provider's certain refusal (`withdraw_create`), allows another create.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING
from zlib import crc32

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

from nightmill.contracts import BatchStatus, PartRef
from nightmill.errors import BatchNotFound
from nightmill.storage import fence
from nightmill.storage.batches import load_batch, plan_next_poll
from nightmill.storage.models import BatchRow, ProviderBatchRow

if TYPE_CHECKING:
    from nightmill.providers.base import Candidate, Created
    from nightmill.storage.engine import Database


class CreateTurn(Enum):
    """Answer of `begin_create`."""

    CREATE = auto()
    """The intent is stored: send the create now, once."""
    CREATED = auto()
    """There is a provider batch already."""
    UNCERTAIN = auto()
    """A create was sent before and its answer is not known."""
    CANCELED = auto()
    """A cancel was asked for and nothing was created."""
    FULL = auto()
    """As many provider batches of this provider and model are open as may be."""


@dataclass(frozen=True)
class SubmissionRecords:
    """Reads provider batches, and records how they are submitted; `ProviderBatchRepository` adds what comes after."""

    database: Database

    def get(self, ref: PartRef) -> tuple[BatchRow, ProviderBatchRow]:
        """Return a part and its batch.

        Raises:
            BatchNotFound: There is none.
        """
        with self.database.reading() as session:
            found = session.exec(
                select(BatchRow, ProviderBatchRow)
                .join(ProviderBatchRow, col(ProviderBatchRow.batch_key) == BatchRow.key)
                .where(
                    BatchRow.id == ref.batch_id, ProviderBatchRow.round == ref.round, ProviderBatchRow.part == ref.part
                )
            ).first()
            # The two are looked for one by one where one is missing, to say which.
            return found or self._load(session, ref, lock=False)

    def insist(self) -> None:
        """Return if the present run may still act; asked before something at a provider is deleted or canceled.

        Raises:
            RunSuperseded: Another run goes on in its place.
        """
        with self.database.reading() as session:
            fence.check(session)

    @staticmethod
    def _load(session: Session, ref: PartRef, *, lock: bool, fenced: bool = True) -> tuple[BatchRow, ProviderBatchRow]:
        batch = load_batch(session, ref.batch_id, lock=lock, fenced=fenced)
        part = session.exec(
            select(ProviderBatchRow).where(
                ProviderBatchRow.batch_key == batch.key,
                ProviderBatchRow.round == ref.round,
                ProviderBatchRow.part == ref.part,
            )
        ).first()
        if part is None:
            raise BatchNotFound(f"batch {ref.batch_id} has no part {ref.part} in round {ref.round}")
        return batch, part

    def begin_upload(self, ref: PartRef, *, now: datetime) -> bool:
        """Store that an upload is about to start; return whether one was started before, so that a file may exist."""
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            started_before = part.upload_started_at is not None
            part.upload_started_at = part.upload_started_at or now
            session.add(part)
            return started_before

    def record_upload(self, ref: PartRef, file_id: str) -> None:
        """Store the uploaded file's id."""
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            part.input_file_id = file_id
            session.add(part)

    def forget_upload(self, ref: PartRef) -> None:
        """Store that the uploaded file is deleted at the provider."""
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            part.input_file_id = None
            part.upload_started_at = None
            session.add(part)

    def begin_create(
        self, ref: PartRef, *, now: datetime, sent_at: datetime, looked_for: datetime | None, max_open: int
    ) -> CreateTurn:
        """Store the intent to create, if it is this part's turn; the bound is checked in the same transaction.

        Args:
            ref: The part.
            now: The workflow's clock, stored as submission time unless there is one.
            sent_at: The wall clock; different for every create.
            looked_for: When the create was sent that has been looked for in vain; only that one is forgotten.
            max_open: How many provider batches of this provider and model may be open at once.
        """
        # An intent that a power cut took back would be sent, and paid for, again.
        with self.database.transaction(durable=True) as session:
            batch, part = self._load(session, ref, lock=True)
            if part.provider_batch_id is not None:
                return CreateTurn.CREATED
            if part.create_sent_at is not None and part.create_sent_at != looked_for:
                return CreateTurn.UNCERTAIN
            if batch.cancel_requested_at is not None:
                return CreateTurn.CANCELED
            self._lock_bound(session, part)
            if self._others_open(session, part) >= max_open:
                return CreateTurn.FULL
            part.create_sent_at = sent_at
            part.submitted_at = part.submitted_at or now
            session.add(part)
            return CreateTurn.CREATE

    def is_full(self, ref: PartRef, max_open: int) -> bool:
        """Whether all places are taken right now; `begin_create` decides."""
        with self.database.reading() as session:
            _, part = self._load(session, ref, lock=False)
            return self._others_open(session, part) >= max_open

    @staticmethod
    def _others_open(session: Session, part: ProviderBatchRow) -> int:
        return session.exec(
            select(func.count())
            .select_from(ProviderBatchRow)
            .where(
                ProviderBatchRow.provider == part.provider,
                ProviderBatchRow.model == part.model,
                col(ProviderBatchRow.settled_at).is_(None),
                col(ProviderBatchRow.create_sent_at).is_not(None),
                ProviderBatchRow.key != part.key,
            )
        ).one()

    def _lock_bound(self, session: Session, part: ProviderBatchRow) -> None:
        """Let one submission at a time count the open ones; SQLite has one writer anyway."""
        if self.database.dialect == "postgresql":
            key = crc32(f"{part.provider}/{part.model}".encode())
            session.execute(text("SELECT pg_advisory_xact_lock(7137, :key)"), {"key": key - 2**31})

    def withdraw_create(self, ref: PartRef, sent_at: datetime) -> None:
        """Take an intent back: the provider certainly created nothing. That of a later create stays.

        Max age counts from the create that succeeds, so its start is taken back as well.
        """
        with self.database.transaction() as session:
            _, part = self._load(session, ref, lock=True)
            if part.provider_batch_id is None and part.create_sent_at == sent_at:
                part.create_sent_at = None
                part.submitted_at = None
                session.add(part)

    def record_created(self, ref: PartRef, created: Created, *, now: datetime, sent_at: datetime | None = None) -> bool:
        """Store the provider's id, once; return False where the id belongs to another part already.

        Args:
            ref: The part.
            created: What the provider answered.
            now: When it answered.
            sent_at: The create that this is the answer to. As long as no other was sent, a superseded run stores it,
                too: otherwise the run that goes on would have to look for what is known already.
        """
        try:
            with self.database.transaction() as session:
                batch, part = self._load(session, ref, lock=True, fenced=False)
                if sent_at is None or part.create_sent_at != sent_at:
                    fence.check(session)
                if part.provider_batch_id is not None:
                    return part.provider_batch_id == created.provider_batch_id
                part.provider_batch_id = created.provider_batch_id
                part.refs = {**part.refs, **created.refs}
                part.status = BatchStatus.SUBMITTED
                part.created_at = now
                if part.next_poll_at is None and part.submitted_at is not None:
                    part.next_poll_at = part.submitted_at + timedelta(seconds=batch.poll_schedule[0])
                session.add(part)
                plan_next_poll(session, batch)
                if batch.status is BatchStatus.PENDING:
                    asked = batch.cancel_requested_at is not None
                    batch.status = BatchStatus.CANCELING if asked else BatchStatus.SUBMITTED
                batch.submitted_at = batch.submitted_at or part.submitted_at
                session.add(batch)
        except IntegrityError:
            return False
        return True

    def unowned(self, candidates: list[Candidate], ref: PartRef) -> list[Candidate]:
        """Return the candidates that no part of ours owns."""
        with self.database.reading() as session:
            _, part = self._load(session, ref, lock=False)
            owned = set(
                session.exec(
                    select(ProviderBatchRow.provider_batch_id).where(
                        ProviderBatchRow.provider == part.provider,
                        col(ProviderBatchRow.provider_batch_id).in_([c.provider_batch_id for c in candidates]),
                    )
                )
            )
        return [candidate for candidate in candidates if candidate.provider_batch_id not in owned]

    def rivals(self, ref: PartRef, *, window: timedelta) -> int:
        """Return how many other parts of the same size have a create on its way at about the same time."""
        with self.database.reading() as session:
            _, part = self._load(session, ref, lock=False)
            if part.create_sent_at is None:
                return 0
            return session.exec(
                select(func.count())
                .select_from(ProviderBatchRow)
                .where(
                    ProviderBatchRow.provider == part.provider,
                    ProviderBatchRow.requests == part.requests,
                    ProviderBatchRow.key != part.key,
                    col(ProviderBatchRow.provider_batch_id).is_(None),
                    col(ProviderBatchRow.settled_at).is_(None),
                    col(ProviderBatchRow.create_sent_at).between(
                        part.create_sent_at - window, part.create_sent_at + window
                    ),
                )
            ).one()

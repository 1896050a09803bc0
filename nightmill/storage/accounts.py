"""The customers whose documents are synced."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, func, select

from nightmill.contracts import CompletionHandler, SyncStatus
from nightmill.contracts.documents import Name
from nightmill.errors import AccountNotFound, InvalidInput
from nightmill.storage.columns import storable
from nightmill.storage.document_models import AccountRow, DocumentRow

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

UPSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""SQLAlchemy's `INSERT … ON CONFLICT`, by dialect; both are spelled the same."""

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_MAX_PLAN = 64


def check_name(what: str, name: str) -> str:
    """Return `name` if an account or a collection may be called so.

    Raises:
        InvalidInput: It may not; `what` says in the message whose name it is.
    """
    try:
        return _NAME.validate_python(storable(name))
    except ValidationError:
        message = f"{what} {name[:80]!r}: use 1 to 64 characters, none of them a control character"
        raise InvalidInput(message) from None


def load_account(session: Session, name: str) -> AccountRow:
    """Return an account's row.

    Raises:
        AccountNotFound: There is none.
    """
    row = session.exec(select(AccountRow).where(AccountRow.name == storable(name))).first()
    if row is None:
        raise AccountNotFound(f"no account {name[:80]!r}: `nightmill account add` makes one")
    return row


@dataclass(frozen=True)
class AccountRepository:
    """Reads and changes accounts. Any thread may use it."""

    database: Database

    def add(
        self,
        name: str,
        plan: str | None,
        *,
        auto_sync: bool = True,
        change_handler: CompletionHandler | None = None,
        now: datetime,
    ) -> AccountRow:
        """Make an account, or give the one of that name this plan, switch and handler; return it.

        Raises:
            InvalidInput: The name or the plan cannot be used.
        """
        check_name("account", name)
        if plan is not None and len(plan) > _MAX_PLAN:
            raise InvalidInput(f"plan {plan[:80]!r}: use at most {_MAX_PLAN} characters")
        changed = {
            "plan": None if plan is None else storable(plan),
            "auto_sync": auto_sync,
            "change_handler": None if change_handler is None else change_handler.model_dump(mode="json"),
        }
        with self.database.transaction() as session:
            insert = UPSERT[self.database.dialect](AccountRow).values(name=storable(name), created_at=now, **changed)
            session.connection().execute(insert.on_conflict_do_update(index_elements=["name"], set_=changed))
            return load_account(session, name)

    def get(self, name: str) -> AccountRow:
        """Return an account.

        Raises:
            AccountNotFound: There is none.
        """
        with self.database.reading() as session:
            return load_account(session, name)

    def all(self) -> list[AccountRow]:
        """Return all accounts by name."""
        with self.database.reading() as session:
            return list(session.exec(select(AccountRow).order_by(col(AccountRow.name))))

    def counts(self) -> dict[str, dict[SyncStatus | None, int]]:
        """Return how many documents stand how, by account; None stands for those that were never synced."""
        query = (
            select(AccountRow.name, DocumentRow.sync_status, func.count(col(DocumentRow.key)))
            .join(DocumentRow, col(DocumentRow.account_key) == col(AccountRow.key), isouter=True)
            .group_by(col(AccountRow.name), col(DocumentRow.sync_status))
            .order_by(col(AccountRow.name))
        )
        found: dict[str, dict[SyncStatus | None, int]] = {}
        with self.database.reading() as session:
            for name, status, number in session.exec(query):
                by_status = found.setdefault(name, {})
                if number:
                    by_status[SyncStatus(status) if status else None] = number
        return found

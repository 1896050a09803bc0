"""Accounts and documents to start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nightmill.contracts import WebhookHandler
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.documents import DocumentRepository, NewDocument
from nightmill.storage.engine import Database

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HANDLER = WebhookHandler(kind="webhook", url="https://host.example/changes")


@dataclass(frozen=True)
class ALink:
    external: str
    canonical: str
    host: str


def a_link(number: int | str = 1, host: str = "site.example:443") -> ALink:
    url = f"https://{host.partition(':')[0]}/{number}"
    return ALink(url, url, host)


def at(hours: float = 0) -> datetime:
    return NOON + timedelta(hours=hours)


AddDocument = Callable[..., str]


@pytest.fixture
def add_document(database: Database) -> AddDocument:
    """Makes a document of an account, and the account if there is none; returns its id."""

    def add(document_id: str = "d1", *, account: str = "acme", plan: str | None = "daily", **columns: Any) -> str:
        accounts, account_handler = AccountRepository(database), columns.pop("account_handler", None)
        if account not in {row.name for row in accounts.all()}:
            accounts.add(account, plan, now=NOON, change_handler=account_handler)
        given = {"collection": "help", "link": a_link(document_id)} | columns
        new = NewDocument(id=document_id, account=account, **given)
        row, _ = DocumentRepository(database).add(new, NOON)
        return row.id

    return add


@pytest.fixture
def given() -> Any:
    """The values above, for tests that need them."""

    class Given:
        noon = NOON
        handler = HANDLER
        link = staticmethod(a_link)
        at = staticmethod(at)

    return Given

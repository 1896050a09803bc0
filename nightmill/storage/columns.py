"""Kinds of columns that all tables share."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from sqlalchemy import BigInteger, Dialect, Integer, Text, TypeDecorator
from sqlalchemy import DateTime as SqlDateTime
from sqlmodel import Column, Field

BIG_KEY = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only for INTEGER

WordT = TypeVar("WordT", bound=StrEnum)

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, in UTC on both databases; SQLite would hand it back naive."""

    impl = SqlDateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn any aware time into UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored: it does not say when")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Say that it is UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Word(TypeDecorator[WordT], Generic[WordT]):
    """One of an enum's words, stored as text, so that a person reading the table can read it."""

    impl = Text
    cache_ok = True

    def __init__(self, words: type[WordT]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: WordT | None, dialect: Dialect) -> str | None:
        """Store the word."""
        return None if value is None else self.words(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> WordT | None:
        """Give the enum back."""
        return None if value is None else self.words(value)


class PageText(TypeDecorator[str]):
    """Text of the web. It may hold what PostgreSQL refuses and SQLite takes, so neither gets to see it.

    NULs are dropped, halves of surrogate pairs become U+FFFD, and what is longer than `limit` is cut.
    """

    impl = Text
    cache_ok = True

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Make it storable."""
        return None if value is None else storable(value)[: self.limit]


def storable(text: str) -> str:
    """Return `text` without NULs, and with U+FFFD for each half of a surrogate pair."""
    if not _UNSTORABLE.search(text):
        return text
    return _UNSTORABLE.sub("\ufffd", text.replace("\0", ""))


def time_column(*, nullable: bool = True, index: bool = False) -> Any:
    """Return a field for a time, None by default."""
    return Field(default=None, sa_column=Column(UtcDateTime(), nullable=nullable, index=index))

"""Uploads and listings as OpenAI and xAI have them in common."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from nightmill.sandbox.engine import Engine
from nightmill.sandbox.gate import Call, Refused
from nightmill.sandbox.http import CHUNK
from nightmill.sandbox.model import StoredFile
from nightmill.sandbox.multipart import TooLarge, Upload, read_form


def receive(engine: Engine, call: Call, limit: int) -> tuple[StoredFile, Upload]:
    """Take in a multipart upload and keep its file.

    Raises:
        Refused: There is no file in it, or it is over the limit.
    """
    path = engine.spool()
    try:
        form = read_form(call.request, path, engine.profile.max_bytes or limit)
    except TooLarge as error:
        path.unlink(missing_ok=True)
        raise Refused(413, str(error), "file_too_large") from None
    if form.filename is None:
        raise Refused(400, "Missing required parameter: 'file'.", "missing_required_parameter", "file")
    file = StoredFile(
        id=f"file-{secrets.token_hex(12)}",
        provider=call.provider,
        filename=form.filename,
        purpose=form.fields.get("purpose", ""),
        created_at=engine.clock(),
        path=path,
        size=form.size,
        sha256=form.sha256,
    )
    return engine.add_file(file), form


def content(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes in large pieces."""
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            yield data


class Named(Protocol):
    """Anything with an id."""

    id: str


One = TypeVar("One", bound=Named)


def page(found: Sequence[One], limit: int, after: str | None) -> tuple[list[One], bool]:
    """Return the `limit` items that follow the one called `after`, and whether more do."""
    start = 0
    if after:
        start = next((index + 1 for index, one in enumerate(found) if one.id == after), len(found))
    return list(found[start : start + limit]), start + limit < len(found)


def whole_number(text: str | None, default: int, least: int, most: int) -> int:
    """Return a limit from a query.

    Raises:
        Refused: It is not a number, or out of range.
    """
    if text is None:
        return default
    if not text.isdigit() or not least <= int(text) <= most:
        raise Refused(400, f"Invalid 'limit': must be between {least} and {most}.", "invalid_value", "limit")
    return int(text)

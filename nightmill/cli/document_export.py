"""`nightmill document export`: documents with their texts, for other programs."""

from __future__ import annotations

import csv
import errno
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.errors import InvalidInput, StorageFull, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

FORMATS = ("jsonl", "csv")
COLUMNS = (
    "document_id", "account", "collection", "link", "canonical_link", "name", "sync_status", "error_code",
    "content_fingerprint", "content_length", "content_cut", "last_synced_at", "content",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command to `nightmill document`."""
    app.command(epilog="\b\nExample:\n  nightmill document export --account acme --output acme.jsonl")(export)


def export(
    account: Annotated[str | None, typer.Option(help="Only documents of this account.")] = None,
    collection: Annotated[str | None, typer.Option(help="Only documents of this collection.")] = None,
    status: Annotated[list[str] | None, typer.Option(help="Only synced, syncing or failed ones.")] = None,
    format_: Annotated[str, typer.Option("--format", help="jsonl or csv.")] = "jsonl",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Print or write documents with their texts, oldest first."""
    from nightmill.cli.document import chosen_documents
    from nightmill.cli.runtime import stored

    if format_ not in FORMATS:
        raise InvalidInput(f"--format: {format_[:40]!r} is unknown; choose one of {', '.join(FORMATS)}")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise InvalidInput(f"--output: {output}: no file can be made there")
    chosen = chosen_documents(account, collection, status)
    with stored() as assembly:
        if account is not None:
            assembly.accounts.get(account)
        rows = (_values(stored_document, version) for stored_document, version in assembly.documents.export(chosen))
        with _target(output) as target:
            write = _write_csv if format_ == "csv" else _write_lines
            write(rows, target)


def _values(stored_document: Any, version: Any) -> dict[str, Any]:
    from nightmill.cli.document_output import document_json

    values = document_json(stored_document) | {"content": version.content if version else None}
    return {name: values[name] for name in COLUMNS}


@contextmanager
def _target(output: Path | None) -> Iterator[TextIO]:
    """Give what to write to; a file appears once it is whole."""
    if output is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as target:
            yield target
        part.replace(output)
    except OSError as error:
        part.unlink(missing_ok=True)
        kind = StorageFull if error.errno == errno.ENOSPC else StorageUnavailable
        raise kind(f"{output}: {error.strerror}") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _write_lines(rows: Iterable[dict[str, Any]], target: TextIO) -> None:
    from nightmill.cli.output import plain

    target.writelines(json.dumps(row, default=plain, ensure_ascii=False) + "\n" for row in rows)


def _write_csv(rows: Iterable[dict[str, Any]], target: TextIO) -> None:
    from nightmill.cli.output import plain

    writer = csv.writer(target)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(plain(value) if value is not None else "" for value in row.values())

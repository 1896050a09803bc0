"""`nightmill document`: look at documents and steer them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.cli.output import JsonFlag, ago, note, print_json, print_table, say, shortened, wants_json
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from nightmill.storage.documents import DocumentFilter

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Add pages, keep them fresh, and read them.",
    epilog="\b\nExample:\n  nightmill document add https://example.com/faq --account acme --collection help --watch",
)

DocumentId = Annotated[str, typer.Argument(metavar="DOCUMENT_ID", help="The document.")]
AccountOption = Annotated[str | None, typer.Option(help="Only documents of this account.")]
CollectionOption = Annotated[str | None, typer.Option(help="Only documents of this collection.")]


@app.command("list", epilog="\b\nExample:\n  nightmill document list --account acme --status failed")
def list_documents(
    account: AccountOption = None,
    collection: CollectionOption = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Only synced, syncing or failed ones; may be given several times.")
    ] = None,
    error_code: Annotated[
        str | None, typer.Option(help="Only documents whose last sync failed with this code.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Only pages of this host and port: example.com:443.")] = None,
    needs_attention: Annotated[bool, typer.Option("--needs-attention", help="Only what waits for somebody.")] = False,
    undelivered: Annotated[
        bool, typer.Option("--undelivered", help="Only documents with a change that the handler was not told of.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on after this document.")] = None,
    json_: JsonFlag = None,
) -> None:
    """List documents, newest first."""
    from nightmill.cli.document_output import document_json, print_documents
    from nightmill.cli.runtime import stored

    chosen = chosen_documents(
        account, collection, status, error_code, host=host, needs_attention=needs_attention, undelivered=undelivered
    )
    with stored() as assembly:
        found = assembly.documents.listed(chosen, limit=limit, after=after)
    if wants_json(json_):
        for each in found:
            print_json(document_json(each))
    elif found:
        print_documents(found)
        if len(found) == limit:
            note(f"There may be more: --after {found[-1].row.id}")
    else:
        note("No documents. `nightmill document add` makes one.")


def chosen_documents(
    account: str | None,
    collection: str | None,
    status: list[str] | None = None,
    error_code: str | None = None,
    **flags: Any,
) -> DocumentFilter:
    """Return the filter for the options that choose documents.

    Raises:
        InvalidInput: A status or an error code is unknown.
    """
    from nightmill.contracts import SyncErrorCode, SyncStatus
    from nightmill.storage.documents import DocumentFilter

    for option, given, known in (
        ("--status", status or [], [word.value for word in SyncStatus]),
        ("--error-code", [error_code] if error_code else [], [word.value for word in SyncErrorCode]),
    ):
        for word in given:
            if word not in known:
                raise InvalidInput(f"{option}: {word[:40]!r} is unknown; known are {', '.join(known)}")
    return DocumentFilter(
        account=account,
        collection=collection,
        status=[SyncStatus(word) for word in status or ()],
        error_code=SyncErrorCode(error_code) if error_code else None,
        **flags,
    )


@app.command(epilog="\b\nExample:\n  nightmill document show 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90 --content")
def show(
    document_id: DocumentId,
    content: Annotated[bool, typer.Option("--content", help="Print the stored text, as Markdown.")] = False,
    json_: JsonFlag = None,
) -> None:
    """Show how a document stands, or its text."""
    from nightmill.cli.document_output import document_json, print_document
    from nightmill.cli.runtime import stored

    with stored() as assembly:
        found = assembly.documents.get(document_id)
        text = assembly.documents.content(document_id) if content else None
    if wants_json(json_):
        print_json(document_json(found) | ({"content": text.content if text else None} if content else {}))
    elif not content:
        print_document(found)
    elif text is not None:
        for line in text.content.splitlines():
            say(line)
    else:
        note(f"Document {document_id} has no text yet.")


@app.command(epilog="\b\nExample:\n  nightmill document diff 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90")
def diff(
    document_id: DocumentId,
    since: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="Compare with this text, by default the last one.")
    ] = None,
    json_: JsonFlag = None,
) -> None:
    """Show what changed in a document's text.

    Five texts of a document are kept; `document history` shows their fingerprints. `+` is new, `-` is gone, and within
    a paragraph that changed (`~`) words are {+new+} or [-gone-]. As JSON it is one object: the two texts, and the
    pieces, each with its kind (added, removed, changed, kept) and text, or how many kept paragraphs are left out.
    """
    from nightmill.cli.document_output import diff_json
    from nightmill.cli.runtime import stored
    from nightmill.client.documents import compared
    from nightmill.documents.differences import shown

    with stored() as assembly:
        old, present = compared(assembly, document_id, since)
    lines = shown(old.content if old else None, present.content) if present else iter(())
    if wants_json(json_):
        print_json(diff_json(document_id, old, present, lines))
        return
    found = False
    for line in lines:
        found = True
        say(line)
    if not found:
        note(f"Document {document_id}: nothing to compare, or nothing changed.")


@app.command(epilog="\b\nExample:\n  nightmill document history 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90 --limit 10")
def history(
    document_id: DocumentId,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    json_: JsonFlag = None,
) -> None:
    """Show what happened to a document, newest first.

    Syncs that found nothing new are only counted.
    """
    from nightmill.cli.runtime import stored

    with stored() as assembly:
        events = assembly.documents.history(document_id, limit)
    if wants_json(json_):
        for event in events:
            print_json({"document_id": document_id, **event.model_dump(exclude={"key", "document_key"})})
    elif events:
        print_table(
            ["when", "what", "code", "paragraphs", "fingerprint", "note"],
            [
                [
                    ago(event.at),
                    event.result.value if event.result else "",
                    event.error_code.value if event.error_code else "",
                    f"+{event.added or 0} -{event.removed or 0}" if event.added or event.removed else "",
                    event.new_fingerprint or "",
                    shortened(event.note, 200),
                ]
                for event in events
            ],
        )
    else:
        note(f"Nothing has happened to document {document_id} yet.")


@app.command(epilog="\b\nExample:\n  nightmill document disable 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90")
def disable(document_id: DocumentId) -> None:
    """Stop syncing a document; its text is kept."""
    _set_enabled(document_id, enabled=False)


@app.command(epilog="\b\nExample:\n  nightmill document enable 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90")
def enable(document_id: DocumentId) -> None:
    """Sync a document again that was disabled."""
    _set_enabled(document_id, enabled=True)


def _set_enabled(document_id: str, *, enabled: bool) -> None:
    from nightmill.cli.runtime import stored

    with stored() as assembly:
        assembly.documents.set_enabled(document_id, enabled)
    note(f"Document {document_id} is {'synced again' if enabled else 'not synced any more'}.")


@app.command(epilog="\b\nExample:\n  nightmill document delete 0198f2a4-77aa-7c11-9d3e-6f0d2c1b5a90")
def delete(document_id: DocumentId) -> None:
    """Delete a document with its texts and history; a sync that is under way writes nothing any more."""
    from nightmill.cli.runtime import stored

    with stored() as assembly:
        assembly.documents.delete(document_id)
    note(f"Document {document_id} is deleted.")

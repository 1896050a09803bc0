"""`nightmill slice`: look at sliced documents and steer them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.cli.output import JsonFlag, note, print_json, say, wants_json
from nightmill.errors import InvalidInput, SlicingNotFound

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.contracts import SlicingStatus
    from nightmill.storage.slicing_models import SlicingRow

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Cut PDFs into their single documents, look at these, and look after the slicers.",
    epilog="\b\nExample:\n  nightmill slice run gazettes/*.pdf --notify mailto:desk@example.org --watch",
)

Document = Annotated[
    str, typer.Argument(metavar="ID", help="8 or more digits of the PDF's SHA-256, perhaps with /PROFILE; or a FILE.")
]
ProfileOption = Annotated[str | None, typer.Option(help="The slicer profile, where several have sliced the PDF.")]

_ID = re.compile(r"[0-9a-fA-F]{8,64}(/[a-z0-9][a-z0-9_-]{0,63})?")
_LAST_ATTEMPTS = 20
_LAST_NOTICES = 20


def find_slicing(assembly: Assembly, name: str, profile: str | None = None) -> SlicingRow:
    """Return a document by its id, or by its file, whose hash is computed.

    Raises:
        InvalidInput: It is neither, or there are several such documents.
        SlicingNotFound: It was never to be sliced.
    """
    if _ID.fullmatch(name):
        return assembly.slicing.slicings.find(name, profile)
    path = Path(name)
    if not path.is_file():
        raise InvalidInput(f"{name[:200]}: no such file, and not 8 or more digits of a PDF's SHA-256")
    sha256 = _sha256_of(path)
    try:
        return assembly.slicing.slicings.find(sha256, profile)
    except SlicingNotFound:
        by = f" by the profile {profile}" if profile else ""
        raise SlicingNotFound(
            f"{name} (SHA-256 {sha256[:12]}…) was never sliced{by}: `nightmill slice run` does it"
        ) from (None)


def _sha256_of(path: Path) -> str:
    import hashlib

    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from error


@app.command("list", epilog="\b\nExample:\n  nightmill slice list --status needs_review --limit 20")
def list_slicings(
    status: Annotated[
        list[str] | None, typer.Option(help="Only documents of this status; may be given several times.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Only documents sliced by this profile.")] = None,
    needs_attention: Annotated[bool, typer.Option("--needs-attention", help="Only what waits for somebody.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 50,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on after this document.")] = None,
    json_: JsonFlag = None,
) -> None:
    """List sliced documents, those asked for last first."""
    from nightmill.cli.runtime import stored
    from nightmill.cli.slice_output import id_of, print_slicings, slicing_json

    wanted = _statuses(status or [])
    with stored() as assembly:
        rows = assembly.slicing.slicings.page(
            status=wanted,
            profile=profile,
            needs_attention=needs_attention,
            limit=limit,
            before=find_slicing(assembly, after) if after is not None else None,
        )
    if wants_json(json_):
        for row in rows:
            print_json(slicing_json(row))
    elif rows:
        print_slicings(rows)
        if len(rows) == limit:
            note(f"There may be more: --after {id_of(rows[-1].sha256, rows[-1].profile)}")
    else:
        note("No documents. `nightmill slice run` makes some.")


def _statuses(words: list[str]) -> list[SlicingStatus]:
    from nightmill.contracts import SlicingStatus

    known = [status.value for status in SlicingStatus]
    for word in words:
        if word not in known:
            raise InvalidInput(f"--status: {word[:40]!r} is unknown; known are {', '.join(known)}")
    return [SlicingStatus(word) for word in words]


@app.command(epilog="\b\nExample:\n  nightmill slice show 3f2a9c81d4e0 --text 4")
def show(
    document: Document,
    profile: ProfileOption = None,
    text: Annotated[
        int | None, typer.Option(min=0, metavar="POSITION", help="Print the text of the slice at this position.")
    ] = None,
    attempts: Annotated[bool, typer.Option("--attempts", help="Show the programs that ran for it.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many slices or programs.")] = 100,
    after: Annotated[int, typer.Option(min=-1, metavar="POSITION", help="Go on after this slice.")] = -1,
    json_: JsonFlag = None,
) -> None:
    """Show how a document stands and its slices, or one slice's text, or the programs that ran.

    Positions count from 0. Pages count from 1 here, as in every viewer, and from 0 in JSON.
    """
    from nightmill.cli.runtime import stored

    if text is not None and attempts:
        raise InvalidInput("--text, --attempts: give one of the two")
    as_json = wants_json(json_)
    with stored() as assembly:
        row = find_slicing(assembly, document, profile)
        if text is not None:
            _show_text(assembly, row, text, as_json=as_json)
        elif attempts:
            _show_attempts(assembly, row, limit, as_json=as_json)
        else:
            _show(assembly, row, limit, after, as_json=as_json)


def _show(assembly: Assembly, row: SlicingRow, limit: int, after: int, *, as_json: bool) -> None:
    from nightmill.cli import slice_output as out

    parts = assembly.slicing
    heads = parts.slices.page(row, after=after, limit=limit)
    ran = parts.attempts.of(row, limit=_LAST_ATTEMPTS)
    notices = [each for each in parts.sent.of(row, limit=_LAST_NOTICES) if each.run_id == row.run_id]
    more = heads[-1].position if len(heads) == limit and heads[-1].position + 1 < row.slice_count else None
    if as_json:
        lists: dict[str, Any] = {
            "slice_list": [out.head_json(head) for head in heads],
            "next_after": more,
            "notices": [out.notice_json(each) for each in notices],
        }
        print_json(out.slicing_json(row) | lists)
        return
    out.print_slicing(row)
    if heads:
        out.print_heads(heads)
        if more is not None:
            note(f"There are more slices: --after {more}")
    if notices:
        out.print_notices(notices)
    failed = [each for each in ran if each.run_id == row.run_id and each.error_code is not None]
    if row.status.value == "failed" and failed:
        if failed[-1].stderr_tail.strip():
            out.print_tail(failed[-1])
        note(f"What ran: nightmill slice show {out.id_of(row.sha256, row.profile)} --attempts")


def _show_text(assembly: Assembly, row: SlicingRow, position: int, *, as_json: bool) -> None:
    found = assembly.slicing.slices.get(row, position)
    if as_json:
        print_json(found.model_dump(exclude={"key", "slicing_key"}))
        return
    for line in found.full_text.splitlines():
        say(line)


def _show_attempts(assembly: Assembly, row: SlicingRow, limit: int, *, as_json: bool) -> None:
    from nightmill.cli.slice_output import attempt_json, print_attempts

    found = assembly.slicing.attempts.of(row, limit=limit)
    if as_json:
        for each in found:
            print_json(attempt_json(each))
    elif found:
        print_attempts(found)
    else:
        note(f"No program has run for {row.name} yet.")


@app.command(epilog="\b\nExample:\n  nightmill slice watch 3f2a9c81d4e0")
def watch(
    documents: Annotated[
        list[str], typer.Argument(metavar="ID...", help="8 or more digits of a PDF's SHA-256, or a FILE; several.")
    ],
    profile: ProfileOption = None,
    timeout: Annotated[str | None, typer.Option(help="Stop watching after this long: 10m, seconds.")] = None,
    json_: JsonFlag = None,
) -> None:
    """Watch slicings to their end.

    The exit code is 0 if all are sliced, 3 if some are, 1 if none is, 4 if the time is over. Ctrl-C stops nothing but
    the watching.
    """
    from nightmill.cli.runtime import duration_of, stored
    from nightmill.cli.slice_watching import Watched, watch_slicings

    limit = duration_of(timeout, "--timeout") if timeout is not None else None
    with stored() as assembly:
        rows = [find_slicing(assembly, each, profile) for each in documents]
    watched = list(dict.fromkeys(Watched(row.sha256, row.profile, row.name) for row in rows))
    raise typer.Exit(watch_slicings(watched, timeout=limit, as_json=wants_json(json_)))


@app.command(epilog="\b\nExample:\n  nightmill slice cancel 3f2a9c81d4e0")
def cancel(document: Document, profile: ProfileOption = None, json_: JsonFlag = None) -> None:
    """Cancel a slicing; its program is gone some seconds later, and slices of an earlier run stay."""
    import asyncio

    from nightmill.cli.runtime import run_async
    from nightmill.cli.slice_output import id_of
    from nightmill.client.nightmill import Nightmill

    async def work() -> SlicingRow:
        async with Nightmill.connect() as nightmill:
            row = await asyncio.to_thread(find_slicing, nightmill.assembly, document, profile)
            await nightmill.slicings.cancel(row.sha256, row.profile)
            return row

    row = run_async(work())
    if wants_json(json_):
        print_json({"sha256": row.sha256, "profile": row.profile, "cancel": "asked"})
    else:
        say(f"The cancel of {row.name} is asked for. Watch it: nightmill slice watch {id_of(row.sha256, row.profile)}")

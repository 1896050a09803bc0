"""`nightmill document add`, `import` and `crawl`: where documents come from."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import JsonFlag, note, print_facts, print_json, say, wants_json
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from typing import IO

    from nightmill.client.nightmill import Nightmill
    from nightmill.contracts import CrawlLimits, CrawlProgress
    from nightmill.documents.imports import Line

STDIN = "-"
FORMATS = ("jsonl", "csv")

AccountOption = Annotated[str, typer.Option(help="Whose documents they are; `nightmill account add` makes accounts.")]
CollectionOption = Annotated[str, typer.Option(help="A name of your own; a link is once in a collection.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `nightmill document`."""
    app.command(
        epilog="\b\nExample:\n  nightmill document add https://example.com/faq --account acme --collection help --watch"
    )(add)
    app.command("import", epilog="\b\nExample:\n  nightmill document import pages.csv")(import_)
    app.command(
        epilog="\b\nExample:\n  nightmill document crawl https://example.com/sitemap.xml "
        "--account acme --collection help --watch"
    )(crawl)


def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="A page's address.")],
    account: AccountOption,
    collection: CollectionOption,
    id_: Annotated[str | None, typer.Option("--id", help="An id of your own, for a page that is new.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name until the page says a title.")] = None,
    interval: Annotated[str | None, typer.Option(help="Time between syncs in place of the plan's: 12h, PT12H.")] = None,
    handler: Annotated[
        str | None, typer.Option(help='Whom to tell of changes: {"kind": "webhook", "url": "https://…"}.')
    ] = None,
    no_sync: Annotated[bool, typer.Option("--no-sync", help="Leave the first sync to the sweep.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the first sync and print what it came to.")] = False,
    json_: JsonFlag = None,
) -> None:
    """Add a page and sync it.

    A link that the collection has already is the same document, in all its spellings.
    """
    from datetime import UTC, datetime

    from nightmill.cli.document_sync import sync_documents
    from nightmill.cli.runtime import json_of, run_async, seconds_of, stored
    from nightmill.documents.imports import read_document

    if no_sync and watch:
        raise InvalidInput("--no-sync, --watch: give one of the two")
    given = json_of(handler, "--handler", dict) if handler is not None else None
    pause = seconds_of(interval, "--interval") if interval is not None else None
    as_json = wants_json(json_)

    new = read_document(
        {"account": account, "collection": collection, "url": url, "name": name, "interval": pause}
        | {"change_handler": given}
    )
    with stored() as assembly:
        row, is_new = assembly.documents.add(replace(new, id=id_), datetime.now(UTC))
    document_id = row.id
    if watch:
        raise typer.Exit(sync_documents([document_id], watch=True, as_json=as_json))
    if as_json:
        print_json({"document_id": document_id, "is_new": is_new})
    else:
        say(f"Document {document_id} {'is added' if is_new else 'is known already'}.")
        say(f"Look at it: nightmill document show {document_id}")
    if not no_sync:
        run_async(_start(document_id))


async def _start(document_id: str) -> None:
    from nightmill.client.nightmill import Nightmill

    async with Nightmill.connect() as nightmill:
        await nightmill.documents.sync_now(document_id)


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines or CSV; `-` is standard input.")],
    format_: Annotated[
        str | None, typer.Option("--format", help="jsonl or csv; by default as the file's name ends, else jsonl.")
    ] = None,
    json_: JsonFlag = None,
) -> None:
    """Add many pages.

    Each line has account, collection and url, and perhaps name and interval; a CSV file names its columns in the first
    line. Lines that cannot be used are named, the others are added, and importing a file again adds nothing twice.
    Exit code 3 if some lines could not be used, 2 if none could. The sweep syncs what is new.
    """
    from datetime import UTC, datetime

    from nightmill.cli.runtime import stored
    from nightmill.documents.imports import DocumentReader

    kind = format_ or ("csv" if file.lower().endswith(".csv") else "jsonl")
    if kind not in FORMATS:
        raise InvalidInput(f"--format: {kind[:40]!r} is unknown; choose one of {', '.join(FORMATS)}")
    if file != STDIN and not Path(file).is_file():
        raise InvalidInput(f"{file}: {'is a folder, not a file' if Path(file).is_dir() else 'no such file'}")
    with ExitStack() as opened:
        source = sys.stdin.buffer if file == STDIN else opened.enter_context(Path(file).open("rb"))
        assembly = opened.enter_context(stored())
        name = "<stdin>" if file == STDIN else file
        reader = DocumentReader(_lines(source, kind), assembly.accounts.get, name)
        new, known = assembly.documents.add_many(reader, datetime.now(UTC))
    if wants_json(json_):
        print_json({"new": new, "known": known, "refused": reader.bad_lines})
    else:
        say(f"{new:,} documents are new, {known:,} were known, {reader.bad_lines:,} lines could not be used.")
    if reader.bad_lines:
        note(f"nightmill: {reader.message()}")
        raise typer.Exit(ExitCode.PARTIAL if new or known else ExitCode.USAGE)
    if not new and not known:
        raise InvalidInput(f"{name}: no documents")


def _lines(source: IO[bytes], kind: str) -> Iterator[Line]:
    """Yield a file's lines with their values; a span such as `12h` is an interval here as everywhere."""
    from nightmill.cli.runtime import seconds_of
    from nightmill.documents.imports import LONGEST_LINE, csv_lines, json_lines

    texts = (
        raw.decode("utf-8-sig" if number == 0 else "utf-8", "replace")
        for number, raw in enumerate(iter(lambda: source.readline(LONGEST_LINE + 1), b""))
    )
    for number, values in csv_lines(texts) if kind == "csv" else json_lines(texts):
        interval = values.get("interval") if not isinstance(values, str) else None
        if isinstance(interval, str) and not isinstance(values, str) and interval.strip():
            yield number, {**values, "interval": seconds_of(interval, "interval")}
        else:
            yield number, values


def crawl(
    url: Annotated[str, typer.Argument(metavar="URL", help="A page to start from, or a sitemap.")],
    account: AccountOption,
    collection: CollectionOption,
    max_pages: Annotated[int, typer.Option(min=1, max=100_000, help="Pages at most.")] = 500,
    max_depth: Annotated[int, typer.Option(min=0, max=20, help="Links between the start and a page at most.")] = 3,
    max_time: Annotated[str, typer.Option(help="Time at most: 6h, seconds, PT6H.")] = "6h",
    id_: Annotated[str | None, typer.Option("--id", help="An id of your own; a known one goes on.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the end.")] = False,
    json_: JsonFlag = None,
) -> None:
    """Make documents of a site's pages.

    Follows links within the site, or reads a sitemap, as politely as syncs do. The sweep syncs what was found;
    `document sync` does so at once.
    """
    from nightmill.cli.runtime import duration_of, run_async
    from nightmill.client.nightmill import Nightmill
    from nightmill.contracts import CrawlLimits
    from nightmill.contracts.sweeps import LONGEST_CRAWL

    duration = duration_of(max_time, "--max-time")
    if duration > LONGEST_CRAWL:
        raise InvalidInput(f"--max-time: give {LONGEST_CRAWL.days} days at most")
    limits = CrawlLimits(pages=max_pages, depth=max_depth, duration=duration)
    as_json = wants_json(json_)
    begun: list[str] = []

    async def work() -> None:
        async with Nightmill.connect() as nightmill:
            begun.append(
                await nightmill.documents.crawl(
                    url, account=account, collection=collection, limits=limits, crawl_id=id_
                )
            )
            if watch:
                _tell(await _watch_crawl(nightmill, begun[0], limits), as_json=as_json)
            elif as_json:
                print_json({"crawl_id": begun[0]})
            else:
                say(f"Crawl {begun[0]} has started.")

    try:
        run_async(work())
    except KeyboardInterrupt:
        note(f"Stopped watching; crawl {begun[0]} goes on." if begun else "nightmill: interrupted")
        raise typer.Exit(ExitCode.WAITING if begun else ExitCode.FAILED) from None


def _tell(progress: CrawlProgress, *, as_json: bool) -> None:
    if as_json:
        print_json(progress.model_dump())
        return
    print_facts(
        [
            ("crawl", progress.crawl_id),
            ("found", f"{progress.found:,}"),
            ("visited", f"{progress.visited:,}"),
            ("new documents", f"{progress.added:,}"),
            ("known documents", f"{progress.known:,}"),
            ("failed", f"{progress.failed:,}" if progress.failed else None),
            ("kept out of", f"{progress.refused:,}, by robots.txt or the guard" if progress.refused else None),
            ("limit reached", progress.limit_hit),
        ]
    )


async def _watch_crawl(nightmill: Nightmill, crawl_id: str, limits: CrawlLimits) -> CrawlProgress:
    from nightmill.cli.progress import bar
    from nightmill.errors import CrawlNotFound

    ended = asyncio.create_task(nightmill.documents.wait_crawl(crawl_id))
    try:
        with bar("crawling") as show:
            while not ended.done():
                await asyncio.wait({ended}, timeout=1)
                try:
                    progress = await nightmill.documents.crawl_progress(crawl_id)
                except CrawlNotFound:  # no worker has begun it
                    continue
                show(progress.visited, min(max(progress.found, 1), limits.pages))
        return ended.result()
    finally:
        ended.cancel()

"""`nightmill slice run`: from PDFs to their slices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import JsonFlag, note, print_json, say, wants_json
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from datetime import timedelta

    from nightmill.cli.slice_watching import Watched
    from nightmill.client.nightmill import Nightmill

_TARGETS = ("mailto:", "https://", "http://", "channel:")


def register(app: typer.Typer) -> None:
    """Add the command to `nightmill slice`."""
    app.command(epilog="\b\nExample:\n  nightmill slice run gazettes/*.pdf --notify mailto:desk@example.org --watch")(
        run
    )


def run(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="PDFs.")],
    profile: Annotated[str, typer.Option(help="The slicer profile.")] = "gazette",
    notify: Annotated[
        list[str] | None,
        typer.Option(metavar="TARGET", help="Whom to tell: mailto:…, https://… or channel:NAME; several times."),
    ] = None,
    metadata: Annotated[str | None, typer.Option(help="JSON object of yours, kept with the documents.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "--wait", help="Wait for the ends and print what came.")] = False,
    timeout: Annotated[str | None, typer.Option(help="With --watch: stop watching after this long.")] = None,
    json_: JsonFlag = None,
) -> None:
    """Cut PDFs into their single documents.

    It goes on without this command. A PDF that is being sliced already goes on undisturbed, and one that was sliced
    before is sliced again. With --watch the exit code is 0 if all are sliced, also where a person has to look at them,
    3 if some are, 1 if none is, 4 if the time is over.
    """
    from nightmill.cli.runtime import duration_of, json_of
    from nightmill.settings import load_settings
    from nightmill.slicing.profiles import find_profile

    limit = duration_of(timeout, "--timeout") if timeout is not None else None
    if limit and not watch:
        raise InvalidInput("--timeout: only with --watch")
    given = json_of(metadata, "--metadata", dict) if metadata is not None else None
    for target in notify or ():
        if not target.startswith(_TARGETS):
            raise InvalidInput("--notify: give mailto:…, https://… or channel:NAME")
    for file in files:  # a typo is told before anything is started
        _check(file)
    find_profile(load_settings().slicing, profile)
    begin = _Begin(files, {"profile": profile, "notify": notify or (), "metadata": given}, as_json=wants_json(json_))
    raise typer.Exit(begin.run(watch=watch, timeout=limit))


def _check(file: Path) -> None:
    if not file.exists():
        raise InvalidInput(f"{file}: no such file")
    if not file.is_file():
        raise InvalidInput(f"{file}: is {'a folder' if file.is_dir() else 'something else'}, not a file")
    if not os.access(file, os.R_OK):
        raise InvalidInput(f"{file}: may not be read")


@dataclass
class _Begin:
    """Starts the slicings one after the other, so that they are served in the order in which they were given.

    Attributes:
        files: The PDFs.
        options: See `Slicings.slice`.
        as_json: Whether programs read what is printed.
        started: What was started so far.
        refused: How many files could not be used.
    """

    files: Sequence[Path]
    options: dict[str, Any]
    as_json: bool
    started: list[Watched] = field(default_factory=list)
    refused: int = 0

    def run(self, *, watch: bool, timeout: timedelta | None) -> ExitCode:
        """Start them all, perhaps wait for their ends, and return the exit code."""
        from nightmill.cli.runtime import run_async
        from nightmill.cli.slice_watching import stopped_watching, watch_and_tell
        from nightmill.client.nightmill import Nightmill

        async def work() -> ExitCode:
            async with Nightmill.connect() as nightmill:
                await self._start_all(nightmill, tell=not watch)
                if not self.started:
                    return ExitCode.USAGE
                if watch:
                    return await watch_and_tell(
                        nightmill, self.started, timeout=timeout, as_json=self.as_json, refused=self.refused
                    )
            return ExitCode.PARTIAL if self.refused else ExitCode.FINE

        try:
            return run_async(work())
        except KeyboardInterrupt:
            if not self.started:
                note("nightmill: interrupted while the first file was stored; the same command starts it")
                return ExitCode.FAILED
            if len(self.started) + self.refused < len(self.files):
                note(f"nightmill: interrupted after {len(self.started):,} of {len(self.files):,} files")
            return stopped_watching(self.started)

    async def _start_all(self, nightmill: Nightmill, *, tell: bool) -> None:
        from nightmill.cli.progress import bar
        from nightmill.cli.slice_watching import Watched

        with bar("storing") as show:
            for number, file in enumerate(self.files):
                show(number, len(self.files))
                try:
                    sha256 = await nightmill.slicings.slice(file, **self.options)
                except InvalidInput as error:
                    if len(self.files) == 1:
                        raise
                    self.refused += 1
                    note(f"nightmill: {error}")
                    continue
                new = Watched(sha256, self.options["profile"], file.name)
                if new in self.started:
                    note(f"nightmill: {file} is the same PDF as {self.started[self.started.index(new)].name}")
                    continue
                self.started.append(new)
                if tell:
                    self._tell(file, new)
        if tell and not self.as_json and self.started:
            which = "them" if len(self.started) > 1 else "it"
            one = f"{self.started[0].sha256[:12]}/{self.started[0].profile}"
            say(f"Watch {which}: nightmill slice watch {one if len(self.started) == 1 else 'ID...'}")

    def _tell(self, file: Path, new: Watched) -> None:
        if self.as_json:
            print_json({"file": str(file), "sha256": new.sha256, "profile": new.profile})
        else:
            say(f"{file} is being sliced: {new.sha256[:12]}/{new.profile}")

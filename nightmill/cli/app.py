"""The command `nightmill` as a whole: its nouns, and what happens when a command fails."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from nightmill.cli import (
    account,
    batch,
    codec,
    db,
    demo,
    dev,
    doctor,
    document,
    document_add,
    document_export,
    document_sync,
    events,
    prune,
    reconcile,
    replay,
    sandbox,
    schedules,
    slice_breaker,
    slice_export,
    slice_run,
    slices,
    submit,
    worker,
)
from nightmill.cli.ending import ExitCode, exit_code_of
from nightmill.cli.output import note, one_line
from nightmill.cli.tracing import command_traced
from nightmill.concealing import concealed
from nightmill.errors import NightmillError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_CODES = (
    "Exit codes: 0 fine, 1 failed, 2 wrong usage or bad input, 3 partly done, 4 still waiting, 5 Temporal or the "
    "database does not answer."
)

app = typer.Typer(
    name="nightmill",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: half the start-up time, and examples that can be copied
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{EXIT_CODES}\n\n\b\nExample:\n"
    "  nightmill batch submit requests.jsonl --provider openai --model gpt-5-mini --watch",
)
app.add_typer(batch.app, name="batch")
app.add_typer(account.app, name="account")
app.add_typer(document.app, name="document")
app.add_typer(slices.app, name="slice")
app.add_typer(schedules.app, name="schedules")
app.add_typer(db.app, name="db")
submit.register(batch.app)
document_add.register(document.app)
document_sync.register(document.app)
document_export.register(document.app)
slice_run.register(slices.app)
slice_export.register(slices.app)
slice_breaker.register(slices.app)
reconcile.register(app)
replay.register(app)
prune.register(app, batch.app)
dev.register(app)
worker.register(app)
events.register(app)
sandbox.register(app)
codec.register(app)
doctor.register(app)
demo.register(app)


@app.callback()
def settings(
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show log lines, and where an error comes from; may stand anywhere.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Run LLM batches, the syncs of a knowledge base's pages, and the slicing of long PDFs, as durable workflows."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        from importlib.metadata import version

        sys.stdout.write(f"nightmill {version('nightmill')}\n")
        return ExitCode.FINE
    verbose = _take_verbose(given)
    _set_up_streams(verbose)
    try:
        with command_traced(given):
            return int(app(given, prog_name="nightmill", standalone_mode=False) or 0)
    except TyperException as error:
        return _wrong_usage(error)
    except NightmillError as error:
        if verbose:
            sys.stderr.write(concealed(traceback.format_exc()))
        note(f"nightmill: {concealed(str(error))}")
        return exit_code_of(error)
    except SystemExit as error:  # typer's answer to a reader that wanted no more, as `head`
        return error.code if isinstance(error.code, int) else ExitCode.FAILED
    except Exception as error:  # noqa: BLE001 - a bug; people still get a line they can report
        if verbose:
            sys.stderr.write(concealed(traceback.format_exc()))
        note(f"nightmill: unexpected {type(error).__name__}: {concealed(str(error))} (--verbose shows where)")
        return ExitCode.FAILED


def _take_verbose(arguments: list[str]) -> bool:
    """Take `--verbose` out of the arguments, wherever it stands before a `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    found = "--verbose" in arguments[:end]
    if found:
        arguments.remove("--verbose")
    return found


def _set_up_streams(verbose: bool) -> None:
    """Let output be UTF-8 whatever the locale says, and keep log lines off the terminal unless they are wanted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("alembic").setLevel(logging.WARNING)
    elif not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


def _wrong_usage(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error.format_message()}\n")
        return ExitCode.USAGE
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    note(f"nightmill: {one_line(error.format_message()).rstrip('.')}{hint}")
    return ExitCode.USAGE

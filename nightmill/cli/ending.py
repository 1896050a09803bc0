"""How a process of ours ends: with which code, and without the interpreter's own shutdown."""

from __future__ import annotations

import logging
import os
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from nightmill.errors import NightmillError


class ExitCode(IntEnum):
    """What a command's exit code means."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    """Wrong arguments, bad input, or a setting that cannot be used."""
    PARTIAL = 3
    """Some completions have an answer, some documents were synced or sliced, others not."""
    WAITING = 4
    """What was started goes on; only the watching ended."""
    UNREACHABLE = 5
    """Temporal or the database does not answer."""


_BY_ERROR_CODE = {
    "invalid_input": ExitCode.USAGE,
    "over_budget": ExitCode.USAGE,
    "batch_not_found": ExitCode.USAGE,
    "batch_deleted": ExitCode.USAGE,
    "account_not_found": ExitCode.USAGE,
    "document_not_found": ExitCode.USAGE,
    "crawl_not_found": ExitCode.USAGE,
    "slicing_not_found": ExitCode.USAGE,
    "not_configured": ExitCode.USAGE,
    "storage_unavailable": ExitCode.UNREACHABLE,
    "temporal_unreachable": ExitCode.UNREACHABLE,
}


def exit_code_of(error: NightmillError) -> ExitCode:
    """Return the exit code that an error stands for."""
    return _BY_ERROR_CODE.get(error.code, ExitCode.FAILED)


def finish(code: int) -> NoReturn:
    """End the process with this exit code, at once.

    The Temporal SDK's threads can crash in the interpreter's own shutdown (sdk-python#300): up to one process in four
    would end with a signal instead of its exit code. So that shutdown is left out.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader of a pipe has gone; nobody is left to be told
            continue
    logging.shutdown()
    os._exit(code)

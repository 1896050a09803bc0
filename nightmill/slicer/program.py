"""The slicer's command line: `python -m nightmill.slicer [OPTIONS] PDF OUTPUT_DIR [JOB_ID]`.

One JSON object goes to standard output, progress and log to standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from nightmill.slicer.options import USAGE, parse

DONE = 0
"""Also with errors or without slices: the result says so."""
NOT_CUT = 3
"""The PDF cannot be sliced: it is missing, damaged, encrypted, empty or too large."""
WRONG_PAGES = 4
"""The files of pages do not fit the document, or it has not the pages that were to be read."""
NO_OUTPUT = 5
"""The output folder or standard output cannot be written to."""

__all__ = ["DONE", "NOT_CUT", "NO_OUTPUT", "USAGE", "WRONG_PAGES", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Cut a PDF, print the result, and return the exit code.

    Args:
        arguments: Of the command line; the process's own without it.
    """
    options = parse(arguments)
    # Only now, for these take 0.3 processor seconds that `--help` does without.
    from nightmill.slicer.cutting import run
    from nightmill.slicer.opening import PdfProblem
    from nightmill.slicer.output import to_json
    from nightmill.slicer.pages_file import PagesProblem
    from nightmill.slicer.writing import OutputProblem

    logging.disable(logging.WARNING)  # libraries warn of what is in the PDF
    try:
        printed = _own_standard_output()
        _print(printed, to_json(run(options)))
    except PdfProblem as problem:
        return _complain(NOT_CUT, problem.message)
    except PagesProblem as problem:
        return _complain(WRONG_PAGES, str(problem))
    except OutputProblem as problem:
        return _complain(NO_OUTPUT, str(problem))
    except OSError as error:
        return _complain(NO_OUTPUT, f"{error.strerror or error}: {error.filename or options.output_dir}")
    return DONE


def _own_standard_output() -> int:
    """Keep standard output for the result alone: whatever else is printed goes to standard error."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    return own


def _print(descriptor: int, text: bytes) -> None:
    with os.fdopen(descriptor, "wb") as printed:
        printed.write(text)


def _complain(code: int, message: str) -> int:
    print(f"nightmill.slicer: {' '.join(message.split())[:1_000]}", file=sys.stderr, flush=True)  # noqa: T201
    return code

"""What a step's programs leave: read with care, and brought into the file storage."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmill.slicing.dates import read_date
from nightmill.slicing.faults import EmptyOutput, InvalidResult, OutputFlood
from nightmill.slicing.json_output import JsonOutput, shown
from nightmill.slicing.output_files import open_inside

if TYPE_CHECKING:
    from nightmill.storage.files import FileStore

_CHUNK = 1024 * 1024
_MAX_ANSWER = 1024 * 1024
_MAX_NUMBER = 64


def upload(files: FileStore, key: str, folder: Path, path: str, *, at_most: int) -> tuple[int, str]:
    """Bring a file of a program's output folder into the file storage; return its size and SHA-256.

    Raises:
        UnsafePath: It lies elsewhere, or is a link.
        InvalidResult: It is not there any more.
        OutputFlood: It has more than `at_most` bytes.
        TransientError: The file storage is away.
    """
    try:
        descriptor = open_inside(folder, path)
    except OSError as error:
        raise InvalidResult(f"`{shown(path)}` cannot be read: {error.strerror}") from error
    digest = hashlib.sha256()

    def chunks() -> Iterator[bytes]:
        left = at_most
        while chunk := os.read(descriptor, _CHUNK):
            left -= len(chunk)
            if left < 0:
                raise OutputFlood(f"`{shown(path)}` makes it more than may be kept of the program's files")
            digest.update(chunk)
            yield chunk

    try:
        return files.write(key, chunks()), digest.hexdigest()
    finally:
        os.close(descriptor)


def pieces_of(path: Path) -> Iterator[bytes]:
    """Yield a file of ours in pieces."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def read_answer(stdout: Path) -> dict[str, Any]:
    """Return a small JSON object that a program has printed.

    Raises:
        EmptyOutput: It printed nothing.
        InvalidJson: It printed something else.
        InvalidResult: It is no object.
        OutputFlood: It printed more than a small object.
    """
    with stdout.open("rb") as file:
        text = file.read(_MAX_ANSWER + 1)
    if len(text) > _MAX_ANSWER:
        raise OutputFlood(f"the program printed more than {_MAX_ANSWER:,} bytes")
    if not text.strip():
        raise EmptyOutput("the program ended well and printed nothing")
    output = JsonOutput(text)
    return {name: output.read(part) for name, part in output.members().items()}


def read_metadata(stdout: Path) -> tuple[str, date]:
    """Return the number and the date of `{"gazette": {"number": …, "date": …}}`, as a metadata program prints it.

    Raises:
        ResultFault: It printed something else, or either of them is blank or none.
        EmptyOutput: It printed nothing.
    """
    gazette = read_answer(stdout).get("gazette")
    number = gazette.get("number") if isinstance(gazette, dict) else None
    day = gazette.get("date") if isinstance(gazette, dict) else None
    if not isinstance(number, str) or not number.strip() or len(number) > _MAX_NUMBER:
        raise InvalidResult("`gazette.number` is missing: the metadata program prints the gazette's number as text")
    found = read_date(day) if isinstance(day, str) else None
    if found is None:
        raise InvalidResult(f"`gazette.date` is no date: {shown(str(day))}")
    return number.strip(), found

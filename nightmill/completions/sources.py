"""Where a workflow may read requests from: files under the allowed folders, and public web addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nightmill.errors import InvalidInput

CHUNK_BYTES = 1024 * 1024

Fetch = Callable[[str], Iterator[bytes]]
"""Downloads a public address, through the guard, as chunks of bytes."""


def open_requests(uri: str, *, roots: Sequence[Path], fetch: Fetch) -> tuple[str, Iterator[bytes]]:
    """Return the name to show in messages, and the bytes.

    Args:
        uri: A path, a `file:` URL, or an `http(s):` URL.
        roots: Folders under which files may be read, symbolic links resolved.
        fetch: Used for `http(s):`.

    Raises:
        InvalidInput: The file cannot be read, or is not under an allowed folder; which of the two is not told of a file
            outside, so that nobody can search the worker's disk.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        return uri.rsplit("/", 1)[-1].split("?")[0] or uri, fetch(uri)
    if scheme not in ("", "file"):
        raise InvalidInput(f"requests_uri {uri[:200]!r}: give a path, a file: URL or an https: URL")
    path = Path(unquote(urlsplit(uri).path) if scheme else uri)
    try:
        real = path.resolve(strict=True)
        allowed = any(real.is_relative_to(root.resolve()) for root in roots)
    except (OSError, ValueError):
        real, allowed = path, False
    if not allowed or not real.is_file():
        where = ", ".join(map(str, roots)) or "none"
        raise InvalidInput(
            f"requests_uri {uri[:200]!r}: no readable file under NIGHTMILL_INPUT_ROOTS (now: {where}) on the worker"
        )
    return path.name, read_file(real)


def read_file(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes.

    Raises:
        InvalidInput: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from error

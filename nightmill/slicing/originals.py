"""The PDFs to slice: read from where the user says, and kept in the file storage under their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from nightmill.contracts.slicing import STORED
from nightmill.errors import InvalidInput, PermanentError, SourceAway, TransientError
from nightmill.slicing import keys
from nightmill.slicing.faults import NotAFile, TooLarge, Unreadable

if TYPE_CHECKING:
    from nightmill.storage.files import FileStore

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Originals:
    """Keeps PDFs.

    Attributes:
        files: The file storage.
        roots: Folders under which a worker may read files.
        fetch: Downloads a public address, through the guard.
        max_size: Bytes of a PDF at most.
    """

    files: FileStore
    roots: Sequence[Path]
    fetch: Callable[[str], Iterator[bytes]]
    max_size: int

    def keep(self, source: str, sha256: str) -> tuple[str, int]:
        """Return the document's name and size once the file storage holds it; a second call finds it there.

        Raises:
            InvalidInput: The source has another hash, or is of a kind that is not read.
            DocumentFault: The source cannot be read.
            SourceAway: Where the source is does not answer.
            StorageUnavailable: The file storage is away.
        """
        name = name_of(source)
        key = keys.original(sha256)
        size = self.files.size(key)
        if size is None:
            if source.startswith(STORED):
                raise NotAFile(f"{name}: the file storage has no PDF of SHA-256 {sha256[:12]}…: give the file again")
            size = self.files.write(key, self._verified(self._open(source), sha256))
        return name, size

    def put(self, path: Path) -> str:
        """Store a file of this machine; return its SHA-256.

        Raises:
            DocumentFault: It cannot be read, or is too large.
            TransientError: The file storage is away.
        """
        digest = hashlib.sha256()
        for chunk in self._bounded(_read(path)):
            digest.update(chunk)
        sha256 = digest.hexdigest()
        self.put_again(path, sha256)
        return sha256

    def put_again(self, path: Path, sha256: str) -> None:
        """Store a file of this machine, unless it is there.

        Raises:
            DocumentFault: It cannot be read.
            TransientError: The file storage is away.
        """
        if self.files.size(keys.original(sha256)) is None:
            self.files.write(keys.original(sha256), self._verified(_read(path), sha256))

    def copy(self, sha256: str, target: Path) -> None:
        """Write a PDF that is kept to a new file; one that does not have its hash any more is an error.

        Raises:
            FileMissing: It is not kept.
            TransientError: The file storage is away.
        """
        with target.open("xb") as file:
            for chunk in self._verified(self.files.read(keys.original(sha256)), sha256):
                file.write(chunk)

    def _open(self, source: str) -> Iterator[bytes]:
        scheme = urlsplit(source).scheme.lower()
        if scheme in {"http", "https"}:
            return self._download(source)
        if scheme not in {"", "file"}:
            raise InvalidInput(f"source {source[:200]!r}: give a path, a file: URL or an https: URL")
        path = Path(unquote(urlsplit(source).path) if scheme else source)
        try:
            real = path.resolve(strict=True)
            allowed = any(real.is_relative_to(root.resolve()) for root in self.roots)
        except (OSError, ValueError):
            real, allowed = path, False
        if not allowed:  # which of the two is not told, so that nobody can search the worker's disk
            where = ", ".join(map(str, self.roots)) or "none"
            raise NotAFile(f"{source[:200]}: no file under NIGHTMILL_INPUT_ROOTS (now: {where}) on the worker")
        return _read(real)

    def _download(self, url: str) -> Iterator[bytes]:
        try:
            yield from self.fetch(url)
        except PermanentError as error:
            raise Unreadable(f"{name_of(url)}: {error}") from error
        except TransientError as error:
            raise SourceAway(f"{name_of(url)}: {error}", retry_after=error.retry_after) from error

    def _bounded(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        total = 0
        for chunk in chunks:
            total += len(chunk)
            if total > self.max_size:
                raise TooLarge(f"the PDF has more than {self.max_size:,} bytes (NIGHTMILL_SLICING__MAX_SIZE)")
            yield chunk

    def _verified(self, chunks: Iterable[bytes], sha256: str) -> Iterator[bytes]:
        """Yield the chunks; fail at the end if they are not what the hash says, so that nothing of them is kept."""
        digest = hashlib.sha256()
        for chunk in self._bounded(chunks):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != sha256:
            raise InvalidInput(
                f"the PDF has SHA-256 {digest.hexdigest()}, the workflow id says {sha256}: start it as "
                "slice/<SHA-256 of the PDF>/<profile>"
            )


def name_of(source: str) -> str:
    """Return a source's file name, for people."""
    if source.startswith(STORED):
        return source.removeprefix(STORED)[:255] or "document.pdf"
    parts = urlsplit(source)
    path = unquote(parts.path) if parts.scheme else source
    return PurePosixPath(path).name[:255] or parts.hostname or "document.pdf"


def _read(path: Path) -> Iterator[bytes]:
    try:
        if not path.is_file():
            raise NotAFile(f"{path}: there is no such file" if not path.exists() else f"{path}: not a file")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read: {error.strerror}") from error

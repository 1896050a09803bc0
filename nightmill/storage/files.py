"""Large files: request and result files, PDFs, slices; in a local folder or an object store, by URL."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from nightmill.errors import FileMissing, NotConfigured, StorageFull, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK = 1024 * 1024
"""Bytes of one piece that `FileStore.read` yields, about; larger ones are not faster."""

_OBJECT_SCHEMES = ("s3", "gs", "az")
# No part begins with a dot: "." and ".." are out, and the temporary files of `LocalFileStore` can never be a key.
_PART = re.compile(r"[A-Za-z0-9_@=+,~-][A-Za-z0-9_@=+,~.-]{0,199}")
_MAX_KEY = 900  # S3 and GCS allow 1,024 bytes, the URL's own prefix included
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoredFile(NamedTuple):
    """A file of a store.

    Attributes:
        size: Bytes.
        modified_at: When it was written, by the store's clock.
    """

    key: str
    size: int
    modified_at: datetime


class FileStore(Protocol):
    """Files under keys, for many threads at once. A key is relative: parts of letters, digits and `._-@=+,~`, with `/`.

    All methods raise `StorageUnavailable` when the store cannot be used right now, and `ValueError` for a key that is
    none. Memory is flat in the size of the files.
    """

    def write(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store the bytes under `key`, whole or not at all, in place of what was there; return their number.

        A second call stores a second time. What `chunks` raises is passed on, and what was there before stays.

        Raises:
            StorageFull: There is no space left.
        """
        ...

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """Yield the file from `offset` on in pieces of about `CHUNK` bytes; nothing where the file ends before.

        Raises:
            FileMissing: There is none.
        """
        ...

    def size(self, key: str) -> int | None:
        """Return the file's length in bytes, or None where there is none."""
        ...

    def delete(self, prefix: str) -> None:
        """Delete the file `prefix` and all files under `prefix/`. What is gone already is no error."""
        ...

    def listed(self, prefix: str) -> Iterator[StoredFile]:
        """Yield all files under `prefix/`, those of one folder after each other."""
        ...


def open_file_store(url: str) -> FileStore:
    """Return the store at `url`: a path, `file:///path`, `s3://bucket/prefix`, `gs://…` or `az://…`.

    Credentials and endpoints of object stores come from their usual environment variables (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, …).

    Raises:
        NotConfigured: The URL is of another kind, or the extra for object stores is not installed.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if not scheme and url.strip():
        return LocalFileStore(Path(url))
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
            return LocalFileStore(Path(unquote(parts.path)))
    if scheme in _OBJECT_SCHEMES:
        return ObjectFileStore(url)
    raise NotConfigured(
        f"storage URL with scheme {scheme[:20]!r}: use a path, file:///path, s3://bucket, gs://bucket or az://container"
    )


class LocalFileStore:
    """Files in a folder. A file appears under its name only when all of it is on the disk.

    What a killed process was writing stays as `.<name>.part` beside it, until the same file is written again or its
    folder is deleted.
    """

    def __init__(self, root: Path) -> None:
        """Use the folder `root`, which is made when first needed."""
        self.root = root.absolute()

    def write(self, key: str, chunks: Iterable[bytes]) -> int:
        """See `FileStore.write`."""
        target = self._path(key)
        total = 0
        with _storage_errors(f"writing {key}"):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                file, temporary = _open_beside(target)
            except FileNotFoundError:  # a prune took the folder away that was empty until now; it takes new ones never
                target.parent.mkdir(parents=True, exist_ok=True)
                file, temporary = _open_beside(target)
        with file:
            try:
                for chunk in chunks:
                    with _storage_errors(f"writing {key}"):
                        file.write(chunk)
                    total += len(chunk)
                with _storage_errors(f"writing {key}"):
                    file.flush()
                    os.fsync(file.fileno())
                    temporary.replace(target)  # before it is closed, which gives the lock away
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                with suppress(OSError):
                    file.close()  # tries to flush again, and may fail again
                raise
        with _storage_errors(f"writing {key}"):
            _sync_folder(target.parent)
        return total

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """See `FileStore.read`."""
        path = self._path(key)
        with _storage_errors(f"reading {key}"):
            file = path.open("rb", buffering=0)
        with file:
            file.seek(offset)
            while True:
                with _storage_errors(f"reading {key}"):
                    chunk = file.read(CHUNK)
                if not chunk:
                    return
                yield chunk

    def size(self, key: str) -> int | None:
        """See `FileStore.size`."""
        with _storage_errors(f"looking at {key}"), suppress(FileNotFoundError, NotADirectoryError):
            found = self._path(key).stat()  # once: it may be deleted meanwhile
            return found.st_size if stat.S_ISREG(found.st_mode) else None
        return None

    def delete(self, prefix: str) -> None:
        """See `FileStore.delete`."""
        path = self._path(prefix)
        with _storage_errors(f"deleting {prefix}"), suppress(FileNotFoundError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def listed(self, prefix: str) -> Iterator[StoredFile]:
        """See `FileStore.listed`."""
        for folder, names in folders(self._path(prefix)):
            for name in sorted(each for each in names if not each.startswith(".")):
                path = Path(folder, name)
                with suppress(FileNotFoundError):
                    found = path.stat()
                    yield StoredFile(str(path.relative_to(self.root)), found.st_size, utc(found.st_mtime))

    def _path(self, key: str) -> Path:
        return self.root / _checked(key)


class ObjectFileStore:
    """Files in S3, in what speaks S3, in Google Cloud Storage or in Azure, through `obstore`.

    An upload that the process does not survive leaves invisible parts in the bucket: give it a lifecycle rule that
    aborts incomplete multipart uploads.
    """

    # Two blocks of 8 MiB are under way at once; a part of S3 has 5 MiB at least and there are 10,000 at most: 80 GB.
    _BLOCK = 8 * 1024 * 1024
    _AT_ONCE = 2

    def __init__(self, url: str) -> None:
        """Open the bucket in `url`, whose path goes before every key; nothing is sent yet.

        Raises:
            NotConfigured: The URL or the environment is incomplete, or `obstore` is not installed.
        """
        try:
            import obstore
        except ImportError:
            raise NotConfigured("object stores need an extra: pip install 'nightmill[objectstore]'") from None
        # A plain-HTTP endpoint is allowed by the same variables as in other tools on the same Rust crate.
        http = any(
            os.environ.get(f"{cloud}_ALLOW_HTTP", "").lower() in {"1", "true"} for cloud in ("AWS", "AZURE", "GOOGLE")
        )
        self._obstore: Any = obstore
        try:
            self._store: Any = obstore.store.from_url(
                url,
                client_options={
                    "allow_http": http,
                    "connect_timeout": timedelta(seconds=10),
                    "read_timeout": timedelta(seconds=30),
                    "timeout": timedelta(hours=1),  # of one request with its body; the default of 30 s cuts downloads
                },
                retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=30)},
            )
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise NotConfigured(f"the storage URL cannot be used: {_first_line(error)}") from None

    def write(self, key: str, chunks: Iterable[bytes]) -> int:
        """See `FileStore.write`."""
        total = 0
        raised: list[BaseException] = []

        def counted() -> Iterator[bytes]:
            nonlocal total
            try:
                for chunk in chunks:
                    if chunk:
                        total += len(chunk)
                        yield chunk
            except BaseException as error:
                raised.append(error)
                raise

        try:
            with self._errors(f"writing {_checked(key)}"):
                self._obstore.put(
                    self._store,
                    key,
                    counted(),
                    use_multipart=True,
                    chunk_size=self._BLOCK,
                    max_concurrency=self._AT_ONCE,
                )
        except FileMissing:
            raise NotConfigured("the bucket of the storage URL does not exist") from None
        except Exception:
            if raised:  # the chunks' own error, not the store's
                raise raised[0] from None
            raise
        return total

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """See `FileStore.read`."""
        if offset and offset >= (self.size(key) or 0):
            if self.size(key) is None:
                raise FileMissing(f"reading {key}: there is no such file")
            return  # the stores answer 416, a range that cannot be satisfied
        with self._errors(f"reading {_checked(key)}"):
            options = {"range": {"offset": offset}} if offset else None
            pieces = iter(self._obstore.get(self._store, key, options=options).stream(min_chunk_size=CHUNK))
        while True:
            with self._errors(f"reading {key}"):
                chunk = next(pieces, None)
            if chunk is None:
                return
            yield bytes(chunk)

    def size(self, key: str) -> int | None:
        """See `FileStore.size`."""
        try:
            with self._errors(f"looking at {_checked(key)}"):
                return int(self._obstore.head(self._store, key)["size"])
        except FileMissing:
            return None

    def delete(self, prefix: str) -> None:
        """See `FileStore.delete`."""
        with suppress(FileMissing), self._errors(f"deleting {_checked(prefix)}"):
            for page in self._obstore.list(self._store, prefix=prefix):
                self._obstore.delete(self._store, [meta["path"] for meta in page])
        with suppress(FileMissing), self._errors(f"deleting {prefix}"):
            self._obstore.delete(self._store, prefix)

    def listed(self, prefix: str) -> Iterator[StoredFile]:
        """See `FileStore.listed`."""
        with self._errors(f"listing {_checked(prefix)}"):
            pages = iter(self._obstore.list(self._store, prefix=prefix))
        while True:
            with self._errors(f"listing {prefix}"):
                page = next(pages, None)
            if page is None:
                return
            for meta in page:
                yield StoredFile(meta["path"], meta["size"], meta["last_modified"])

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        known = self._obstore.exceptions
        try:
            yield
        except FileNotFoundError:
            raise FileMissing(f"{what}: there is no such file") from None
        except (known.PermissionDeniedError, known.UnauthenticatedError) as error:
            raise NotConfigured(f"{what}: the object store refuses the credentials: {_first_line(error)}") from None
        except (known.BaseError, OSError) as error:
            raise StorageUnavailable(f"{what}: {_first_line(error)}") from None


def _checked(key: str) -> str:
    if len(key) > _MAX_KEY or not all(_PART.fullmatch(part) for part in key.split("/")):
        raise ValueError(f"not a key of a file store: {key[:100]!r}")
    return key


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileMissing(f"{what}: there is no such file") from None
    except OSError as error:
        reason = f"{what}: {error.strerror or error}"
        raise (StorageFull if error.errno in _FULL else StorageUnavailable)(reason) from error


def _open_beside(target: Path) -> tuple[BinaryIO, Path]:
    """Open the file that is to become `target`: what a killed process has left of one is taken over.

    Whoever writes holds its lock. Where somebody does, or locks cannot be had, it is a file of another name.
    """
    usual = target.with_name(f".{target.name}.part")
    with suppress(OSError), ExitStack() as stack:
        file = stack.enter_context(usual.open("ab", buffering=CHUNK))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between the two its writer may have finished, and then it has another name by now.
        if os.path.samestat(os.fstat(file.fileno()), usual.stat()):
            file.truncate(0)
            stack.pop_all()
            return file, usual
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    return temporary.open("xb", buffering=CHUNK), temporary


def folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and each one below with the names of its files; nothing where there is none.

    Raises:
        StorageUnavailable: One cannot be read.
    """

    def tell(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise StorageUnavailable(f"listing {root.name}: {error.strerror or error}") from error

    for folder, below, names in os.walk(root, onerror=tell):
        below.sort()
        yield folder, names


def utc(seconds: float) -> datetime:
    """Return a file's time."""
    return datetime.fromtimestamp(seconds, UTC)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _first_line(error: BaseException) -> str:
    """Return what obstore says without its debug dump and without queries, which may hold signatures."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"\?\S*", "", line)[:300]

"""`nightmill slice export`: a document's slices as files, each whole or not there at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from nightmill.cli.output import JsonFlag, note, print_json, say, wants_json
from nightmill.errors import (
    FileMissing,
    InvalidInput,
    PermanentError,
    SlicingNotFound,
    SlicingSuperseded,
    StorageFull,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nightmill.assembly import Assembly
    from nightmill.cli.progress import Show
    from nightmill.storage.slices import SliceHead
    from nightmill.storage.slicing_models import SlicingRow

INDEX = "index.json"
_PART = ".part"
_PAGE = 200
_LONGEST_NAME = 80
_NAMED_AT_MOST = 5


def register(app: typer.Typer) -> None:
    """Add the command to `nightmill slice`."""
    app.command(epilog="\b\nExample:\n  nightmill slice export 3f2a9c81d4e0 slices/ --text")(export)


def export(
    document: Annotated[
        str, typer.Argument(metavar="ID", help="8 or more digits of the PDF's SHA-256, or a FILE that was sliced.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; made if it is not there.")],
    position: Annotated[
        list[int] | None, typer.Option(min=0, help="Only the slice at this position; several times.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Write each slice's text beside its PDF, as .txt.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that hold something else.")] = False,
    profile: Annotated[str | None, typer.Option(help="The slicer profile, where several have sliced the PDF.")] = None,
    json_: JsonFlag = None,
) -> None:
    """Write a document's slices to a folder, as PDFs and an index.json.

    Files that are there already and hold the same are left alone, so that an export that was interrupted goes on when
    it is asked for again. If one holds something else, nothing is written. With --position no index is.
    """
    from nightmill.cli.progress import bar
    from nightmill.cli.runtime import stored
    from nightmill.cli.slices import find_slicing

    with stored() as assembly:
        row = find_slicing(assembly, document, profile)
        if not row.slice_count:
            raise InvalidInput(f"{row.name} has no slices: it is {row.status}")
        with bar("exporting") as show:
            work = _Export(assembly, row, folder, sorted(set(position or ())), with_text=text)
            work.run(force=force, show=show)
    counts = {"written": work.written, "kept": work.kept, "missing": work.missing}
    if wants_json(json_):
        print_json({"sha256": row.sha256, "profile": row.profile, "folder": str(folder), **counts})
    else:
        kept = f", {work.kept:,} were there already" if work.kept else ""
        say(f"{row.name}: {work.written:,} files written to {folder}{kept}.")
    if work.missing:
        note(f"{work.missing:,} slices have no PDF; the index says why.")


@dataclass
class _Export:
    """Writes one document's slices.

    Attributes:
        assembly: The database and the file storage.
        row: The document.
        folder: Where to.
        positions: Only these slices; none: all, and an index.
        with_text: Whether texts are written, too.
        written: How many files were written.
        kept: How many were there already.
        missing: How many slices have no PDF.
    """

    assembly: Assembly
    row: SlicingRow
    folder: Path
    positions: list[int]
    with_text: bool
    written: int = 0
    kept: int = 0
    missing: int = 0
    _there: set[str] = field(default_factory=set)

    def run(self, *, force: bool, show: Show) -> None:
        """Write everything.

        Raises:
            InvalidInput: The folder cannot be used, or holds other files of these names.
            SlicingNotFound: There is no slice at one of the positions.
            SlicingSuperseded: The document was sliced again meanwhile.
            PermanentError: A file in the storage is damaged.
            StorageUnavailable: Database, file storage or folder cannot be used now.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InvalidInput(f"{self.folder}: is a file, not a folder")
        with _disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._compare(force=force)
        done, total = 0, len(self.positions) or self.row.slice_count
        show(done, total)
        for head in self._heads():
            self._write_pdf(head)
            done += 1
            show(done, total)
        for name, content in self._texts():
            self._write(name, [content])
        self._check_run()
        if not self.positions:
            self._write(INDEX, self._index())

    def _heads(self) -> Iterator[SliceHead]:
        slices = self.assembly.slicing.slices
        for position in self.positions:
            found = slices.page(self.row, after=position - 1, limit=1)
            if not found or found[0].position != position:
                raise SlicingNotFound(f"no slice {position} of {self.row.name}, which has {self.row.slice_count}")
            yield found[0]
        after = -1
        while not self.positions and (page := slices.page(self.row, after=after, limit=_PAGE)):
            yield from page
            after = page[-1].position

    def _compare(self, *, force: bool) -> None:
        """Find out which files are there already; refuse if one holds something else."""
        others: list[str] = []
        with _disk_errors(self.folder):
            for head in self._heads():
                name = file_name(head, ".pdf")
                if head.file_key is not None and os.path.lexists(self.folder / name):
                    is_same = head.file_sha256 is not None and _digest(self.folder / name) == head.file_sha256
                    (self._there.add if is_same else others.append)(name)
            for name, content in self._texts():
                if os.path.lexists(self.folder / name):
                    is_same = _digest(self.folder / name) == hashlib.sha256(content).hexdigest()
                    (self._there.add if is_same else others.append)(name)
            if not self.positions and os.path.lexists(self.folder / INDEX):
                digest = hashlib.sha256()
                for chunk in self._index():
                    digest.update(chunk)
                is_same = _digest(self.folder / INDEX) == digest.hexdigest()
                (self._there.add if is_same else others.append)(INDEX)
        if others and not force:
            more = f" and {len(others) - _NAMED_AT_MOST:,} more" if len(others) > _NAMED_AT_MOST else ""
            names = ", ".join(others[:_NAMED_AT_MOST])
            raise InvalidInput(f"{self.folder} holds something else as {names}{more}: --force writes over it")

    def _write_pdf(self, head: SliceHead) -> None:
        if head.file_key is None:
            self.missing += 1
            return
        try:
            self._write(file_name(head, ".pdf"), self._pdf(head))
        except FileMissing:
            self._check_run()  # says so where the files have gone with the run that made them
            raise

    def _pdf(self, head: SliceHead) -> Iterator[bytes]:
        """Yield a slice's PDF; fail at the end if it is not what was stored, so that nothing of it is kept."""
        digest = hashlib.sha256()
        for chunk in self.assembly.files.read(head.file_key or ""):
            digest.update(chunk)
            yield chunk
        if head.file_sha256 is not None and digest.hexdigest() != head.file_sha256:
            raise PermanentError(f"the stored PDF of slice {head.position} is damaged: slice the document again")

    def _texts(self) -> Iterator[tuple[str, bytes]]:
        """Yield the names of the files of texts, and what is in them; none where no texts are asked for."""
        slices = self.assembly.slicing.slices
        if not self.with_text:
            return
        found = (slices.get(self.row, each) for each in self.positions) if self.positions else slices.stream(self.row)
        for each in found:
            yield file_name(each, ".txt"), each.full_text.encode("utf-8", "replace")

    def _index(self) -> Iterator[bytes]:
        """Yield the index, which is the same for the same slices: what is in the folder, and what is known of it."""
        from nightmill.cli.output import plain
        from nightmill.cli.slice_output import head_json, summary_json
        from nightmill.slicing.notices import summary_of

        about = summary_json(summary_of(self.row)) | {"run_id": self.row.result_run, "reasons": self.row.reasons}
        about |= {"metadata": self.row.user_metadata}
        opening = json.dumps(about, default=plain, ensure_ascii=False, indent=1)
        yield f'{opening[: opening.rindex("}")].rstrip()},\n "files": ['.encode()
        comma = ""
        for head in self._heads():
            values: dict[str, Any] = head_json(head)
            del values["file_key"]
            values["file"] = file_name(head, ".pdf") if head.file_key is not None else None
            yield f"{comma}\n  {json.dumps(values, default=plain, ensure_ascii=False)}".encode("utf-8", "replace")
            comma = ","
        yield b"\n ]\n}\n"

    def _write(self, name: str, chunks: Iterable[bytes]) -> None:
        if name in self._there:
            self.kept += 1
            return
        with _whole_file(self.folder / name) as target:
            for chunk in chunks:
                target.write(chunk)
        self.written += 1

    def _check_run(self) -> None:
        """Fail if other slices have come into the place of those that are written."""
        present = self.assembly.slicing.slicings.get(self.row.sha256, self.row.profile)
        if present.result_run != self.row.result_run:
            raise SlicingSuperseded(f"{self.row.name} was sliced again meanwhile: export it again with --force")


def file_name(head: Any, suffix: str) -> str:
    """Return what a slice's file is called: its position and its name, in letters that every file system takes."""
    words = unicodedata.normalize("NFKD", head.issue_id or head.name or head.short_description or "slice")
    plain = re.sub(r"[^a-z0-9]+", "-", words.encode("ascii", "ignore").decode().lower())
    return f"{head.position:04d}-{plain[:_LONGEST_NAME].strip('-') or 'slice'}{suffix}"


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to; it appears under its name once it is whole."""
    part = path.with_name(path.name + _PART)
    with _disk_errors(path):
        try:
            with part.open("wb") as target:
                yield target
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageUnavailable
        raise kind(f"{error.filename or path}: {error.strerror}") from error


def _digest(path: Path) -> str | None:
    """Return a file's SHA-256; None where it is no file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

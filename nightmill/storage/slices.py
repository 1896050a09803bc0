"""The slices of documents: stored with the end of a run, read in order, their long texts a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert
from sqlmodel import Session, col, func, select

from nightmill.errors import SlicingNotFound, SlicingSuperseded
from nightmill.storage.columns import storable
from nightmill.storage.slicing_models import SliceRow, SlicingRow

if TYPE_CHECKING:
    from nightmill.storage.engine import Database

_AT_ONCE_ROWS = 200
_AT_ONCE_CHARACTERS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class NewSlice:
    """A slice to be stored; its fields are those of `SliceRow`."""

    position: int
    start_page: int
    end_page: int
    name: str = ""
    issue_id: str = ""
    full_text: str = ""
    short_description: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    issuer: str = ""
    materia: str = ""
    institutions: tuple[str, ...] = ()
    file_key: str | None = None
    file_size: int | None = None
    file_sha256: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class SliceHead:
    """A slice without its text; the other fields are those of `SliceRow`.

    Attributes:
        characters: How long the text is.
    """

    position: int
    name: str
    issue_id: str
    start_page: int
    end_page: int
    short_description: str
    description: str
    tags: list[str]
    issuer: str
    materia: str
    institutions: list[str]
    file_key: str | None
    file_size: int | None
    file_sha256: str | None
    details: dict[str, Any]
    problem: str | None
    characters: int


_CHARACTERS: Any = func.length(SliceRow.full_text)
_COLUMNS: dict[str, Any] = {each.name: getattr(SliceRow, each.name) for each in fields(SliceHead)[:-1]}
_COLUMNS["characters"] = _CHARACTERS


@dataclass(frozen=True)
class SliceRepository:
    """Reads slices. Any thread may use it. What writes them is `SlicingRepository.finish`."""

    database: Database

    def page(self, slicing: SlicingRow, *, after: int = -1, limit: int = 100) -> list[SliceHead]:
        """Return slices without their texts, in their order; `after` goes on after the slice at that position."""
        query = select(*_COLUMNS.values()).where(SliceRow.slicing_key == slicing.key, SliceRow.position > after)
        with self.database.reading() as session:
            rows = session.exec(query.order_by(col(SliceRow.position)).limit(limit))
            return [SliceHead(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def get(self, slicing: SlicingRow, position: int) -> SliceRow:
        """Return a slice with its text.

        Raises:
            SlicingNotFound: There is no slice at this position.
        """
        query = select(SliceRow).where(SliceRow.slicing_key == slicing.key, SliceRow.position == position)
        with self.database.reading() as session:
            row = session.exec(query).first()
        if row is None:
            raise SlicingNotFound(f"no slice {position} of {slicing.sha256[:12]}, which has {slicing.slice_count}")
        return row

    def stream(self, slicing: SlicingRow) -> Iterator[SliceRow]:
        """Yield the slices with their texts, in their order, a few megabytes in memory at a time.

        Raises:
            SlicingSuperseded: Another run has replaced them since `slicing` was read; what came before is to be
                dropped, because the rest belongs to other slices.
        """
        after = -1
        while chunk := self._chunk(slicing, after):
            yield from chunk
            after = chunk[-1].position

    def _chunk(self, slicing: SlicingRow, after: int) -> list[SliceRow]:
        """Return the next slices, all of one moment: as many as make up some megabytes, and at least one."""
        rest = (SliceRow.slicing_key == slicing.key, SliceRow.position > after)
        with self.database.reading() as session:
            present = session.exec(select(SlicingRow.result_run).where(SlicingRow.key == slicing.key)).first()
            if present != slicing.result_run:
                raise SlicingSuperseded(f"{slicing.sha256[:12]} was sliced again while its slices were read")
            lengths = select(SliceRow.position, _CHARACTERS).where(*rest).order_by(col(SliceRow.position))
            last, characters = after, 0
            for position, length in session.exec(lengths.limit(_AT_ONCE_ROWS)):
                characters += length
                if last > after and characters > _AT_ONCE_CHARACTERS:
                    break
                last = position
            query = select(SliceRow).where(*rest, SliceRow.position <= last)
            return list(session.exec(query.order_by(col(SliceRow.position))))


def replace_slices(session: Session, slicing: SlicingRow, slices: Iterable[NewSlice]) -> tuple[int, int]:
    """Put these slices in the place of all earlier ones; return how many they are, and how many have a problem.

    Raises:
        ValueError: Their positions are not 0, 1, 2, …
    """
    connection = session.connection()
    connection.execute(delete(SliceRow).where(col(SliceRow.slicing_key) == slicing.key))
    count = flagged = characters = 0
    waiting: list[dict[str, Any]] = []
    for each in slices:
        if each.position != count:
            raise ValueError(f"slice {count} says that its position is {each.position}")
        waiting.append(_values(slicing, each))
        count, flagged, characters = count + 1, flagged + (each.problem is not None), characters + len(each.full_text)
        if characters > _AT_ONCE_CHARACTERS or len(waiting) == _AT_ONCE_ROWS:
            connection.execute(insert(SliceRow), waiting)
            waiting, characters = [], 0
    if waiting:
        connection.execute(insert(SliceRow), waiting)
    return count, flagged


def _values(slicing: SlicingRow, new: NewSlice) -> dict[str, Any]:
    values = {each.name: getattr(new, each.name) for each in fields(new)}
    lists = {name: _storable(values[name]) for name in ("tags", "institutions", "details")}
    return {"slicing_key": slicing.key, **values, **lists}


def _storable(value: Any) -> Any:
    """Return JSON without what could be stored and never be shown: NULs and halves of surrogate pairs."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(str(name)): _storable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(each) for each in value]
    return value

"""Delete what is not needed any more, from a program."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nightmill.errors import InvalidInput
from nightmill.retention.model import Kind, Pile, Tell
from nightmill.retention.pruning import USUAL, Pruner

if TYPE_CHECKING:
    from nightmill.assembly import Assembly


@dataclass(frozen=True)
class Retention:
    """What goes, and when. From `Nightmill.retention`.

    Attributes:
        assembly: The database and the file storage.
    """

    assembly: Assembly

    async def prune(
        self,
        older_than: timedelta,
        *,
        only: Collection[str] | None = None,
        dry_run: bool = False,
        on_progress: Tell | None = None,
    ) -> list[Pile]:
        """Delete what ended longer ago than that, and return what was deleted.

        What is still open, needs attention or is to be told to somebody stays. It can be interrupted, and two at once
        do no harm. Canceling the call waits for the step that runs.

        Args:
            older_than: A day at least.
            only: Words of `nightmill.retention.model.Kind`, one at least; None: all but `files`.
            dry_run: Delete nothing, and return what would be deleted.
            on_progress: Called with a pile whenever it has grown, from another thread.

        Raises:
            InvalidInput: The age or a kind cannot be used.
            StorageUnavailable: The database or the file storage is away; the same call goes on later.
        """
        pruner, kinds, now = pruner_of(self.assembly), kinds_of(only), datetime.now(UTC)
        tell = on_progress or (lambda _: None)
        if dry_run:
            tally = await asyncio.to_thread(pruner.count, older_than, now=now, kinds=kinds)
        else:
            tally = await asyncio.to_thread(pruner.prune, older_than, now=now, kinds=kinds, tell=tell)
        return list(tally.piles.values())

    async def delete_batch(self, batch_id: str) -> bool:
        """Delete an ended batch's requests, results and files; return False where that was done before.

        What had become of it stays known, and its id stays taken.

        Raises:
            BatchNotFound: There is no such batch.
            BatchConflict: It has not ended, or its handler was not told; the message says what to do.
            StorageUnavailable: The database or the file storage is away; the same call goes on later.
        """
        return await asyncio.to_thread(pruner_of(self.assembly).deleter.delete, batch_id)


def pruner_of(assembly: Assembly) -> Pruner:
    """Return what prunes the database and the file storage."""
    return Pruner(assembly.database, assembly.files)


def kinds_of(words: Collection[str] | None) -> tuple[Kind, ...]:
    """Return the kinds that are named; all but `files` where nobody says which.

    Raises:
        InvalidInput: There is no such kind, or none is named: an empty variable must not mean everything.
    """
    if words is None:
        return USUAL
    known = [kind.value for kind in Kind]
    for word in words:
        if word not in known:
            raise InvalidInput(f"only: {word[:40]!r} is unknown; known are {', '.join(known)}")
    if not words:
        usual = ", ".join(USUAL)
        raise InvalidInput(f"only: names nothing; name some of {', '.join(known)}, or leave it out for {usual}")
    return tuple(Kind(word) for word in words)

"""The providers' common memory and clock: files, batches, their phases and what becomes of each request."""

from __future__ import annotations

import hashlib
import random
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nightmill.sandbox.events import EventSender
from nightmill.sandbox.faults import Fault
from nightmill.sandbox.model import Batch, Lines, Outcome, Phase, StoredFile, ids_sha
from nightmill.sandbox.profile import DAY, Profile

FILE_LIFE = 30 * DAY


class Engine:
    """Everything that the sandbox knows, safe to use from many threads.

    Uploads and results never live in memory: requests stay in files below a temporary folder, results are made from
    them each time they are read.
    """

    def __init__(self, profile: Profile, seed: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.profile = profile
        self.seed = seed
        self.clock = clock
        self.lock = threading.RLock()
        self.files: dict[str, StoredFile] = {}
        self.batches: dict[str, Batch] = {}
        self._events = EventSender(self.lock, self.refresh)
        self._folder: Path | None = None
        self._remove_folder: Callable[[], object] = lambda: None
        self._seen: dict[str, int] = {}

    def spool(self) -> Path:
        """Return the path of a new file that lives as long as the sandbox."""
        with self.lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="nightmill-sandbox-"))
                # also runs at the end of the process, should nobody call reset
                self._remove_folder = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            return self._folder / secrets.token_hex(12)

    def reset(self) -> None:
        """Forget all files and batches."""
        with self.lock:
            self._events.forget()
            self.files.clear()
            self.batches.clear()
            self._seen.clear()
            self._remove_folder()
            self._folder = None

    # files

    def add_file(self, file: StoredFile) -> StoredFile:
        """Keep a file."""
        with self.lock:
            self.files[file.id] = file
        return file

    def file(self, provider: str, file_id: str) -> StoredFile | None:
        """Return a provider's file, unless it is unknown or deleted."""
        with self.lock:
            file = self.files.get(file_id)
            return file if file is not None and file.provider == provider and not file.deleted else None

    def list_files(self, provider: str) -> list[StoredFile]:
        """Return a provider's files, newest first."""
        self.refresh_all()
        with self.lock:
            found = [file for file in self.files.values() if file.provider == provider and not file.deleted]
        return found[::-1]

    # batches

    def open_batch(
        self, batch: Batch, custom_ids: list[str], faults: Iterable[Fault] = (), *, failed: list[bool] | None = None
    ) -> Batch:
        """Let a batch begin.

        Args:
            batch: With its requests read and, if they are wrong, its errors.
            custom_ids: In the order of the requests.
            faults: Those that strike the creation; `hide` and `fail` are obeyed.
            failed: Requests that are wrong in themselves, where the provider takes them nevertheless.
        """
        for fault in faults:
            if fault.action == "hide":
                batch.hidden_until = batch.created_at + fault.seconds
            elif fault.action == "fail":
                words = fault.message or "Your request was rejected."
                batch.errors = [{"code": fault.code or "failed", "line": fault.line, "message": words, "param": None}]
        batch.ids_sha = ids_sha(custom_ids)
        batch.since[Phase.VALIDATING] = batch.created_at
        with self.lock:
            again = self._seen[batch.ids_sha] = self._seen.get(batch.ids_sha, -1) + 1
            # a second batch of the same requests draws its luck anew, or a retry of one failed request could never help
            batch.salt = f"{self.seed}/{batch.ids_sha}/{again}"
            self._draw(batch, custom_ids, failed)
            self.batches[batch.id] = batch
            self._events.watch(batch)
        return batch

    def _draw(self, batch: Batch, custom_ids: list[str], failed: list[bool] | None) -> None:
        profile = batch.profile
        batch.outcomes = bytearray(len(custom_ids))
        always = frozenset(profile.fail_ids)
        if not (always or any(failed or ()) or profile.fail_share or profile.expire_share):
            return
        for index, custom_id in enumerate(custom_ids):
            luck = int.from_bytes(batch.digest(custom_id)[8:], "big") / 2**64
            if custom_id in always or (failed and failed[index]) or luck < profile.fail_share:
                batch.outcomes[index] = Outcome.FAILED
            elif luck < profile.fail_share + profile.expire_share:
                batch.outcomes[index] = Outcome.EXPIRED

    def batch(self, provider: str, batch_id: str, *, poll: bool = False) -> Batch | None:
        """Return a provider's batch as of now, unless it is unknown, deleted or hidden.

        Args:
            provider: Whose batch.
            batch_id: Its id.
            poll: Whether this is a status read, which `Profile.polls_to_finish` counts.
        """
        with self.lock:
            batch = self.batches.get(batch_id)
            if batch is None or batch.provider != provider or batch.deleted or self.clock() < batch.hidden_until:
                return None
            batch.polls += poll
            self.refresh(batch)
            return batch

    def list_batches(self, provider: str) -> list[Batch]:
        """Return a provider's batches, newest first."""
        with self.lock:
            now = self.clock()
            found = [one for one in self.batches.values() if one.provider == provider and not one.deleted]
            found = [one for one in found if now >= one.hidden_until]
            for batch in found:
                if not batch.phase.is_terminal:  # a long list is read page by page, and each page comes through here
                    self.refresh(batch)
        return found[::-1]

    def refresh_all(self) -> None:
        """Bring every batch up to now."""
        with self.lock:
            for batch in self.batches.values():
                self.refresh(batch)

    def refresh(self, batch: Batch) -> None:
        """Let a batch go through every phase whose time has come."""
        with self.lock:
            now = self.clock()
            while (step := self._next(batch, now)) is not None and step[1] <= now:
                phase, at = step
                if phase is Phase.EXPIRED and at < batch.expires_at:
                    batch.done = len(batch.lines)  # all had their turn; those meant to expire did
                self._enter(batch, phase, at)

    def _next(self, batch: Batch, now: float) -> tuple[Phase, float] | None:
        profile = batch.profile
        began = batch.since[batch.phase]
        match batch.phase:
            case Phase.VALIDATING:
                return Phase.FAILED if batch.errors else Phase.IN_PROGRESS, began + profile.validating_for
            case Phase.IN_PROGRESS:
                finish = self._finish_at(batch, began, now)
                if batch.expires_at < finish:
                    return Phase.EXPIRED, batch.expires_at
                never_reached = Outcome.EXPIRED in batch.outcomes and batch.provider != "anthropic"
                return Phase.EXPIRED if never_reached else Phase.FINALIZING, finish
            case Phase.FINALIZING:
                return Phase.COMPLETED, began + profile.finalizing_for
            case Phase.CANCELLING:
                return Phase.CANCELLED, began + profile.cancelling_for
            case _:
                return None

    def _finish_at(self, batch: Batch, began: float, now: float) -> float:
        if batch.profile.polls_to_finish is not None:
            return now if batch.polls >= batch.profile.polls_to_finish else float("inf")
        return float("inf") if batch.profile.finish_after is None else began + batch.profile.finish_after

    def _enter(self, batch: Batch, phase: Phase, at: float) -> None:
        if phase in (Phase.EXPIRED, Phase.CANCELLING, Phase.CANCELLED) and batch.done is None:
            batch.done = self.progress(batch, at)
        batch.phase = phase
        batch.since[phase] = at
        if phase.is_terminal and phase is not Phase.FAILED:
            self._store_results(batch, at)

    def progress(self, batch: Batch, at: float | None = None) -> int:
        """Return how many requests, in input order, the batch is through with."""
        if batch.done is not None:
            return batch.done
        if batch.phase is Phase.VALIDATING:
            return 0
        if batch.phase is not Phase.IN_PROGRESS:
            return len(batch.lines)
        profile = batch.profile
        share = profile.partial_share
        if share is None:
            if profile.polls_to_finish:
                share = batch.polls / profile.polls_to_finish
            elif profile.finish_after:
                elapsed = (self.clock() if at is None else at) - batch.since[Phase.IN_PROGRESS]
                share = elapsed / profile.finish_after
            else:
                share = 0.0
        return int(len(batch.lines) * min(1.0, share))

    def _store_results(self, batch: Batch, at: float) -> None:
        """Give the batch its result files, as OpenAI and Gemini have them; an empty one does not exist."""
        if batch.provider not in ("openai", "google"):
            return
        succeeded = batch.count(Outcome.SUCCEEDED)
        if succeeded or (batch.provider == "google" and batch.count(Outcome.FAILED)):
            batch.output_file_id = self._result_file(batch, "output", at).id
        if succeeded < len(batch.lines) and batch.provider == "openai":
            batch.error_file_id = self._result_file(batch, "error", at).id

    def _result_file(self, batch: Batch, part: str, at: float) -> StoredFile:
        gemini = batch.provider == "google"
        file_id = f"batch-{secrets.token_hex(10)}" if gemini else f"file-{secrets.token_hex(12)}"
        return self.add_file(
            StoredFile(
                id=file_id,
                provider=batch.provider,
                filename=f"{batch.id}_{part}.jsonl",
                purpose="batch_output",
                created_at=at,
                expires_at=at + FILE_LIFE,
                batch_id=batch.id,
                part=part,
            )
        )

    def cancel(self, batch: Batch, *, at_once: bool = False) -> None:
        """Ask for a batch's end; one that has ended stays as it is."""
        with self.lock:
            self.refresh(batch)
            if batch.phase.is_terminal or batch.phase is Phase.CANCELLING:
                return
            if batch.phase is Phase.VALIDATING:
                batch.done = 0
            now = self.clock()
            self._enter(batch, Phase.CANCELLING, now)
            if at_once:
                self._enter(batch, Phase.CANCELLED, now)
            self.refresh(batch)

    def advance(self, batch_id: str, phase: Phase, *, message: str = "", code: str = "") -> Batch:
        """Force a batch into a phase, as an operator at the provider's console might.

        Raises:
            KeyError: There is no such batch.
            ValueError: It has ended already.
        """
        with self.lock:
            batch = self.batches[batch_id]
            self.refresh(batch)
            if batch.phase.is_terminal:
                raise ValueError(f"{batch_id} has ended already: {batch.phase}")
            if phase is Phase.FAILED:
                words = message or "Your request was rejected."
                batch.errors = [{"code": code or "failed", "line": None, "message": words, "param": None}]
            elif phase is Phase.CANCELLED:
                self.cancel(batch, at_once=True)
                return batch
            self._enter(batch, phase, self.clock())
            return batch

    def result_order(self, batch: Batch) -> Iterator[int]:
        """Yield the indexes of all requests in the order in which their results come."""
        if not batch.profile.shuffle:
            return iter(range(len(batch.lines)))
        order = list(range(len(batch.lines)))
        random.Random(batch.salt).shuffle(order)  # noqa: S311 (has to be the same each time)
        return iter(order)


def new_batch(engine: Engine, provider: str, batch_id: str, lines: Lines, key_hash: str, **known: Any) -> Batch:
    """Return a batch under the profile now in force, not yet begun."""
    return Batch(
        id=batch_id,
        provider=provider,
        created_at=engine.clock(),
        profile=engine.profile,
        lines=lines,
        key_hash=key_hash,
        **known,
    )


def hash_key(key: str) -> str:
    """Return a short fingerprint of an API key for the log, which must not hold the key."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]

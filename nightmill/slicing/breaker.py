"""The breaker over a profile's slicer: after some faults in a row nothing is sliced until a canary has passed.

    closed ──(faults)──> open ──(cool-down)──> half_open ──(canary passes)──> closed
       │                  ^ └───────────────────── │ (canary fails: a longer cool-down)
       └──(by hand)──> held_open ──(by hand)──> closed

A canary is a small document whose right answer is known. Only faults of the slicer or its machine count, never those of
documents. A breaker is one row that all workers share. Whoever calls twice, because the answer to the first call was
lost, gets the same answer again and moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from nightmill.contracts import BreakerState, BreakerView, CanaryOutcome, CanaryVerdict
from nightmill.contracts.base import duration_text
from nightmill.storage.breakers import BreakerRepository, Change, NewTransition
from nightmill.storage.slicing_models import SlicerBreakerRow

if TYPE_CHECKING:
    from nightmill.settings.slicing import SlicingSettings

_REMEMBERED = 100  # faults that are kept: as many as `breaker_faults` may be at most
_MAX_REASON = 1_000
_MAX_DOUBLINGS = 20  # more would only be a number too large for a timedelta


@dataclass(frozen=True)
class Breaker:
    """Decides whether a profile's slicer may be started. Any thread and any worker may ask.

    Attributes:
        breakers: The rows.
        settings: How many faults open a breaker, and for how long.
    """

    breakers: BreakerRepository
    settings: SlicingSettings

    def ask(self, profile: str, now: datetime) -> BreakerView:
        """Return whether work has to wait. Nothing is written."""
        del now  # a breaker closes by a canary or by hand, never by time alone
        return _view(self.breakers.get(profile))

    def count_fault(self, profile: str, what: str, now: datetime, *, key: str) -> BreakerView:
        """Count a fault of the slicer; the last of too many in a row opens the breaker.

        Args:
            profile: The profile.
            what: The fault, for people.
            now: The present.
            key: Names the fault, such as `run/step/attempt`. One that is reported again counts no second time, and
                the call that opened the breaker is told so again: without that nobody would watch it.
        """
        row, _ = self.breakers.change(profile, lambda row: self._counted(row, what, now, key))
        return _view(row, tripped=_has_opened(row, key))

    def count_success(self, profile: str, now: datetime) -> None:
        """End the row of faults, where there is one; mostly there is none, and nothing is written."""
        del now

        def decide(row: SlicerBreakerRow) -> Change | None:
            if all(fault["spent"] for fault in row.faults):
                return None
            return Change({"faults": _spent(row.faults)})

        self.breakers.change(profile, decide)

    def due(self, profile: str, now: datetime) -> datetime | None:
        """Return when a canary may close the breaker; while one is tried: when that one is given up for lost.

        None where no canary does so: it is closed, or held open by hand.
        """
        return self._due(self.breakers.get(profile), now)

    def begin_probe(self, profile: str, token: str, now: datetime, lease: timedelta, *, hurry: bool = False) -> bool:
        """Return whether the canary may be tried now; over an open breaker one at a time, after the cool-down.

        Over a breaker that is closed or held open anybody may try one: it says how the slicer is.

        Args:
            profile: The profile.
            token: Names this canary, uniquely; at most 64 characters. Asked again with it, the answer is the same.
            now: The present.
            lease: When the canary is given up for lost, and another one may be tried.
            hurry: Do not wait for the end of the cool-down.
        """

        def decide(row: SlicerBreakerRow) -> Change | None:
            if row.state is BreakerState.HALF_OPEN and row.probe_until is not None and row.probe_until > now:
                is_too_late = row.probe_until > now + lease  # by a clock that was ahead
                return Change({"probe_until": now + lease}) if is_too_late else None
            if row.state not in (BreakerState.OPEN, BreakerState.HALF_OPEN):
                return None
            due = self._due(row, now)
            if row.state is BreakerState.OPEN and not hurry and due is not None and due > now:
                return Change({"probe_at": due}) if due != row.probe_at else None
            return Change({"state": BreakerState.HALF_OPEN, "probe_token": token, "probe_until": now + lease})

        row, _ = self.breakers.change(profile, decide)
        if row.state is BreakerState.HALF_OPEN:
            return row.probe_token == token
        return row.state is not BreakerState.OPEN

    def judge(self, profile: str, token: str, outcome: CanaryOutcome, now: datetime) -> CanaryVerdict:
        """Make of a canary what it means for the breaker, and record it.

        The one that `begin_probe` let through an open breaker closes it, or leaves it open for a cool-down twice as
        long: with 30 s and at most 10 min, canaries are tried 30 s after the opening, then 1, 2, 4, 8, 10, 10, … min
        after the one before has failed. Over a closed breaker one that fails counts as a fault. Over one that is held
        open, or that another canary tries, it is recorded only.
        """

        def decide(row: SlicerBreakerRow) -> Change | None:
            is_probe = row.probe_token == token
            if is_probe and row.probe_until is None:
                return None  # was judged before
            record = _record(outcome, now)
            if row.state is BreakerState.HALF_OPEN and is_probe:
                change = _closed("the canary passed", "canary", row, now) if outcome.passed else self._failed(row, now)
                return Change({**change.columns, **record, "probe_token": token}, change.transition)
            if row.state is BreakerState.CLOSED and not outcome.passed:
                what = f"the canary failed: {outcome.message or 'no reason is known'}"
                counted = self._counted(row, what, now, _canary_key(token))
                if counted is not None:
                    return Change({**counted.columns, **record}, counted.transition)
            return Change(record)

        row, _ = self.breakers.change(profile, decide)
        has_closed = row.state is BreakerState.CLOSED and row.probe_token == token
        is_transition = has_closed or _has_opened(row, _canary_key(token))
        return CanaryVerdict(
            state=row.state,
            try_again_at=self._due(row, now),
            transition=row.transitions if is_transition else None,
            released=has_closed,
        )

    def hold_open(self, profile: str, reason: str, by: str, now: datetime) -> CanaryVerdict:
        """Let nothing be sliced until somebody closes the breaker by hand; one that is held open stays as it is."""

        def decide(row: SlicerBreakerRow) -> Change | None:
            if row.state is BreakerState.HELD_OPEN:
                return None
            columns = _standing(BreakerState.HELD_OPEN, reason, by, row)
            return Change(
                {**columns, "opened_at": row.opened_at or now},
                NewTransition(BreakerState.HELD_OPEN, columns["reason"], by, now),
            )

        row, written = self.breakers.change(profile, decide)
        return CanaryVerdict(state=row.state, transition=None if written is None else row.transitions)

    def close(self, profile: str, reason: str, by: str, now: datetime) -> CanaryVerdict:
        """Let everything be sliced again; one that is closed stays as it is. Parked work is to be told either way."""

        def decide(row: SlicerBreakerRow) -> Change | None:
            return None if row.state is BreakerState.CLOSED else _closed(reason, by, row, now)

        row, written = self.breakers.change(profile, decide)
        transition = None if written is None else row.transitions
        return CanaryVerdict(state=row.state, transition=transition, released=True)

    def _counted(self, row: SlicerBreakerRow, what: str, now: datetime, key: str) -> Change | None:
        """Return what a fault changes: nothing while the breaker is open, or when it was reported before."""
        if row.state is not BreakerState.CLOSED or any(fault["key"] == key for fault in row.faults):
            return None
        fault = {"at": now.isoformat(), "key": key, "spent": False, "opened": None}
        faults = [*row.faults, fault][-_REMEMBERED:]
        window = self.settings.breaker_window
        # The distance counts, so that a fault by a clock that is years ahead does not count for years.
        times = [datetime.fromisoformat(each["at"]) for each in faults if not each["spent"]]
        number = sum(abs(now - at) <= window for at in times)
        if number < self.settings.breaker_faults:
            return Change({"faults": faults})
        faults[-1]["opened"] = row.transitions + 1
        row_of = "1 fault" if number == 1 else f"{number} faults in a row within {duration_text(window)}"
        reason = f"{row_of}, the last: {what}"[:_MAX_REASON]
        columns = _standing(BreakerState.OPEN, reason, "breaker", row)
        opened = {"faults": _spent(faults), "opened_at": now, "probe_at": now + self._cool_down(0)}
        return Change({**columns, **opened}, NewTransition(BreakerState.OPEN, reason, "breaker", now))

    def _failed(self, row: SlicerBreakerRow, now: datetime) -> Change:
        probes = row.probes + 1
        columns = {"probes": probes, "probe_at": now + self._cool_down(probes), "probe_until": None}
        return Change({"state": BreakerState.OPEN, **columns})

    def _cool_down(self, probes: int) -> timedelta:
        """Return how long no canary is tried after so many have failed."""
        doubled: timedelta = self.settings.cool_down * 2 ** min(probes, _MAX_DOUBLINGS)
        return min(doubled, self.settings.longest_cool_down)

    def _due(self, row: SlicerBreakerRow, now: datetime) -> datetime | None:
        if row.state is BreakerState.HALF_OPEN:
            return row.probe_until
        if row.state is not BreakerState.OPEN:
            return None
        return min(row.probe_at or now, now + self.settings.longest_cool_down)  # unless by a clock that was ahead


def _closed(reason: str, by: str, row: SlicerBreakerRow, now: datetime) -> Change:
    columns = _standing(BreakerState.CLOSED, None, by, row)
    return Change(columns, NewTransition(BreakerState.CLOSED, reason[:_MAX_REASON], by, now))


def _standing(state: BreakerState, reason: str | None, by: str, row: SlicerBreakerRow) -> dict[str, Any]:
    """Return the columns of a breaker that has just come to stand so; what was before is over."""
    return {
        "state": state,
        "reason": None if reason is None else reason[:_MAX_REASON],
        "changed_by": by,
        "faults": _spent(row.faults),
        "opened_at": None,
        "probes": 0,
        "probe_at": None,
        "probe_token": None,
        "probe_until": None,
    }


def _spent(faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**fault, "spent": True} for fault in faults]


def _record(outcome: CanaryOutcome, now: datetime) -> Mapping[str, Any]:
    return {
        "canary_at": now,
        "canary_passed": outcome.passed,
        "canary_message": outcome.message,
        "canary_ms": round(outcome.duration / timedelta(milliseconds=1)),
    }


def _canary_key(token: str) -> str:
    return f"canary/{token}"


def _has_opened(row: SlicerBreakerRow, key: str) -> bool:
    """Whether the breaker is open, and this fault has opened it."""
    is_open = row.state in (BreakerState.OPEN, BreakerState.HALF_OPEN)
    return is_open and any(fault["key"] == key and fault["opened"] == row.transitions for fault in row.faults)


def _view(row: SlicerBreakerRow, *, tripped: bool = False) -> BreakerView:
    if row.state is BreakerState.CLOSED:
        return BreakerView()
    by_hand = f"held open by {row.changed_by}: " if row.state is BreakerState.HELD_OPEN else ""
    return BreakerView(is_open=True, reason=f"{by_hand}{row.reason or 'no reason is known'}", tripped=tripped)

"""Operators hear of each transition of a breaker, once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from nightmill.slicing.notices import breaker_notification

if TYPE_CHECKING:
    from nightmill.notify import Notifier
    from nightmill.storage.breakers import BreakerRepository


@dataclass(frozen=True)
class OperatorNotices:
    """Tells operators. Any thread may use it.

    Attributes:
        breakers: Knows what they have not been told.
        notifier: Sends.
    """

    breakers: BreakerRepository
    notifier: Notifier

    def tell(self, profile: str, now: datetime) -> int:
        """Tell of the transitions that nobody was told of, in order; return how many there were.

        At least once, under an id that is the same in every try; never again once a success is recorded.

        Raises:
            NotificationFailed: A channel failed; what was told before that is recorded.
            StorageUnavailable: The database is away.
        """
        untold = self.breakers.untold(profile)
        for transition in untold:
            self.notifier.notify(breaker_notification(transition))
            self.breakers.told(profile, transition.number, now)
        return len(untold)

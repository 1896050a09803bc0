"""How long each kind of call may take and how it is tried again. Used as `**policies.X`.

Every kind has a heartbeat timeout, kept alive by `activities.heartbeats`: a killed worker is noticed after 8 s, not
after the whole start-to-close timeout. Halving it makes a busy machine lose attempts; doubling it costs 8 s per crash.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityConfig

with workflow.unsafe.imports_passed_through():
    from nightmill.contracts import LONGEST_HOST_CALL

if TYPE_CHECKING:
    from nightmill.contracts import CanaryTurn, SlicingTerms

HEARTBEAT = timedelta(seconds=8)

PROVIDER_CALL = ActivityConfig(
    start_to_close_timeout=timedelta(seconds=110),  # an inline Gemini status carries all results
    schedule_to_close_timeout=timedelta(minutes=2),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=5), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=30)
    ),
)
"""One question to a provider: two minutes with its retries, 5, 10, 20, 30 s apart; then the next poll."""

SUBMISSION = ActivityConfig(
    start_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=2), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=30),
        maximum_attempts=5,
    ),
)  # fmt: skip
"""Upload and create: five tries in half a minute, then the workflow waits where a cancel can reach it."""

LONG_FILE_WORK = ActivityConfig(
    start_to_close_timeout=timedelta(hours=4),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=2), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=1),
        maximum_attempts=10,
    ),
)  # fmt: skip
"""Read or write up to a million rows; an attempt goes on where the last one stopped."""

PREPARATION = ActivityConfig(
    start_to_close_timeout=timedelta(hours=4),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=1), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=1)
    ),
)
"""Read the requests and store them: tried until the database takes them, or the input is found bad."""

DATABASE_WRITE = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=2),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=1), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=30)
    ),
)
"""One transaction: tried until the database is there."""

WEBHOOK_CALL = ActivityConfig(
    start_to_close_timeout=timedelta(seconds=60),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=5), backoff_coefficient=3.0, maximum_interval=timedelta(minutes=2),
        maximum_attempts=5,
    ),
)  # fmt: skip
"""Post to the host: 5, 15, 45, 120 s apart, then it needs attention and is tried again at long intervals."""

PAGE_SYNC = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=5), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=1)
    ),
)
"""One attempt at a page: its failures say themselves when to try again and when to give up; what they cannot say,
that a worker died or the database is away, costs no attempt of theirs."""

AUDIT = ActivityConfig(
    start_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=10), backoff_coefficient=3.0, maximum_interval=timedelta(minutes=5),
        maximum_attempts=4,
    ),
)  # fmt: skip
"""List what a provider has: 10, 30, 90 s apart, then the key is reported as one that could not be looked at."""

SWEEPING = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=1), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=30)
    ),
)
"""Choose or start up to some hundred documents: tried until the database, or Temporal, is there."""

RECONCILING = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=5),
    schedule_to_close_timeout=timedelta(minutes=6),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=2), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=30),
        maximum_attempts=8,
    ),
)  # fmt: skip
"""Look at up to a hundred candidates, which stops by itself after three minutes; after two minutes of failures the rest
of the tick goes on without them."""

CRAWLING = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=2), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=1)
    ),
)
"""Look at some pages of a site; what was seen before an attempt died is not looked at again."""

SOURCE_FETCH = ActivityConfig(
    start_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=5), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=5)
    ),
)
"""Bring a PDF of up to a gigabyte into the file storage: tried until both ends are there."""

NOTICE = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=2),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=5), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=5),
        maximum_attempts=12,
    ),
)  # fmt: skip
"""Tell a person: 5, 10, 20, … s and then every 5 min, for half an hour; after that it needs an operator."""

RESULT_WRITE = ActivityConfig(
    start_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=5), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=5),
        maximum_attempts=12,
    ),
)  # fmt: skip
"""Store the slices of a document: half an hour of tries, for a quarter of one was worked for them."""

OPERATOR_NOTICE = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=1),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=2), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=10),
        maximum_attempts=3,
    ),
)  # fmt: skip
"""Tell operators: three tries in seconds, for a slicer waits to be tried; the next check tells what stays untold."""

FILE_CLEAN_UP = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=5), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=5),
        maximum_attempts=8,
    ),
)  # fmt: skip
"""Delete what nobody needs: worth some minutes of tries, never a failed slicing."""

INSPECTION = timedelta(minutes=2)
"""For a look at a PDF, fetching it included."""

AFTER_PROGRAM_FAULT = timedelta(seconds=5)
"""Pause before a program is started once more."""

AFTER_SHUTDOWN = timedelta(seconds=1)
"""Pause before another worker takes what one that shuts down has handed back."""

AFTER_OUTAGE = tuple(timedelta(seconds=s) for s in (5, 10, 20, 40, 80, 160, 300, 300))
"""Pauses before a program is started again whose file storage or database was away: a quarter of an hour in all."""

CANARY_PATIENCE = timedelta(seconds=1)
"""Pause before a canary's turn is asked for again, at least: by a worker's clock that is behind Temporal's it is not
yet due, and to ask without a pause would fill the history."""

HOST_ACTIVITY = ActivityConfig(
    schedule_to_start_timeout=timedelta(minutes=15),
    start_to_close_timeout=LONGEST_HOST_CALL,
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=5), backoff_coefficient=3.0, maximum_interval=timedelta(minutes=2),
        maximum_attempts=5,
    ),
)  # fmt: skip
"""An activity of the host application: an hour to run, a quarter of one to be picked up by its worker."""

AFTER_HANDLER_FAILURE = (timedelta(minutes=10), timedelta(minutes=30), timedelta(hours=1))
"""Pauses before a failing webhook or activity is called again without an operator; the last one repeats."""

HANDLER_PATIENCE = timedelta(minutes=15)
"""How long a handler workflow may run before it is shown as needing attention; it goes on all the same."""

BACK_OFF = (
    timedelta(minutes=1),
    timedelta(minutes=2),
    timedelta(minutes=5),
    timedelta(minutes=10),
    timedelta(minutes=30),
)
"""Pauses before submitting again when the provider is away, full or out of quota; the last one repeats."""

TIGHT = (timedelta(seconds=5), timedelta(seconds=10), timedelta(seconds=20), timedelta(seconds=30))
"""Delays between polls after a cancel was sent; the last one repeats."""

CANCEL_PATIENCE = timedelta(minutes=11)
"""How long a provider may take to cancel at max age; OpenAI documents ten minutes."""

HARVEST_PATIENCE = timedelta(days=7)
"""How long after the deadline results are still asked for. Providers keep them 29 days, Gemini its files 48 h."""


def program(terms: SlicingTerms | CanaryTurn, timeout: timedelta, title: str) -> ActivityConfig:
    """Return the policy of one attempt of a program: in the workers' slots for programs, never tried by Temporal again.

    What a program's failure asks for depends on what failed, so the workflow starts it again. A cancel is waited for:
    the program has ended when the activity has.
    """
    return ActivityConfig(
        task_queue=terms.programs_queue,
        start_to_close_timeout=timeout,
        heartbeat_timeout=terms.heartbeat_timeout,
        retry_policy=RetryPolicy(maximum_attempts=1),
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=title,
    )


def until_breaker_look(looks: int) -> timedelta:
    """Return how long parked work waits before it looks at the breaker by itself; it is told when that closes.

    5 min for two hours, then an hour: after a month it has made 14,000 events of the 51,200 that a history may have.
    """
    return timedelta(minutes=5) if looks < 24 else timedelta(hours=1)


def titled(config: ActivityConfig, title: str) -> ActivityConfig:
    """Return the policy with a title, which the Temporal UI shows in the timeline."""
    return {**config, "summary": title}

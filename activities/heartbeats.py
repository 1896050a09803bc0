"""Heartbeats for every activity, so that the death of a worker is noticed within seconds, whatever it was doing."""

from __future__ import annotations

import asyncio
import inspect
from contextvars import ContextVar
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor


class Pulse:
    """What the next heartbeat of an activity tells."""

    def __init__(self) -> None:
        self.details: tuple[Any, ...] = ()

    def tell(self, details: dict[str, Any]) -> None:
        """Let the next heartbeats carry this; the last one told wins."""
        self.details = (details,)


_PULSE: ContextVar[Pulse | None] = ContextVar("nightmill_pulse", default=None)


def tell(details: dict[str, Any]) -> None:
    """Show progress in the activity's heartbeats, from any thread that runs the activity."""
    pulse = _PULSE.get()
    if pulse is not None:
        pulse.tell(details)


class HeartbeatInterceptor(Interceptor):
    """Beats for every activity that has a heartbeat timeout, four times as often as needed.

    Asynchronous ones hear of a cancel by their heartbeats and run programs that are to end within seconds, so they beat
    every second at least.
    """

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """See `temporalio.worker.Interceptor.intercept_activity`."""
        return _Beating(next)


class _Beating(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        timeout = activity.info().heartbeat_timeout
        if timeout is None:
            return await self.next.execute_activity(input)
        pulse = Pulse()
        token = _PULSE.set(pulse)
        on_loop = inspect.iscoroutinefunction(input.fn)
        every = timeout.total_seconds() / 4
        beats = asyncio.create_task(_beat(pulse, min(every, 1.0) if on_loop else every, on_loop=on_loop))
        try:
            return await self.next.execute_activity(input)
        finally:
            beats.cancel()
            _PULSE.reset(token)


async def _beat(pulse: Pulse, every: float, *, on_loop: bool) -> None:
    while True:
        await asyncio.sleep(every)
        if on_loop:
            activity.heartbeat(*pulse.details)
        else:
            # A plain function's heartbeat hands itself to the event loop and waits, up to 10 s: called there, it would
            # wait for itself, and the whole worker with it.
            await asyncio.to_thread(activity.heartbeat, *pulse.details)

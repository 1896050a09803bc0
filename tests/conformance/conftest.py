"""A sandbox for the providers' own SDKs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from nightmill.sandbox import Profile, Sandbox

Thing = TypeVar("Thing")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox whose batches take a quarter of a second, of which they validate a fifth."""
    with Sandbox(profile=Profile(validating_for=0.05, finish_after=0.2)) as running:
        yield running


@pytest.fixture
def wait() -> Callable[[Callable[[], Thing], Callable[[Thing], bool]], Thing]:
    """Reads something until it is as wanted, or ten seconds have passed."""

    def until(read: Callable[[], Thing], done: Callable[[Thing], bool]) -> Thing:
        deadline = time.monotonic() + 10
        while not done(seen := read()):
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)
        return seen

    return until

"""Fixtures of the tests of activities."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.scenes import playing
from tests.stack import TemporalServer


@pytest.fixture(scope="module")
def scenes(request: pytest.FixtureRequest, temporal_server: TemporalServer) -> Iterator[dict[str, Future[None]]]:
    """The module's tests that are marked `scene`, running side by side."""
    with playing(request, temporal_server) as futures:
        yield futures

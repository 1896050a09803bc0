from datetime import timedelta

import pytest

from nightmill.completions.planning import ENVELOPE_BYTES, plan_parts
from nightmill.errors import InvalidInput
from nightmill.providers.base import Limits


def limits(requests: int, room: int) -> Limits:
    """Return limits with `room` bytes for lines and their separators."""
    most = room + ENVELOPE_BYTES
    return Limits(max_requests=requests, max_bytes=most, max_request_bytes=most, expires_after=timedelta(hours=24))


@pytest.mark.parametrize(
    ("sizes", "requests", "room", "expected"),
    [
        ([], 10, 100, []),
        ([5], 10, 100, [(0, 0, 1, 5)]),
        ([5, 5, 5], 10, 100, [(0, 2, 3, 15)]),
        ([5, 5, 5], 2, 100, [(0, 1, 2, 10), (2, 2, 1, 5)]),
        ([5] * 4, 2, 100, [(0, 1, 2, 10), (2, 3, 2, 10)]),
        ([49, 49], 10, 100, [(0, 1, 2, 98)]),  # with a separator each exactly full
        ([49, 50], 10, 100, [(0, 0, 1, 49), (1, 1, 1, 50)]),
        ([99], 10, 100, [(0, 0, 1, 99)]),
        ([40, 40, 10, 95], 2, 102, [(0, 1, 2, 80), (2, 2, 1, 10), (3, 3, 1, 95)]),
        ([1] * 5_001, 5_000, 10**9, [(0, 4_999, 5_000, 5_000), (5_000, 5_000, 1, 1)]),
    ],
)
def test_requests_are_packed_in_order_as_tightly_as_the_limits_allow(
    sizes: list[int], requests: int, room: int, expected: list[tuple[int, int, int, int]]
) -> None:
    parts = plan_parts(enumerate(sizes), limits(requests, room))
    assert [(part.first, part.last, part.requests, part.bytes) for part in parts] == expected


def test_a_later_round_packs_only_what_belongs_to_it() -> None:
    parts = list(plan_parts([(3, 10), (7, 10), (900, 10)], limits(2, 100)))
    assert [(part.first, part.last, part.requests, part.bytes) for part in parts] == [(3, 7, 2, 20), (900, 900, 1, 10)]


def test_a_request_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"request 1: 101 bytes; a provider batch takes at most 100"):
        list(plan_parts([(0, 1), (1, 101)], limits(10, 100)))

"""Packing requests into provider batches: a pure function from the lines' sizes to ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nightmill.providers.base import Limits

SEPARATOR_BYTES = 1
"""A line end (files) or a comma (Anthropic) for each request."""

ENVELOPE_BYTES = 1_024
"""What surrounds the requests as uploaded: multipart headers and fields, or `{"requests": […]}`; rather too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One provider batch to be: the requests from `first` to `last`, both included.

    Attributes:
        first: `seq` of the first request.
        last: `seq` of the last one.
        requests: How many there are; fewer than `last - first + 1` where a round leaves some out.
        bytes: Sum of their lines' lengths, without separators and envelope.
    """

    first: int
    last: int
    requests: int
    bytes: int


def plan_parts(lines: Iterable[tuple[int, int]], limits: Limits) -> Iterator[Part]:
    """Yield the fewest contiguous parts, in order, that hold all requests and stay within the limits.

    Worked example: at most 2 requests and 100 bytes of lines, sizes 40, 40, 10, 95 make (40, 40), (10), (95).

    Args:
        lines: (`seq`, length of the line in bytes), ordered by `seq`.
        limits: The provider's limits.

    Raises:
        InvalidInput: A single request is over the limit.
    """
    room = limits.max_bytes - ENVELOPE_BYTES
    first = last = requests = total = 0
    for seq, size in lines:
        if size + SEPARATOR_BYTES > room:
            raise InvalidInput(f"request {seq}: {size:,} bytes; a provider batch takes at most {room:,}")
        if requests and (requests == limits.max_requests or total + size + (requests + 1) * SEPARATOR_BYTES > room):
            yield Part(first=first, last=last, requests=requests, bytes=total)
            requests = total = 0
        if not requests:
            first = seq
        last = seq
        requests += 1
        total += size
    if requests:
        yield Part(first=first, last=last, requests=requests, bytes=total)

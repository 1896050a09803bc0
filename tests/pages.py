"""Pages for tests: a text of its own for every number, long enough to be a page's content."""

from __future__ import annotations

from tests.site import Page

_WORDS = ("harbour", "lighthouse", "ferry", "market", "bridge", "museum", "station", "theatre", "library", "garden")


def article(number: int, *, edition: int = 1, clock: str = "12:00", delay: float = 0.0, drip: float = 0.0) -> Page:
    """Return page `number`; another `edition` says something else, another `clock` does not."""
    place = _WORDS[number % len(_WORDS)]
    paragraphs = "".join(
        f"<p>The {place} number {number} has {line + 3} halls, and in the year {1800 + line + edition} the people of "
        f"the town added {line + number + 2} rooms to it, of which {line + edition} are open to visitors today.</p>"
        for line in range(6)
    )
    html = (
        f"<!doctype html><html><head><title>The {place} {number}</title></head><body><nav><a href='/'>Home</a></nav>"
        f"<main><article><h1>The {place} {number}</h1>{paragraphs}</article></main><footer>It is {clock}</footer>"
        "</body></html>"
    )
    return Page(html, delay=delay, drip=drip)

"""robots.txt (RFC 9309): what a host lets us fetch, and how often. Protego judges; here it is kept from harm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin

from protego import Protego

from nightmill.errors import PageBlocked, PageFetchFailed, PageRefused, PageUnavailable

if TYPE_CHECKING:
    from nightmill.documents.fetching import PageFetcher

MAX_ROBOTS = 500 * 1024
"""Bytes of a robots.txt that count: what RFC 9309, section 2.5, asks for at least."""

_MAX_SITEMAPS = 1_000
_MAX_URL = 8_000
# All spellings that Protego takes for a user agent's line, and some more.
_AGENT_LINE = re.compile(r"\s*user(?:-|\s*)agent\s*(?::|\s|$)\s*([^#]*)", re.IGNORECASE)
_OURS, _OTHERS = "ours", "others"


class RobotsRules:
    """What one host's robots.txt says to us.

    Attributes:
        crawl_delay: Seconds between requests that it asks for; None where it does not.
        sitemaps: Sitemaps that it names, as they are written there.
    """

    def __init__(self, rules: Protego) -> None:
        self._rules = rules
        self.crawl_delay: float | None = rules.crawl_delay(_OURS)
        self.sitemaps: tuple[str, ...] = tuple(
            dict.fromkeys(where for where in rules.sitemaps if where.startswith(("http://", "https://", "/")))
        )[:_MAX_SITEMAPS]

    @classmethod
    def read(cls, body: bytes | str | None, user_agent: str = "nightmill") -> Self:
        """Return the rules of a robots.txt, with all allowed where there is none or nothing can be read.

        Args:
            body: The first `MAX_ROBOTS` of it count.
            user_agent: Ours; rules are for its first word before a `/`.
        """
        text = robots_text(body) if isinstance(body, bytes) else (body or "")[:MAX_ROBOTS]
        token = re.split(r"[/\s]", user_agent.strip(), maxsplit=1)[0].lower()
        return cls(Protego.parse("\n".join(_narrowed(line, token) for line in text.splitlines())))

    def allows(self, url: str) -> bool:
        """Return whether we may fetch this address of the host."""
        try:
            return bool(self._rules.can_fetch(url[:_MAX_URL], _OURS))
        except ValueError:  # no address: nothing that is fetched
            return False


@dataclass(frozen=True)
class RobotsAnswer:
    """What a host says when it is asked for its robots.txt.

    Attributes:
        status: Of the last answer.
        body: At most `MAX_ROBOTS` characters without NULs; None where there is none, so that all is allowed.
    """

    status: int
    body: str | None


def fetch_robots(fetcher: PageFetcher, origin_url: str) -> RobotsAnswer:
    """Return the robots.txt of the host of any of its pages.

    As RFC 9309 has it, 4xx means that there is none, and so do more than five redirects. 429 is no such answer: who
    says that asks us to go away for a while (Google reads it as a server error, too: developers.google.com, "How Google
    interprets the robots.txt specification", read 2026-11).

    Raises:
        PageBlocked: The host, or where it redirects to, is not connected to.
        PageFetchFailed: It is out of reach or answers 429 or 5xx; the reason is `robots_unreachable`.
    """
    where = urljoin(origin_url, "/robots.txt")
    try:
        answer = fetcher.fetch_text(where, max_bytes=MAX_ROBOTS, cut=True)
    except PageBlocked:
        raise
    except PageUnavailable as error:
        if error.reason == "redirects":
            return RobotsAnswer(status=310, body=None)  # no status of HTTP: redirects without end
        raise _unreachable(str(error)) from error
    except PageRefused as error:
        raise _unreachable(str(error)) from None
    if answer.status == 429 or answer.status >= 500:
        raise PageFetchFailed(
            f"{where}: status {answer.status}",
            reason="robots_unreachable",
            http_status=answer.status,
            retry_after=answer.retry_after,
            failed_host=answer.host if answer.retry_after is not None else None,
        )
    return RobotsAnswer(answer.status, robots_text(answer.body) if 200 <= answer.status < 300 else None)


def robots_text(body: bytes) -> str:
    """Return a robots.txt as text: UTF-8, without byte order mark and NULs, cut at `MAX_ROBOTS`."""
    return body[:MAX_ROBOTS].decode("utf-8-sig", "replace").replace("\0", "")


def _narrowed(line: str, token: str) -> str:
    """Return the line; one that names a user agent says instead whether it is for us, for others or for all.

    Protego copies each rule for each agent of its group: 250 KB of agents before 250 KB of rules would take hundreds of
    millions of steps. It also takes the begin of our name for ours, and a name with a version for another one.
    """
    agent = _AGENT_LINE.match(line)
    if agent is None:
        return line
    named = agent[1].strip().lower()
    if named == "*":
        return "User-agent: *"
    return f"User-agent: {_OURS if named.partition('/')[0].strip(' *') == token else _OTHERS}"


def _unreachable(message: str) -> PageFetchFailed:
    return PageFetchFailed(message, reason="robots_unreachable")

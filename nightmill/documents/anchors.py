"""Links out of a page, for crawls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urldefrag, urljoin

from lxml import etree

from nightmill.documents.charset import decoded_html
from nightmill.documents.links import MAX_LINK

MAX_PAGE = 3 * 1024 * 1024
"""Bytes of a page that are looked at."""

MAX_LINKS = 10_000
"""Links that are taken from a page."""

MAX_DEPTH = 256
"""Open elements at which the rest of a page no longer counts; libxml2's own bound for trees."""

_MAX_HREFS = 50_000  # looked at: a page may hold nothing but links that do not count
_FED = 64 * 1024
_LINE_ENDS = re.compile(r"[\t\r\n]")
_HTTP = ("http://", "https://")


def links_of(body: bytes, url: str, charset: str | None = None) -> list[str]:
    """Return the http(s) links of an HTML page, absolute, in their order, each once.

    Fragments are dropped except `#!…`. What the page asks robots not to follow is left out: `rel="nofollow"`, and
    everything where `<meta name="robots">` says `nofollow` or `none`.

    It takes about a second at most, whatever the page holds: the elements are taken as they come and none is kept, and
    the page ends for us at `MAX_DEPTH` open ones. Trees take minutes for a tag of 300,000 attributes, and parsers by
    the rules of HTML 5 for open elements that are never closed.

    Args:
        body: The page; the first `MAX_PAGE` bytes count.
        url: Where it is from.
        charset: What the header says of its charset.
    """
    page = decoded_html(body[:MAX_PAGE], charset).encode("utf-8", "replace")
    collector = _Collector()
    parser = etree.HTMLParser(target=collector, encoding="utf-8", no_network=True, huge_tree=False, recover=True)
    try:
        for start in range(0, len(page), _FED):
            parser.feed(page[start : start + _FED])
            if collector.is_full:
                break
        else:
            parser.close()
    except etree.XMLSyntaxError:  # what came until then counts
        pass
    if collector.is_closed_to_robots:
        return []
    base = (_joined(url, collector.base) if collector.base else None) or url
    found: dict[str, None] = {}
    for href in collector.hrefs:
        link = _joined(base, href)
        if link is not None:
            found.setdefault(link)
            if len(found) >= MAX_LINKS:
                break
    return list(found)


class _Collector:
    """Takes the events of the parser."""

    def __init__(self) -> None:
        self.hrefs: dict[str, None] = {}
        self.base: str | None = None
        self.is_closed_to_robots = False
        self._depth = 0

    @property
    def is_full(self) -> bool:
        return self._depth > MAX_DEPTH or len(self.hrefs) >= _MAX_HREFS or self.is_closed_to_robots

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        if tag in {"a", "area"}:
            href = attributes.get("href")
            if href and len(self.hrefs) < _MAX_HREFS and "nofollow" not in attributes.get("rel", "").lower().split():
                self.hrefs.setdefault(href)
        elif tag == "base" and self.base is None:
            self.base = attributes.get("href")
        elif tag == "meta" and attributes.get("name", "").strip().lower() == "robots":
            words = {word.strip() for word in attributes.get("content", "").lower().split(",")}
            self.is_closed_to_robots |= bool(words & {"nofollow", "none"})

    def end(self, _: str) -> None:
        self._depth -= 1

    def close(self) -> None:
        """End; the parser asks for it."""


def _joined(base: str, href: str) -> str | None:
    """Return the absolute address without its fragment, or None where it is none that is fetched."""
    href = _LINE_ENDS.sub("", href).strip()
    if len(href) > MAX_LINK or (href.startswith("#") and not href.startswith("#!")):
        return None
    try:
        link, fragment = urldefrag(urljoin(base, href))
    except ValueError:
        return None
    if fragment.startswith("!"):
        link = f"{link}#{fragment}"
    return link if link.lower().startswith(_HTTP) and len(link) <= MAX_LINK else None

"""Links out of a page, for crawls."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urldefrag, urljoin

from lxml import etree

from nightmill.documents.charset import decoded_html
from nightmill.documents.links import MAX_LINK

MAX_PAGE = 3 * 1024 * 1024
"""Bytes of a page that are looked at."""

MAX_LINKS = 10_000
"""Links that are taken from a page."""

_MAX_ANCHORS = 50_000  # looked at: a page may name one link many times, or nothing but links that do not count
_LINE_ENDS = re.compile(r"[\t\r\n]")
_HTTP = ("http://", "https://")


def links_of(body: bytes, url: str, charset: str | None = None) -> list[str]:
    """Return the http(s) links of an HTML page, absolute, in their order, each once.

    Fragments are dropped except `#!…`. What the page asks robots not to follow is left out: `rel="nofollow"`, and
    everything where `<meta name="robots">` says `nofollow` or `none`.

    It takes less than a second whatever the page holds: libxml2 gives up at 256 nested elements and returns what it has
    seen until then. A parser by the rules of HTML 5 takes minutes for open elements that are never closed, or for a tag
    of 300,000 attributes.

    Args:
        body: The page; the first `MAX_PAGE` bytes count.
        url: Where it is from.
        charset: What the header says of its charset.
    """
    page = decoded_html(body[:MAX_PAGE], charset).encode("utf-8", "replace")
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, huge_tree=False, recover=True)
    try:
        root = etree.fromstring(page, parser) if page.strip() else None
    except etree.XMLSyntaxError:  # nothing in it is an element
        return []
    if root is None or any(_says_nofollow(meta) for meta in root.iter("meta")):
        return []
    base = next((_joined(url, href) for tag in root.iter("base") if (href := tag.get("href"))), None) or url
    found: dict[str, None] = {}
    for href in _hrefs(root):
        link = _joined(base, href)
        if link is not None:
            found.setdefault(link)
            if len(found) >= MAX_LINKS:
                break
    return list(found)


def _hrefs(root: Any) -> Iterator[str]:
    seen: set[str] = set()
    for number, tag in enumerate(root.iter("a", "area")):
        if number >= _MAX_ANCHORS:
            return
        href = tag.get("href")
        if not href or href in seen or "nofollow" in (tag.get("rel") or "").lower().split():
            continue
        seen.add(href)
        yield href


def _says_nofollow(meta: Any) -> bool:
    if (meta.get("name") or "").strip().lower() != "robots":
        return False
    words = {word.strip() for word in (meta.get("content") or "").lower().split(",")}
    return bool(words & {"nofollow", "none"})


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

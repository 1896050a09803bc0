"""Sitemaps (sitemaps.org): XML and plain text, read with bounds, in memory that does not grow with them."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from urllib.parse import urljoin

from lxml import etree

from nightmill.documents.links import MAX_LINK
from nightmill.errors import InvalidInput

# sitemaps.org/protocol.html (read 2026-11): at most 50,000 links and 50 MB, unpacked; the same for an index.
MAX_LINKS = 50_000
MAX_SITEMAP = 50 * 1024 * 1024

_HTTP = ("http://", "https://")
_ROOTS = frozenset({"urlset", "sitemapindex"})
_XML = re.compile(rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\0]*<")
_FED = 64 * 1024


@dataclass(frozen=True)
class Sitemap:
    """What a sitemap names, each once, in its order; at most `MAX_LINKS` in all.

    Attributes:
        links: Pages.
        children: Further sitemaps.
    """

    links: tuple[str, ...] = ()
    children: tuple[str, ...] = ()


def read_sitemap(body: bytes, url: str) -> Sitemap:
    """Return what a sitemap names. Entries that are no http(s) address or too long are passed over.

    Args:
        body: The sitemap, unpacked.
        url: Where it is from: what relative entries are relative to.

    Raises:
        InvalidInput: It is no sitemap, too large, or declares entities.
    """
    if len(body) > MAX_SITEMAP:
        raise InvalidInput(f"sitemap: more than {MAX_SITEMAP:,} bytes")
    return _read_xml(body, url) if _XML.match(body) else _read_text(body)


def _read_xml(body: bytes, url: str) -> Sitemap:
    collector = _Collector(url)
    # Nothing is loaded and no entity is put in; a tree is never built, so that its size is of no account.
    parser = etree.XMLParser(
        target=collector, resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=False
    )
    stream = io.BytesIO(body.lstrip())  # blank lines before the declaration are no XML, but common
    try:
        while not collector.is_full and (piece := stream.read(_FED)):
            parser.feed(piece)
        if not collector.is_full:
            parser.close()
    except etree.XMLSyntaxError as error:
        raise InvalidInput(f"sitemap: not well-formed XML (line {error.lineno})") from None
    return Sitemap(tuple(collector.links), tuple(collector.children))


def _read_text(body: bytes) -> Sitemap:
    lines = (line.strip() for line in body.decode("utf-8-sig", "replace").splitlines())
    entries = [line for line in lines if line]
    links = [line for line in entries if line.startswith(_HTTP) and len(line) <= MAX_LINK]
    if not links or len(links) * 2 < len(entries):
        raise InvalidInput("sitemap: neither XML nor a list of addresses")
    return Sitemap(tuple(dict.fromkeys(links))[:MAX_LINKS])


class _Collector:
    """Takes the events of the parser."""

    def __init__(self, url: str) -> None:
        self.links: dict[str, None] = {}
        self.children: dict[str, None] = {}
        self._url = url
        self._path: list[str] = []
        self._text: list[str] = []
        self._length = 0

    @property
    def is_full(self) -> bool:
        return len(self.links) + len(self.children) >= MAX_LINKS

    def doctype(self, *_: object) -> None:
        """Refuse: no sitemap needs one, and entities are declared there."""
        raise InvalidInput("sitemap: declares a document type")

    def start(self, tag: str, _: object) -> None:
        name = tag.rpartition("}")[2]
        if not self._path and name not in _ROOTS:
            raise InvalidInput(f"sitemap: begins with <{name[:40]}>, not with <urlset> or <sitemapindex>")
        self._path.append(name)
        self._text.clear()
        self._length = 0

    def data(self, text: str) -> None:
        self._length += len(text)
        if self._length <= MAX_LINK * 2:
            self._text.append(text)

    def end(self, _: str) -> None:
        path = tuple(self._path)
        self._path.pop()
        if self.is_full or path not in {("urlset", "url", "loc"), ("sitemapindex", "sitemap", "loc")}:
            return
        try:
            link = urljoin(self._url, "".join(self._text).strip())
        except ValueError:
            return
        if link.startswith(_HTTP) and len(link) <= MAX_LINK and self._text:
            (self.links if path[0] == "urlset" else self.children).setdefault(link)

    def close(self) -> None:
        """End; the parser asks for it."""

"""The texts of an HTML page: its main content in markdown, the same found in another way, and what is visible of it.

Importing this costs half a CPU second and 30 MB, which only the processes that read pages spend.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import html_to_markdown
import lxml.etree
import lxml.html
import trafilatura
from lxml.html import HtmlElement
from resiliparse.extract.html2text import extract_plain_text

from nightmill.documents.boilerplate import drop_boilerplate

SHORT_MAIN = 200
"""Characters; with less main text than this, a page that shows much more is taken whole."""

MUCH_VISIBLE = 1_000
"""And this is much more."""

MANY_ELEMENTS = 15_000
"""A page of more is taken whole: Trafilatura takes some 0.1 ms for an element, html-to-markdown a hundredth of it."""

_OF_HEADS = frozenset(("title", "meta", "link", "base", "script", "style", "noscript", "template"))
_MAX_LINK = 2_000
_HEADINGS = 3  # looked at for what kind of page this is
_WHOLE = html_to_markdown.ConversionOptions(extract_metadata=False, skip_images=True)


@dataclass(frozen=True)
class PageTexts:
    """What was found in a page.

    Attributes:
        main: Main content, in markdown.
        second: The same, plain, found in another way.
        visible: All text without the boilerplate that the page itself names as such.
        title: What the page calls itself.
        headings: Its first headings.
        page_link: The canonical link that it names, absolute.
        has_password: Whether it asks for a password.
        has_scripts: Whether scripts are part of it.
        roots: Ids of elements that are empty.
    """

    main: str
    second: str
    visible: str
    title: str | None
    headings: tuple[str, ...]
    page_link: str | None
    has_password: bool
    has_scripts: bool
    roots: tuple[str, ...]


def texts_of(html: str, *, url: str) -> PageTexts | None:
    """Return the texts of a page; None where nothing of it can be parsed."""
    tree = _parsed(html)
    body = None if tree is None else tree.find("body")
    if tree is None or body is None:
        return None
    title = _line(tree.findtext(".//head/title") or tree.findtext(".//title"))
    page_link = _page_link(tree, url)
    has_password = any((field.get("type") or "").lower() == "password" for field in body.iter("input"))
    has_scripts = tree.find(".//script") is not None
    roots = tuple(e.get("id") or "" for e in body.iterdescendants("div") if e.get("id") and not _words(e))[:20]
    drop_boilerplate(body)
    stripped = lxml.html.tostring(tree, encoding="unicode")
    visible = _visible(stripped)
    main = _main(tree, url) if sum(1 for _ in tree.iter()) <= MANY_ELEMENTS else ""
    if len(main) < SHORT_MAIN and len(visible) > MUCH_VISIBLE:
        main = html_to_markdown.convert(stripped, _WHOLE).content or ""
    return PageTexts(
        main=main or visible,
        second=extract_plain_text(
            stripped, preserve_formatting=True, main_content=True, alt_texts=False, list_bullets=False
        ),
        visible=visible,
        title=title or _line(_words(body.find(".//h1"))),
        headings=_headings(body),
        page_link=page_link,
        has_password=has_password,
        has_scripts=has_scripts,
        roots=roots,
    )


def _parsed(html: str) -> HtmlElement | None:
    # libxml2 stops at 256 levels of nesting, so that what reads the tree afterwards is not led down 20,000 of them.
    parser = lxml.html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        tree = lxml.html.document_fromstring(html.encode("utf-8", "replace"), parser=parser)
    except lxml.etree.LxmlError:
        return None
    if tree.find("body") is None:
        _make_body(tree)
    return tree


def _make_body(tree: HtmlElement) -> None:
    """Give a page without `<body>` one: libxml2 takes elements that it does not know for parts of the head."""
    body = tree.makeelement("body")
    outside = [child for child in tree if child.tag != "head"]
    head = tree.find("head")
    first = (
        next((at for at, child in enumerate(head) if child.tag not in _OF_HEADS), None) if head is not None else None
    )
    inside = [] if head is None or first is None else list(head)[first:]
    body.extend([*inside, *outside])
    tree.append(body)


def _main(tree: HtmlElement, url: str) -> str:
    found = trafilatura.extract(
        tree,
        url=url,
        fast=True,
        output_format="markdown",
        include_comments=False,
        include_links=True,
        include_tables=True,
        favor_recall=True,
        deduplicate=False,
    )
    return found or ""


def _visible(html: str) -> str:
    return extract_plain_text(html, preserve_formatting=False, main_content=False, alt_texts=False, list_bullets=False)


def _headings(body: HtmlElement) -> tuple[str, ...]:
    found: list[str] = []
    for heading in body.iter("h1", "h2"):
        if text := _line(_words(heading)):
            found.append(text)
        if len(found) == _HEADINGS:
            break
    return tuple(found)


def _page_link(tree: HtmlElement, url: str) -> str | None:
    head = tree.find("head")
    if head is None:
        return None
    base = next((e.get("href") for e in head.iter("base") if e.get("href")), "")
    links = {e.get("href") or "" for e in head.iter("link") if "canonical" in (e.get("rel") or "").lower().split()}
    if len(links) != 1:  # none, or two that contradict each other
        return None
    try:
        link = urljoin(urljoin(url, base.strip()), links.pop().strip())
        parts = urlsplit(link)
    except ValueError:
        return None
    fits = parts.scheme in {"http", "https"} and parts.hostname and len(link) <= _MAX_LINK and link.isprintable()
    return link if fits else None


def _words(element: HtmlElement | None) -> str:
    return "" if element is None else " ".join("".join(element.itertext()).split())


def _line(text: str | None) -> str | None:
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split()) or None if text else None

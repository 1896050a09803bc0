"""Takes out of a page what surrounds its content, so far as the page itself says so by elements, roles and class names.

What reads the content afterwards has rules of its own and finds boilerplate that nobody named; but these rules hang on
what surrounds the content, and let a footer's clock or a list of related pages through when the rest is short. Of 120
pages with such noise in `div`s of telling class names, two of three fingerprints changed without this step and none
with it (bench/d1_fingerprint.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from lxml.html import HtmlElement

_NEVER_CONTENT = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "select",
        "option",
        "input",
        "textarea",
        "dialog",
        "svg",
        "canvas",
        "iframe",
        "object",
        "embed",
        "relative-time",
        "time-ago",
    ]
)
_ROLES = frozenset(
    ["navigation", "search", "dialog", "alertdialog", "contentinfo", "menu", "menubar", "toolbar", "timer"]
)
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_NAMED = frozenset(
    ["div", "section", "aside", "ul", "ol", "dl", "p", "span", "header", "form", "table", "nav", "small", "time", "a"]
)
_RENAMED = {"aside": "div", "button": "span", "header": "div"}
_AUTHORED = frozenset(["main", "article", "blockquote", "figure"])


@dataclass(frozen=True)
class _Kind:
    """What elements are called that are boilerplate if they also look like it.

    Attributes:
        names: Words, or words joined by `-`, of class names and ids.
        longest: Characters of text at most.
        links: Share of the text that is within links, at least.
        clicks: Whether there must be something to click.
    """

    names: frozenset[str]
    longest: int
    links: float = 0.0
    clicks: bool = False


def _kind(names: str, longest: int, *, links: float = 0.0, clicks: bool = False) -> _Kind:
    return _Kind(frozenset(names.split()), longest, links, clicks)


# A restaurant's `menu` and a section about `cookies` are content: hence the conditions.
_KINDS = (
    _kind("cookie cookies consent gdpr ccpa onetrust cookiebot didomi usercentrics", 4_000, clicks=True),
    _kind(
        "nav navbar navigation topnav sidenav subnav navmenu menu topmenu mainmenu submenu breadcrumb breadcrumbs "
        "pagination pager sidebar sphinxsidebar toc-tree skip skiplink skip-link",
        20_000,
        links=0.6,
    ),
    _kind(
        "related recommend recommended recommendation recommendations trending popular most-read read-next also-like "
        "more-stories more-articles see-also you-may-like",
        5_000,
        links=0.4,
    ),
    _kind("footer sitefooter pagefooter colophon contentinfo copyright", 5_000),
    _kind("newsletter subscribe advert adverts advertisement ads sponsored promo", 800),
    _kind("share sharing sharethis social addtoany", 300),
    _kind("comments comment-list disqus", 20_000, clicks=True),
    _kind("timeago time-ago relative-time views view-count viewcount page-views likes like-count", 60),
)
_OF_PARTS = frozenset(
    [
        "card",
        "table",
        "panel",
        "modal",
        "article",
        "quote",
        "blockquote",
        "figure",
        "has",
        "with",
        "without",
        "no",
        "show",
        "hide",
        "is",
    ]
)
_WORDS = re.compile(r"[a-z]+|[A-Z][a-z]*|[A-Z]+")
_LONGEST_SHARE = 0.4
"""Of the page's text, that is taken for boilerplate by its name at most: `has-sidebar` may be around all of it."""

_SPAN_DIGITS = 2
_SHORT = 200
"""Characters; so little may be more than that share of a short page."""

_GROUPS = {name: kind for kind in _KINDS for name in kind.names}


def drop_boilerplate(body: HtmlElement) -> None:
    """Take what surrounds the content out of `body`, in place."""
    for element in list(body.iterdescendants()):
        if not isinstance(element.tag, str) or element.tag in _NEVER_CONTENT:
            _drop(element)
    _drop_named(body)
    for element in list(body.iterdescendants()):
        if _surrounds(element):
            _drop(element)
        elif element.tag in {"aside", "button"}:
            _make_plain(element)
        # Folded answers are content, though they are hidden until somebody clicks.
        element.attrib.pop("hidden", None)
        element.attrib.pop("aria-hidden", None)
        # A cell over 999,999,999 columns is as many cells in markdown.
        for name in ("colspan", "rowspan"):
            if len(element.get(name, "")) > _SPAN_DIGITS:
                del element.attrib[name]
    _unname_openings(body)


def _make_plain(element: HtmlElement) -> None:
    """Let nothing about an element that was found to be content suggest to others that it is not."""
    element.tag = _RENAMED.get(element.tag, element.tag)
    for name in ("class", "id", "role"):
        element.attrib.pop(name, None)


def _unname_openings(body: HtmlElement) -> None:
    """Make the head of an article, with its title and what it says first, no longer look like the head of a site."""
    for element in list(body.iterdescendants("header", "div")):
        if element.tag == "header" or "header" in _names(element):
            sentences = [
                text for text in element.iter("p") if len(_text(text).split()) >= 4 and _link_share(text) < 0.5
            ]
            if sentences and element.find(".//h1") is not None:
                _make_plain(element)


def _drop_named(body: HtmlElement) -> None:
    sizes = _text_sizes(body)
    most = _LONGEST_SHARE * sizes[body]
    dropped: set[HtmlElement] = set()
    for element in list(body.iterdescendants(*_NAMED)):
        kind = _kind_of(element)
        if kind is None or any(above in dropped for above in element.iterancestors()):
            continue
        size = sizes[element]
        if size > kind.longest or (size > most and size > _SHORT and not kind.clicks):
            continue
        if _looks_like(element, kind) and not _is_authored_section(element):
            _drop(element)
            dropped.add(element)
        else:
            _make_plain(element)


def _surrounds(element: HtmlElement) -> bool:
    tag = element.tag
    if tag == "nav" or (element.get("role") or "").lower() in _ROLES:
        return True
    if tag == "button":  # questions of folded answers are buttons, too
        text = _text(element)
        return not ("?" in text or len(text) > 30 or any(above.tag in _HEADINGS for above in element.iterancestors()))
    if tag == "footer":
        return not any(above.tag in {"blockquote", "figure"} for above in element.iterancestors())
    if tag == "aside":  # a note within an article is content, a column beside it is not
        within = any(above.tag in _AUTHORED for above in element.iterancestors())
        return not within or _link_share(element) >= 0.5
    if tag == "header":
        within = any(above.tag in _AUTHORED for above in element.iterancestors())
        return not within and element.find(".//h1") is None
    return False


def _kind_of(element: HtmlElement) -> _Kind | None:
    for name in _names(element):
        words = [word.lower() for word in _WORDS.findall(name[:200])]
        if not words or words[0] in _OF_PARTS:
            continue
        for candidate in _joined(words):
            if candidate in _GROUPS:
                return _GROUPS[candidate]
    return None


def _names(element: HtmlElement) -> list[str]:
    return f"{element.get('class') or ''} {element.get('id') or ''}".split()[:40]


def _joined(words: list[str]) -> Iterable[str]:
    yield from words
    yield from (f"{first}-{second}" for first, second in pairwise(words))


def _is_authored_section(element: HtmlElement) -> bool:
    """Whether the id is made of the heading, as generators of documentation do: a text about navigation is a text."""
    name = "".join(_WORDS.findall((element.get("id") or "").title())).lower()
    if not name:
        return False
    for child in element:
        if child.tag in _HEADINGS:
            return name in re.sub(r"[^a-z]+", "", _text(child).lower())
    return False


def _looks_like(element: HtmlElement, kind: _Kind) -> bool:
    if element.find(".//h1") is not None or element.find(".//main") is not None:
        return False
    if kind.clicks and element.find(".//button") is None and element.find(".//a") is None:
        return False
    return _link_share(element) >= kind.links


def _link_share(element: HtmlElement) -> float:
    whole = len(_text(element))
    linked = len(_text(element)) if element.tag == "a" else sum(len(_text(link)) for link in element.iter("a"))
    return linked / whole if whole else 1.0


def _text(element: HtmlElement) -> str:
    return " ".join("".join(element.itertext()).split())


def _text_sizes(body: HtmlElement) -> dict[HtmlElement, int]:
    """Return the characters of text within each element, in one pass from the leaves up."""
    sizes: dict[HtmlElement, int] = {}
    for element in reversed(list(body.iter())):
        own = len((element.text or "").strip()) if isinstance(element.tag, str) else 0
        sizes[element] = own + sum(sizes[child] + len((child.tail or "").strip()) for child in element)
    return sizes


def _drop(element: HtmlElement) -> None:
    """Remove an element, but not the text that follows it."""
    above = element.getparent()
    if above is None:
        return
    if element.tail:
        before = element.getprevious()
        if before is None:
            above.text = f"{above.text or ''} {element.tail}"
        else:
            before.tail = f"{before.tail or ''} {element.tail}"
    above.remove(element)

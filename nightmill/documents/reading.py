"""What a page says: content, title, canonical link and fingerprint, or why there is no content.

A pure function of the page's bytes. It runs in a process of its own (`nightmill.documents.extractor`), for what it
calls may take minutes, or gigabytes, for a page that was made for that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nightmill.documents.charset import decoded_html
from nightmill.documents.fingerprint import fingerprint, words_of_markdown
from nightmill.documents.verdicts import refuse_pages_without_content
from nightmill.errors import PageEmpty

if TYPE_CHECKING:
    from nightmill.documents.texts import PageTexts

SourceType = Literal["html", "text", "markdown"]

_MARKDOWN = frozenset({"text/markdown", "text/x-markdown"})
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_FIRST_HEADING = re.compile(r"^#{1,2}[ \t]+(\S.*)$", re.MULTILINE)
_MAX_TITLE = 1_000


@dataclass(frozen=True)
class Reading:
    """What a page says.

    Attributes:
        content: Its main content, in markdown; the first part, where it is longer than asked for.
        length: Characters of the whole of it.
        fingerprint: Of the whole of it.
        title: What the page calls itself, in one line.
        page_link: What it says its canonical link is, absolute.
        source_type: What it is made of.
    """

    content: str
    length: int
    fingerprint: str
    title: str | None = None
    page_link: str | None = None
    source_type: SourceType = "html"

    @property
    def cut(self) -> bool:
        """Whether the content is not all of it."""
        return self.length > len(self.content)


def source_type_of(media_type: str) -> SourceType:
    """Return what a media type is read as; anything that is neither HTML nor markdown as plain text."""
    if media_type in _HTML:
        return "html"
    return "markdown" if media_type in _MARKDOWN else "text"


def read_page(body: bytes, *, media_type: str, charset: str | None, url: str, max_content: int) -> Reading:
    """Return what a page says.

    Args:
        body: The page, without content encoding.
        media_type: `text/html`, `application/xhtml+xml`, `text/markdown`, or anything else for plain text.
        charset: As the header says, if it does.
        url: Where the page was found; its links are relative to it.
        max_content: Characters of content that are returned at most.

    Raises:
        PageEmpty: Without its boilerplate there is nothing, or scripts would have to fill it.
        PageNotFound: The page says that there is no such page.
        PageAccessDenied: The page asks to log in, or to prove that one is a person.
    """
    text = decoded_html(body, charset)
    kind = source_type_of(media_type)
    if kind != "html":
        return _of_text(text, kind, max_content)
    from nightmill.documents.texts import texts_of

    page = texts_of(text, url=url)
    if page is None:
        raise PageEmpty("nothing of the page can be parsed", reason="blank")
    refuse_pages_without_content(page)
    return _of_html(page, max_content)


def _of_html(page: PageTexts, max_content: int) -> Reading:
    content = _storable(page.main)
    return Reading(
        content=content[:max_content],
        length=len(content),
        fingerprint=fingerprint(page.main, page.second),
        title=page.title and page.title[:_MAX_TITLE],
        page_link=page.page_link,
    )


def _of_text(text: str, kind: SourceType, max_content: int) -> Reading:
    content = _storable(text)
    if not content:
        raise PageEmpty("there is no text", reason="blank")
    heading = _FIRST_HEADING.search(content[:10_000]) if kind == "markdown" else None
    return Reading(
        content=content[:max_content],
        length=len(content),
        fingerprint=fingerprint(content, words_of_markdown(content) if kind == "markdown" else content),
        title=" ".join(heading[1].split())[:_MAX_TITLE] if heading else None,
        source_type=kind,
    )


def _storable(text: str) -> str:
    """Return text without control characters and lone surrogates, which databases refuse and terminals obey."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if text.isprintable():
        return text
    return text.translate(_NOT_STORABLE)


_NOT_STORABLE = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0xD800, 0xE000)])

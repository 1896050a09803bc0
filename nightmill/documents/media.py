"""What kind of thing a body is: by its header, and by its first bytes where the header says nothing or lies."""

from __future__ import annotations

import codecs
import re

# Servers say these of files that they know nothing of.
_UNTOLD = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/unknown", "unknown/unknown"})
_PDF_TYPES = frozenset({"application/pdf", "application/x-pdf"})
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,60}/[a-z0-9!#$&^_.+-]{1,60}")
_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([A-Za-z0-9._:+-]{1,40})", re.IGNORECASE)
_WIDE_MARKS = (codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF32_LE)
_WIDE_CHARSETS = ("utf-16", "utf16", "utf-32", "utf32", "ucs-2", "iso-10646-ucs-2", "unicode")
_HTML = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|title|meta|link|script|style|h1|div|p|table|a|br|iframe|font|b)[\s/>]",
    re.IGNORECASE,
)
# Bytes that no text has (mimesniff.spec.whatwg.org, "binary data byte", read 2026-11), escape excepted for ISO-2022-JP.
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


def read_content_type(header: str) -> tuple[str, str | None]:
    """Return media type and charset of a `Content-Type` header, in lower case; the type is `""` where there is none."""
    media_type = re.split("[;,]", header, maxsplit=1)[0].strip().lower()
    charset = _CHARSET.search(header)
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else "", charset[1].lower() if charset else None


def media_type_of(announced: str, start: bytes, charset: str | None) -> str | None:
    """Return the media type, `pdf` for every PDF.

    Args:
        announced: What the header says.
        start: The first bytes; with none it is judged by the header alone, and None if that does not suffice.
        charset: What the header says.
    """
    if announced in _PDF_TYPES:
        return "pdf"
    if announced not in _UNTOLD and not announced.startswith("text/") and announced != "application/xhtml+xml":
        return announced
    if not start:
        return None
    if start.startswith(b"%PDF-"):
        return "pdf"
    wide = start.startswith(_WIDE_MARKS) or (charset or "").startswith(_WIDE_CHARSETS)  # every other byte is a NUL
    if announced not in _UNTOLD:
        return announced if wide or b"\0" not in start else "application/octet-stream"
    if _BINARY.search(start) and not wide:
        return "application/octet-stream"
    return "text/html" if _HTML.match(_after_comments(start)) else "text/plain"


def _after_comments(start: bytes) -> bytes:
    """Return what follows the byte order mark, white space, comments and the XML declaration."""
    rest = start.removeprefix(codecs.BOM_UTF8).lstrip()
    while rest.startswith((b"<!--", b"<?xml")):
        end = b"-->" if rest.startswith(b"<!--") else b"?>"
        rest = rest.partition(end)[2].lstrip()
    return rest

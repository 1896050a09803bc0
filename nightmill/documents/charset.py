"""Bytes of a page to text: byte order mark, then the header, then what the page says, then detection."""

from __future__ import annotations

import charset_normalizer
from w3lib.encoding import html_body_declared_encoding, read_bom, resolve_encoding, to_unicode

# Detection looks at this much. Its cost grows with the text, its answer hardly gets better.
_DETECTED = 32 * 1024
_DEFAULT = "cp1252"  # what browsers take for a page that says nothing and looks like nothing

# Python's codecs that are no charset of the web. Some decode to bytes, `undefined` always raises, `punycode` takes
# quadratic time; a site may name any of them.
_NO_CHARSETS = frozenset(
    {
        "idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "utf-7", "base64", "bz2", "hex",
        "quopri", "rot-13", "rot13", "uu", "zlib", "mbcs", "oem",
    }
)  # fmt: skip


def decoded_html(body: bytes, charset_of_header: str | None) -> str:
    """Return the text of a page; what its charset cannot express comes out as U+FFFD. NULs are dropped.

    Args:
        body: As it came, without content encoding.
        charset_of_header: The `charset` of `Content-Type`; an unknown one counts as none.
    """
    encoding, mark = read_bom(body)
    if encoding is None or mark is None:
        encoding, mark = _named(charset_of_header) or _declared(body) or _detected(body) or _DEFAULT, b""
    return to_unicode(body[len(mark) :], encoding).replace("\0", "")  # NULs: no database takes them


def _named(label: str | None) -> str | None:
    """Return Python's name of a charset, by the aliases that browsers know."""
    name = resolve_encoding(label) if label and "\0" not in label else None
    return None if name is None or name in _NO_CHARSETS else name


def _declared(body: bytes) -> str | None:
    """Return the charset that the page itself names in the first 4 KiB."""
    name = _named(html_body_declared_encoding(body))
    # Who could read it as single bytes knows better (html.spec.whatwg.org, "prescan a byte stream", read 2026-11).
    return "utf-8" if name is not None and name.startswith(("utf-16", "utf-32")) else name


def _detected(body: bytes) -> str | None:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        # A body that was cut is UTF-8 up to its last character.
        if error.start >= len(body) - 3 and error.reason == "unexpected end of data":
            return "utf-8"
    else:
        return "iso2022_jp" if b"\x1b$B" in body or b"\x1b$@" in body else "utf-8"
    best = charset_normalizer.from_bytes(_informative(body), enable_fallback=False).best()
    return None if best is None else _named(best.encoding)


def _informative(body: bytes) -> bytes:
    """Return the part around the first byte that is no ASCII: markup says nothing of the charset."""
    first = next((at for at in range(0, len(body), 1024) if not body[at : at + 1024].isascii()), 0)
    return body[first : first + _DETECTED]

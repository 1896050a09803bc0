"""Links as users give them, and the one spelling by which two of them are the same page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import idna

from nightmill.errors import InvalidInput

# The canonical link is part of an index, and PostgreSQL takes 2,704 bytes for a key of its B-trees.
MAX_LINK = 2_000
"""Characters of a link at most, also of a canonical one."""

PORTS = {"http": 80, "https": 443}
"""The schemes that are fetched, and their default ports."""

# What campaigns add to a link; the page is the same without.
_TRACKING = frozenset({"gclid", "fbclid", "msclkid", "mc_eid"})
_TRACKING_PREFIX = "utm_"
_INDEX_PAGES = frozenset({"/", "/index.html", "/index.htm", "/index.php"})

_CREDENTIALS = re.compile(r"//[^/?#]*@")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_HOST = re.compile(r"(?!.{254})[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEEDS_ESCAPE = re.compile(r"%(?![0-9A-F]{2})|[^!$%&'()*+,\-./0-9:;=?@A-Z_a-z~]")


@dataclass(frozen=True)
class Link:
    """An address of a page.

    Attributes:
        external: As the user gave it.
        canonical: The same for all spellings of one address; at most `MAX_LINK` ASCII characters.
        host: `name:port`, in lower case, the port always there: the key of politeness.
    """

    external: str
    canonical: str
    host: str


def read_link(text: str) -> Link:
    """Return the link that `text` is.

    Canonical means: scheme and host in lower case, the name in its ASCII form, no default port, no `.` and `..`,
    escapes in upper case and only where needed, no tracking parameters, and no fragment except `#!…`, by which some
    sites name pages. The query keeps its order and the path its slash at the end, because some sites mind.

    `w3lib` and `url-normalize` do most of this, but both sort the query; so it is done here, on `urllib` and `idna`.

    Raises:
        InvalidInput: It is no http(s) address, holds a user or password, or is too long.
    """
    external = text.strip()
    if len(external) > MAX_LINK:
        raise InvalidInput(f"link: longer than {MAX_LINK:,} characters")
    if not external.lower().startswith(("http://", "https://")):
        _refuse(external, "a link begins with http:// or https://")
    try:
        parts = urlsplit(_UNPRINTABLE.sub(lambda found: f"%{ord(found[0]):02X}", external))
        port = parts.port
    except ValueError:
        _refuse(external, "not a valid address")
    if "@" in parts.netloc:
        raise InvalidInput("link: an address must not hold a user or a password")  # which is not repeated here
    if port == 0 or "\\" in parts.netloc:
        _refuse(external, "not a valid address")
    scheme = parts.scheme
    name = _host_name(parts, external)
    shown_port = "" if port is None or port == PORTS[scheme] else f":{port}"
    canonical = f"{scheme}://{name}{shown_port}{_path(parts.path)}{_query(parts.query)}"
    if parts.fragment.startswith("!"):
        canonical += f"#{_escaped(parts.fragment)}"
    if len(canonical) > MAX_LINK:
        raise InvalidInput(f"link: longer than {MAX_LINK:,} characters once it is percent-encoded")
    return Link(external=external, canonical=canonical, host=f"{name}:{port or PORTS[scheme]}")


def is_pdf(link: Link) -> bool:
    """Return whether the path ends in `.pdf`; what the server says of the content decides all the same."""
    return unquote(urlsplit(link.canonical).path).lower().endswith(".pdf")


def is_home(link: Link) -> bool:
    """Return whether this is the first page of its site."""
    parts = urlsplit(link.canonical)
    return parts.path.lower() in _INDEX_PAGES and not parts.query and not parts.fragment


def same_site(one: Link, other: Link) -> bool:
    """Return whether two links are of one host, be it with `www.` or without, by http or by https."""
    return _site(one) == _site(other)


def _site(link: Link) -> tuple[str, int | None]:
    parts = urlsplit(link.canonical)
    return (parts.hostname or "").removeprefix("www."), parts.port


def _host_name(parts: SplitResult, external: str) -> str:
    try:
        name = unquote(parts.hostname or "", errors="strict").lower()
        if parts.netloc.startswith("["):
            return f"[{IPv6Address(name)}]" if "%" not in name else _refuse(external, "not a valid address")
        name = name.removesuffix(".")
        if not name.isascii():
            name = idna.encode(name, uts46=True, transitional=False).decode()
        elif "xn--" in name:
            idna.decode(name)
    except (ValueError, UnicodeError):  # idna's errors are UnicodeErrors
        _refuse(external, "not a valid host name")
    if not _HOST.fullmatch(name):
        _refuse(external, "not a valid host name")
    return name


def _path(path: str) -> str:
    """Return the path without `.` and `..` (RFC 3986, section 5.2.4), escaped."""
    kept: list[str] = []
    segments = _escaped(path).split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def _query(query: str) -> str:
    kept = "&".join(part for part in query.split("&") if not _is_tracking(part))
    return f"?{_escaped(kept)}" if kept else ""


def _is_tracking(part: str) -> bool:
    name = unquote(part.partition("=")[0]).lower()
    return name in _TRACKING or name.startswith(_TRACKING_PREFIX)


def _escaped(text: str) -> str:
    """Return the text with every escape that is needed and no other, in upper case (RFC 3986, section 6.2.2)."""
    text = _ESCAPE.sub(_shortest, text)
    return _NEEDS_ESCAPE.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace")), text
    )


def _shortest(escape: re.Match[str]) -> str:
    char = chr(int(escape[1], 16))
    return char if char in _UNRESERVED else escape[0].upper()


def _refuse(external: str, why: str) -> NoReturn:
    shown = _CREDENTIALS.sub("//", "".join(char if char.isprintable() else "?" for char in external))[:80]
    raise InvalidInput(f"link {shown!r}: {why}")

"""URLs that mean an address inside, in every spelling that some parser somewhere understands."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_network

from AntiSSRF import IPAddressRanges
from ssrfguard import DEFAULT_DENIED

# Of each block that is not public one address or more, the metadata services of clouds first.
INNER4 = {
    "169.254.169.254": "link-local", "169.254.170.2": "link-local", "100.100.100.200": "metadata",
    "192.0.0.192": "metadata", "168.63.129.16": "metadata", "127.0.0.1": "loopback", "127.8.8.8": "loopback",
    "0.0.0.0": "this host", "0.1.2.3": "this network", "10.0.0.1": "private", "10.255.255.254": "private",
    "172.16.0.1": "private", "172.31.255.254": "private", "192.168.1.1": "private", "100.64.0.1": "shared",
    "192.0.0.8": "reserved", "192.0.2.1": "documentation", "198.51.100.7": "documentation",
    "203.0.113.9": "documentation", "198.18.0.1": "benchmark", "192.88.99.1": "6to4 relay", "192.31.196.1": "AS112",
    "192.175.48.1": "AS112", "192.52.193.1": "AMT", "240.0.0.1": "reserved", "255.255.255.255": "broadcast",
    "224.0.0.1": "multicast", "239.255.255.250": "multicast",
}  # fmt: skip
INNER6 = {
    "::1": "loopback", "::": "this host", "fc00::1": "private", "fd00::1": "private", "fd00:ec2::254": "metadata",
    "fd20:ce::254": "metadata", "fd00:c1::a9fe:a9fe": "metadata", "fec0::1": "site-local",
    "2001:db8::1": "documentation", "3fff::1": "documentation", "2001:2::1": "benchmark", "2001:20::1": "ORCHID",
    "2001::1": "Teredo", "2002:808:808::1": "6to4", "2620:4f:8000::1": "AS112", "100::1": "discard",
    "5f00::1": "segment routing", "64:ff9b:1::1": "NAT64", "4000::1": "not given out", "ff02::1": "multicast",
}  # fmt: skip

_DOTS = "。．｡"  # noqa: RUF001 - IDNA reads all three as a full stop (RFC 3490, 3.1)
_DIGITS = ["０１２３４５６７８９", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗", "⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९"]  # noqa: RUF001
_PUBLIC = "entry.sites.example"


def _short(address: int, parts: int, write: str) -> str:
    """Write the address as `inet_aton` takes it: the last of fewer than four parts holds all that is left."""
    octets = list(address.to_bytes(4, "big"))
    head = octets[: parts - 1]
    return ".".join(write.format(part) for part in [*head, int.from_bytes(bytes(octets[parts - 1 :]), "big")])


def ipv4_hosts(text: str) -> Iterator[str]:
    """Spell one IPv4 address: radixes, short forms, other digits and dots, and IPv6 addresses that hold it."""
    address = int(IPv4Address(text))
    octets = address.to_bytes(4, "big")
    for parts in (1, 2, 3, 4):
        for write in ("{}", "0{:o}", "0x{:x}", "0X{:X}", "0x{:08x}", "00000{:o}"):
            yield _short(address, parts, write)
    yield ".".join(
        write.format(octet) for write, octet in zip(("0x{:x}", "0{:o}", "{}", "0x{:X}"), octets, strict=True)
    )
    yield ".".join(write.format(octet) for write, octet in zip(("{}", "{}", "0{:o}", "0x{:x}"), octets, strict=True))
    yield str(address + 2**32)
    yield ".".join(str(octet + 256) for octet in octets)
    for dots in (".", "..", "%2e", "%00", "%20"):
        yield text + dots
    for dot in (*_DOTS, "%2e", "%2E", "%252e", "%e3%80%82"):
        yield text.replace(".", dot)
    yield "".join(f"%{ord(character):02x}" for character in text)
    for digits in _DIGITS:
        yield text.translate(str.maketrans("0123456789", digits))
    yield "".join("⓪①②③④⑤⑥⑦⑧⑨"[int(character)] if character.isdigit() else character for character in text)
    high, low = octets[:2].hex(), octets[2:].hex()
    for prefix in (
        "::ffff:",
        "::FFFF:",
        "::ffff:0:",
        "::",
        "64:ff9b::",
        "64:ff9b:1::",
        "0:0:0:0:0:ffff:",
        "fe80::5efe:",
    ):
        yield f"[{prefix}{high}:{low}]"
        yield f"[{prefix}{text}]"
    yield f"[2002:{high}:{low}::]"
    yield f"[2002:{high}:{low}::{high}:{low}]"
    hidden = (~address & 0xFFFF_FFFF).to_bytes(4, "big")  # Teredo inverts the client's address: RFC 4380, 4
    yield f"[2001:0:{high}:{low}:0:0:{hidden[:2].hex()}:{hidden[2:].hex()}]"
    yield f"[2606:4700::5efe:{high}:{low}]"
    yield f"[2606:4700::200:5efe:{text}]"
    yield f"[::ffff:{text}%251]"
    yield f"[{text}]"


def padded_hosts(text: str) -> Iterator[str]:
    """Spell one IPv4 address with zeros before its numbers, which most parsers read as octal: another address."""
    for parts in (1, 2, 3, 4):
        yield _short(int(IPv4Address(text)), parts, "{:04}")


def ipv6_hosts(text: str) -> Iterator[str]:
    """Spell one IPv6 address: long, upper case, with its end as IPv4, with a scope, with percent signs."""
    address = IPv6Address(text)
    groups = address.exploded.split(":")
    tail = IPv4Address(int(address) & 0xFFFF_FFFF)
    for spelled in (
        text,
        text.upper(),
        address.exploded,
        ":".join(str(int(group, 16)) if group == "0000" else group for group in groups),
        f"{':'.join(groups[:6])}:{tail}",
    ):
        yield f"[{spelled}]"
        yield f"[{spelled}%251]"
        yield f"[{spelled}%1]"
        yield f"[{spelled}%25lo]"
        yield f"[{spelled}]."
    yield f"%5b{text}%5d"
    yield text
    yield "".join(f"%{ord(character):02x}" for character in f"[{text}]")


def host_urls(host: str) -> Iterator[str]:
    """Put a host where some parser may take it for the host: schemes, ports, user names, slashes, white space."""
    path = "/latest/meta-data/"
    for scheme in ("http", "https", "HTTP", "ftp", "gopher", "dict", "ws", "jar:http", "view-source:http"):
        yield f"{scheme}://{host}{path}"
    for port in ("0", "22", "25", "6379", "8080", "65535", "080", "", "65616", "-80", "８０"):  # noqa: RUF001
        yield f"http://{host}:{port}{path}"
    for before in (
        f"{_PUBLIC}@", f"{_PUBLIC}:80@", f"user:{_PUBLIC}@", f"{_PUBLIC}%40", f"{_PUBLIC}\\@", f"{_PUBLIC}#@", "@@",
        "@", f"{_PUBLIC}%00@", f"{_PUBLIC} @", f"{_PUBLIC}:80#@", f"{_PUBLIC}\t@", "", " ", "\t", "/", "//", "\\",
        "\\\\", "%09",
    ):  # fmt: skip
        yield f"http://{before}{host}{path}"
    for after in (f"@{_PUBLIC}:x", "#", "?", "\\", f"\\@{_PUBLIC}", f"#@{_PUBLIC}", "\t", "%0d%0a", "%23", ";"):
        yield f"http://{host}{after}{path}"
    for text in (
        "http:{}{}",
        "http:/{}{}",
        "http:\\\\{}{}",
        "//{}{}",
        "\\\\{}{}",
        "{}{}",
        "http:///{}{}",
        " http://{}{}",
    ):
        yield text.format(host, path)


def direct() -> list[str]:
    """Return every vector once: all spellings of all addresses, and the tricks with the URL around some hosts."""
    found = [f"http://{host}/" for text in INNER4 for host in ipv4_hosts(text)]
    found += [f"http://{host}/" for text in INNER4 for host in padded_hosts(text)]
    found += [f"http://{host}/" for text in INNER6 for host in ipv6_hosts(text)]
    for host in (
        "127.0.0.1",
        "169.254.169.254",
        "2130706433",
        "[::1]",
        "[::ffff:a9fe:a9fe]",
        "localhost",
        "inner4.example",
    ):
        found += host_urls(host)
    for name in ("localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "ip6-localhost", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ"):
        found += [f"http://{name}/", f"https://{name}/"]
    return list(dict.fromkeys(found))


def octal_meanings() -> set[str]:
    """Return the public addresses that padded spellings mean to the system's parser, and so may be spoken to."""
    meant = set()
    for host in (host for text in INNER4 for host in padded_hosts(text)):
        with suppress(OSError):  # an 8 or a 9 is no octal digit
            meant.add(IPv4Address(socket.inet_aton(host)))
    return {str(address) for address in meant if address.is_global and not address.is_multicast} - INNER4.keys()


def of_tables() -> list[str]:
    """Return the two ends and the middle of each block that either of two other tables refuses."""
    refused = {block.network for block in DEFAULT_DENIED.blocks if block.reach.name == "DENIED"}
    refused |= {ip_network(text) for text in IPAddressRanges.recommended_latest}
    ends = dict.fromkeys(
        address
        for block in sorted(refused, key=str)
        for address in (block[0], block[-1], block[block.num_addresses // 2])
    )
    return [f"http://[{address}]/" if address.version == 6 else f"http://{address}/" for address in ends]


def named() -> dict[str, str]:
    """Return names of the lab that lead inside, each with its one address; link-local ones too."""
    inner = [*INNER4, *INNER6, "fe80::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2606:4700::5efe:7f00:1"]
    return {f"inner{number}.example": address for number, address in enumerate(inner)}

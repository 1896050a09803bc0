"""Our table of addresses beside two that others keep: we refuse all that either of them refuses."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from AntiSSRF import IPAddressRanges
from ssrfguard import DEFAULT_DENIED

from nightmill.web import addresses
from nightmill.web.addresses import refusal_reason

MICROSOFT = [ip_network(text) for text in IPAddressRanges.recommended_latest]

# What we alone refuse, by the reason we give, and why. Whatever else we alone refuse is a mistake of ours.
STRICTER = {
    "not an ordinary IPv6 address",  # outside 2000::/3, all that IANA has given out: RFC 4291, iana.org (read 2026-11)
    "an IPv4 address in disguise",  # ISATAP's interface ids, which lie in any prefix: RFC 5214
}


def sample(size: int) -> list[IPv4Address | IPv6Address]:
    """Both sides of every edge of all three tables, then addresses at random; the same in every run."""
    rng = random.Random(20261122)
    blocks = {block.network for block in DEFAULT_DENIED.blocks} | set(MICROSOFT)
    blocks |= {network for network, _ in [*addresses._NEVER, *addresses._PRIVATE]}
    found: set[IPv4Address | IPv6Address] = set()
    for block in sorted(blocks, key=str):
        make, beyond = type(block[0]), 2**block.max_prefixlen
        first, last = int(block[0]), int(block[-1])
        near = [edge + step for edge in (first, last) for step in range(-4, 5)]
        found |= {make(value) for value in near if 0 <= value < beyond}
        found |= {make(rng.randint(first, last)) for _ in range(50)}
    for wrap in (
        0xFFFF << 32,
        0,
        0x64_FF9B << 96,
        0x2606_4700 << 96 | 0x5EFE << 32,
    ):  # mapped, compatible, NAT64, ISATAP
        found |= {IPv6Address(wrap | rng.getrandbits(32)) for _ in range(200)}
    while len(found) < size:
        found |= {IPv4Address(rng.getrandbits(32)) for _ in range(10)}
        found |= {IPv6Address(0x2 << 124 | rng.getrandbits(124)) for _ in range(7)}  # most of 2000::/3
        found.add(IPv6Address(rng.getrandbits(128)))
    return sorted(found, key=lambda address: (address.version, int(address)))


@pytest.mark.parametrize("size", [20_000, pytest.param(125_000, marks=pytest.mark.slow)])
def test_whatever_another_table_refuses_we_refuse_and_we_alone_refuse_only_what_is_listed(size: int) -> None:
    too_wide, too_narrow, passed = [], {}, 0
    for address in sample(size):
        reason = refusal_reason(str(address))
        theirs = DEFAULT_DENIED.classify(address).blocked
        theirs = theirs or any(address in block for block in MICROSOFT if block.version == address.version)
        passed += reason is None
        if theirs and reason is None:
            too_wide.append(address)
        elif reason is not None and not theirs and reason not in STRICTER:
            too_narrow[address] = reason
    assert too_wide == []
    assert too_narrow == {}
    assert passed > size / 2

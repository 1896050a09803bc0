from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from nightmill.web.addresses import refusal_reason

# One or more of every kind, with what hides behind it where that is not plain.
REFUSED = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.0.1",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "232.1.2.3",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::2",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1%1",
    "fec0::1",
    "fc00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "2001::1",
    "2001:0:53aa:64c:0:5efe:7f00:1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "3fff::1",
    "2620:4f:8000::1",
    "100::1",
    "100:0:0:1::1",
    "5f00::1",
    "ff02::1",
    "ff0e::1",
    "4000::1",
    "fe00::1",
    "2606:4700::5efe:7f00:1",
    "2606:4700::200:5efe:a00:1",
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.9.9.9",
    "93.184.216.34",
    "104.16.132.229",
    "140.82.112.3",
    "151.101.1.69",
    "172.15.255.255",
    "172.32.0.1",
    "172.217.16.142",
    "11.0.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.255.255",
    "169.255.0.1",
    "168.63.129.15",
    "168.63.129.17",
    "192.0.1.1",
    "192.0.3.1",
    "192.167.255.255",
    "192.169.0.1",
    "198.17.255.255",
    "198.20.0.1",
    "198.51.99.1",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.254",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "2a00:1450:4001:80b::200e",
    "2620:fe::fe",
    "2600::",
    "2001:200::1",
    "2003::1",
    "3ffe::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_ordinary_and_public_is_refused(address: str) -> None:
    assert refusal_reason(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_ordinary_public_address_is_not_refused(address: str) -> None:
    assert refusal_reason(address) is None


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "0x7f000001", "2130706433", "127.0.0.01", "1.1.1.1 ", "1.1.1.1/32"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert refusal_reason(text) == "not an address"


def test_private_networks_can_be_opened_but_never_metadata_services() -> None:
    opened = [address for address in REFUSED if refusal_reason(address, allow_private=True) is None]
    assert opened == [
        "127.0.0.1",
        "127.255.255.254",
        "10.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "::1",
        "fc00::1",
        "fd00::1",
    ]


def test_the_table_is_never_wider_than_the_standard_librarys_own_judgement() -> None:
    rng = random.Random(20261122)
    edges = [
        ip_network(text)
        for text in [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "169.254.0.0/16",
            "192.0.0.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "198.18.0.0/15",
            "fc00::/7",
            "fe80::/10",
            "2001::/23",
            "2001:db8::/32",
            "2002::/16",
            "ff00::/8",
            "::/96",
            "64:ff9b::/96",
        ]
    ]
    addresses: list[IPv4Address | IPv6Address] = [IPv4Address(rng.getrandbits(32)) for _ in range(10_000)]
    addresses += [IPv6Address(rng.getrandbits(128)) for _ in range(5_000)]
    addresses += [IPv6Address(0x2 << 124 | rng.getrandbits(124)) for _ in range(5_000)]
    for network in edges:
        first, last = int(network[0]), int(network[-1])
        make = type(network[0])
        size = 2**network.max_prefixlen
        addresses += [make(value) for value in (first - 1, first, last, last + 1) if 0 <= value < size]
        addresses += [make(rng.randint(first, last)) for _ in range(200)]
    passed = [address for address in addresses if refusal_reason(str(address)) is None]
    assert len(passed) > 5_000
    wrong = [address for address in passed if not ip_address(address).is_global or address.is_multicast]
    assert wrong == []

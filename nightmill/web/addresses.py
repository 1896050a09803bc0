"""Which addresses a user's URL may lead to. Our own table: `ipaddress.is_global` passes many that it should not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

# Opened by `allow_private` alone, for webhooks inside a company's network.
_PRIVATE = [
    (ip_network("10.0.0.0/8"), "private"),
    (ip_network("172.16.0.0/12"), "private"),
    (ip_network("192.168.0.0/16"), "private"),
    (ip_network("100.64.0.0/10"), "shared by a carrier"),
    (ip_network("127.0.0.0/8"), "loopback"),
    (ip_network("::1/128"), "loopback"),
    (ip_network("fc00::/7"), "private"),
]

# IANA's special-purpose registries (read 2026-11) and what clouds put into other blocks. Never connected to.
_NEVER = [
    (ip_network("169.254.0.0/16"), "link-local, where clouds keep credentials"),
    (ip_network("168.63.129.16/32"), "Azure's platform service"),
    (ip_network("100.100.100.200/32"), "Alibaba's metadata service"),
    (ip_network("fd00:ec2::/32"), "Amazon's metadata service"),
    (ip_network("fd20:ce::/32"), "Google's metadata service"),
    (ip_network("fd00:c1::/32"), "Oracle's metadata service"),
    (ip_network("0.0.0.0/8"), "this network"),
    (ip_network("192.0.0.0/24"), "reserved"),  # Oracle's metadata 192.0.0.192 too
    (ip_network("192.0.2.0/24"), "documentation"),
    (ip_network("192.31.196.0/24"), "reserved"),
    (ip_network("192.52.193.0/24"), "reserved"),
    (ip_network("192.88.99.0/24"), "a 6to4 relay"),
    (ip_network("192.175.48.0/24"), "reserved"),
    (ip_network("198.18.0.0/15"), "a test network"),
    (ip_network("198.51.100.0/24"), "documentation"),
    (ip_network("203.0.113.0/24"), "documentation"),
    (ip_network("224.0.0.0/4"), "multicast"),
    (ip_network("240.0.0.0/4"), "reserved"),
    # Inside 2000::/3, the only block of ordinary IPv6 addresses:
    (ip_network("2001::/23"), "reserved"),  # Teredo, benchmarks, ORCHID, …
    (ip_network("2001:db8::/32"), "documentation"),
    (ip_network("2002::/16"), "6to4, an IPv4 address in disguise"),
    (ip_network("2620:4f:8000::/48"), "reserved"),
    (ip_network("3fff::/20"), "documentation"),
]

# Mapped, translated and NAT64 addresses (::ffff:0:0/96, 64:ff9b::/96, …) all lie outside of it.
_ORDINARY_IPV6 = IPv6Network("2000::/3")
# ISATAP hides an IPv4 address in the interface id 0000:5efe:a.b.c.d or 0200:5efe:a.b.c.d (RFC 5214).
_ISATAP = {0x0000_5EFE, 0x0200_5EFE}


def refusal_reason(address: str, *, allow_private: bool = False) -> str | None:
    """Return why an address is not connected to, or None where it may be.

    Args:
        address: An IPv4 or IPv6 address as text; a scope (`%eth0`) is a reason by itself.
        allow_private: Let private networks and loopback pass; never metadata services and link-local addresses.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return "not an address"
    if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
        return "bound to one interface"
    for network, reason in _NEVER:
        if parsed in network:
            return reason
    for network, reason in _PRIVATE:
        if parsed in network:
            return None if allow_private else reason
    if isinstance(parsed, IPv4Address):
        return None
    if parsed not in _ORDINARY_IPV6:
        return "not an ordinary IPv6 address"
    return "an IPv4 address in disguise" if (int(parsed) >> 32) & 0xFFFF_FFFF in _ISATAP else None

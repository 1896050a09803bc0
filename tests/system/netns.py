"""A network of its own in which every address of the world is this machine, and every packet is seen.

A test with `@in_the_lab` runs in a process inside a new network namespace. There the loopback device is the only one
and all addresses, IPv4 and IPv6, are routed to it as local ones: a packet to any address is really sent, really arrives
and, where the lab serves the port, is answered; and none leaves the namespace, which ends with its process. The
system's resolver is left as it is and asks the lab's name server.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from tests.nightmill.web.certificates import Authority
from tests.system.nameserver import NameServer, addresses

ROOT = Path(__file__).parents[2]
NAME_SERVER = "198.51.100.53"
ENTRY, ENTRY6 = "93.184.216.34", "2606:2800:220:1::1"
_MARK = (NAME_SERVER, 9)  # a packet that tells that all before it have been seen
_LONGEST = 280  # seconds for one test in the lab

# $1 is a folder with the files that the system's resolver reads; what follows is the command.
_SET_UP = """
ip link set lo up
ip route add local default dev lo
ip -6 route add local default dev lo
ip address add fe80::1/64 dev lo
for name in resolv.conf hosts nsswitch.conf; do mount --bind "$1/$name" "/etc/$name"; done
shift
exec "$@"
"""
_FILES = {
    "resolv.conf": f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
    "nsswitch.conf": "hosts: files dns\n",
}

_ALL_PROTOCOLS = 3  # linux/if_ether.h: ETH_P_ALL
_SOL_PACKET, _PACKET_STATISTICS = 263, 6  # linux/if_packet.h
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h
_IPV4, _IPV6, _TCP, _UDP = 0x0800, 0x86DD, 6, 17
_REDIRECT = "/redirect/"

# What the kernel hands to the sniffer, as a classic BPF program of (operation, jump if true, jump if false, operand):
# what is sent (PACKET_OUTGOING is 4; on the loopback device all comes in again), but of TCP only SYN without ACK. All
# packets would be more than Python reads in time.
_FILTER = [
    (0x28, 0, 0, 0xFFFF_F004),  # load the direction
    (0x15, 0, 14, 4),
    (0x28, 0, 0, 0xFFFF_F000),  # load the protocol
    (0x15, 0, 5, 0x0800),
    (0x30, 0, 0, 9),  # IPv4: load what it carries
    (0x15, 0, 9, 6),
    (0xB1, 0, 0, 0),  # X = length of the header
    (0x50, 0, 0, 13),  # load the flags of TCP
    (0x05, 0, 0, 4),
    (0x15, 0, 5, 0x86DD),
    (0x30, 0, 0, 6),  # IPv6: load what it carries
    (0x15, 0, 3, 6),
    (0x30, 0, 0, 53),  # load the flags of TCP
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 128),  # take the first 128 bytes
    (0x06, 0, 0, 0),  # take nothing
]

LabTest = Callable[["Lab"], None]


@dataclass(frozen=True)
class Packet:
    """A TCP connection that is opened (`syn`), a UDP packet (`udp`), or anything else (`other`)."""

    kind: str
    source: str
    target: str
    port: int
    source_port: int = 0


class Sniffer:
    """Keeps what the machine sends, on any device: openings of TCP connections and all that is not TCP."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS))
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _FILTER))
        attach = struct.pack("HP", len(_FILTER), ctypes.addressof(program))  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attach)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024 * 1024)
        with suppress(PermissionError):  # before Linux 5.19 only root of the machine may; then packets may be dropped
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 * 1024 * 1024)
        self._marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._marker.bind(_MARK)  # and never read: what comes to a port that is closed is answered by ICMP
        self._seen: list[Packet] = []
        self._marked = threading.Semaphore(0)
        threading.Thread(target=self._read, name="sniffer", daemon=True).start()

    def taken(self) -> list[Packet]:
        """Return all that was sent since the last call, and forget it.

        Raises:
            AssertionError: The kernel dropped packets before they were read: nothing is proven.
        """
        self._marker.sendto(b"mark", _MARK)
        assert self._marked.acquire(timeout=30), "the sniffer is dead"
        counts = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        assert int.from_bytes(counts[4:], sys.byteorder) == 0, "packets were sent unseen"
        seen, self._seen = self._seen, []
        return seen

    def _read(self) -> None:
        while True:
            packet, (_, protocol, *_) = self._socket.recvfrom(128)
            found = _read_packet(packet, protocol)
            if (found.target, found.port) == _MARK:
                self._marked.release()
            else:
                self._seen.append(found)


def _read_packet(packet: bytes, protocol: int) -> Packet:
    if protocol == _IPV4:
        kind, head = packet[9], 4 * (packet[0] & 15)
        source, target = str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20]))
    elif protocol == _IPV6:
        kind, head = packet[6], 40
        source, target = str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))
    else:
        return Packet("other", "", f"protocol {protocol:#x}", 0)
    from_port, to_port = int.from_bytes(packet[head : head + 2]), int.from_bytes(packet[head + 2 : head + 4])
    if kind in (_TCP, _UDP):
        return Packet("syn" if kind == _TCP else "udp", source, target, to_port, from_port)
    return Packet("other", source, target, kind)


@dataclass
class Site:
    """Answers HTTP on all addresses: with redirects, with pages, and everywhere else with a secret.

    Attributes:
        locations: Redirects, each under its number.
        moved: Redirects by path.
        pages: Media types and bodies by path.
        served: Own address and path of each request.
    """

    locations: list[tuple[int, bytes, str]] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    served: list[tuple[str, str]] = field(default_factory=list)

    def path(self, location: str, status: int = 302, header: str = "Location") -> str:
        """Return the path of a redirect to `location`."""
        self.locations.append((status, location.encode(), header))
        return f"{_REDIRECT}{len(self.locations) - 1}"

    def serve(self, port: int, tls: Authority | None = None) -> None:
        listener = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512, reuse_port=False
        )
        context = tls.server_context("*.sites.example") if tls else None

        def loop() -> None:
            while True:
                peer, _ = listener.accept()
                peer.settimeout(2)
                try:
                    self._answer(context.wrap_socket(peer, server_side=True) if context else peer)
                except OSError:  # a peer that leaves in the middle is no concern of the site's
                    peer.close()

        threading.Thread(target=loop, name=f"site {port}", daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            request = b""
            while b"\r\n\r\n" not in request and (more := peer.recv(65536)):
                request += more
            if not request:
                return
            if request.startswith(b"POST"):  # its body, of one byte; a peer that is not heard out is reset
                peer.recv(1) if request.endswith(b"\r\n\r\n") else None
            path = request.split(b" ", 2)[1].decode("latin-1")
            self.served.append((str(peer.getsockname()[0]).removeprefix("::ffff:"), path))
            status, headers, body = 200, b"Content-Type: text/html\r\n", b"<p>secret</p>"
            if path.removeprefix(_REDIRECT).isdigit():
                status, location, header = self.locations[int(path.removeprefix(_REDIRECT))]
                headers += header.encode() + b": " + location + b"\r\n"
            elif path in self.moved:
                status, headers = 302, b"Location: " + self.moved[path].encode() + b"\r\n"
            elif path in self.pages:
                kind, body = self.pages[path]
                headers = b"Content-Type: " + kind.encode() + b"\r\n"
            peer.sendall(b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body))


@dataclass
class Lab:
    """What a test in the lab has: the wire, the names, the sites, and who certifies them."""

    sniffer: Sniffer
    names: NameServer
    site: Site
    authority: Authority
    public: set[str]

    def publish(self, sites: dict[str, Sequence[str]]) -> None:
        """Let these names lead to these addresses, which count as public from now on."""
        self.names.add({name: [addresses(name, *found, ttl=60)] for name, found in sites.items()})
        self.public.update(address for found in sites.values() for address in found)

    def say(self, text: str) -> None:
        """Let pytest show this, where it shows output."""
        print(text)  # noqa: T201

    def inward(self) -> list[Packet]:
        """Return what was sent since the last look to anything but a public site and the name server.

        What is public is what the test has published: no table of addresses is asked, least of all ours.
        """
        return [packet for packet in self.sniffer.taken() if not self._expected(packet)]

    def _expected(self, packet: Packet) -> bool:
        if packet.kind == "udp":
            ends = (packet.target, packet.port), (packet.source, packet.source_port)
            return (NAME_SERVER, 53) in ends
        return packet.kind == "syn" and packet.target in self.public


@contextmanager
def _lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Sniffer(), NameServer(NAME_SERVER), Site(), Authority(Path(folder)), set())
        lab.names.start()
        lab.site.serve(80)
        lab.site.serve(443, lab.authority)
        lab.publish({"entry.sites.example": [ENTRY]})
        yield lab


def run(module: str, name: str) -> None:
    """Run one test; for the process inside."""
    test: LabTest = getattr(importlib.import_module(module), name).inside
    with _lab() as lab:
        started = time.process_time()
        test(lab)
        lab.say(f"{time.process_time() - started:.1f} s of CPU")


def in_the_lab(test: LabTest) -> Callable[[], None]:
    """Run a test in a network of its own; its output is shown where it fails or pytest runs with `-s`."""

    def outside() -> None:
        code = f"from tests.system.netns import run; run({test.__module__!r}, {test.__name__!r})"
        with tempfile.TemporaryDirectory() as folder:
            for name, text in _FILES.items():
                Path(folder, name).write_text(text)
            shell = [*_namespaces(), "sh", "-ec", _SET_UP, "sh", folder]
            done = subprocess.run(
                [*shell, sys.executable, "-W", "error", "-c", code],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=_LONGEST,
                check=False,
            )
        print(done.stdout[-20_000:])  # noqa: T201 - pytest shows it
        if done.returncode:
            pytest.fail(f"in the lab:\n{done.stderr[-8_000:]}", pytrace=False)

    functools.update_wrapper(outside, test)
    del outside.__wrapped__  # type: ignore[attr-defined]  # pytest would look for a fixture named `lab`
    outside.inside = test  # type: ignore[attr-defined]
    return outside


@functools.cache
def _namespaces() -> tuple[str, ...]:
    """Return how to enter namespaces of one's own here: as an ordinary user, else as root.

    Raises:
        AssertionError: It cannot be done; these tests prove nothing then, and say so.
    """
    said = []
    for way in (("unshare", "--user", "--map-root-user", "--net", "--mount"), ("unshare", "--net", "--mount")):
        try:
            tried = subprocess.run([*way, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            pytest.fail(f"{error.filename} is missing: install util-linux and iproute2", pytrace=False)
        if tried.returncode == 0:
            return way
        said.append(f"{' '.join(way)}: {tried.stderr.strip()}")
    pytest.fail(
        "these tests need a network namespace (user namespaces, or root with CAP_SYS_ADMIN) and the package iproute2\n"
        + "\n".join(said),
        pytrace=False,
    )

"""Not one packet goes inside: what the guard promises, seen on the wire."""

from __future__ import annotations

import itertools
import random
import re
import socket
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from nightmill.errors import NightmillError
from nightmill.web.guard import WEB_PORTS, GuardedClient, guarded_client
from tests.system.nameserver import A, Record, addresses, chain
from tests.system.netns import ENTRY, ENTRY6, Lab, in_the_lab
from tests.system.vectors import INNER4, INNER6, direct, named, octal_meanings, of_tables

# Twenty seconds of work in all; more where others use the machine, too.
pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

# The kernel itself connects to none of these.
_NO_CONNECTIONS = {"broadcast", "multicast"}

# Ordinary sites, many of them one address away from a block that is refused.
_PUBLIC = [
    "1.0.0.1", "1.1.1.1", "8.8.4.4", "8.8.8.8", "9.9.9.9", "11.0.0.1", "13.107.42.14", "23.185.0.3", "31.13.72.36",
    "34.117.59.81", "45.60.22.1", "52.94.236.248", "64.233.160.1", "76.76.21.21", "80.67.169.12", "91.198.174.192",
    "93.184.216.34", "99.84.238.1", "100.63.255.254", "100.128.0.1", "104.16.132.229", "126.255.255.254", "128.0.0.1",
    "130.89.148.77", "140.82.112.3", "151.101.1.69", "168.63.129.15", "168.63.129.17", "169.253.255.254", "169.255.0.1",
    "172.15.255.254", "172.32.0.1", "172.217.16.142", "185.199.108.153", "192.0.1.1", "192.0.3.1", "192.167.255.254",
    "192.169.0.1", "198.17.255.254", "198.20.0.1", "198.51.99.254", "199.232.65.140", "203.0.112.254", "203.0.114.1",
    "223.255.255.254", "2001:200::1", "2001:4860:4860::8888", "2003::1", "2400:cb00:2048::1", "2600:1901::1",
    "2606:4700:4700::1111", "2606:4700:10::6816:1", "2620:fe::fe", "2800:3f0::1", "2a00:1450:4001:80b::200e",
    "2a04:4e42::81", "2c0f:fb50::1", "3ffe::1",
]  # fmt: skip


@contextmanager
def _guarded(lab: Lab, *, allowed_ports: frozenset[int] | None = None) -> Iterator[GuardedClient]:
    """The client as it is shipped: the system's resolver, real connections; here all ports unless told."""
    trusted = lab.authority.client_context()
    with guarded_client(allow_private=False, allowed_ports=allowed_ports, ssl_context=trusted) as client:
        yield client


def _outcome(use: Callable[[], object]) -> str:
    try:
        use()
    except NightmillError as error:
        return type(error).__name__
    return "answered"


def _fetched(client: GuardedClient, url: str) -> str:
    return _outcome(lambda: client.fetch(url, deadline=timedelta(seconds=5)).close())


def _posted(client: GuardedClient, url: str) -> str:
    return _outcome(lambda: client.post(url, headers={}, content=b"x", deadline=timedelta(seconds=5)))


def _connect_unguarded(url: str) -> None:
    """Connect as a lenient program does: it decodes the host, and lets the system read what it means."""
    with suppress(OSError, ValueError):
        parts = urlsplit(url)
        host = unicodedata.normalize("NFKC", unquote(parts.hostname or "")).replace("。", ".").strip("[].")
        family, kind, _, _, where = socket.getaddrinfo(host, parts.port or 80, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as opened:
            opened.setblocking(False)
            opened.connect_ex(where)


def _vectors(lab: Lab) -> list[str]:
    """Return all vectors, those with names of the lab too, and let the lab know the names."""
    names = named()
    lab.names.add({name: [addresses(name, address)] for name, address in names.items()})
    lab.public |= octal_meanings()
    found = [*direct(), *of_tables(), *(f"{scheme}://{name}/" for name in names for scheme in ("http", "https"))]
    assert len(found) >= 2_800
    return found


@in_the_lab
def test_an_unguarded_connection_to_any_kind_of_address_is_seen(lab: Lab) -> None:
    kinds = {**INNER4, **INNER6, "fe80::1%1": "link-local", "::ffff:127.0.0.1": "mapped", "64:ff9b::7f00:1": "NAT64"}
    expected = {"0.0.0.0": "127.0.0.1", "::": "::1", "::ffff:127.0.0.1": "127.0.0.1", "fe80::1%1": "fe80::1"}
    for address, kind in kinds.items():
        _connect_unguarded(f"http://[{address}]/" if ":" in address else f"http://{address}/")
        seen = [(packet.kind, packet.target, packet.port) for packet in lab.inward()]
        assert seen == ([] if kind in _NO_CONNECTIONS else [("syn", expected.get(address, address), 80)]), address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as spoken:
        spoken.sendto(b"?", ("10.0.0.53", 53))
    assert ("udp", "10.0.0.53") in {(packet.kind, packet.target) for packet in lab.inward()}
    assert httpx.get("http://169.254.169.254/latest/", trust_env=False).text == "<p>secret</p>"


@in_the_lab
def test_no_url_leads_inside(lab: Lab) -> None:
    vectors = _vectors(lab)
    for url in vectors:
        _connect_unguarded(url)
    unguarded = lab.inward()
    assert len(unguarded) > 2_000
    assert len({packet.target for packet in unguarded}) > 250
    outcomes: Counter[str] = Counter()
    with _guarded(lab) as client:
        for url in vectors:
            outcomes[_fetched(client, url)] += 1
            outcomes[_posted(client, url)] += 1
    inward = lab.inward()
    assert inward == [], inward[:20]
    lab.say(f"{len(vectors)} vectors, {len(unguarded)} lead inside unguarded: {outcomes}")


@in_the_lab
def test_no_redirect_leads_inside(lab: Lab) -> None:
    vectors = _vectors(lab)
    vectors += [url.removeprefix("http:") for url in vectors[::5] if url.startswith("http://")]
    # Each status from http and from https, in turn; from https less often, as a handshake costs more than all the rest.
    starts = [(status, scheme) for status in (301, 302, 303, 307, 308) for scheme in ("http", "http", "http", "https")]
    entries = []
    for url, (status, scheme) in zip(vectors, itertools.cycle(starts), strict=False):
        entries.append(f"{scheme}://entry.sites.example{lab.site.path(url, status)}")
    with httpx.Client(trust_env=False, follow_redirects=True, timeout=0.2) as unguarded:
        for entry in entries[::10]:
            with suppress(httpx.HTTPError, httpx.InvalidURL, UnicodeError):
                unguarded.get(entry.replace("https:", "http:", 1))
    led = len(lab.inward())
    assert led > len(entries[::10]) / 2
    lab.site.served.clear()
    outcomes: Counter[str] = Counter()
    with _guarded(lab) as client:
        for entry in entries:
            outcomes[_fetched(client, entry)] += 1
        for entry in entries[::10]:
            outcomes["post " + _posted(client, entry)] += 1
    inward = lab.inward()
    assert inward == [], inward[:20]
    paths = {entry.removeprefix("http://").removeprefix("https://").partition("/")[2] for entry in entries}
    assert {path for _, path in lab.site.served} >= {f"/{path}" for path in paths}
    lab.say(f"{len(entries)} redirects; of every tenth {led} lead inside unguarded: {outcomes}")


@in_the_lab
def test_only_a_redirect_is_followed(lab: Lab) -> None:
    inner = "http://169.254.169.254/latest/meta-data/"
    paths = [lab.site.path(inner, status) for status in (200, 201, 202, 203, 300, 304, 305, 306, 309, 400, 404, 503)]
    headers = (
        "Refresh",
        "Content-Location",
        "Link",
        "Alt-Svc",
        "SourceMap",
        "Content-Security-Policy",
        "X-Accel-Redirect",
    )
    paths += [lab.site.path(f"0; url={inner}; <{inner}>; rel=preload", 200, header) for header in headers]
    meta = f'<meta http-equiv="refresh" content="0; url={inner}"><base href="{inner}"><img src="{inner}">'
    lab.site.pages["/meta"] = ("text/html", meta.encode())
    with _guarded(lab) as client:
        for path in [*paths, "/meta"]:
            for scheme in ("http", "https"):
                with suppress(NightmillError):
                    b"".join(client.fetch(f"{scheme}://entry.sites.example{path}"))
    assert lab.inward() == []
    assert len(lab.site.served) == 2 * len(paths) + 2


def _lies(inner: str, number: int) -> dict[str, tuple[int, Sequence[Sequence[Record]]]]:
    """Return names that lead to `inner` now and then or in part, each with how often it is fetched."""
    rng = random.Random(number)
    inner6 = ":" in inner

    def name(kind: str) -> str:
        return f"{kind}{number}.example"

    def one(kind: str, *texts: str) -> list[list[Record]]:
        return [addresses(name(kind), *texts)]

    public = ["93.184.216.34", "1.1.1.1", "8.8.8.8", "9.9.9.9"]
    other = ENTRY if inner6 else ENTRY6
    whims = [addresses(name("whim"), rng.choice([inner, *public, ENTRY6]), ttl=rng.choice([0, 1])) for _ in range(6)]
    return {
        name("flip"): (4, [*one("flip", ENTRY), *one("flip", inner)]),
        name("flop"): (4, [*one("flop", inner), *one("flop", ENTRY)]),
        name("late"): (4, [*one("late", ENTRY) * 3, *one("late", inner)]),
        name("first"): (1, one("first", inner, *public)),
        name("last"): (1, one("last", *public, inner)),
        name("amid"): (1, one("amid", *public[:2], inner, *public[2:])),
        name("family"): (2, one("family", inner, other)),
        name("family-flip"): (4, [*one("family-flip", ENTRY, ENTRY6), *one("family-flip", inner, other)]),
        name("alias"): (1, [chain(name("alias"), 1, inner)]),
        name("aliases"): (1, [chain(name("aliases"), 9, *public, inner)]),
        name("alias-flip"): (4, [chain(name("alias-flip"), 2, ENTRY), chain(name("alias-flip"), 2, inner)]),
        name("whim"): (6, whims),
    }


@in_the_lab
def test_no_name_leads_inside_whatever_it_says_and_however_often_it_changes_its_mind(lab: Lab) -> None:
    lab.publish({"others.sites.example": [ENTRY6, "1.1.1.1", "8.8.8.8", "9.9.9.9"]})
    inner = [address for address, kind in {**INNER4, **INNER6}.items() if kind not in _NO_CONNECTIONS]
    lies = {}
    for number, address in enumerate(inner):
        lies.update(_lies(address, number))
    lab.names.add({name: answers for name, (_, answers) in lies.items()})
    runs = [name for name, (times, _) in lies.items() for _ in range(times)]
    assert len(runs) >= 720
    for name in runs:
        _connect_unguarded(f"http://{name}/")
    unguarded = len(lab.inward())
    assert unguarded > len(runs) / 4
    lab.names.asked.clear()

    outcomes: Counter[tuple[str, str]] = Counter()
    with _guarded(lab) as client:
        for name in runs:
            outcomes[re.split(r"\d", name)[0], _fetched(client, f"http://{name}/")] += 1
        inward = lab.inward()
        assert inward == [], inward[:20]
        # What was judged is what is used: one question a connection, and half of the honest answers were taken.
        assert {lab.names.asked[name, A] for name in lies if name.startswith("flip")} == {4}
        assert outcomes["flip", "answered"] == outcomes["flip", "AddressRefused"] == 2 * len(inner)
        assert outcomes["first", "AddressRefused"] == outcomes["last", "AddressRefused"] == len(inner)

        paths = [lab.site.path(f"http://{name}/", 307) for name in runs[::4]]
        for path in paths:
            _fetched(client, f"http://entry.sites.example{path}")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda name: _posted(client, f"http://{name}/"), runs[1::4]))
    inward = lab.inward()
    assert inward == [], inward[:20]
    answers = Counter(what for _, what in outcomes.elements())
    lab.say(f"{len(runs)} runs, {unguarded} lead inside unguarded: {answers}")


@in_the_lab
def test_a_guard_that_asks_twice_would_be_led_inside(lab: Lab) -> None:
    """The proof that these names would rebind: look up, judge, connect by name."""
    lab.names.add({"twice.example": [addresses("twice.example", ENTRY), addresses("twice.example", "127.0.0.1")]})
    judged = {where[0] for *_, where in socket.getaddrinfo("twice.example", 80, type=socket.SOCK_STREAM)}
    _connect_unguarded("http://twice.example/")
    assert judged == {ENTRY}
    assert [packet.target for packet in lab.inward()] == ["127.0.0.1"]


@in_the_lab
def test_ordinary_sites_are_reached(lab: Lab) -> None:
    sites = {f"site{number}.sites.example": [address] for number, address in enumerate(_PUBLIC)}
    assert len(sites) >= 50
    lab.publish({**sites, "both.sites.example": [ENTRY, ENTRY6]})
    with _guarded(lab, allowed_ports=WEB_PORTS) as client:
        for name in [*sites, "both.sites.example"]:
            for scheme in ("http", "https"):
                assert _fetched(client, f"{scheme}://{name}/") == "answered", name
                assert _posted(client, f"{scheme}://{name}/") == "answered", name
        for address in _PUBLIC:
            host = f"[{address}]" if ":" in address else address
            assert _fetched(client, f"http://{host}/") == "answered", host
    assert {address for address, _ in lab.site.served} >= set(_PUBLIC)


@in_the_lab
def test_no_port_but_the_webs_is_spoken_to(lab: Lab) -> None:
    ports = [*range(1, 1024), 1433, 2049, 2375, 3306, 5432, 6379, 8080, 8443, 9200, 11211, 27017, 65535]
    lab.public.clear()
    with _guarded(lab, allowed_ports=WEB_PORTS) as client:
        for port in ports:
            _fetched(client, f"http://entry.sites.example:{port}/")
    assert {packet.port for packet in lab.inward()} == WEB_PORTS

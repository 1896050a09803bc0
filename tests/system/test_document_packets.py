"""What pages, sitemaps and robots.txt name may be inside; nothing that reads them sends a packet there."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest

from nightmill.documents.extractor import Extractor
from nightmill.documents.fetching import PageFetcher, open_page_client
from nightmill.documents.links import read_link
from nightmill.documents.politeness import Politeness, RobotsKeeper
from nightmill.documents.robots import RobotsRules, fetch_robots
from nightmill.documents.sitemaps import read_sitemap
from nightmill.errors import InvalidInput, NightmillError, PageBlocked
from nightmill.settings import DatabaseSettings, DocumentSettings
from nightmill.storage import schema
from nightmill.storage.engine import open_database
from nightmill.storage.hosts import HostRepository
from tests.system.nameserver import addresses
from tests.system.netns import ENTRY, Lab, in_the_lab
from tests.system.vectors import INNER4, INNER6, direct, named, octal_meanings

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SITE = "http://entry.sites.example"
_QUICK = DocumentSettings(host_delay=timedelta(0), fetch_timeout=timedelta(seconds=5))
_INNER = [f"http://[{text}]/" if ":" in text else f"http://{text}/" for text in {**INNER4, **INNER6}]


@contextmanager
def _fetching(lab: Lab) -> Iterator[PageFetcher]:
    with open_page_client(_QUICK, ssl_context=lab.authority.client_context()) as client:
        yield PageFetcher(client, user_agent=_QUICK.user_agent, fetch_timeout=_QUICK.fetch_timeout, max_body=1_000_000)


def _targets(lab: Lab) -> list[str]:
    names = named()
    lab.names.add({name: [addresses(name, address)] for name, address in names.items()})
    lab.public |= octal_meanings()
    return [*direct(), *(f"http://{name}/" for name in names)]


def _outcome(use: Callable[[], object]) -> str:
    try:
        use()
    except NightmillError as error:
        return type(error).__name__
    return "answered"


@in_the_lab
def test_no_link_of_a_document_leads_inside_however_it_is_made_canonical(lab: Lab) -> None:
    links, refused = [], 0
    for text in _targets(lab):
        try:
            links.append(read_link(text).canonical)
        except InvalidInput:
            refused += 1
    outcomes: Counter[str] = Counter()
    with _fetching(lab) as fetcher:
        for link in dict.fromkeys(links):
            outcomes[_outcome(lambda link=link: fetcher.fetch(link))] += 1
    inward = lab.inward()
    assert inward == [], inward[:20]
    assert outcomes["PageBlocked"] > len(_INNER)
    lab.say(f"{refused} are no link, {outcomes}")


@in_the_lab
def test_no_robots_txt_leads_inside(lab: Lab) -> None:
    targets = _targets(lab)[::7] + _INNER
    outcomes: Counter[str] = Counter()
    with _fetching(lab) as fetcher:
        for target in targets:
            lab.site.moved["/robots.txt"] = target
            outcomes[_outcome(lambda: fetch_robots(fetcher, f"{SITE}/page"))] += 1
        for inner in _INNER:
            with pytest.raises(PageBlocked):
                fetch_robots(fetcher, inner)
        del lab.site.moved["/robots.txt"]
        lines = [
            line for inner in _INNER for line in (f"Sitemap: {inner}sitemap.xml", f"Host: {inner}", f"Allow: {inner}")
        ]
        lab.site.pages["/robots.txt"] = ("text/plain", "\n".join(["User-agent: *", *lines]).encode())
        answer = fetch_robots(fetcher, f"{SITE}/page")
        assert RobotsRules.read(answer.body).allows(f"{SITE}/page")
    inward = lab.inward()
    assert inward == [], inward[:20]
    assert sum(path == "/robots.txt" for _, path in lab.site.served) >= len(targets) + 1
    assert outcomes["PageBlocked"] > len(targets) / 3
    lab.say(str(outcomes))


@in_the_lab
def test_no_visit_asks_an_inner_host_for_its_robots_txt(lab: Lab) -> None:
    with tempfile.TemporaryDirectory() as folder, _fetching(lab) as fetcher:
        database = open_database(f"sqlite:///{Path(folder, 'lab.db')}", DatabaseSettings())
        schema.upgrade(database)
        hosts = HostRepository(database)
        politeness = Politeness(hosts, RobotsKeeper(hosts, fetcher, _QUICK), _QUICK)
        for number, inner in enumerate(_INNER):
            with pytest.raises(PageBlocked), politeness.visit(read_link(inner).host, ticket=None, urgent=True) as visit:
                visit.allow(inner)
            # A redirect in the middle of a visit: its host is judged before it is asked.
            lab.site.moved[f"/page{number}"] = inner
            with (
                pytest.raises(PageBlocked),
                politeness.visit("entry.sites.example:80", ticket=None, urgent=True) as visit,
            ):
                fetcher.fetch(f"{SITE}/page{number}", allowed=visit.allow)
        database.close()
    inward = lab.inward()
    assert inward == [], inward[:20]
    assert {(ENTRY, "/robots.txt"), (ENTRY, "/page0")} <= set(lab.site.served)


def _sitemap(targets: list[str]) -> bytes:
    entries = "".join(f"<url><loc>{escape(target)}</loc></url>" for target in targets if target.isprintable())
    return (
        f'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</urlset>'.encode()
    )


@in_the_lab
def test_no_sitemap_leads_inside(lab: Lab) -> None:
    targets = _targets(lab)
    lab.site.pages["/sitemap.xml"] = ("text/xml", _sitemap(targets))
    inner = "http://127.0.0.1"
    head = f'<?xml version="1.0"?><?xml-stylesheet href="{inner}/style.xsl" type="text/xsl"?>'
    hostile = [
        f'{head}<!DOCTYPE urlset SYSTEM "{inner}/a.dtd"><urlset><url><loc>http://a.example/</loc></url></urlset>',
        f'{head}<!DOCTYPE urlset PUBLIC "-//A//B" "{inner}/a.dtd"><urlset/>',
        f'{head}<!DOCTYPE urlset [<!ENTITY x SYSTEM "{inner}/x">]><urlset><url><loc>&x;</loc></url></urlset>',
        f'{head}<!DOCTYPE urlset [<!ENTITY % x SYSTEM "{inner}/x"> %x;]><urlset/>',
        f'{head}<urlset xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="{inner}/x"/></urlset>',
        f'{head}<urlset xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:schemaLocation="a {inner}/x.xsd"/>',
    ]
    for text in hostile:
        with suppress(InvalidInput):
            read_sitemap(text.encode(), f"{SITE}/sitemap.xml")
    assert lab.inward() == []
    with _fetching(lab) as fetcher:
        found = read_sitemap(fetcher.fetch_text(f"{SITE}/sitemap.xml", max_bytes=1_000_000).body, f"{SITE}/sitemap.xml")
        assert len(found.links) > 2_000
        for link in found.links[::3]:
            _outcome(lambda link=link: fetcher.fetch_text(link, max_bytes=1_000_000))
    inward = lab.inward()
    assert inward == [], inward[:20]


def _page(targets: list[str], inner: str, media_type: str = "text/html") -> bytes:
    doctype = "<!DOCTYPE html>"
    if media_type == "application/xhtml+xml":
        doctype = f"""<?xml version="1.0"?><?xml-stylesheet href="{inner}/x.css"?>
            <!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0//EN" "{inner}/x.dtd" [<!ENTITY x SYSTEM "{inner}/x">]>"""
    names = "".join(f"<p><a href={quoteattr(target)}>More about lighthouses and keepers</a></p>" for target in targets)
    return f"""{doctype}<html manifest="{inner}/m"><head><title>Lighthouses</title>
        <link rel="canonical" href="{inner}/latest/"><link rel="stylesheet" href="{inner}/c">
        <link rel="dns-prefetch preconnect amphtml" href="{inner}/d"><meta property="og:url" content="{inner}/g">
        <meta http-equiv="refresh" content="0; url={inner}/r"><style>@import url({inner}/c)</style></head>
        <body><article>{"<p>The lamp is lit at dusk, and a keeper writes down every ship. &x;</p>" * 20}{names}
        <img src="{inner}/i"><iframe src="{inner}/f"></iframe><script src="{inner}/s"></script><embed src="{inner}/e">
        <object data="{inner}/o"></object><video poster="{inner}/p" src="{inner}/v"></video></article></body></html>
        """.encode("utf-8", "replace")


@in_the_lab
def test_no_page_leads_inside_when_it_is_read_nor_by_its_links(lab: Lab) -> None:
    targets = _targets(lab)
    lab.names.asked.clear()
    with Extractor(1, timedelta(seconds=60), 3_000_000) as extractor, _fetching(lab) as fetcher:
        canonical = []
        for inner in ("http://127.0.0.1", "http://[::1]", "http://169.254.169.254", "http://inner4.example"):
            for media_type in ("text/html", "application/xhtml+xml"):
                body = _page(targets[:300], inner, media_type)
                reading = extractor.read(body, media_type=media_type, charset="utf-8", url=f"{SITE}/page")
                assert "The lamp is lit" in reading.content
                canonical.append(reading.page_link)
        links = extractor.links(_page(targets, "http://127.0.0.1"), url=f"{SITE}/page", charset="utf-8")
        assert lab.inward() == []
        assert not lab.names.asked  # a lookup alone would tell an attacker that, and when, we read the page
        assert len(links) > 1_000
        assert "http://127.0.0.1/latest/" in canonical
        for link in [*filter(None, canonical), *links[::3]]:
            _outcome(lambda link=link: fetcher.fetch(link))
    inward = lab.inward()
    assert inward == [], inward[:20]

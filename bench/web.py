"""What the benchmarks of documents share: a web of many hosts in a process of its own, and documents of its pages.

One server listens on every loopback address, so that each address is a host with a robots.txt and a turn of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bench.system import Child, answer, questions
from nightmill.assembly import Assembly
from nightmill.documents.links import read_link
from nightmill.storage.documents import DocumentFilter, NewDocument

HOSTS_A_NET = 250
PAGES = 20
"""Different pages that the web has; a benchmark asks many hosts for the same ones."""

# `/changed/…` says something else whenever it is told to; `/same/…` has no validators, so that its bytes come each
# time; `/kept/…` has an ETag and answers 304.
KINDS = ("changed", "same", "kept")


class Web:
    """The web server's process, and the addresses of its pages."""

    def __init__(self, log: Path, paragraphs: int = 70) -> None:
        self.child = Child("bench.web", str(paragraphs), environment={}, log=log)
        self.version = 0

    def url(self, kind: str, number: int, net: int) -> str:
        """Return a page on a host of its own: each net has 62,500 of them."""
        host = f"127.{net}.{number // HOSTS_A_NET}.{number % HOSTS_A_NET + 1}"
        return f"http://{host}:{self.child.hello}/{kind}/{number % PAGES}"

    def change(self) -> None:
        """Let the pages that change say something else, in one paragraph of seventy."""
        self.version += 1
        self.child.ask(self.version)


@contextmanager
def web(folder: Path, paragraphs: int = 70) -> Iterator[Web]:
    found = Web(folder / "web.log", paragraphs)
    try:
        yield found
    finally:
        found.child.stop()


def add_documents(assembly: Assembly, account: str, urls: Sequence[str], plan: str = "daily") -> list[str]:
    """Make an account with documents of these pages, and return their ids in this order."""
    now = datetime.now(UTC)
    assembly.accounts.add(account, plan, auto_sync=True, change_handler=None, now=now)
    new = (NewDocument(account, "bench", read_link(url)) for url in urls)
    assembly.documents.add_many(new, now)
    by_link = {
        stored.row.link: stored.row.id
        for stored in assembly.documents.listed(DocumentFilter(account=account), limit=len(urls))
    }
    return [by_link[read_link(url).canonical] for url in urls]


def page(number: int, version: int, paragraphs: int) -> str:
    """Return a page as sites have them: navigation, an article of some 47 KB if of 70 paragraphs, and a footer."""
    chance = random.Random(number)
    words = ["".join(chance.choices(("ha", "ri", "to", "mel", "on", "sta", "ver", "quin"), k=3)) for _ in range(400)]

    def text(count: int) -> str:
        return " ".join(chance.choices(words, k=count)).capitalize() + "."

    menu = "".join(f"<li><a href='/menu/{n}'>{text(2)}</a></li>" for n in range(40))
    body = [f"<p>{text(45)} {text(45)}</p>" for _ in range(paragraphs)]
    body[len(body) // 2] = f"<p>The harbour was rebuilt in the year {1000 + version} of its {text(20)}</p>"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Page {number}</title></head><body>"
        f"<header><nav><ul>{menu}</ul></nav></header><main><article><h1>{text(5)}</h1>{''.join(body)}</article></main>"
        f"<footer>Imprint, contact, {text(12)}</footer></body></html>"
    )


def _serve(paragraphs: int) -> None:
    """Serve until the parent ends; each question is a version of the pages that change."""
    from tests.site import Page, Site, robots

    with Site({"/robots.txt": robots("User-agent: *\nDisallow: /private/\n")}, address="0.0.0.0") as site:
        for number in range(PAGES):
            text = page(number, 0, paragraphs)
            site.pages[f"/kept/{number}"] = Page(text)
            site.pages[f"/same/{number}"] = Page(text, etag=False, modified=None)
            site.pages[f"/changed/{number}"] = Page(text)
        answer(int(site.host.rpartition(":")[2]))
        for version in questions():
            for number in range(PAGES):
                site.pages[f"/changed/{number}"] = Page(page(number, version, paragraphs))
            site.log.clear()
            answer(None)


if __name__ == "__main__":
    import sys

    _serve(int(sys.argv[1]))

"""Real pages without the web: the documentation of git and PostgreSQL from Debian, brought by `.ci/debian-docs`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.site import Page, Site, folder_pages, robots, sitemap

DOCS = Path(__file__).parent.parent / ".venv" / "debian-docs" / "usr" / "share" / "doc"


def debian_pages() -> dict[str, Page]:
    """Return 1,400 pages by path, as `/git-doc/git.html`; each is read when it is asked for."""
    assert DOCS.is_dir(), "the pages are not here: .ci/debian-docs brings them, on Debian and what descends from it"
    return {
        path: page
        for package in sorted(DOCS.iterdir())
        for path, page in folder_pages(package, f"/{package.name}/").items()
    }


@contextmanager
def debian_site(limit: int | None = None) -> Iterator[Site]:
    """Serve these pages, or the first of them, with a sitemap of them all and a robots.txt that names it."""
    pages = dict(list(debian_pages().items())[:limit])
    with Site(pages) as site:
        site.pages["/sitemap.xml"] = sitemap(site.url(path) for path in pages)
        site.pages["/robots.txt"] = robots(f"User-agent: *\nAllow: /\nSitemap: {site.url('/sitemap.xml')}\n")
        yield site

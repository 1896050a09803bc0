"""D3: what fetching a page costs, by our client and by a stock one. (The last part of P5.)

    .venv/bin/python -m bench.d3_fetch [--pages 500] [--in-flight 50] [--rounds 5]

The same pages of 47 KB from the same web on loopback, with so many requests in flight, in turns:

    ours      `PageFetcher` on threads: guard, deadline, bounded and hashed body
    stock     one `httpx.AsyncClient` for all, as its documentation says
    ours 304, stock 304    the same, of pages that are not modified

Printed are CPU-ms of the client's process for a page; the web is a process of its own and not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from bench.web import web
from nightmill.documents.fetching import FetchedPage, NotModified, PageFetcher, Validators, open_page_client
from nightmill.settings import DocumentSettings
from nightmill.web.library import httpx

TARGET = 0.3


def run_ours(urls: list[str], in_flight: int, etag: str | None) -> None:
    settings = DocumentSettings(allow_private_addresses=True)
    with open_page_client(settings) as client, ThreadPoolExecutor(in_flight) as pool:
        fetcher = PageFetcher(
            client, user_agent="bench", fetch_timeout=timedelta(seconds=60), max_body=settings.max_body
        )
        given = Validators(etag) if etag else None
        for page in pool.map(lambda url: fetcher.fetch(url, given), urls):
            assert isinstance(page, NotModified if etag else FetchedPage)


def run_stock(urls: list[str], in_flight: int, etag: str | None) -> None:
    asyncio.run(_stock(urls, in_flight, etag))


async def _stock(urls: list[str], in_flight: int, etag: str | None) -> None:
    room = asyncio.Semaphore(in_flight)
    headers = {"If-None-Match": etag} if etag else {}
    async with httpx.AsyncClient(timeout=60) as client:

        async def fetch(url: str) -> None:
            async with room:
                answer = await client.get(url, headers=headers)
                assert answer.status_code == (304 if etag else 200)
                assert bool(answer.content) is not bool(etag)

        await asyncio.gather(*map(fetch, urls))


def main() -> None:
    """Fetch in turns."""
    parser = argparse.ArgumentParser(description="D3: the fetch client.")
    parser.add_argument("--pages", type=int, default=500, help="in a turn")
    parser.add_argument("--in-flight", type=int, default=50)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    ways = {
        "ours": (run_ours, None),
        "stock": (run_stock, None),
        "ours 304": (run_ours, "*"),
        "stock 304": (run_stock, "*"),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="nightmill-bench-") as folder, web(Path(folder)) as site:
        urls = [site.url("kept", n % asked.hosts, 1) for n in range(asked.pages)]
        for _ in range(asked.rounds):
            for name, (run, etag) in ways.items():
                before = time.process_time()
                run(urls, asked.in_flight, etag)
                found[name].append((time.process_time() - before) / asked.pages * 1000)
    print(f"CPU-ms a page, {asked.in_flight} in flight, median of {asked.rounds}")
    for name, values in found.items():
        print(f"{name:10}{statistics.median(values):7.2f}   {', '.join(f'{value:.2f}' for value in values)}")
    for suffix in ("", " 304"):
        pairs = zip(found["ours" + suffix], found["stock" + suffix], strict=True)
        ratio = statistics.median(ours / stock for ours, stock in pairs)
        print(f"ours{suffix} to stock{suffix}: {ratio:.2f} x (target {TARGET})")


if __name__ == "__main__":
    main()

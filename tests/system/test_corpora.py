"""Real robots.txt by the thousand, and HTML that broke other parsers: read without an exception, and quickly."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from nightmill.documents.extractor import Extractor
from nightmill.documents.robots import RobotsRules
from nightmill.errors import PageEmpty, PageNotFound

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

CORPORA = Path(__file__).parents[2] / ".venv" / "corpora"


def files(pattern: str) -> list[Path]:
    assert CORPORA.is_dir(), "the files are not here: .ci/corpora brings them"
    return sorted(path for path in CORPORA.glob(pattern) if path.is_file())


def test_every_robots_txt_of_four_thousand_sites_is_read_in_under_a_second() -> None:
    found = files("protego-*/tests/test_data/*")
    assert len(found) > 4_000
    refusing = 0
    for path in found:
        started = time.thread_time()  # of this thread alone: others may keep the machine busy
        rules = RobotsRules.read(path.read_bytes(), "Nightmill/0.1 (+https://example.org)")
        refusing += not rules.allows(f"https://{path.name}/")
        assert rules.crawl_delay is None or rules.crawl_delay >= 0, path.name
        assert time.thread_time() - started < 1.0, path.name
    assert 0 < refusing < len(found) / 4, "a reader that allows all, or nothing, does not read"


def test_html_that_broke_a_parser_is_read_or_refused_by_name() -> None:
    found = files("beautifulsoup4-*/**/*.testcase")
    assert len(found) > 10
    with Extractor(processes=2, timeout=timedelta(seconds=5), max_html=3 * 1024 * 1024) as extractor:
        for path in found:
            with suppress(PageEmpty, PageNotFound):
                reading = extractor.read(
                    path.read_bytes(), media_type="text/html", charset=None, url="https://example.org/"
                )
                assert reading.fingerprint, path.name

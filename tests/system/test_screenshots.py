"""The pictures of Temporal's UI can be taken, and the queries that operators are told to save are taken."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image
from temporalio.client import Client

from docs.browser import Browser, PageDiffers, running
from docs.screenshots import IMAGES, LARGEST, PICTURES, Picture, take
from nightmill.cli.stack import LocalStack, free_port
from nightmill.client.connection import register_search_attributes
from workflows.story import SEARCH_ATTRIBUTES

# Chromium and its driver are 300 MB of packages, too many for every run of all checks.
pytestmark = [pytest.mark.server, pytest.mark.system, pytest.mark.slow]

PAGE = IMAGES.parent / "temporal-ui.md"


async def queries_are_taken(address: str) -> int:
    """Ask each query of the page, and return how many there are."""
    client = await Client.connect(address)
    await register_search_attributes(client, SEARCH_ATTRIBUTES)
    text = PAGE.read_text()
    queries = re.findall(r"\| `([^`]+)` \|", text[text.index("## Queries to save") :])
    for query in queries:
        async for _ in client.list_workflows(query):
            break
    return len(queries)


def test_queries_are_taken_and_a_page_becomes_a_picture(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, port=free_port(), ui_port=free_port(), in_memory=True)
    with stack, running() as browser:
        asyncio.run(stack.temporal_client(stack.start_temporal()))
        assert asyncio.run(queries_are_taken(stack.address)) > 8
        base = f"{stack.ui_url}/namespaces/default"
        path = take(browser, base, {}, Picture("schedules", "schedules", ("Create Schedule",)), tmp_path)
        with Image.open(path) as picture:
            assert picture.size == (1400, 900)
            assert len(picture.getcolors(256) or ()) > 8  # not blank
        missing_text_is_told(browser)


def missing_text_is_told(browser: Browser) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("docs.browser.PATIENCE", timedelta(seconds=0.5))
        with pytest.raises(PageDiffers, match="Schedules"):
            browser.wait_for("what no page says")


def test_the_page_shows_every_picture_and_each_is_small() -> None:
    shown = re.findall(r"\(images/(ui-[\w-]+)\.png\)", PAGE.read_text())
    assert sorted(shown) == sorted(f"ui-{picture.name}" for picture in PICTURES)
    assert all((IMAGES / f"{name}.png").stat().st_size <= LARGEST for name in shown)

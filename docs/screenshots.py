"""Takes the pictures of Temporal's UI in docs/images, of jobs that really ran: `make screenshots`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from docs.browser import HEIGHT, Browser, PageDiffers, running
from docs.stage import ACCOUNT, Stage, play_all, staged

IMAGES = Path(__file__).parent / "images"
LARGEST = 120 * 1024
"""Bytes of a picture: a page has several, and a clone has them all."""

TALL = 1_800
"""A page so high that a timeline of ours is on it whole."""

# Where the menu ends, and where the part of a page that begins with a heading has its first line and its last one.
_EDGES = """
const heading = arguments[0]
  ? [...document.querySelectorAll('main *')].filter(
      each => each.innerText?.trim() === arguments[0] && !each.closest('[role=tablist]')).at(-1)
  : document.querySelector('[role=tablist]');
const shapes = [...document.querySelectorAll(arguments[1])].map(each => each.getBoundingClientRect());
if (!heading || !shapes.length) return null;
const begin = heading.getBoundingClientRect();
return {left: begin.left, top: begin.top, bottom: Math.max(...shapes.map(each => each.bottom))};
"""


@dataclass(frozen=True)
class Picture:
    """A picture to be taken.

    Attributes:
        name: The file is `ui-<name>.png`.
        page: `timeline` or `user-metadata` of a run; or the path of another page.
        expected: What the page says, once all of it is there.
        run: Whose run, by its name on the stage; empty: the page is no run's.
        height: Pixels of the page, if it is no timeline.
    """

    name: str
    page: str
    expected: tuple[str, ...]
    run: str = ""
    height: int = HEIGHT


QUERY = f"NightmillAccount = '{ACCOUNT}' AND WorkflowType = 'ModelCompletionBatch'"

PICTURES = (
    Picture("list", f"workflows?query={quote(QUERY)}", ("batch/reviews-2026-11", "batch/catalogue-41")),
    Picture("batch-timeline", "timeline", ("part 3 of 3", "prepare_batch"), "running"),
    Picture("batch-part", "timeline", ("for poll 2",), "part"),
    Picture("batch-running", "user-metadata", ("openai gpt-5-mini", "next poll", "provider batches: 3"), "running"),
    Picture("batch-waiting", "user-metadata", ("needs attention",), "waiting"),
    Picture("batch-ended", "user-metadata", ("cost", "failed"), "ended"),
    Picture("document", "timeline", ("deliver_change", "finish_sync"), "document"),
    Picture("slicing", "timeline", ("finish_slicing", "the time for the whole job"), "sliced"),
    Picture("reconciler", "user-metadata", ("terminated: reset",), "repaired"),
    Picture("schedules", "schedules", ("nightmill-reconciler", "nightmill-canary"), height=1_000),
)  # fmt: skip


def take(browser: Browser, base: str, runs: Mapping[str, str], picture: Picture, folder: Path) -> Path:
    """Take one picture and return its file; `base` is the address of the namespace's pages, `runs` their paths.

    Raises:
        PageDiffers: The page does not say what is expected, or the picture is too large.
    """
    is_timeline = picture.page == "timeline"
    browser.resize(TALL if is_timeline else picture.height)
    page = f"{runs[picture.run]}/{picture.page}" if picture.run else picture.page
    browser.open(f"{base}/{page}", *picture.expected)
    path = folder / f"ui-{picture.name}.png"
    if not picture.run:
        browser.picture(path, bottom=picture.height)
    else:
        begin, shapes, margin = ("Timeline", "main button.event", 90) if is_timeline else ("", "main iframe", 48)
        edges = browser.run(_EDGES, begin, shapes)
        if edges is None:
            raise PageDiffers(f"{page} has no part headed {begin!r}:\n{browser.text()[:3_000]}")
        browser.picture(path, top=edges["top"] - 12, bottom=edges["bottom"] + margin, left=edges["left"] - 16)
    if path.stat().st_size > LARGEST:
        raise PageDiffers(f"{path.name} has {path.stat().st_size:,} bytes, more than {LARGEST:,}")
    return path


async def _run(folder: Path, images: Path, pictures: Sequence[Picture]) -> None:
    async with staged(folder) as stage:
        runs = await play_all(stage)
        await asyncio.to_thread(_take_all, stage, runs, images, pictures)


def _take_all(stage: Stage, runs: Mapping[str, str], images: Path, pictures: Sequence[Picture]) -> None:
    with running() as browser:
        for picture in pictures:
            path = take(browser, stage.page(""), runs, picture, images)
            sys.stdout.write(f"{path.name}: {path.stat().st_size // 1024} KB\n")


def main() -> int:
    """Take the pictures that are asked for, and return the exit code."""
    parser = argparse.ArgumentParser(description="Take pictures of Temporal's UI.")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where to put them")
    parser.add_argument("--only", choices=[picture.name for picture in PICTURES], help="take this one; default: all")
    asked = parser.parse_args()
    pictures = [picture for picture in PICTURES if asked.only in {None, picture.name}]
    asked.images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_run(Path(folder), asked.images, pictures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Draws the dashboard with real answers: `python docs/render_dashboard.py`, which takes five minutes.

A worker does a little of everything, a real Prometheus scrapes it and evaluates the alert rules, each panel's query is
asked as Grafana would, and the answers are drawn into docs/images/dashboard.png. Needs prometheus and chromium. Ends
with 1 and the panels' titles if any has no answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from drawing import WIDTH, Curve, height_of, page  # noqa: E402
from PIL import Image  # noqa: E402

from nightmill.client.connection import register_search_attributes  # noqa: E402
from nightmill.client.nightmill import Nightmill  # noqa: E402
from nightmill.sandbox import Profile, Sandbox  # noqa: E402
from nightmill.storage import schema  # noqa: E402
from tests import mixed, promql  # noqa: E402
from tests.lanes import MODELS  # noqa: E402
from tests.stack import Stack, TemporalServer, free_port, requests  # noqa: E402
from workflows.story import SEARCH_ATTRIBUTES  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "dashboard.png"
SCRAPE = 2
STEP = 4
WINDOW = "1m"


def main() -> int:
    """Run it all, and return the exit code."""
    parser = argparse.ArgumentParser(description="Draw the dashboard from real work.")
    parser.add_argument("--seconds", type=int, default=240, help="how long the work goes on")
    parser.add_argument("--output", type=Path, default=PICTURE)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        server = TemporalServer()
        server.start()
        stack.callback(server.stop)
        sandbox = stack.enter_context(Sandbox(profile=Profile(finish_after=0.5, fail_ids=("r1", "r5"))))
        built = Stack(folder, server, sandbox, f"sqlite:///{folder}/nightmill.db", "nightmill")
        stack.callback(built.stop)
        port = mixed.measured_by(built)
        with built.assembly() as assembly:
            schema.upgrade(assembly.database)
        api = _prometheus(stack, folder, port)
        began = time.time()
        asyncio.run(_work(built, asked.seconds))
        span = (began, time.time())
        dashboard = json.loads(promql.DASHBOARD.read_text())
        curves = {panel["id"]: _curves(api, panel, span) for panel in promql.panels()}
        empty = [panel["title"] for panel in promql.panels() if not curves[panel["id"]]]
        if empty:
            sys.stderr.write(f"no data: {', '.join(empty)}\n")
            return 1
        began = min(curve.points[0][0] for panel in promql.panels("Memory") for curve in curves[panel["id"]])
        _take_picture(page(dashboard, curves, (began, span[1])), height_of(dashboard), folder, asked.output)
    sys.stdout.write(f"{asked.output}: {asked.output.stat().st_size // 1024} KB\n")
    return 0


def _prometheus(stack: ExitStack, folder: Path, metrics: int) -> str:
    """Start Prometheus on a worker and the rules; return the address of its API."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(f"""
global: {{scrape_interval: {SCRAPE}s, evaluation_interval: 5s}}
rule_files: [{promql.DEPLOY}/prometheus/rules/*.yml]
scrape_configs:
  - job_name: nightmill
    static_configs: [{{targets: ["127.0.0.1:{metrics}"]}}]
""")
    process = subprocess.Popen(
        ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    stack.callback(process.wait, 20)
    stack.callback(process.terminate)
    return f"http://127.0.0.1:{port}/api/v1"


async def _work(built: Stack, seconds: int) -> None:
    """Let a worker do a little of everything, again and again, with batches beside it that take their time."""
    built.start_worker()
    ends = time.monotonic() + seconds
    with built.assembly() as assembly, mixed.site() as pages:
        nightmill = await built.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        number = 0
        while time.monotonic() < ends:
            await _slow_batches(nightmill, built.sandbox, number)
            await asyncio.gather(
                mixed.batches(nightmill, built.sandbox, count=8 + 5 * (number % 4)),
                mixed.documents(nightmill, pages),
                mixed.slicings(nightmill, built.folder, broken=number == 2),
            )
            if number % 3 == 1:
                await mixed.losses(nightmill, built.sandbox, built.task_queue)
            number += 1
            await asyncio.sleep(3)
        await asyncio.sleep(2 * SCRAPE + 1)


async def _slow_batches(nightmill: Nightmill, sandbox: Sandbox, number: int) -> None:
    sandbox.set_profile(finish_after=30.0 + 10 * (number % 3), fail_ids=["r1"])
    for provider in list(MODELS)[number % 2 :: 2]:
        await nightmill.submit(requests(5), provider=provider, model=MODELS[provider], poll_schedule=[5])
    await asyncio.sleep(2)  # they are submitted under this profile
    sandbox.set_profile(finish_after=0.5, fail_ids=["r1", "r5"])


def _curves(api: str, panel: dict[str, Any], span: tuple[float, float]) -> list[Curve]:
    """Ask a panel's queries as Grafana would; return the series with their legends."""
    found = []
    for target in panel["targets"]:
        asked = {
            "query": promql.filled_in(target["expr"], window=WINDOW),
            "start": f"{span[0]:.0f}",
            "end": f"{span[1]:.0f}",
            "step": STEP,
        }
        with urlopen(f"{api}/query_range?{urlencode(asked)}") as answer:  # noqa: S310 - our own
            for series in json.load(answer)["data"]["result"]:
                points = [(time, float(value)) for time, value in series["values"] if value not in {"NaN", "+Inf"}]
                legend = target["legendFormat"]
                for label, value in series["metric"].items():
                    legend = legend.replace(f"{{{{{label}}}}}", value)
                if points:
                    found.append(Curve(promql.without_placeholders(legend), points))
    return found


def _take_picture(html: str, height: int, folder: Path, output: Path) -> None:
    """Let Chromium draw a page, and keep the picture with few colours, which is a third of the size."""
    source, raw = folder / "dashboard.html", folder / "dashboard.png"
    source.write_text(html)
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={folder}/chromium", f"--window-size={WIDTH},{height}", f"--screenshot={raw}",
         source.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    output.parent.mkdir(exist_ok=True)
    with Image.open(raw) as picture:
        picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(output, optimize=True)


if __name__ == "__main__":
    sys.exit(main())

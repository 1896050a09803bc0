"""A headless Chromium that is led through pages and takes pictures of them, over the WebDriver protocol."""

from __future__ import annotations

import base64
import http.client
import io
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH, HEIGHT = 1400, 900
PATIENCE = timedelta(seconds=30)
COLOURS = 96
"""So many are enough for an interface of flat areas, and make a picture a third as large."""

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # containers give it 64 MB, at which tabs crash
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--lang=en-GB",
)

# A page's text, its hidden parts left out; the UI shows Markdown in frames.
_TEXT = """
const frames = [...document.querySelectorAll('iframe')].map(each => each.contentDocument);
return [document, ...frames].map(each => each?.body?.innerText ?? '').join('\\n');
"""

# The innermost elements that say a text, the last of them: menus repeat what the page says, and stand before it.
_CLICK = """
const found = [...document.querySelectorAll(arguments[0])].filter(
  each => each.innerText.trim().startsWith(arguments[1]) && each.getClientRects().length);
if (!found.length) return false;
const last = found.at(-1);
last.scrollIntoView({block: 'center'});
last.click();
return true;
"""


class PageDiffers(AssertionError):
    """A page does not show what was expected of it; the message has what it shows."""


class Browser:
    """One tab of a headless Chromium; `running` gives one.

    Attributes:
        url: The address of its session at the driver.
    """

    def __init__(self, port: int, folder: Path) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE.total_seconds())
        arguments = [*_FLAGS, f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={folder}"]
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}}}
        self.url = ""
        self.url = f"/session/{self._call('POST', '/session', {'capabilities': wanted})['sessionId']}"

    def open(self, address: str, *expected: str) -> None:
        """Open a page and wait until it shows all of these texts.

        Raises:
            PageDiffers: It does not.
        """
        self._call("POST", f"{self.url}/url", {"url": address})
        self.wait_for(*expected)

    def wait_for(self, *expected: str) -> None:
        """Wait until the page shows all of these texts.

        Raises:
            PageDiffers: It does not.
        """
        text = ""
        give_up_at = time.monotonic() + PATIENCE.total_seconds()
        while time.monotonic() < give_up_at:
            text = self.text()
            if all(each in text for each in expected):
                return
            time.sleep(0.1)
        missing = [each for each in expected if each not in text]
        raise PageDiffers(f"no {missing} within {PATIENCE} on the page, which says:\n{text[:3_000]}")

    def text(self) -> str:
        """Return what can be read on the page."""
        return str(self.run(_TEXT))

    def click(self, text: str, *, on: str = "a, button, [role=tab]") -> None:
        """Click on what begins with a text, once it is there; of several the last.

        Raises:
            PageDiffers: There is nothing of the kind.
        """
        give_up_at = time.monotonic() + PATIENCE.total_seconds()
        while not self.run(_CLICK, on, text):
            if time.monotonic() > give_up_at:
                raise PageDiffers(f"nothing to click says {text!r} on the page, which says:\n{self.text()[:3_000]}")
            time.sleep(0.1)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page and return its value."""
        return self._call("POST", f"{self.url}/execute/sync", {"script": script, "args": list(arguments)})

    def resize(self, height: int) -> None:
        """Give the page a height of so many pixels; what else the window has comes on top."""
        beside = int(self.run("return window.outerHeight - window.innerHeight"))
        self._call("POST", f"{self.url}/window/rect", {"width": WIDTH, "height": height + beside})

    def picture(self, path: Path, *, top: float = 0, bottom: float = HEIGHT, left: float = 0) -> None:
        """Write what the window shows between these lines, in pixels, as a PNG."""
        raw = base64.b64decode(self._call("GET", f"{self.url}/screenshot"))
        with Image.open(io.BytesIO(raw)) as taken:
            box = (int(left), int(max(top, 0)), taken.width, int(min(bottom, taken.height)))
            taken.convert("RGB").crop(box).quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)

    def close(self) -> None:
        """End the session, and Chromium with it."""
        self._call("DELETE", self.url)
        self._connection.close()

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        self._connection.request(
            method, path, None if body is None else json.dumps(body), {"content-type": "application/json"}
        )
        answer = json.load(self._connection.getresponse())["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise PageDiffers(f"{method} {path}: {answer['error']}: {str(answer['message'])[:500]}")
        return answer


@contextmanager
def running() -> Iterator[Browser]:
    """Give a browser with a profile of its own, and leave nothing of it.

    Raises:
        FileNotFoundError: There is no `chromedriver`.
    """
    program = shutil.which("chromedriver")
    if program is None:
        raise FileNotFoundError("chromedriver: `apt-get install chromium chromium-driver` brings it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        driver = subprocess.Popen([program, f"--port={port}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            _wait_until_it_listens(driver, port)
            browser = Browser(port, Path(folder))
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()
            driver.wait(20)


def _wait_until_it_listens(driver: subprocess.Popen[bytes], port: int) -> None:
    give_up_at = time.monotonic() + PATIENCE.total_seconds()
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if driver.poll() is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"chromedriver does not listen on port {port}; it ended with {driver.poll()}")
        time.sleep(0.05)

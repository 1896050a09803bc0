"""A slicer that will not end: `stubborn.py PLAN [OPTIONS] PDF OUTPUT_DIR JOB_ID`.

By the plan `stay` it makes progress and no end, deaf to SIGTERM, with a child that has left its session and a
grandchild that has lost its parent, both as deaf, both holding its pipes; by `stay-reading` it does so where page
ranges are asked for. Any other plan is one of `slicer.py`'s. `@FILE` takes it from a file, read at each start. Whoever
stays leaves within a minute.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

PLANS = importlib.util.spec_from_file_location("slicer", Path(__file__).with_name("slicer.py"))
assert PLANS is not None
assert PLANS.loader is not None
slicer = importlib.util.module_from_spec(PLANS)
PLANS.loader.exec_module(slicer)


def stay() -> None:
    """Make progress with all of the family, and no end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.monotonic() + slicer.PATIENCE
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0 and os.fork() > 0:
            os._exit(0)  # so that its child, the grandchild, has lost its parent
        while time.monotonic() < end:
            time.sleep(0.5)
        os._exit(0)
    page = 0
    while time.monotonic() < end:
        page += 1
        slicer.say(page, 1_000)
        time.sleep(0.1)


def main() -> None:
    """Do what is planned."""
    plan = sys.argv[1]
    if plan.startswith("@"):
        plan = Path(plan[1:]).read_text().strip()
    if plan == "stay" or (plan == "stay-reading" and "--read-pages" in sys.argv):
        stay()
    pdf, folder, _ = sys.argv[-3:]
    slicer.behave(plan, Path(pdf), Path(folder))


if __name__ == "__main__":
    main()

"""Runs the sandbox from the command line: `python -m nightmill.sandbox --port 8700`."""

from __future__ import annotations

import argparse
import json
import sys

from nightmill.sandbox.profile import Profile
from nightmill.sandbox.server import Sandbox, serve


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    normal = Profile()
    parser = argparse.ArgumentParser(prog="python -m nightmill.sandbox", description="Local providers of batch APIs.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--seed", type=int, default=0, help="what shares and answers are drawn from")
    parser.add_argument("--finish-after", type=float, default=normal.finish_after, help="seconds in progress")
    parser.add_argument("--validating-for", type=float, default=normal.validating_for, help="seconds in validation")
    parser.add_argument("--fail-share", type=float, default=0.0, help="share of requests that fail, 0..1")
    parser.add_argument("--expire-share", type=float, default=0.0, help="share of requests that expire, 0..1")
    parser.add_argument("--answer-chars", type=int, default=None, help="length of each text answer")
    parser.add_argument("--profile", default="{}", help="more of the profile's fields, as a JSON object")
    asked = parser.parse_args()
    profile = Profile(
        validating_for=asked.validating_for,
        finish_after=asked.finish_after,
        fail_share=asked.fail_share,
        expire_share=asked.expire_share,
        answer_chars=asked.answer_chars,
    ).merged(json.loads(asked.profile))
    serve(asked.host, asked.port, profile=profile, seed=asked.seed, ready=announce)


def announce(sandbox: Sandbox) -> None:
    """Write where the sandbox listens to stdout, at once."""
    sys.stdout.write(f"The sandbox listens on {sandbox.base_url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

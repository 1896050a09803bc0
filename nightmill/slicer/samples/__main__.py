"""The command: `python -m nightmill.slicer.samples OUT.pdf`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from nightmill.slicer.samples import SampleOptions, make_sample, options_for_seed

EXAMPLE = "example: python -m nightmill.slicer.samples /tmp/gazette.pdf --seed 7 --pages 60 --acts 20"


def main() -> None:
    """Print a gazette, and beside it, as `.json`, what is true of it."""
    parser = argparse.ArgumentParser(
        prog="python -m nightmill.slicer.samples",
        description="Print an invented gazette, and beside it, as .json, the documents that are in it.",
        epilog=EXAMPLE,
    )
    parser.add_argument("pdf", type=Path, metavar="OUT.pdf", help="the file to write")
    parser.add_argument("--seed", type=int, default=0, help="which one; each seed has its own mixture of difficulties")
    parser.add_argument(
        "--country", choices=("honduras", "nicaragua"), help="whose gazette; the seed chooses by default"
    )
    parser.add_argument("--acts", type=int, help="how many acts")
    parser.add_argument("--pages", type=int, help="about how many pages")
    parser.add_argument("--scan", action="store_true", help="as images, without a text layer")
    parser.add_argument("--encrypted", action="store_true", help="needing a password")
    asked = parser.parse_args()
    given = {name: value for name in ("country", "acts", "pages") if (value := getattr(asked, name)) is not None}
    options: SampleOptions = replace(options_for_seed(asked.seed), scan=asked.scan, encrypted=asked.encrypted, **given)
    sample = make_sample(options)
    asked.pdf.write_bytes(sample.pdf)
    asked.pdf.with_suffix(".json").write_text(sample.truth.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What can be asked of the slicer on its command line."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nightmill.slicer.ranges import NamedRange, RangeError, parse_ranges

USAGE = 2
"""Exit code for arguments that cannot be used; argparse's own."""

MODES = ("gazette", "outline", "ranges", "every", "heading")
PROFILES = ("auto", "honduras", "nicaragua")
MAX_PATTERN = 1_000

_LANGUAGES = re.compile(r"[A-Za-z_]{3,20}(\+[A-Za-z_]{3,20}){0,9}")

_EPILOG = """\
One JSON object is printed; progress goes to standard error. Pages in options count from 1, except those of
--read-pages, which is for programs; in the JSON they count from 0.

examples:
  python -m nightmill.slicer gazette.pdf slices
  python -m nightmill.slicer --mode outline --depth 2 book.pdf chapters
  python -m nightmill.slicer --mode ranges --ranges "Preface=1-3,Law=4-" law.pdf parts
  python -m nightmill.slicer --mode every --pages 20 scan.pdf parts
  python -m nightmill.slicer --mode heading --pattern "^DECREE No" --bold --centred bulletin.pdf decrees

exit codes: 0 done, also with errors or without slices, which the JSON tells; 2 wrong arguments; 3 the PDF cannot be
sliced; 4 the files of pages do not fit the PDF; 5 the output cannot be written; 1 a bug.
"""


@dataclass(frozen=True)
class Recognition:
    """How pages without text are read.

    Attributes:
        mode: `auto`: those without usable text; `never`; or `always`: all of them.
        languages: As tesseract calls them, with `+` between them.
        dpi: Dots an inch at which pages are rendered.
        timeout: Seconds for one page.
        program: Tesseract's program.
    """

    mode: Literal["auto", "never", "always"] = "auto"
    languages: str = "spa"
    dpi: float = 200
    timeout: float = 90
    program: str = "tesseract"


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        pdf: The PDF.
        output_dir: Where the slices go.
        job_id: What the caller calls this run.
        mode: How it is cut.
        profile: Which gazette, for the mode `gazette`.
        depth: Levels of bookmarks, for `outline`.
        ranges: For `ranges`.
        pages: Pages of a slice, for `every`.
        pattern: For `heading`, like the next three.
        min_size: Points.
        bold: Whether only bold lines are headings.
        centred: Whether only centred ones are.
        recognition: How pages without text are read.
        max_pages: More are refused.
        max_text: Bytes of text in the result.
        read_pages: Pages from 0 that are only read.
        pages_from: Folder of pages that were read before.
    """

    pdf: Path
    output_dir: Path
    recognition: Recognition = field(default_factory=Recognition)
    job_id: str = ""
    mode: str = "gazette"
    profile: str = "auto"
    depth: int = 1
    ranges: list[NamedRange] = field(default_factory=list)
    pages: int = 1
    pattern: re.Pattern[str] | None = None
    min_size: float = 0.0
    bold: bool = False
    centred: bool = False
    max_pages: int = 20_000
    max_text: int = 40 * 1024 * 1024
    read_pages: tuple[int, int] | None = None
    pages_from: Path | None = None


def parse(arguments: Sequence[str] | None) -> Options:
    """Return what a command line asks for; one that cannot be understood ends the program with code 2."""
    parser = _parser()
    given = parser.parse_args(arguments)
    for mode, option in (("ranges", "ranges"), ("every", "pages"), ("heading", "pattern")):
        if given.mode == mode and getattr(given, option) is None:
            parser.error(f"--mode {mode} needs --{option}")
        if given.mode != mode and getattr(given, option) is not None:
            parser.error(f"--{option} is for --mode {mode}")
    if given.read_pages is not None and given.pages_from is not None:
        parser.error("--read-pages and --pages-from exclude each other")
    return Options(
        pdf=given.pdf,
        output_dir=given.output_dir,
        recognition=Recognition(given.ocr, given.ocr_languages, given.ocr_dpi, given.ocr_timeout),
        job_id=given.job_id,
        mode=given.mode,
        profile=given.profile,
        depth=given.depth,
        ranges=given.ranges or [],
        pages=given.pages or 1,
        pattern=given.pattern,
        min_size=given.min_size,
        bold=given.bold,
        centred=given.centred,
        max_pages=given.max_pages,
        max_text=given.max_text,
        read_pages=given.read_pages,
        pages_from=given.pages_from,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nightmill.slicer",
        description="Cut a PDF into its single documents, one PDF each.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("pdf", metavar="PDF", type=Path, help="the PDF")
    add("output_dir", metavar="OUTPUT_DIR", type=Path, help="a folder without slices; made if it is missing")
    add("job_id", metavar="JOB_ID", nargs="?", default="", help="what you call this run; not used")
    add("--mode", choices=MODES, default="gazette", help="how it is cut (default: %(default)s)")

    gazette = parser.add_argument_group("--mode gazette")
    gazette.add_argument(
        "--profile", choices=PROFILES, default="auto", help="which gazette; auto: by its first page (default)"
    )
    outline = parser.add_argument_group("--mode outline")
    outline.add_argument(
        "--depth", type=_whole(1, 15), default=1, metavar="N", help="cut at bookmarks of N levels (default: 1)"
    )
    ranges = parser.add_argument_group("--mode ranges")
    ranges.add_argument("--ranges", type=_ranges, metavar="RANGES", help='pages: "1-3,4,7-" or "Preface=1-3,Law=4-"')
    every = parser.add_argument_group("--mode every")
    every.add_argument("--pages", type=_whole(1, 100_000), metavar="N", help="pages of each slice")
    heading = parser.add_argument_group("--mode heading")
    heading.add_argument(
        "--pattern",
        type=_pattern,
        metavar="REGEX",
        help="found in a line that begins a slice; its group `name` names it",
    )
    heading.add_argument("--min-size", type=_number, default=0.0, metavar="PT", help="points of its type at least")
    heading.add_argument("--bold", action="store_true", help="it is bold")
    heading.add_argument("--centred", action="store_true", help="it is centred on the page or in one of two columns")

    reading = parser.add_argument_group("pages without text")
    reading.add_argument(
        "--ocr",
        choices=("auto", "never", "always"),
        default="auto",
        help="recognize their text with tesseract, where it is installed (default: auto)",
    )
    reading.add_argument(
        "--ocr-languages", type=_languages, default="spa", metavar="LANGS", help="like spa+eng (default: spa)"
    )
    reading.add_argument(
        "--ocr-dpi", type=_whole(50, 600), default=200, metavar="N", help="dots an inch of the image (default: 200)"
    )
    reading.add_argument(
        "--ocr-timeout", type=_whole(1, 3_600), default=90, metavar="SECONDS", help="for one page (default: 90)"
    )

    bounds = parser.add_argument_group("bounds")
    bounds.add_argument(
        "--max-pages", type=_whole(1, 1_000_000), default=20_000, metavar="N", help="refuse more (default: 20000)"
    )
    bounds.add_argument(
        "--max-text",
        type=_whole(1_000, 1 << 40),
        default=40 * 1024 * 1024,
        metavar="BYTES",
        help="of all texts in the JSON together (default: 41943040)",
    )

    parts = parser.add_argument_group("several processes for one PDF")
    parts.add_argument(
        "--read-pages",
        type=_page_span,
        metavar="A-B",
        help="only read these pages, counted from 0, into OUTPUT_DIR/pages.jsonl",
    )
    parts.add_argument(
        "--pages-from", type=Path, metavar="DIR", help="cut by the pages in DIR/*.jsonl in place of reading them"
    )
    return parser


def _whole(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not re.fullmatch("[0-9]{1,15}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from {least} to {most}")
        return int(text)

    return convert


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of points")
    return found


def _ranges(text: str) -> list[NamedRange]:
    try:
        return parse_ranges(text)
    except RangeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pattern(text: str) -> re.Pattern[str]:
    if len(text) > MAX_PATTERN:
        raise argparse.ArgumentTypeError(f"{len(text):,} characters, at most {MAX_PATTERN:,}")
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no regular expression: {error}") from None


def _languages(text: str) -> str:
    if not _LANGUAGES.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: write spa or spa+eng")
    return text


def _page_span(text: str) -> tuple[int, int]:
    match = re.fullmatch("([0-9]{1,9})-([0-9]{1,9})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: write 0-9 for the first ten pages")
    return int(match[1]), int(match[2])

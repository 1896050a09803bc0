"""The third part of the demonstration: an invented gazette is printed and cut into its documents, with a proof."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from nightmill.cli.loopback import SCRATCH
from nightmill.cli.output import note, print_table, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightmill.cli.receiver import WebhookReceiver
    from nightmill.cli.slicing_choice import SlicingChoice
    from nightmill.client.nightmill import Nightmill
    from nightmill.contracts import SlicingSummary
    from nightmill.slicer.samples import Truth, TruthPiece
    from nightmill.storage.slices import SliceHead

SEED, PAGES = 1, 12

PATIENCE = timedelta(minutes=3)
"""How long it may take; it takes some seconds on two cores."""


@dataclass
class SlicedGazette:
    """A gazette and what became of it.

    Attributes:
        scratch: Where the worker's programs have their private folders.
        truth: What was printed.
        sha256: The PDF.
        summary: What slicing it came to.
        found: Its slices.
        wrong: What is not as it should be.
    """

    scratch: Path
    truth: Truth | None = None
    sha256: str = ""
    summary: SlicingSummary | None = None
    found: list[SliceHead] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, found: object, expected: object) -> None:
        """Remember what is not as it should be."""
        if found != expected:
            self.wrong.append(f"{what}: {found} in place of {expected}")


async def slice_gazette(nightmill: Nightmill, folder: Path, receiver: WebhookReceiver) -> SlicedGazette:
    """Print a gazette, slice it, and hold the slices against what was printed."""
    gazette = SlicedGazette(folder / SCRATCH)
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            pdf = folder / "gazette.pdf"
            gazette.truth = await asyncio.to_thread(_print, pdf)
            gazette.sha256 = await nightmill.slicings.slice(pdf, notify=receiver.url, metadata={"demo": True})
            gazette.summary = await nightmill.slicings.wait(gazette.sha256)
            await asyncio.to_thread(_judge, nightmill, gazette, receiver)
    except TimeoutError:
        gazette.wrong.append(f"not sliced within {PATIENCE}")
    return gazette


def _print(pdf: Path) -> Truth:
    from nightmill.slicer.samples import SampleOptions, make_sample

    sample = make_sample(SampleOptions(seed=SEED, pages=PAGES))
    pdf.write_bytes(sample.pdf)
    return sample.truth


def _judge(nightmill: Nightmill, gazette: SlicedGazette, receiver: WebhookReceiver) -> None:
    truth, summary = gazette.truth, gazette.summary
    assert truth is not None  # noqa: S101 - it has been sliced
    assert summary is not None  # noqa: S101 - see above
    row = nightmill.assembly.slicing.slicings.get(summary.sha256, summary.profile)
    gazette.found = nightmill.assembly.slicing.slices.page(row)
    gazette.expect("status", summary.status.value, "sliced")
    gazette.expect("number", summary.number, truth.number)
    gazette.expect("date", str(summary.issued_on), truth.issued_on)
    gazette.expect("pages", summary.page_count, truth.page_count)
    gazette.expect("documents", len(gazette.found), len(truth.pieces))
    for head, true in zip(gazette.found, truth.pieces, strict=False):
        gazette.wrong += [f"document {head.position}: {text}" for text in _differences(head, true)]
        gazette.wrong += _wrong_file(nightmill, head)
    gazette.expect("times that the owner was told", receiver.notices(gazette.sha256), 1)
    gazette.expect("programs left", _programs(gazette.scratch), [])
    gazette.expect("temporary files left", sorted(path.name for path in gazette.scratch.glob("*")), [])


def _differences(head: SliceHead, true: TruthPiece) -> list[str]:
    from nightmill.slicer.samples.comparison import letters

    found = (letters(head.issue_id or head.name), head.start_page, head.end_page)
    expected = (letters(true.name), true.start_page, true.end_page)
    # A file with other pages than its slice has been flagged by the worker, which has counted them.
    return [
        text
        for text in (
            f"{found} in place of {expected}" if found != expected else None,
            head.problem,
        )
        if text
    ]


def _wrong_file(nightmill: Nightmill, head: SliceHead) -> list[str]:
    if head.file_key is None:
        return [f"document {head.position} has no file"]
    digest, size = hashlib.sha256(), 0
    for chunk in nightmill.assembly.files.read(head.file_key):
        digest.update(chunk)
        size += len(chunk)
    is_right = (size, digest.hexdigest()) == (head.file_size, head.file_sha256)
    return [] if is_right else [f"document {head.position}: its file is another one than was stored"]


def _programs(scratch: Path) -> list[str]:
    """Return the programs that were started below the worker's private folders and still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            command = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if f"{scratch}/" in command:
                found.append(command[:200])
    return found


def report(gazette: SlicedGazette | None, choice: SlicingChoice) -> None:
    """Print the slices, and what is wrong; without a gazette, why there is none."""
    if gazette is None:
        say(f"Slicing: {choice.line}")
        return
    truth, summary = gazette.truth, gazette.summary
    if truth is not None and gazette.found:
        print_table(
            ["slice", "pages", "proof", "document", "issuer", "tags"],
            _rows(gazette.found, truth.pieces),
            numbers=["slice", "pages"],
        )
    for wrong in gazette.wrong:
        note(f"nightmill: gazette: {wrong}")
    if summary is None or gazette.wrong:
        return
    took = f", in {summary.duration.total_seconds():.1f} s" if summary.duration else ""
    say(
        f"La Gaceta No. {summary.number} of {summary.issued_on}, {summary.page_count} invented pages, is cut into its "
        f"{summary.slices} documents{took}: each with the name and the pages that were printed, and a PDF of its own."
    )
    say("Its owner was told once, signed; no program and no temporary file is left.")
    say(f"Isolation of the slicer: {choice.line}")


def _rows(found: Sequence[SliceHead], pieces: Sequence[TruthPiece]) -> list[list[str]]:
    rows = []
    for number, head in enumerate(found):
        is_right = number < len(pieces) and not _differences(head, pieces[number])
        first, last = head.start_page + 1, head.end_page + 1
        rows.append(
            [
                f"{head.position}",
                f"{first}" if first == last else f"{first}-{last}",
                "right" if is_right else "wrong",
                head.issue_id or head.name,
                head.issuer,
                ", ".join(head.tags),
            ]
        )
    return rows

"""Where the files of slicings lie in the file storage.

slicings/<sha256>/original.pdf
slicings/<sha256>/<profile>/<run>/0001.pdf …       the slices, numbered from 1
slicings/<sha256>/<profile>/<run>/result.jsonl     the validated result
slicings/<sha256>/<profile>/<run>/pages/<first>-<last>.jsonl
slicings/<sha256>/<profile>/raw/<run>-<step>-<attempt>.txt   output that could not be read
"""

from __future__ import annotations

from nightmill.contracts import PageRange, SlicingRef


def original(sha256: str) -> str:
    """Return the key of a PDF; whatever profiles slice it."""
    return f"slicings/{sha256}/original.pdf"


def run(sha256: str, profile: str, run_id: str) -> str:
    """Return what the keys of all files of a run begin with."""
    return f"slicings/{sha256}/{profile}/{run_id}"


def slice_file(ref: SlicingRef, position: int) -> str:
    """Return the key of a slice's PDF; `position` counts from 0."""
    return f"{_run(ref)}/{position + 1:04}.pdf"


def result(ref: SlicingRef) -> str:
    """Return the key of the validated result."""
    return f"{_run(ref)}/result.jsonl"


def all_pages(ref: SlicingRef) -> str:
    """Return what the keys of all pages that were read begin with."""
    return f"{_run(ref)}/pages"


def pages(ref: SlicingRef, chunk: PageRange) -> str:
    """Return the key of the pages of one range."""
    return f"{all_pages(ref)}/{chunk.first}-{chunk.last}.jsonl"


def raw_output(ref: SlicingRef, step: str, attempt: int) -> str:
    """Return the key of output that could not be read."""
    return f"slicings/{ref.sha256}/{ref.profile}/raw/{ref.run_id}-{step}-{attempt}.txt"


def _run(ref: SlicingRef) -> str:
    return run(ref.sha256, ref.profile, ref.run_id)

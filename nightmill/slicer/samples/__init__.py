"""Prints gazettes whose right answer is known: `python -m nightmill.slicer.samples OUT.pdf --seed 7`.

Not part of the slicer: it is what the slicer, and whatever program takes its place, is tried with.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightmill.slicer.samples import finishing, honduras, nicaragua
from nightmill.slicer.samples.drawing import draw
from nightmill.slicer.samples.options import SampleOptions, options_for_seed
from nightmill.slicer.samples.truth import AVISOS, MARCAS, Section, Trademark, Truth, TruthPiece

__all__ = [
    "AVISOS", "MARCAS", "Sample", "SampleOptions", "Section", "Trademark", "Truth", "TruthPiece", "make_sample",
    "options_for_seed",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """A printed gazette.

    Attributes:
        pdf: The file.
        truth: What is in it.
    """

    pdf: bytes
    truth: Truth


def make_sample(options: SampleOptions) -> Sample:
    """Print a gazette."""
    compose = {"honduras": honduras.compose, "nicaragua": nicaragua.compose}[options.country]
    sheets, truth = compose(options)
    pdf = draw(sheets, options)
    if options.scan:
        pdf = finishing.scanned(pdf, options.seed)
    if options.encrypted:
        pdf = finishing.encrypted(pdf, truth.password)
    return Sample(pdf, truth)

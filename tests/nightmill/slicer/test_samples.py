"""The truth of a sample is held against its pages as another reader sees them: pdfium's bare text, no engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pikepdf
import pypdfium2
import pytest

from nightmill.slicer.samples import (
    MARCAS,
    Sample,
    SampleOptions,
    Truth,
    honduras,
    make_sample,
    nicaragua,
    options_for_seed,
)
from nightmill.slicer.samples.honduras import FIRST_DAY
from nightmill.slicer.samples.prose import WEEKDAYS

PLAIN = SampleOptions(seed=7, acts=4, pages=8)


@contextmanager
def opened(sample: Sample, password: str | None = None) -> Iterator[pypdfium2.PdfDocument]:
    document = pypdfium2.PdfDocument(sample.pdf, password=password)
    try:
        yield document
    finally:
        document.close()


def truth_of(options: SampleOptions) -> Truth:
    """Return what is true of a gazette without drawing it."""
    return {"honduras": honduras, "nicaragua": nicaragua}[options.country].compose(options)[1]


def texts(sample: Sample) -> list[str]:
    """Return each page's text with single blanks."""
    found = []
    with opened(sample) as document:
        for page in document:
            read = page.get_textpage()
            found.append(" ".join(read.get_text_range().split()))
            read.close()
            page.close()
    return found


def test_the_same_options_print_the_same_bytes() -> None:
    assert make_sample(PLAIN) == make_sample(PLAIN)
    assert make_sample(PLAIN).pdf != make_sample(replace(PLAIN, seed=8)).pdf


@pytest.mark.parametrize("seed", range(0, 200, 23))
def test_every_document_stands_on_the_pages_that_the_truth_says(seed: int) -> None:
    sample = make_sample(replace(options_for_seed(seed), watermark=False, shadows=False))
    truth, pages = sample.truth, texts(sample)
    assert len(pages) == truth.page_count
    assert [piece.start_page for piece in truth.pieces] == sorted(piece.start_page for piece in truth.pieces)
    for piece in truth.pieces:
        name = "EDICTO" if piece.kind == "edictos" else piece.name
        if not piece.headless and piece.kind not in {"avisos", "marcas"}:
            assert name.lower() in pages[piece.start_page].lower()
        for mark in piece.marks:
            holding = [page for page, text in enumerate(pages) if mark in text]
            assert piece.start_page <= holding[0]
            assert holding[-1] == piece.end_page
            assert sum(text.count(mark) for text in pages) == (1 if piece.kind == "avance" else 2)


@pytest.mark.parametrize("seed", range(0, 200, 7))
def test_a_piece_ends_where_the_next_one_begins_or_on_the_page_before(seed: int) -> None:
    for piece, after in pairwise(truth_of(options_for_seed(seed)).pieces):
        assert piece.end_page == after.start_page - (not after.on_shared_page)


def test_sections_add_up_to_the_pages_and_section_b_has_whole_sheets() -> None:
    for seed in range(0, 40, 3):
        truth = truth_of(replace(options_for_seed(seed), country="honduras"))
        assert sum(section.end_page - section.start_page + 1 for section in truth.sections) == truth.page_count
        for section in truth.sections[1:]:
            assert (section.end_page - section.start_page + 1) % 4 == 0


def test_number_and_date_are_as_plausible_as_real_ones() -> None:
    for seed in range(0, 60, 3):
        truth = truth_of(replace(PLAIN, seed=seed, acts=2, pages=4, section_b=False))
        issued = date.fromisoformat(truth.issued_on)
        days = sum(
            date.fromordinal(day).weekday() < 6 for day in range(FIRST_DAY.toordinal() + 1, issued.toordinal() + 1)
        )
        assert -5 <= 33_431 + days - int(truth.number.replace(",", "")) <= 39
        assert issued.weekday() < 6


def test_the_masthead_has_number_weekday_and_date_and_the_sumario_true_pages() -> None:
    sample = make_sample(replace(PLAIN, shadows=False))
    front, truth = texts(sample)[0], sample.truth
    assert truth.number in front
    assert WEEKDAYS[date.fromisoformat(truth.issued_on).weekday()].upper() in front
    b_pages = truth.sections[1].end_page - truth.sections[1].start_page + 1
    assert re.search(rf"B\. ?1 ?- ?{b_pages}\b", front)


def test_a_wrong_sumario_and_a_missing_one_change_no_page_of_the_truth() -> None:
    right, wrong, none = (make_sample(replace(PLAIN, sumario=kind)) for kind in ("right", "wrong", "none"))
    assert right.truth == wrong.truth
    assert texts(right)[0] != texts(wrong)[0]
    assert "SUMARIO" in texts(right)[0]
    assert "SUMARIO" not in texts(none)[0]
    assert not any(piece.listed for piece in none.truth.pieces)
    assert all(piece.listed for piece in right.truth.pieces if piece.name != MARCAS)


def test_trademarks_are_known_by_number_applicant_class_and_page() -> None:
    for country in ("honduras", "nicaragua"):
        sample = make_sample(replace(PLAIN, country=country, acts=4))
        pages = texts(sample)
        assert sample.truth.pieces[-1].name == MARCAS
        assert len(sample.truth.trademarks) > 2
        for mark in sample.truth.trademarks:
            assert mark.applicant.split(",")[0].split()[0] in pages[mark.page]
            assert any(mark.number in text for text in pages[mark.page : mark.page + 2])


def test_the_seeds_turn_every_knob() -> None:
    mixed = [options_for_seed(seed) for seed in range(200)]
    for knob in (
        "unlisted", "headless", "column_end", "column_top", "short_acts", "long_issuer", "extra", "rotated",
        "watermark", "tangled", "forms", "misprint", "wide", "decoys", "shadows", "section_b", "trademarks",
    ):  # fmt: skip
        turned = sum(getattr(options, knob) for options in mixed)
        assert 5 <= turned <= 195, knob
    assert {options.sumario for options in mixed} == {"right", "wrong", "none"}
    truths = [truth_of(options) for options in mixed[:60]]
    assert any(piece.headless for truth in truths for piece in truth.pieces)
    assert any(not piece.listed for truth in truths if truth.has_sumario for piece in truth.pieces)
    starts = [[piece.start_page for piece in truth.pieces] for truth in truths]
    assert any(pages.count(page) > 2 for pages in starts for page in pages)


def test_a_head_can_stand_alone_at_the_end_of_a_column() -> None:
    sample = make_sample(replace(PLAIN, column_end=True, acts=6, shadows=False))
    heads = {piece.name for piece in sample.truth.pieces}
    lowest: set[str] = set()
    with opened(sample) as document:
        for page in document:
            read = page.get_textpage()
            for left, right in ((40, 296), (316, 572)):
                lines = read.get_text_bounded(left, 30, right, 75).split("\r\n")
                lowest.add(lines[-1].strip())
            read.close()
            page.close()
    assert heads & lowest


def test_pages_with_a_rotation_are_seen_upright() -> None:
    sample, plain = make_sample(replace(PLAIN, rotated=True)), make_sample(PLAIN)
    with pikepdf.open(BytesIO(sample.pdf)) as document:
        assert len({int(page.get("/Rotate", 0)) for page in document.pages}) > 2
    with opened(sample) as turned, opened(plain) as upright:
        for page in range(len(turned)):
            assert turned[page].get_size() == upright[page].get_size()
            images = (each[page].render(scale=0.2, grayscale=True).to_pil().convert("L") for each in (turned, upright))
            first, second = (image.resize((12, 16)).tobytes() for image in images)
            assert max(abs(a - b) for a, b in zip(first, second, strict=True)) < 40


def test_a_scan_has_pictures_and_no_text() -> None:
    sample = make_sample(replace(PLAIN, scan=True, acts=2, pages=3, section_b=False))
    assert not any(texts(sample))
    with opened(sample) as document:
        grey = document[0].render(scale=0.5, grayscale=True).to_pil().convert("L").getextrema()
        assert grey[0] < 120 < 230 < grey[1]


def test_an_encrypted_sample_opens_with_its_password_alone() -> None:
    sample = make_sample(replace(PLAIN, encrypted=True))
    with pytest.raises(pypdfium2.PdfiumError, match="password"):
        pypdfium2.PdfDocument(sample.pdf)
    with opened(sample, sample.truth.password) as document:
        assert len(document) == sample.truth.page_count


def test_the_truth_can_be_written_and_read() -> None:
    truth = make_sample(PLAIN).truth
    assert Truth.from_json(truth.to_json()) == truth


def test_the_command_writes_a_gazette_and_its_truth(tmp_path: Path) -> None:
    target = tmp_path / "gazette.pdf"
    command = [sys.executable, "-m", "nightmill.slicer.samples", str(target), "--seed", "5", "--country", "nicaragua"]
    subprocess.run([*command, "--acts", "3", "--pages", "4"], check=True, timeout=60)
    truth = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    assert truth["country"] == "nicaragua"
    assert len(truth["pieces"]) == 3
    told = subprocess.run([*command[:3], "--help"], check=True, timeout=60, capture_output=True, text=True)
    assert "example:" in told.stdout


def test_a_page_costs_little() -> None:
    """Ten milliseconds are usual; five times as much would be another algorithm."""
    make_sample(PLAIN)
    start = time.process_time()
    pages = sum(make_sample(replace(PLAIN, seed=seed)).truth.page_count for seed in range(5))
    assert (time.process_time() - start) / pages < 0.05

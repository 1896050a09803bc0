from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pypdfium2
import pytest

from nightmill.slicing.canary import canary_pdf, canary_truth, judge

Result = dict[str, Any]


@pytest.fixture
def right() -> Result:
    truth = canary_truth()
    return {
        "page_count": truth["page_count"],
        "gazette": {"number": truth["number"], "date": truth["issued_on"]},
        "files": [
            {
                "name": piece["name"],
                "path": f"{place}.pdf",
                "start_page": piece["start_page"],
                "end_page": piece["end_page"],
                "position": place,
            }
            for place, piece in enumerate(truth["pieces"])
        ],
        "errors": [],
    }


def test_the_canary_is_a_small_pdf_with_as_many_pages_as_its_answer_says() -> None:
    document = pypdfium2.PdfDocument(canary_pdf())
    assert len(document) == canary_truth()["page_count"] in range(10, 13)
    document.close()
    assert canary_pdf().stat().st_size < 120_000


def test_the_built_in_slicer_gives_the_right_answer(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "nightmill.slicer", str(canary_pdf()), str(tmp_path), "canary"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert judge(json.loads(ran.stdout), exact=True) is None


def test_the_right_answer_is_right_in_any_order_and_with_other_blanks(right: Result) -> None:
    assert judge(right, exact=True) is None
    right["files"].reverse()
    right["files"][0]["name"] = right["files"][0]["name"].upper() + "  "
    assert judge(right, exact=True) is None


def later(result: Result) -> None:
    result["files"][1]["start_page"] += 1


def shorter(result: Result) -> None:
    result["files"][2]["end_page"] -= 1


def renamed(result: Result) -> None:
    result["files"][1]["name"] = "DECRETO No. 46-2024"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda result: result["files"].pop(), "7 slices were found, not 8"),
        (later, "is said to have the pages 2 to 2, not 1 to 2"),
        (shorter, "is said to have the pages 2 to 4, not 2 to 5"),
        (renamed, "slice 2 is DECRETO No. 46-2024, not DECRETO No. 45-2024"),
        (lambda result: result["gazette"].update(number="36,718"), "the number is 36,718, not 36,717"),
        (lambda result: result["gazette"].update(date=None), "the date is missing, not 2024-12-02"),
        (lambda result: result.pop("gazette"), "the number is missing, not 36,717"),
    ],
)
def test_a_cut_that_is_wrong_is_wrong_only_where_it_must_be_exact(
    change: Callable[[Result], object], says: str, right: Result
) -> None:
    change(right)
    wrong = judge(right, exact=True)
    assert wrong is not None
    assert says in wrong
    assert judge(right, exact=False) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"page_count": 11}, "page_count is 11, not 12"),
        ({"page_count": None}, "page_count is missing, not 12"),
        ({"files": []}, "no slices were found"),
        ({"files": "all of them"}, "no slices were found"),
        ({"files": [7]}, "slice 1 is not an object"),
        (
            {"files": [{"name": "a", "path": "a.pdf", "start_page": 4, "end_page": 12}]},
            "slice 1 is said to have the pages 4 to 12",
        ),
        ({"files": [{"name": "a", "path": "a.pdf", "start_page": 4}]}, "the pages 4 to missing"),
        ({"files": [{"name": None, "path": "a.pdf", "start_page": 4, "end_page": 5}]}, "slice 1 has no name"),
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_a_result_that_cannot_be_right_is_wrong_from_every_slicer(
    change: Result, says: str, exact: bool, right: Result
) -> None:
    wrong = judge({**deepcopy(right), **change}, exact=exact)
    assert wrong is not None
    assert says in wrong

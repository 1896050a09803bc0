"""What makes a version of the code a build of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import worker
from nightmill.client.deployment import hash_of_code

ROOT = Path(worker.__file__).parent


@pytest.mark.parametrize(
    ("changed", "is_another"),
    [
        ("workflows/following.py", True),
        ("nightmill/contracts/base.py", True),
        ("nightmill/ids.py", True),
        ("nightmill/errors.py", False),
    ],
)
def test_a_change_of_what_workflows_are_made_of_is_another_build(
    changed: str, is_another: bool, tmp_path: Path
) -> None:
    for name in ("workflows", "nightmill/contracts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("nightmill/ids.py", "nightmill/errors.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    before = hash_of_code(tmp_path)
    assert before == hash_of_code(ROOT)
    with (tmp_path / changed).open("a") as file:
        file.write("\n")
    assert (hash_of_code(tmp_path) != before) is is_another

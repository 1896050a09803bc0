from __future__ import annotations

from pathlib import Path

import pytest

from nightmill.slicing.faults import OutputFlood
from nightmill.slicing.files import upload
from nightmill.storage.files import LocalFileStore

MIB = 1024 * 1024


def test_a_file_of_holes_is_not_kept_beyond_its_bound(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    with (output / "holes.pdf").open("wb") as file:
        file.write(b"%PDF-1.7\n")
        file.truncate(64 * MIB)
    files = LocalFileStore(tmp_path / "files")

    with pytest.raises(OutputFlood, match=r"holes\.pdf"):
        upload(files, "slicings/0001.pdf", output, "holes.pdf", at_most=64 * MIB - 1)
    assert files.size("slicings/0001.pdf") is None
    assert upload(files, "slicings/0001.pdf", output, "holes.pdf", at_most=64 * MIB)[0] == 64 * MIB

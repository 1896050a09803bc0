"""The page on settings, taken at its word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docs.generate import rows
from nightmill.settings import Settings


def test_every_default_that_is_written_reads_back_as_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("NIGHTMILL_")]:
        monkeypatch.delenv(name)
    defaults = Settings()
    written = [row for row in rows() if row.default]
    assert len(written) > 80
    for row in written:
        for provider in ("OPENAI", "ANTHROPIC", "GOOGLE", "XAI") if "<PROVIDER>" in row.variable else ("",):
            with monkeypatch.context() as environment:
                environment.setenv(row.variable.replace("<PROVIDER>", provider), row.default)
                assert Settings() == defaults, row.variable

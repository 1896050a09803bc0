"""Prometheus reads its configuration, and the rules that it names."""

from __future__ import annotations

import subprocess

import pytest

from tests.stack import ROOT

pytestmark = pytest.mark.system


def test_the_configuration_is_one_of_prometheus() -> None:
    config = ROOT / "deploy/prometheus/prometheus.yml"
    done = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rule files found" in done.stdout

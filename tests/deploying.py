"""What is known of the variables in the files that deploy Nightmill."""

from __future__ import annotations

import re

from tests.stack import ROOT

SECRET = re.compile(r"PASSWORD|PASSWD|PWD|SECRET|TOKEN|_KEY", re.IGNORECASE)
# temporalio.envconfig (1.35).
CONNECTION = {"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"}


def settings_of_all() -> set[str]:
    """The variables that Nightmill and Temporal's SDK read."""
    table = (ROOT / "docs/settings.md").read_text()  # of the code: tests/test_docs.py
    listed = set(re.findall(r"NIGHTMILL_[A-Z_<>]+", table))
    providers = ("OPENAI", "ANTHROPIC", "GOOGLE", "XAI")
    return {name.replace("<PROVIDER>", provider) for name in listed | CONNECTION for provider in providers}

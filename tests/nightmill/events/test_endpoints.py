"""Who may tell of batches is a matter of settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightmill.errors import InvalidSignature, NotConfigured
from nightmill.events.endpoints import endpoints_of
from nightmill.settings import load_settings
from tests.events import ACME_SECRET, GOOGLE_SECRET, SECRET, signed


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `.env` of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)


def given(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"NIGHTMILL_{name}", value)


def test_each_secret_makes_a_path_and_opens_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch,
        OPENAI__WEBHOOK_SECRET=SECRET,
        GOOGLE__WEBHOOK_SECRET=GOOGLE_SECRET,
        ACCOUNTS__ACME__OPENAI__API_KEY="key",
        ACCOUNTS__ACME__OPENAI__WEBHOOK_SECRET=ACME_SECRET,
        ACCOUNTS__ACME__GOOGLE__API_KEY="key",
    )
    found = endpoints_of(load_settings())
    assert set(found) == {"/openai", "/google", "/openai/acme"}
    secrets = {"/openai": SECRET, "/google": GOOGLE_SECRET, "/openai/acme": ACME_SECRET}
    for path, endpoint in found.items():
        for signer, secret in secrets.items():
            headers = signed(b"{}", secret)
            if signer == path:
                endpoint.verify(headers, b"{}")
            else:
                with pytest.raises(InvalidSignature):
                    endpoint.verify(headers, b"{}")


def test_an_endpoint_speaks_for_the_batches_of_its_own_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any provider's key: who receives events needs none."""
    given(monkeypatch, OPENAI__WEBHOOK_SECRET=SECRET, ACCOUNTS__ACME__OPENAI__WEBHOOK_SECRET=ACME_SECRET)
    found = endpoints_of(load_settings())
    assert [found["/openai"].owns(account) for account in (None, "acme", "other")] == [True, False, False]
    assert [found["/openai/acme"].owns(account) for account in (None, "ACME", "other")] == [False, True, False]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "set NIGHTMILL_OPENAI__WEBHOOK_SECRET"),
        ({"OPENAI__WEBHOOK_SECRET": "whsec_no/base64!"}, "^NIGHTMILL_OPENAI__WEBHOOK_SECRET: .*base64"),
        ({"GOOGLE__WEBHOOK_SECRET": "whsec_c2hvcnQ="}, "^NIGHTMILL_GOOGLE__WEBHOOK_SECRET: .*16 bytes"),
        ({"XAI__WEBHOOK_SECRET": SECRET}, "^NIGHTMILL_XAI__WEBHOOK_SECRET: xai sends no events"),
        (
            {"ACCOUNTS__ACME__ANTHROPIC__WEBHOOK_SECRET": SECRET, "ACCOUNTS__ACME__ANTHROPIC__API_KEY": "key"},
            "^NIGHTMILL_ACCOUNTS__ACME__ANTHROPIC__WEBHOOK_SECRET: anthropic sends no events",
        ),
    ],
)
def test_a_secret_that_cannot_be_used_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], message: str
) -> None:
    given(monkeypatch, **values)
    with pytest.raises(NotConfigured, match=message) as refused:
        endpoints_of(load_settings())
    assert SECRET not in str(refused.value)

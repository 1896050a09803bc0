"""Secrets that a container platform gives as files, and what the process then knows to hide."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from nightmill.client.connection import connect
from nightmill.concealing import concealed
from nightmill.errors import NotConfigured, TemporalUnreachable
from nightmill.settings import load_settings
from nightmill.settings.secrets import LARGEST, origin_of
from tests.canaries import Canaries, secret_settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of secrets, and no variable of ours besides it."""
    for name in list(os.environ):
        if name.startswith("NIGHTMILL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "secrets"
    made.mkdir()
    monkeypatch.setenv("NIGHTMILL_SECRETS_DIR", str(made))
    return made


def test_every_secret_setting_can_be_a_file_and_is_hidden_from_then_on(folder: Path) -> None:
    canaries = Canaries()
    for variable, value in canaries.variables({}).items():
        (folder / variable.lower()).write_text(f"{value}\n")
    settings = load_settings()
    assert settings.api_key("openai", None).get_secret_value() == canaries.planted["NIGHTMILL_OPENAI__API_KEY"]
    assert settings.api_key("openai", "acme").get_secret_value()
    assert settings.openai.base_url == "https://api.openai.com/v1", "what is beside a key keeps its default"
    assert len(canaries.planted) == len(secret_settings())
    for place, value in canaries.planted.items():
        assert value not in concealed(f"cannot use {value} there"), place


def test_a_variable_goes_before_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "nightmill_openai__api_key").write_text("from the file")
    (folder / "nightmill_xai__api_key").write_text("from the file")
    monkeypatch.setenv("NIGHTMILL_OPENAI__API_KEY", "from the environment")
    settings = load_settings()
    assert settings.api_key("openai", None).get_secret_value() == "from the environment"
    assert settings.api_key("xai", None).get_secret_value() == "from the file"
    assert origin_of("NIGHTMILL_OPENAI__API_KEY") == "the environment"
    assert origin_of("NIGHTMILL_XAI__API_KEY") == str(folder / "nightmill_xai__api_key")
    assert origin_of("NIGHTMILL_GOOGLE__API_KEY") is None


def test_any_setting_can_be_a_file_such_as_the_databases_url(folder: Path) -> None:
    (folder / "NIGHTMILL_DATABASE_URL").write_text("postgresql://nightmill:s3cret-and-long@db/nightmill\r\n")
    (folder / "nightmill_webhook__secret").write_text("")
    assert load_settings().database_url == "postgresql://nightmill:s3cret-and-long@db/nightmill"
    assert load_settings().webhook.secret is None, "a blank file is as an unset variable"
    assert concealed("password s3cret-and-long") == "password ***"


def test_links_are_followed_as_kubernetes_mounts_them_and_other_files_are_left_alone(folder: Path) -> None:
    hidden = folder / "..2026_11_22"
    hidden.mkdir()
    (hidden / "nightmill_openai__api_key").write_text("a-key")
    (folder / "..data").symlink_to(hidden.name)
    (folder / "nightmill_openai__api_key").symlink_to("..data/nightmill_openai__api_key")
    (folder / "postgres_password").write_bytes(b"\xff" * (LARGEST + 1))
    assert load_settings().api_key("openai", None).get_secret_value() == "a-key"


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"x" * (LARGEST + 1), "larger than 65,536 bytes"), (b"\xff\xfe", "is not text in UTF-8")],
    ids=["too large", "no text"],
)
def test_a_file_that_cannot_be_a_secret_is_named_and_not_shown(folder: Path, content: bytes, says: str) -> None:
    path = folder / "nightmill_openai__api_key"
    path.write_bytes(content)
    with pytest.raises(NotConfigured, match=says) as refused:
        load_settings()
    assert str(path) in str(refused.value)


def test_a_file_that_is_not_there_any_more_is_named(folder: Path) -> None:
    (folder / "nightmill_openai__api_key").symlink_to("gone")
    with pytest.raises(NotConfigured, match=r"nightmill_openai__api_key: cannot be read \(No such file or directory\)"):
        load_settings()


def test_a_folder_that_was_named_must_be_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_SECRETS_DIR", str(folder / "nowhere"))
    with pytest.raises(NotConfigured, match=r"NIGHTMILL_SECRETS_DIR: .*nowhere is not a folder"):
        load_settings()


def test_a_list_that_is_no_json_is_named_and_not_shown(folder: Path) -> None:
    (folder / "nightmill_encryption_old_keys").write_text("Kanari0123456789")
    with pytest.raises(NotConfigured, match="NIGHTMILL_ENCRYPTION_OLD_KEYS") as refused:
        load_settings()
    assert "Kanari" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("tgram://7654321:AAh-Tok3n/1234567890", ["7654321:AAh-Tok3n", "1234567890"]),
        (
            "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
            ["T1JJ3T3L2", "t1jj3t3l2", "A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"],
        ),
        ("slack://robot-77@T1JJ3T3L2/x", ["robot-77", "T1JJ3T3L2"]),
        ("https://Tok3n-and-long@hooks.example.com/", ["Tok3n-and-long"]),
        ("https://me:p%40ss-w%2Ford1@hooks.example.com/", ["p%40ss-w%2Ford1", "p@ss-w/ord1"]),
        ("mailtos://u5er-name:p%40ss-word1@mail.example.com", ["u5er-name", "p@ss-word1"]),
    ],
)
def test_whatever_part_of_a_notifications_address_holds_its_secret_is_hidden(
    folder: Path, url: str, hidden: list[str]
) -> None:
    (folder / "nightmill_notify__urls").write_text(json.dumps([url]))
    load_settings()
    for value in hidden:
        assert concealed(f"no answer from {value}.") == "no answer from ***."
    assert concealed("hooks.example.com mail.example.com") == "hooks.example.com mail.example.com"


@pytest.mark.parametrize("name", ["password", "sslpassword", "pass%77ord"])
def test_a_databases_password_is_hidden_also_where_it_stands_in_the_query(folder: Path, name: str) -> None:
    (folder / "nightmill_database_url").write_text(f"postgresql://db/nightmill?user=me&{name}=qu3ry%2Fp4ss+{name[:4]}")
    load_settings()
    for form in (f"qu3ry%2Fp4ss+{name[:4]}", f"qu3ry/p4ss+{name[:4]}", f"qu3ry/p4ss {name[:4]}"):
        assert concealed(f"refused: {form}") == "refused: ***"


@pytest.mark.parametrize(
    ("variable", "value", "hidden"),
    [
        ("TEMPORAL_API_KEY", "tmprl-Key-1", "tmprl-Key-1"),
        ("AWS_SECRET_ACCESS_KEY", "wJalr/S3cret", "wJalr/S3cret"),
        ("AWS_SESSION_TOKEN", "S3ssion-token", "S3ssion-token"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "Acc0unt-key==", "Acc0unt-key=="),
        ("AZURE_STORAGE_SAS_TOKEN", "sv=2026&sig=Sas1", "sv=2026&sig=Sas1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-scope=abc,authorization=Basic%20T3lemetry==", "T3lemetry=="),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=T%2Fr4ces-key", "T/r4ces-key"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:C0llector-pw@otel.example.com", "C0llector-pw"),
    ],
)
def test_secrets_that_libraries_read_in_the_environment_are_hidden(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, hidden: str
) -> None:
    monkeypatch.setenv(variable, value)
    load_settings()
    assert concealed(f"refused: {hidden}, otherwise fine") == "refused: ***, otherwise fine"


def test_the_key_in_a_temporal_profile_is_hidden_once_it_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = folder.parent / "temporal.toml"
    profile.write_text('[profile.default]\naddress = "127.0.0.1:9"\napi_key = "Pr0file-key"\n')
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(profile))
    with pytest.raises(TemporalUnreachable):
        asyncio.run(connect(load_settings()))
    assert concealed("refused: Pr0file-key") == "refused: ***"


def test_names_of_keys_and_files_are_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {
        "AWS_ACCESS_KEY_ID": "AKIA0123456789",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/aws/T0ken",
        "AWS_REGION": "eu-central-1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel.example.com:4318",
    }
    for variable, value in plain.items():
        monkeypatch.setenv(variable, value)
    load_settings()
    assert concealed(" ".join(plain.values())) == " ".join(plain.values())


@pytest.mark.parametrize("password", ["nightmill", "abc1"])
def test_what_stands_in_every_text_is_not_hidden(folder: Path, password: str) -> None:
    (folder / "nightmill_notify__smtp_password").write_text(password)
    load_settings()
    assert concealed(f"logger of {password}") == f"logger of {password}"

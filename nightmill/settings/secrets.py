"""Secrets: which values of the settings are any, and how they are read from files.

A container platform gives secrets as files in a folder, each named as the variable in lower case:
`/run/secrets/nightmill_openai__api_key`. A variable that is set goes before its file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus, urlsplit

from pydantic import BaseModel, SecretStr
from pydantic_settings import EnvSettingsSource

from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

VARIABLE = "NIGHTMILL_SECRETS_DIR"
DEFAULT_FOLDER = Path("/run/secrets")
LARGEST = 64 * 1024
"""Bytes of one file at most; a secret of Kubernetes or Docker may be larger, and none of ours is."""

_PREFIX = "nightmill_"
_WITH_HOST = ("http", "https", "mailto", "mailtos")
"""Schemes of notifications whose host is a host, and no token."""

_OF_STORES = re.compile(r"(AWS|AZURE|GOOGLE)_\w*(SECRET|TOKEN|KEY|SAS)\w*(?<!_ID)(?<!_FILE)")
"""Variables of object stores that hold secrets; the names of files, of keys and of tokens are none."""

_OF_COLLECTORS = re.compile(r"OTEL_EXPORTER_OTLP_(\w+_)?(HEADERS|ENDPOINT)")

_PASSWORD_PARAMETERS = ("password", "sslpassword")  # postgresql.org/docs/current/libpq-connect.html, read 2026-11


class SecretFiles(EnvSettingsSource):
    """Reads settings from files named as their variables are; pydantic-settings then takes them for variables.

    Its own source of this kind leaves out a file that is a link out of its folder, which is how some platforms
    mount single secrets, and says nothing.
    """

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return read_secret_files(secrets_folder())


def secrets_folder() -> Path | None:
    """Return the folder that secrets are read from: the one that the variable names, or the usual one if it is there.

    Raises:
        NotConfigured: The variable names no folder.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_dir():
            raise NotConfigured(f"{VARIABLE}: {named} is not a folder")
        return Path(named)
    return DEFAULT_FOLDER if DEFAULT_FOLDER.is_dir() else None


def read_secret_files(folder: Path | None) -> dict[str, str | None]:
    """Return what the files of a folder hold whose names begin as our variables do, by these names in lower case.

    A line break at the end is not part of it: editors and `echo` write one. A blank file counts as not set.

    Raises:
        NotConfigured: A file cannot be read, is too large or is not text; the message names it.
    """
    found: dict[str, str | None] = {}
    try:
        files = sorted(folder.iterdir()) if folder is not None else []
    except OSError as error:
        raise NotConfigured(f"{VARIABLE}: {folder} cannot be read ({error.strerror})") from None
    for path in files:
        if path.name.lower().startswith(_PREFIX) and not path.is_dir():
            text = _read(path)
            if text:
                found[path.name.lower()] = text
    return found


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise NotConfigured(f"secret file {path}: cannot be read ({error.strerror})") from None
    if len(content) > LARGEST:
        raise NotConfigured(f"secret file {path}: larger than {LARGEST:,} bytes")
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise NotConfigured(f"secret file {path}: is not text in UTF-8") from None


def origin_of(variable: str) -> str | None:
    """Return where a variable's value comes from: `the environment`, a file's path, or None where it is in neither.

    Raises:
        NotConfigured: See `secrets_folder` and `read_secret_files`.
    """
    if any(name.upper() == variable.upper() and value for name, value in os.environ.items()):
        return "the environment"
    folder = secrets_folder()
    if folder is None or variable.lower() not in read_secret_files(folder):
        return None
    return next(str(path) for path in sorted(folder.iterdir()) if path.name.lower() == variable.lower())


def secret_values(settings: BaseModel) -> frozenset[str]:
    """Return every value that nobody may see: those of the secret settings, and passwords in those that are addresses.

    So are those that libraries read in the environment: `TEMPORAL_API_KEY`, the keys of object stores, and what
    OpenTelemetry's collectors are told in headers.
    """
    found = set(_secrets(settings)) | set(_passwords(settings)) | set(_of_libraries(os.environ))
    return frozenset(found - {""})


def _of_libraries(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if name == "TEMPORAL_API_KEY" or _OF_STORES.fullmatch(name.upper()):
            yield value
        elif _OF_COLLECTORS.fullmatch(name):
            yield from _passwords_of(value) if "://" in value else _in_headers(value)


def _in_headers(text: str) -> Iterator[str]:
    """Yield what may be a secret in `authorization=Bearer%20TOKEN,…`."""
    for pair in text.split(","):
        value = pair.partition("=")[2].strip()
        yield from (value, unquote(value), unquote(value).rpartition(" ")[2])


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        yield text
        yield text.removeprefix("whsec_")
        if "://" in text:  # parts of a notification's address let one post there
            yield from _parts(text)
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from _secrets(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _secrets(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _secrets(inner)


def _parts(address: str) -> Iterator[str]:
    """Yield what may be a secret in a notification's address; the host is, where a service needs none to be found."""
    try:
        parts = urlsplit(address)
        found = [parts.path.strip("/"), parts.query]
        found += [form for part in (parts.username, parts.password) if part for form in (part, unquote(part))]
        if parts.scheme not in _WITH_HOST:  # `tgram://TOKEN/chat`, `slack://A/B/C`; messages know hosts in lower case
            found += [parts.netloc, parts.netloc.rpartition("@")[2], parts.hostname or ""]
    except ValueError:  # whoever uses it says so
        return
    yield from filter(None, found)


def _passwords(value: Any) -> Iterator[str]:
    """Yield the passwords in the addresses among a section's plain settings."""
    if isinstance(value, BaseModel):
        for _, inner in value:
            yield from _passwords(inner)
    elif isinstance(value, str) and "://" in value:
        yield from _passwords_of(value)


def _passwords_of(address: str) -> Iterator[str]:
    try:
        parts = urlsplit(address)
        passwords = [parts.password or "", *_passwords_in(parts.query)]
    except ValueError:  # whoever uses it says so
        return
    for password in filter(None, passwords):
        yield from (password, unquote(password), unquote_plus(password))


def _passwords_in(query: str) -> Iterator[str]:
    """Yield the passwords in the query of PostgreSQL's address, as they are written there."""
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if unquote(name) in _PASSWORD_PARAMETERS:
            yield value

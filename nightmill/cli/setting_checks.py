"""What `nightmill doctor` looks at in the settings beyond what they say themselves: names that nothing reads."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nightmill.cli.checks import Finding, State

if TYPE_CHECKING:
    from pydantic import BaseModel

    from nightmill.settings import Settings

_PREFIX = "NIGHTMILL_"
_OTHERS = frozenset({"NIGHTMILL_SECRETS_DIR", "NIGHTMILL_FAIL_POINT", "NIGHTMILL_FAIL_MARKER", "NIGHTMILL_JOB"})
"""Variables of ours that are no settings."""

_NAMED = 5


def examine_settings(settings: Settings) -> Iterator[Finding]:
    """Yield what was set and is read by nobody, and folders that are not there."""
    from dotenv import dotenv_values

    from nightmill.settings import secrets

    yield Finding("settings", State.OK, "every setting can be read")
    file = {name: value for name, value in dotenv_values(".env").items() if value}
    folder = secrets.secrets_folder()
    from_files = {name.upper() for name in secrets.read_secret_files(folder)}
    yield _names({*os.environ, *file, *from_files}, settings)
    ignored = sorted(name for name in file if name.startswith(("TEMPORAL_", "OTEL_")) and name not in os.environ)
    if ignored:
        message = f"{', '.join(ignored[:_NAMED])}: stands in .env, from which only NIGHTMILL_ variables are read"
        yield Finding("env file", State.WARN, message, "export it: `set -a; . ./.env; set +a`")
    if folder is not None:
        yield Finding("secret files", State.OK, f"{len(from_files)} of ours in {folder}")
    missing = [str(root) for root in settings.input_roots if not _is_folder(root)]
    if missing:
        message = f"{', '.join(missing[:_NAMED])}: no folder that this user can read"
        yield Finding("input roots", State.WARN, message, "mount it, or take it out of NIGHTMILL_INPUT_ROOTS")


def _names(given: set[str], settings: Settings) -> Finding:
    fields = type(settings).model_fields
    ours = sorted(name for name in given if name.upper().startswith(_PREFIX) and name.upper() not in _OTHERS)
    unknown = [name for name in ours if name[len(_PREFIX) :].lower().split("__")[0] not in fields]
    if not unknown:
        return Finding("variables", State.OK, f"{len(ours)} that begin with {_PREFIX}, each one known")
    known = sorted(_variables(type(settings), _PREFIX))
    meant = {name: difflib.get_close_matches(name.upper(), known, 1, 0.8) for name in unknown[:_NAMED]}
    told = [f"{name} ({f'is {near[0]} meant?' if near else 'unknown'})" for name, near in meant.items()]
    more = " …" if len(unknown) > _NAMED else ""
    message = f"{len(unknown)} set that nothing reads: {', '.join(told)}{more}"
    return Finding("variables", State.WARN, message, "correct or unset them; docs/settings.md has all names")


def _variables(section: type[BaseModel], prefix: str) -> Iterator[str]:
    from pydantic import BaseModel as Model

    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Model):
            yield from _variables(kind, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}"


def _is_folder(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.R_OK | os.X_OK)

"""What commands that do something stand on: settings, the database, an event loop that Ctrl-C ends at once."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from nightmill.assembly import Assembly

T = TypeVar("T")

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "min": 60, "s": 1, "ms": 0.001}
_KINDS = {"dict": "object", "list": "array"}
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:d|h|min|m|s|ms))+")
_STEP = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|ms|m|s)")


@contextmanager
def stored() -> Iterator[Assembly]:
    """Give an assembly whose database has the right schema.

    Raises:
        SchemaOutdated: The database is of another version.
        StorageUnavailable: The database does not answer.
        NotConfigured: A setting cannot be used.
    """
    from nightmill.assembly import assembled
    from nightmill.settings import load_settings
    from nightmill.storage import schema

    with assembled(load_settings()) as assembly:
        schema.check(assembly.database)
        yield assembly


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end.

    Raises:
        KeyboardInterrupt: Ctrl-C. Threads that are still busy are not waited for; they end with the process.
    """
    from nightmill.client.runtime import keep_core_off_standard_output

    keep_core_off_standard_output()
    runner = asyncio.Runner()
    try:
        result = runner.run(work)
    except Exception:
        runner.close()
        raise
    runner.close()
    return result


def seconds_of(text: str, option: str) -> str:
    """Return a duration as a contract takes it: `26h`, `1h30m`, `45s` become seconds, all else stays as it is.

    Raises:
        InvalidInput: It is empty.
    """
    if not text.strip():
        raise InvalidInput(f"{option}: give seconds, a span such as 26h, or ISO 8601 such as PT26H")
    if not _SPAN.fullmatch(text):
        return text
    return f"{sum(float(number) * _UNITS[unit] for number, unit in _STEP.findall(text)):.3f}"


def duration_of(text: str, option: str) -> timedelta:
    """Return a duration given as `26h`, `90`, or `PT26H`.

    Raises:
        InvalidInput: It is none of these, or not positive.
    """
    from pydantic import TypeAdapter, ValidationError

    from nightmill.contracts import Duration

    adapter: TypeAdapter[timedelta] = TypeAdapter(Duration)
    try:
        value = adapter.validate_python(seconds_of(text, option))
    except ValidationError:
        value = timedelta(0)
    if value <= timedelta(0):
        raise InvalidInput(f"{option}: {text[:40]!r} is no duration: give seconds, a span such as 26h, or PT26H")
    return value


def json_of(text: str, option: str, kind: type[T]) -> T:
    """Return a JSON value of the expected kind.

    Raises:
        InvalidInput: It is no JSON, or of another kind.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{option}: no JSON: {error}") from None
    if not isinstance(value, kind):
        raise InvalidInput(f"{option}: give a JSON {_KINDS.get(kind.__name__, kind.__name__)}, not {text[:40]!r}")
    return value

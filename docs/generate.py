"""Writes the tables of README.md and docs/{settings,metrics,python,jobs}.md from the code: `make docs`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs import jobs_tables
from nightmill import client, errors
from nightmill.settings import AccountKeySettings, ProviderSettings, Settings
from nightmill.telemetry.metrics import METRICS

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- settings: written by `make docs` -->", "<!-- end of settings -->"
HEAD = "| variable | default | meaning |\n| --- | --- | --- |\n"
GENERAL = "General"
FIRST = (
    "DATABASE_URL",
    "STORAGE_URL",
    "INPUT_ROOTS",
    "<PROVIDER>__API_KEY",
    "<PROVIDER>__BASE_URL",
    "BATCH__POLL_SCHEDULE",
    "DOCUMENTS__PLANS",
    "SLICING__ISOLATION",
    "NOTIFY__URLS",
    "ENCRYPTION_KEY",
)
"""The settings that most installations set, as README shows them."""

METRICS_BEGIN, METRICS_END = "<!-- metrics: written by `make docs` -->", "<!-- end of metrics -->"
METRICS_HEAD = "| metric | in Prometheus | kind, unit | labels | meaning | recorded when |\n" + "| --- " * 6 + "|\n"

ERRORS_BEGIN, ERRORS_END = "<!-- errors: written by `make docs` -->", "<!-- end of errors -->"
ERRORS_HEAD = "| error | `code` | meaning | the same call may succeed later |\n" + "| --- " * 4 + "|\n"
BASES = {errors.NightmillError, errors.TransientError, errors.PermanentError}


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        section: Heading it stands under.
        variable: Environment variable; `<PROVIDER>` stands for each of the four.
        default: As it would be written in the environment; blank where there is none.
        meaning: What it does, with its bounds.
    """

    section: str
    variable: str
    default: str
    meaning: str

    def __str__(self) -> str:
        """Return a line of a Markdown table."""
        default = f"`{self.default}`" if self.default else ""
        return f"| `{self.variable}` | {default} | {self.meaning.replace('|', '/')} |\n"


def rows() -> Iterator[Row]:
    """Yield every setting in the order of the code, the four providers' as one."""
    providers = [name for name, field in Settings.model_fields.items() if isinstance(field.default, ProviderSettings)]
    for name, field in Settings.model_fields.items():
        if name == "accounts":
            for inner, inner_field in AccountKeySettings.model_fields.items():
                variable = f"NIGHTMILL_ACCOUNTS__<NAME>__<PROVIDER>__{inner.upper()}"
                yield Row(GENERAL, variable, _default(inner_field), _meaning(inner_field))
        elif not isinstance(field.default, BaseModel):
            yield Row(GENERAL, f"NIGHTMILL_{name.upper()}", _default(field), _meaning(field))
        elif name == providers[0]:
            yield from _provider_rows(providers)
        elif name not in providers:
            heading = (type(field.default).__doc__ or name).splitlines()[0].rstrip(".").split(";")[0]
            for inner, inner_field in type(field.default).model_fields.items():
                variable = f"NIGHTMILL_{name}__{inner}".upper()
                yield Row(heading, variable, _default(inner_field), _meaning(inner_field))


def _provider_rows(providers: list[str]) -> Iterator[Row]:
    heading = f"Providers: `<PROVIDER>` is {', '.join(f'`{name.upper()}`' for name in providers)}"
    for name, field in ProviderSettings.model_fields.items():
        yield Row(heading, f"NIGHTMILL_<PROVIDER>__{name.upper()}", _default(field), _meaning(field))
        if name == "base_url":
            for provider in providers:
                default = Settings.model_fields[provider].default.base_url
                yield Row(heading, f"NIGHTMILL_{provider.upper()}__BASE_URL", default, f"that of {provider}")


def _default(field: FieldInfo) -> str:
    value = field.get_default()
    if value is None or field.is_required() or value in ((), {}):
        return ""
    return _written(value) if not isinstance(value, frozenset) else ""


def _written(value: Any) -> str:
    """Write a value as it stands in the environment: durations in seconds, lists as JSON."""
    if isinstance(value, tuple):
        return json.dumps([_seconds(v) if isinstance(v, timedelta) else v for v in value])
    if isinstance(value, dict):
        plain = {name: each.model_dump(mode="json", exclude_none=True) for name, each in value.items()}
        return json.dumps(plain)
    if isinstance(value, bool):
        return str(value).lower()
    return str(_seconds(value) if isinstance(value, timedelta) else value)


def _seconds(value: timedelta) -> int | float:
    seconds = value.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def _meaning(field: FieldInfo) -> str:
    """Return the description with the words that are allowed, or the bounds."""
    words = [word for part in _literals(field.annotation) for word in get_args(part)]
    allowed = f" (one of {', '.join(f'`{word}`' for word in words)})" if words else ""
    low, high = (next((getattr(m, n) for m in field.metadata if hasattr(m, n)), None) for n in ("ge", "le"))
    if low is not None:
        allowed += f" ({low} to {high})" if high is not None else f" (at least {low})"
    if isinstance(field.default, frozenset):
        allowed += f"; default {_ranges(sorted(field.default))}"
    return (field.description or "").strip() + allowed


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield annotation
    elif get_origin(annotation) is UnionType:
        for part in get_args(annotation):
            yield from _literals(part)


def _ranges(numbers: list[int]) -> str:
    """Write 500, 501, 502 as 500-502."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def by_section() -> str:
    """Return one table a section."""
    sections: dict[str, list[Row]] = {}
    for row in rows():
        sections.setdefault(row.section, []).append(row)
    return "\n".join(f"## {name}\n\n{HEAD}{''.join(map(str, found))}" for name, found in sections.items())


def first_table() -> str:
    """Return one table of the settings that README shows.

    Raises:
        LookupError: One of them is no setting.
    """
    found = {row.variable: str(row) for row in rows()}
    return HEAD + "".join(found[f"NIGHTMILL_{name}"] for name in FIRST)


def metrics_table() -> str:
    """Return one table of all metrics."""
    lines = []
    for metric in METRICS:
        kind = f"{metric.kind}, {metric.unit}" if metric.unit else metric.kind
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        names = f"`{metric.name}` | `{metric.prometheus_name}`"
        lines.append(f"| {names} | {kind} | {labels} | {metric.meaning} | {metric.when} |\n")
    return METRICS_HEAD + "".join(lines)


def errors_table() -> str:
    """Return one table of the errors that the client's calls raise, in the order of their tree."""
    lines = []
    for error in vars(errors).values():
        is_error = isinstance(error, type) and issubclass(error, errors.NightmillError)
        if is_error and error.__name__ in client.__all__ and error not in BASES:
            may_pass = "yes" if issubclass(error, errors.TransientError) else "no"
            meaning = (error.__doc__ or "").splitlines()[0].rstrip(".").replace("|", "/")
            lines.append(f"| `{error.__name__}` | `{error.code}` | {meaning} | {may_pass} |\n")
    return ERRORS_HEAD + "".join(lines)


def filled(text: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """Return the text with the table between its two marks.

    Raises:
        ValueError: A mark is missing.
    """
    before, _, rest = text.partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise ValueError(f"the marks {begin} and {end} are missing")
    return f"{before}{begin}\n\n{table}\n{end}{after}"


def pages() -> dict[Path, str]:
    """Return what each page should hold."""
    tables = {ROOT / "docs" / "settings.md": by_section(), ROOT / "README.md": first_table()}
    found = {path: filled(path.read_text(), table) for path, table in tables.items()}
    page = ROOT / "docs" / "metrics.md"
    found[page] = filled(page.read_text(), metrics_table(), METRICS_BEGIN, METRICS_END)
    page = ROOT / "docs" / "python.md"
    found[page] = filled(page.read_text(), errors_table(), ERRORS_BEGIN, ERRORS_END)
    page = ROOT / "docs" / "jobs.md"
    found[page] = page.read_text()
    for name, table in jobs_tables.tables().items():
        found[page] = filled(found[page], table, f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->")
    return found


def main() -> None:
    """Write the pages, or with `--check` exit with 1 where one is out of date."""
    stale = {path: text for path, text in pages().items() if path.read_text() != text}
    if "--check" in sys.argv:
        sys.exit(f"out of date, run `make docs`: {', '.join(str(p.relative_to(ROOT)) for p in stale)}" if stale else 0)
    for path, text in stale.items():
        path.write_text(text)


if __name__ == "__main__":
    main()

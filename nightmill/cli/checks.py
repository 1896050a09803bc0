"""What `nightmill doctor` looks at. What it writes to try something, a small file and a few workflows, it deletes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmill.concealing import concealed
from nightmill.errors import InvalidInput, NightmillError, NotConfigured

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.settings import Settings

LITTLE_SPACE = 2_000_000_000
"""A batch of 200 MB takes about five times its size on the way: file, rows, results, rows, write-ahead log."""

PATIENCE = timedelta(seconds=12)
"""For all groups together; they are looked at side by side, so that what hangs holds nobody up."""

_NO_STORAGE = "correct NIGHTMILL_STORAGE_URL and AWS_ENDPOINT, or open the firewall in between"

_SLOW_TO_LOAD = (
    "nightmill.client.connection",
    "nightmill.client.schedules",
    "nightmill.storage.schema",
    "workflows.story",
)

GROUPS = (
    "settings",
    "database",
    "storage",
    "temporal",
    "providers",
    "serving",
    "notices",
    "documents",
    "slicing",
    "recovery",
    "machine",
)


class State(Enum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: What was checked.
        state: How it came out.
        message: One line.
        fix: What to do about it.
        unreachable: Temporal or the database did not answer.
        group: Of which group of checks it is.
    """

    name: str
    state: State
    message: str
    fix: str | None = None
    unreachable: bool = False
    group: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the finding for programs."""
        return {
            "check": self.name,
            "state": self.state.value,
            "message": self.message,
            "fix": self.fix,
            "group": self.group,
        }


@dataclass(frozen=True)
class Look:
    """One thing to look at, on a thread of its own.

    Attributes:
        group: Of which group it is.
        name: What the finding is called that says that it did not end.
        findings: Yields what is found.
        mend: What to do if it does not end.
    """

    group: str
    name: str
    findings: Callable[[], Iterable[Finding]]
    mend: str = "what it asks is in docs/doctor.md"


@dataclass
class _Looking:
    look: Look
    found: list[Finding] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            for each in self.look.findings():
                self.found.append(each)
        except Exception as error:  # noqa: BLE001 - one check must not hide the others, and this is what it found
            fix = "`nightmill --verbose doctor` may tell more; if it stays, report it as a bug"
            self.found.append(Finding(self.look.name, State.FAIL, reason_of(error), fix))
        finally:
            self.ended.set()


def examine(only: Collection[str] = ()) -> Iterator[Finding]:
    """Yield the findings, group after group, within about `PATIENCE`; no message holds a secret that we know.

    Args:
        only: Names of the groups to look at; none means all.

    Raises:
        InvalidInput: There is no such group.
    """
    if unknown := sorted(set(only) - set(GROUPS)):
        raise InvalidInput(f"--only: {', '.join(unknown)}; known are {', '.join(GROUPS)}")
    for finding in _examined(only):
        fix = None if finding.fix is None else concealed(finding.fix)
        yield replace(finding, message=concealed(finding.message), fix=fix)


def _examined(only: Collection[str]) -> Iterator[Finding]:
    from nightmill.assembly import assembled
    from nightmill.settings import load_settings

    try:
        settings = load_settings()
    except NotConfigured as error:
        fix = "see docs/settings.md, where every setting stands"
        yield Finding("settings", State.FAIL, str(error), fix, group="settings")
        return
    except (OSError, UnicodeError) as error:  # `.env` is none of the environment's: a file that cannot be read
        fix = "let this user read .env, and save it as UTF-8"
        yield Finding("settings", State.FAIL, f".env: {reason_of(error)}", fix, group="settings")
        return
    for slow in _SLOW_TO_LOAD:  # before time counts, and not on several threads at once
        import_module(slow)
    with assembled(_impatient(settings)) as assembly:
        for part in ("database", "files"):
            try:  # what several threads ask for is built before they do
                getattr(assembly, part)
            except Exception:  # noqa: BLE001, S112 - the check of this part says so
                continue
        looks = [look for look in _looks(assembly) if not only or look.group in only]
        if not has_database(settings):
            looks = [look for look in looks if look.group not in ("documents", "recovery")]
        yield from looked(looks, PATIENCE)


def _looks(assembly: Assembly) -> list[Look]:
    from nightmill.cli.database_checks import examine_database, examine_storage  # made of our findings, as are others
    from nightmill.cli.document_checks import examine_documents
    from nightmill.cli.machine_checks import examine_machine
    from nightmill.cli.provider_checks import examine_addresses, examine_key, keys_of, label_of
    from nightmill.cli.recovery_checks import examine_recovery
    from nightmill.cli.serving_checks import examine_notices, examine_serving
    from nightmill.cli.setting_checks import examine_settings
    from nightmill.cli.slicing_checks import examine_mail, examine_slicing
    from nightmill.cli.temporal_checks import examine_temporal

    settings = assembly.settings

    def tries(name: str, account: str | None) -> Callable[[], Iterable[Finding]]:
        return lambda: [examine_key(assembly, name, account)]

    return [
        Look("settings", "settings", lambda: examine_settings(settings)),
        Look("database", "database", lambda: examine_database(assembly)),
        Look("storage", "file storage", lambda: examine_storage(assembly), _NO_STORAGE),
        Look("temporal", "temporal", lambda: examine_temporal(settings)),
        *(Look("providers", label_of(*key), tries(*key)) for key in keys_of(settings)),
        Look("providers", "providers", lambda: examine_addresses(settings)),
        Look("serving", "serving", lambda: examine_serving(settings)),
        Look("notices", "notifications", lambda: examine_notices(assembly)),
        Look("notices", "mail server", lambda: examine_mail(settings)),
        Look("documents", "documents", lambda: examine_documents(assembly)),
        Look("slicing", "slicing", lambda: examine_slicing(assembly)),
        Look("recovery", "recovery", lambda: examine_recovery(assembly)),
        Look("machine", "machine", lambda: examine_machine(assembly)),
    ]


def looked(looks: Iterable[Look], patience: timedelta) -> Iterator[Finding]:
    """Yield what is found, in the order of the looks, though they run side by side; what does not end is a finding."""
    ends = time.monotonic() + patience.total_seconds()
    running = [_Looking(look) for look in looks]
    for each in running:
        threading.Thread(target=each.run, name=f"doctor {each.look.name}", daemon=True).start()
    for each in running:
        has_ended = each.ended.wait(max(0.0, ends - time.monotonic()))
        for finding in tuple(each.found):
            yield replace(finding, group=each.look.group)
        if not has_ended:
            look = each.look
            yield Finding(
                look.name,
                State.FAIL,
                f"no end within {patience.total_seconds():g} s: what it asks does not answer",
                f"{look.mend}; alone: `nightmill doctor --only {look.group}`",
                unreachable=look.group in ("database", "temporal"),
                group=look.group,
            )


def has_database(settings: Settings) -> bool:
    """Return whether there is a database to look into: to open SQLite's file would make one where there is none."""
    prefix = "sqlite:///"
    url = settings.database_url
    return not url.startswith(prefix) or Path(url.removeprefix(prefix).partition("?")[0]).exists()


def _impatient(settings: Settings) -> Settings:
    """Return the settings with short waits for the database: an operator waits for the answer."""
    given, short = settings.database, timedelta(seconds=4)
    waits = {name: min(short, getattr(given, name)) for name in ("pool_timeout", "connect_timeout", "busy_timeout")}
    return settings.model_copy(update={"database": given.model_copy(update=waits)})


def reason_of(error: Exception) -> str:
    """Return an error in a line."""
    return str(error) if isinstance(error, NightmillError) else f"{type(error).__name__}: {error}"

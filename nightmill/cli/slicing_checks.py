"""What `nightmill doctor` looks at for slicing; of programs and folders only where this machine's workers slice."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nightmill import ids
from nightmill.cli.checks import LITTLE_SPACE, Finding, State, has_database, reason_of
from nightmill.cli.output import ago, length_of, size_of
from nightmill.cli.runtime import run_async
from nightmill.cli.slicing_choice import queues_of
from nightmill.cli.temporal_checks import reached, workers_of
from nightmill.errors import NightmillError, NotConfigured

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.settings import Settings
    from nightmill.settings.slicing import SlicerSettings
    from nightmill.storage.slicing_models import SlicerBreakerRow

MAIL_TIMEOUT = 3.0

_WITHOUT_SANDBOX = "install bubblewrap and unset NIGHTMILL_SLICING__ISOLATION, or slice only PDFs that you trust"


def examine_slicing(assembly: Assembly) -> Iterator[Finding]:
    """Yield the findings about slicing."""
    settings = assembly.settings
    is_served = settings.slicing.task_queue in queues_of(settings)
    try:
        breakers = assembly.slicing.breakers.all() if has_database(settings) else []
        is_used = bool(breakers or (has_database(settings) and assembly.slicing.slicings.page(limit=1)))
    except Exception:  # noqa: BLE001 - that the database is away, or has no tables yet, has been said already
        breakers, is_used = [], False
    if is_served:
        yield _isolation(settings)
        yield _profiles(assembly)
        yield _recognition(settings)
        yield _scratch(assembly)
    else:
        yield Finding("slicing", State.OK, "not by this machine's workers, as NIGHTMILL_WORKER__QUEUES says")
    if is_served or is_used:
        yield from run_async(_workers(settings))
    for row in breakers:
        yield _breaker(row)
    yield from _canaries(settings, breakers)


def examine_mail(settings: Settings) -> Iterator[Finding]:
    """Yield whether the mail server answers, where mail is set up."""
    told = [url.get_secret_value() for url in (*settings.notify.urls, *settings.notify.channels.values())]
    is_asked_for = "smtp_host" in settings.notify.model_fields_set
    if not is_asked_for and not any(url.startswith("mailto:") for url in told):
        return
    name = f"{settings.notify.smtp_host}:{settings.notify.smtp_port}"
    try:
        socket.create_connection((settings.notify.smtp_host, settings.notify.smtp_port), MAIL_TIMEOUT).close()
    except OSError as error:
        message = f"{name}: {error.strerror or error}"
        yield Finding("mail server", State.WARN, message, "see NIGHTMILL_NOTIFY__SMTP_HOST and its neighbours")
    else:
        yield Finding("mail server", State.OK, f"{name} answers")


def _isolation(settings: Settings) -> Finding:
    from nightmill.slicing.isolation import open_isolation

    level = settings.slicing.isolation
    try:
        open_isolation(level)
    except NotConfigured as error:
        return Finding(
            "isolation", State.FAIL, str(error), "see docs/slicing.md, isolation; no worker starts like this"
        )
    if level == "process":
        message = "process: slicers are bounded and ended, and see the files and the network of the worker's user"
        return Finding("isolation", State.WARN, message, _WITHOUT_SANDBOX)
    return Finding("isolation", State.OK, "sandbox: started, and nothing leads out of it")


def _profiles(assembly: Assembly) -> Finding:
    from nightmill.slicing.institutions import InstitutionNames
    from nightmill.slicing.profiles import find_profile, profile_names

    slicing = assembly.settings.slicing
    names = profile_names(slicing)
    wrong = []
    for name in names:
        profile = find_profile(slicing, name)
        commands = [command for command in (profile.command, profile.metadata_command) if command]
        wrong += [f"{name}: {text}" for text in _missing(profile.settings, commands)]
    try:
        InstitutionNames.load(slicing.institutions)
    except NotConfigured as error:
        return Finding("institutions", State.FAIL, str(error), "no worker starts like this")
    if wrong:
        fix = "give paths that are there in NIGHTMILL_SLICING__PROFILES"
        return Finding("slicer profiles", State.FAIL, "; ".join(wrong)[:1_000], fix)
    return Finding("slicer profiles", State.OK, ", ".join(names))


def _missing(settings: SlicerSettings, commands: list[tuple[str, ...]]) -> Iterator[str]:
    from nightmill.slicing.programs import PATH

    path = settings.environment.get("PATH", PATH)
    for command in commands:
        if shutil.which(command[0], path=path) is None:
            yield f"{command[0]} is no program"
    wanted = [*settings.read_paths, *([settings.canary] if settings.canary else [])]
    for each in wanted:
        if not each.exists():
            yield f"{each} is not there"


def _recognition(settings: Settings) -> Finding:
    from nightmill.slicer.options import Recognition
    from nightmill.slicer.tesseract import missing_parts
    from nightmill.slicing.programs import PATH

    languages = settings.slicing.ocr_languages
    # By the path that slicers get, not by that of this shell.
    program = shutil.which("tesseract", path=PATH) or "/usr/bin/tesseract"
    lacking = missing_parts(Recognition(languages=languages, program=program))
    if lacking is None:
        return Finding("text recognition", State.OK, f"{program}, {languages}")
    packages = " ".join(f"tesseract-ocr-{language}" for language in languages.split("+"))
    fix = f"Debian: apt install tesseract-ocr {packages}; until then scanned pages stay without text, and are flagged"
    return Finding("text recognition", State.WARN, lacking, fix)


def _scratch(assembly: Assembly) -> Finding:
    scratch = assembly.slicing.scratch
    try:
        with scratch.folder() as folder:
            (folder / "doctor").write_bytes(b"written by nightmill doctor")
            free = shutil.disk_usage(folder).free
    except (NightmillError, OSError) as error:
        return Finding("scratch folder", State.FAIL, reason_of(error), "see NIGHTMILL_SLICING__SCRATCH")
    if free < LITTLE_SPACE:
        message = f"{size_of(free)} left in {scratch.root}"
        return Finding("scratch folder", State.WARN, message, "make room: a slicing takes six times its PDF")
    return Finding("scratch folder", State.OK, f"{scratch.root}, {size_of(free)} left")


async def _workers(settings: Settings) -> list[Finding]:
    from temporalio.service import RPCError

    programs, otherwise = ids.programs_queue(settings.slicing.task_queue), "slicers are not started"
    try:
        client = await reached(settings)
        return [
            await workers_of(client, settings.slicing.task_queue, "PDFs wait", name="slicing workers"),
            await workers_of(client, programs, otherwise, name="slicing programs", activities=True),
        ]
    except NightmillError:  # that Temporal is away has been said already
        return []
    except RPCError as error:
        return [Finding("slicing workers", State.FAIL, f"{error.message}", "check the rights of the API key")]


def _breaker(row: SlicerBreakerRow) -> Finding:
    name = f"breaker {row.profile}"
    if row.state.value == "closed":
        return Finding(name, State.OK, "closed")
    message = f"{row.state.value} since {ago(row.opened_at)}, its PDFs wait: {row.reason or 'no reason is known'}"
    fix = f"mend the slicer; a canary that passes closes it, or `nightmill slice breaker close {row.profile}`"
    if row.state.value == "held_open":
        fix = f"only a person closes it: `nightmill slice breaker close {row.profile}`"
    return Finding(name, State.WARN, message, fix)


def _canaries(settings: Settings, breakers: list[SlicerBreakerRow]) -> Iterator[Finding]:
    """Yield how the last canaries came out; that the built-in slicer's is old only where there is a schedule for it."""
    every: timedelta = settings.slicing.canary_interval
    for row in breakers:
        if row.canary_at is None:
            continue
        took = f", {row.canary_ms / 1000:.1f} s" if row.canary_ms is not None else ""
        age = datetime.now(UTC) - row.canary_at
        name = f"canary {row.profile}"
        if not row.canary_passed:
            message = f"failed {ago(row.canary_at)}: {row.canary_message or 'no reason is known'}"
            yield Finding(name, State.WARN, message, f"`nightmill slice health --profile {row.profile}` tries it again")
        elif row.profile == "gazette" and settings.slicing.canary and age > 3 * every + timedelta(minutes=5):
            message = f"passed {length_of(age)} ago, and should be tried every {length_of(every)}"
            yield Finding(name, State.WARN, message, "is there a slicing worker? Is the schedule nightmill-canary on?")
        else:
            yield Finding(name, State.OK, f"passed {ago(row.canary_at)}{took}")

"""What `nightmill doctor` looks at. What it writes to try something, a small file and a few workflows, it deletes."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightmill.cli.output import size_of
from nightmill.cli.stack import PROVIDERS, temporal_program
from nightmill.errors import AccessDenied, NightmillError, NotConfigured, SchemaOutdated, StorageUnavailable

if TYPE_CHECKING:
    from temporalio.client import Client

    from nightmill.assembly import Assembly
    from nightmill.settings import Settings

LITTLE_SPACE = 2_000_000_000
"""A batch of 200 MB takes about five times its size on the way: file, rows, results, rows, write-ahead log."""

CLOCK_TOLERANCE = timedelta(seconds=30)
"""Signed webhooks are refused when five minutes off; thirty seconds are no accident any more."""

RELEASED = datetime(2026, 1, 1, tzinfo=UTC)


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
    """

    name: str
    state: State
    message: str
    fix: str | None = None
    unreachable: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the finding for programs."""
        return {"check": self.name, "state": self.state.value, "message": self.message, "fix": self.fix}


def examine() -> Iterator[Finding]:
    """Yield the findings, one check after the other."""
    from nightmill.assembly import assembled
    from nightmill.cli.document_checks import examine_documents  # which is made of our findings, as are the next ones
    from nightmill.cli.recovery_checks import examine_recovery
    from nightmill.cli.slicing_checks import examine_mail, examine_slicing
    from nightmill.settings import load_settings

    try:
        settings = load_settings()
    except NotConfigured as error:
        yield Finding("settings", State.FAIL, str(error), "see the table of settings in the README")
        return
    yield Finding("settings", State.OK, "every setting can be read")
    with assembled(settings) as assembly:
        yield from _database(assembly)
        yield _storage(assembly)
        yield from asyncio.run(_temporal(settings))
        yield _temporal_program()
        yield from _providers(assembly)
        yield _webhooks(settings)
        yield from examine_mail(settings)
        yield from examine_documents(assembly)
        yield from examine_slicing(assembly)
        yield from examine_recovery(assembly)
        yield _space(settings)
        yield _clock(assembly)


def _database(assembly: Assembly) -> Iterator[Finding]:
    from sqlalchemy import make_url

    from nightmill.storage import schema

    try:
        url = make_url(assembly.settings.database_url)
        shown = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            yield Finding("database", State.FAIL, f"{shown}: there is no such file yet", "run `nightmill db upgrade`")
            return
        current = schema.current_revision(assembly.database)
        yield Finding("database", State.OK, f"{shown} answers")
        schema.check(assembly.database)
        yield Finding("database schema", State.OK, f"version {current}")
    except SchemaOutdated as error:
        yield Finding("database schema", State.FAIL, str(error))
    except StorageUnavailable as error:
        yield Finding("database", State.FAIL, str(error), "see NIGHTMILL_DATABASE_URL", unreachable=True)
    except Exception as error:  # noqa: BLE001 - drivers and URLs fail in many ways, and each is a finding
        yield Finding("database", State.FAIL, reason_of(error), "see NIGHTMILL_DATABASE_URL")


def _storage(assembly: Assembly) -> Finding:
    key = f"doctor/{secrets.token_hex(8)}"
    try:
        assembly.files.write(key, [b"written by nightmill doctor"])
        readable = b"".join(assembly.files.read(key)) == b"written by nightmill doctor"
        assembly.files.delete(key)
    except Exception as error:  # noqa: BLE001 - object stores fail in many ways, and each is a finding
        return Finding("file storage", State.FAIL, reason_of(error), "see NIGHTMILL_STORAGE_URL")
    if not readable:
        return Finding("file storage", State.FAIL, "a file came back with other bytes", "see NIGHTMILL_STORAGE_URL")
    return Finding("file storage", State.OK, f"{assembly.settings.storage_url} takes and gives files")


async def _temporal(settings: Settings) -> list[Finding]:
    from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
    from temporalio.service import RPCError

    from nightmill.client.connection import connect, temporal_address

    try:
        client = await connect(settings)
        version = (await client.workflow_service.get_system_info(GetSystemInfoRequest())).server_version
    except NotConfigured as error:
        return [Finding("temporal", State.FAIL, str(error), "see NIGHTMILL_ENCRYPTION_KEY and the TEMPORAL_ variables")]
    except (NightmillError, RPCError) as error:
        return [Finding("temporal", State.FAIL, reason_of(error), unreachable=True)]
    found = [Finding("temporal", State.OK, f"{temporal_address()} answers, server {version}")]
    try:
        found.append(await _namespace(client))
        found.append(await _search_attributes(client))
        found.append(await workers_of(client, settings.worker.task_queue, "batches wait"))
    except RPCError as error:
        found.append(Finding("temporal", State.FAIL, f"{error.message}", "check the rights of the API key"))
    return found


async def _namespace(client: Client) -> Finding:
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
    from temporalio.service import RPCError, RPCStatusCode

    name = client.namespace
    try:
        described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=name))
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        fix = f"`temporal operator namespace create -n {name}`, or set TEMPORAL_NAMESPACE"
        return Finding("namespace", State.FAIL, f"{name} does not exist", fix)
    kept = described.config.workflow_execution_retention_ttl.ToTimedelta()
    return Finding("namespace", State.OK, f"{name}, keeps ended workflows for {kept.total_seconds() / 86_400:g} days")


async def _search_attributes(client: Client) -> Finding:
    from temporalio.api.enums.v1 import IndexedValueType
    from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

    from workflows.story import SEARCH_ATTRIBUTES

    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    kinds = {key.name: IndexedValueType.ValueType(key.indexed_value_type) for key in SEARCH_ATTRIBUTES}
    wrong = [name for name, kind in kinds.items() if known.custom_attributes.get(name, kind) != kind]
    if wrong:
        message = f"{', '.join(wrong)}: of another type"
        return Finding("search attributes", State.FAIL, message, "remove or rename them in the namespace")
    missing = [name for name in kinds if name not in known.custom_attributes]
    if missing:
        fix = "a worker adds them when it starts, if it may"
        return Finding("search attributes", State.WARN, f"{', '.join(missing)}: not there yet", fix)
    return Finding("search attributes", State.OK, f"all {len(kinds)} are there")


async def workers_of(client: Client, task_queue: str, otherwise: str, *, name: str = "workers") -> Finding:
    """Return whether workers listen to a task queue; `otherwise` says what happens where none does.

    Raises:
        RPCError: Temporal does not say.
    """
    from temporalio.api.enums.v1 import TaskQueueType
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    described = await client.workflow_service.describe_task_queue(request)
    # A worker that has gone stays in this list for minutes; one that runs asks at least once a minute.
    alive = [
        poller
        for poller in described.pollers
        if datetime.now(UTC) - poller.last_access_time.ToDatetime(tzinfo=UTC) < timedelta(seconds=70)
    ]
    if not alive:
        message = f"none listens to task queue {task_queue}: {otherwise}"
        return Finding(name, State.WARN, message, "start one with `nightmill worker`")
    return Finding(name, State.OK, f"{len(alive)} on task queue {task_queue}")


def _temporal_program() -> Finding:
    try:
        found = temporal_program()
    except NotConfigured as error:
        return Finding("temporal program", State.WARN, str(error), "needed by `nightmill dev` only")
    if found is None:
        return Finding("temporal program", State.OK, "not installed; `nightmill dev` downloads it by the Temporal SDK")
    return Finding("temporal program", State.OK, f"{found[0]}, from {found[1]}; used by `nightmill dev` only")


def _providers(assembly: Assembly) -> Iterator[Finding]:
    settings = assembly.settings
    keys: list[tuple[str, str | None]] = [(name, None) for name in PROVIDERS]
    keys += [(provider, account) for account, given in settings.accounts.items() for provider in given]
    with ThreadPoolExecutor(len(keys)) as threads:
        yield from threads.map(lambda key: _provider(assembly, *key), keys)
    if not settings.accounts and all(settings.provider(name).api_key is None for name in PROVIDERS):
        fix = "set one, or play with the sandbox: `nightmill dev`"
        yield Finding("providers", State.WARN, "no API key is set at all", fix)


def _provider(assembly: Assembly, name: str, account: str | None) -> Finding:
    from nightmill.providers.registry import open_provider

    label = name if account is None else f"{name} ({account})"
    try:
        key = assembly.settings.api_key(name, account)
    except NotConfigured as error:
        if account is None:
            return Finding(label, State.OK, "no API key: not used")
        return Finding(label, State.FAIL, str(error), "set it, or remove the account")
    try:
        with closing(open_provider(name, assembly.provider_config(name, key))) as provider:
            provider.check_access()
    except AccessDenied as error:
        variable = f"NIGHTMILL_{name.upper()}__API_KEY" if account is None else f"NIGHTMILL_ACCOUNTS__{account.upper()}"
        return Finding(label, State.FAIL, str(error), f"check the key in {variable}")
    except NightmillError as error:
        return Finding(label, State.FAIL, str(error), f"check the network, and NIGHTMILL_{name.upper()}__BASE_URL")
    except Exception as error:  # noqa: BLE001 - one provider must not hide the others
        return Finding(label, State.FAIL, reason_of(error))
    return Finding(label, State.OK, "the key is accepted")


def _webhooks(settings: Settings) -> Finding:
    from nightmill.webhooks import signed

    if settings.webhook.secret is None:
        message = "no signing secret: completion webhooks cannot be sent"
        return Finding("webhooks", State.WARN, message, "set NIGHTMILL_WEBHOOK__SECRET, if you use them")
    try:
        signed(b"{}", message_id="doctor", secret=settings.webhook.secret)
    except NotConfigured as error:
        return Finding("webhooks", State.FAIL, str(error), "set NIGHTMILL_WEBHOOK__SECRET")
    if settings.webhook.allow_private_addresses:
        message = "signed; private addresses may be called, which is for tests only"
        return Finding("webhooks", State.WARN, message, "unset NIGHTMILL_WEBHOOK__ALLOW_PRIVATE_ADDRESSES")
    return Finding("webhooks", State.OK, "signed")


def _space(settings: Settings) -> Finding:
    places = {Path.cwd()}
    if "://" not in settings.storage_url:
        places.add(Path(settings.storage_url).absolute())
    if settings.database_url.startswith("sqlite:///"):
        places.add(Path(settings.database_url.removeprefix("sqlite:///")).absolute().parent)
    there = {next(p for p in (place, *place.parents) if p.exists()) for place in places}
    least, place = min((shutil.disk_usage(p).free, p) for p in there)
    if least < LITTLE_SPACE:
        return Finding("disk space", State.WARN, f"{size_of(least)} left at {place}", "make room: results take space")
    return Finding("disk space", State.OK, f"{size_of(least)} left")


def _clock(assembly: Assembly) -> Finding:
    now = datetime.now(UTC)
    if now < RELEASED:
        return Finding("clock", State.FAIL, f"it says {now:%Y-%m-%d}", "set the clock")
    if not assembly.settings.database_url.startswith("postgresql"):
        return Finding("clock", State.OK, f"{now:%Y-%m-%d %H:%M:%S} UTC")
    from sqlalchemy import text

    try:
        with assembly.database.reading() as session:
            there = session.connection().execute(text("SELECT now()")).scalar_one()
    except Exception:  # noqa: BLE001 - that the database is away has been said already
        return Finding("clock", State.OK, f"{now:%Y-%m-%d %H:%M:%S} UTC, not compared with the database's")
    off = abs(there - now)
    if off > CLOCK_TOLERANCE:
        return Finding("clock", State.WARN, f"{off.total_seconds():.0f} s off the database's", "synchronize the clocks")
    return Finding("clock", State.OK, f"{off.total_seconds():.1f} s off the database's")


def reason_of(error: Exception) -> str:
    """Return an error in a line."""
    return str(error) if isinstance(error, NightmillError) else f"{type(error).__name__}: {error}"

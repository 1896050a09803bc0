"""What `nightmill doctor` looks at in Temporal: the way to it, the namespace, who works, which versions get work."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from nightmill.cli.checks import Finding, State, reason_of
from nightmill.cli.runtime import run_async
from nightmill.errors import NightmillError, NotConfigured, TemporalUnreachable

if TYPE_CHECKING:
    from temporalio.api.common.v1 import Payload
    from temporalio.client import Client

    from nightmill.client.codec import EncryptionCodec
    from nightmill.settings import Settings

CONNECTS_WITHIN = timedelta(seconds=4)
ANSWERS_WITHIN = timedelta(seconds=2)
_RIGHTS = "check the rights of the API key: TEMPORAL_API_KEY"
_SHORT_RETENTION = timedelta(days=3)
_LOOKED_AT = 10
"""Open workflows whose first event is read; each is a call."""


async def reached(settings: Settings) -> Client:
    """Connect, or give up soon: what keeps trying elsewhere would keep an operator waiting here.

    Raises:
        TemporalUnreachable: No server answers in time.
        NotConfigured: See `connect`.
    """
    from nightmill.client.connection import connect, temporal_address

    try:
        return await asyncio.wait_for(connect(settings), CONNECTS_WITHIN.total_seconds())
    except TimeoutError:
        seconds = f"{CONNECTS_WITHIN.total_seconds():g}"
        raise TemporalUnreachable(f"no Temporal server at {temporal_address()} within {seconds} s") from None


def examine_temporal(settings: Settings) -> Iterator[Finding]:
    """Yield the findings about Temporal."""
    yield from run_async(_temporal(settings))


async def _temporal(settings: Settings) -> list[Finding]:
    from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
    from temporalio.service import RPCError

    from nightmill.client.connection import is_away, temporal_address

    address = temporal_address()
    try:
        client = await reached(settings)
        info = await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=CONNECTS_WITHIN)
    except NotConfigured as error:
        fix = "see NIGHTMILL_ENCRYPTION_KEY, NIGHTMILL_ENCRYPTION_OLD_KEYS and the TEMPORAL_ variables"
        return [Finding("temporal", State.FAIL, str(error), fix)]
    except NightmillError as error:
        fix = await asyncio.to_thread(what_is_at, address)
        return [Finding("temporal", State.FAIL, reason_of(error), fix, unreachable=True)]
    except RPCError as error:
        fix = "see TEMPORAL_ADDRESS" if is_away(error) else _RIGHTS
        return [Finding("temporal", State.FAIL, f"{error.message}", fix, unreachable=is_away(error))]
    found = [Finding("temporal", State.OK, f"{address} answers, server {info.server_version}")]
    try:
        found.append(await _namespace(client))
        if found[-1].state is State.FAIL:
            return found
        found.append(await _search_attributes(client))
        found.append(await workers_of(client, settings.worker.task_queue, "batches wait"))
        found += await _versions(client, settings)
        found.append(await _keys(client, settings))
    except RPCError as error:
        found.append(Finding("temporal", State.FAIL, f"{error.message}", _RIGHTS))
    return found


def what_is_at(address: str) -> str:
    """Return what to do about an address at which no Temporal server answers, by what answers there instead."""
    host, _, port = address.rpartition(":")
    try:
        place = (host.strip("[]"), int(port))
        with socket.create_connection(place, ANSWERS_WITHIN.total_seconds()) as there:
            there.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = there.recv(64)
    except ValueError:
        return "write TEMPORAL_ADDRESS as HOST:PORT; a server's gRPC port is 7233 by default"
    except socket.gaierror:
        return f"{host} is not known: correct TEMPORAL_ADDRESS, or the name service"
    except ConnectionRefusedError:
        return "nobody listens there: start the server, or correct TEMPORAL_ADDRESS"
    except OSError:
        said = b""
    if said.startswith(b"HTTP/"):
        return "an HTTP server answers there: TEMPORAL_ADDRESS is the gRPC port, 7233 by default, not the UI's"
    if _speaks_tls(place):
        return "TLS is spoken there: set TEMPORAL_TLS=true, and TEMPORAL_TLS_SERVER_CA_CERT_PATH for a CA of your own"
    return "something else listens there, or a firewall is in between: correct TEMPORAL_ADDRESS"


def _speaks_tls(place: tuple[str, int]) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is told to whoever answers
    with (
        suppress(OSError),  # of which TLS's errors are
        socket.create_connection(place, ANSWERS_WITHIN.total_seconds()) as there,
        context.wrap_socket(there, server_hostname=place[0]),
    ):
        return True
    return False


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
    message = f"{name}, keeps ended workflows for {kept.total_seconds() / 86_400:g} days"
    if kept < _SHORT_RETENTION:
        fix = (
            f"runs that failed are gone by then; longer: `temporal operator namespace update -n {name} --retention 7d`"
        )
        return Finding("namespace", State.OK, message, fix)
    return Finding("namespace", State.OK, message)


async def _search_attributes(client: Client) -> Finding:
    from temporalio.api.enums.v1 import IndexedValueType
    from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
    from temporalio.service import RPCError

    from nightmill.client.connection import is_withheld
    from workflows.story import SEARCH_ATTRIBUTES

    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError as error:
        if not is_withheld(error):
            raise
        names = ", ".join(key.name for key in SEARCH_ATTRIBUTES)
        fix = f"whoever may looks whether the namespace has {names}"
        return Finding("search attributes", State.WARN, f"these credentials may not list them: {error.message}", fix)
    kinds = {key.name: IndexedValueType.ValueType(key.indexed_value_type) for key in SEARCH_ATTRIBUTES}
    wrong = [name for name, kind in kinds.items() if known.custom_attributes.get(name, kind) != kind]
    if wrong:
        message = f"{', '.join(wrong)}: of another type"
        return Finding(
            "search attributes",
            State.FAIL,
            message,
            "`temporal operator search-attribute remove --name NAME`, for each; a worker adds them again",
        )
    missing = [name for name in kinds if name not in known.custom_attributes]
    if missing:
        fix = "a worker adds them when it starts, if it may; else `temporal operator search-attribute create`"
        return Finding("search attributes", State.WARN, f"{', '.join(missing)}: not there yet", fix)
    return Finding("search attributes", State.OK, f"all {len(kinds)} are there")


async def workers_of(
    client: Client, task_queue: str, otherwise: str, *, name: str = "workers", activities: bool = False
) -> Finding:
    """Return whether workers listen to a task queue; `otherwise` says what happens where none does.

    Raises:
        RPCError: Temporal does not say.
    """
    from temporalio.api.enums.v1 import TaskQueueType
    from temporalio.api.taskqueue.v1 import TaskQueue
    from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

    kind = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY if activities else TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    request = DescribeTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind
    )
    described = await client.workflow_service.describe_task_queue(request)
    # A worker that has gone stays in this list for minutes; one that runs asks at least once a minute.
    alive = {
        poller.identity
        for poller in described.pollers
        if datetime.now(UTC) - poller.last_access_time.ToDatetime(tzinfo=UTC) < timedelta(seconds=70)
    }
    if not alive:
        message = f"none listens to task queue {task_queue}: {otherwise}"
        return Finding(name, State.WARN, message, "start one with `nightmill worker`")
    builds = Counter(identity.rpartition("#")[2] for identity in alive if "#" in identity)
    message = f"{len(alive)} on task queue {task_queue}"
    if len(builds) > 1:
        shown = ", ".join(f"{count} of {build[:40]}" for build, count in sorted(builds.items()))
        fix = "while a rollout lasts that is as it should be; else stop the older ones: docs/upgrade.md"
        return Finding(name, State.WARN, f"{message}, of several builds: {shown}", fix)
    return Finding(name, State.OK, f"{message}{f', build {next(iter(builds))[:40]}' if builds else ''}")


async def _versions(client: Client, settings: Settings) -> list[Finding]:
    """Return whether the environment's deployment is one that gets work."""
    from nightmill.client import deployment

    build = os.environ.get(deployment.BUILD_ID) or deployment.hash_of_code(Path(__file__).parents[2])
    try:
        own = deployment.deployment_of(os.environ, build)
    except NotConfigured as error:
        return [Finding("deployment", State.FAIL, str(error), "no worker starts like this: set another name")]
    if own.half is not None:
        missing = deployment.BUILD_ID if own.half == deployment.NAME else deployment.NAME
        message = f"{own.half} is set without {missing}: worker versioning is off"
        return [Finding("deployment", State.WARN, message, f"set {missing} as well, or neither")]
    found = []
    for share in await deployment.shares_of(client, own, [settings.worker.task_queue], programs=""):
        current = share.current or "workers without versioning"
        if share.percentage >= deployment.ALL:
            found.append(Finding("deployment", State.OK, f"{current} get the work of {share.task_queue}"))
        elif own.versioned:
            message = f"{own.name}:{own.build} gets {share.percentage:g} % of {share.task_queue}; current: {current}"
            found.append(Finding("deployment", State.WARN, message, f"`{share.command}`"))
        else:
            message = f"{current} gets the work of {share.task_queue}, a worker with this environment gets none"
            fix = f"set {deployment.NAME} and {deployment.BUILD_ID} for workers, or back to none: `{share.command}`"
            found.append(Finding("deployment", State.OK, message, fix))
    return found


async def _keys(client: Client, settings: Settings) -> Finding:
    """Return whether the payloads of workflows that are open can be read with the keys that are set here."""
    from temporalio.api.common.v1 import WorkflowExecution
    from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest, ListWorkflowExecutionsRequest
    from temporalio.service import RPCError, RPCStatusCode

    from nightmill.client.codec import ENCODING, KEY_ID, codec_of

    queues = ", ".join(f"'{name}'" for name in (settings.worker.task_queue, settings.slicing.task_queue))
    asked = ListWorkflowExecutionsRequest(
        namespace=client.namespace,
        page_size=_LOOKED_AT,
        query=f"ExecutionStatus='Running' AND TaskQueue IN ({queues})",
    )
    listed = await client.workflow_service.list_workflow_executions(asked)
    codec = codec_of(settings.encryption_key, settings.encryption_old_keys)
    known, unknown = Counter[str](), Counter[str]()
    for each in listed.executions:
        execution = WorkflowExecution(workflow_id=each.execution.workflow_id, run_id=each.execution.run_id)
        request = GetWorkflowExecutionHistoryRequest(
            namespace=client.namespace, execution=execution, maximum_page_size=1
        )
        try:
            history = (await client.workflow_service.get_workflow_execution_history(request)).history
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:  # it ended since, and is deleted
                continue
            raise
        for payload in history.events[0].workflow_execution_started_event_attributes.input.payloads:
            if payload.metadata.get("encoding") != ENCODING:
                continue
            key = payload.metadata.get(KEY_ID, b"").decode(errors="replace")[:8] or "an unnamed one"
            (known if _reads(codec, payload) else unknown)[key] += 1
    count = len(listed.executions)
    if unknown:
        message = f"{unknown.total()} of {count} open workflows looked at are encrypted with a key not set here: "
        fix = "set NIGHTMILL_ENCRYPTION_KEY to it, or add it to NIGHTMILL_ENCRYPTION_OLD_KEYS, here and for all workers"
        return Finding("encryption", State.FAIL, message + ", ".join(unknown), fix)
    if codec is None or codec.present is None:
        return Finding("encryption", State.OK, "off: payloads are in Temporal as they are")
    old = known.total() - known[codec.present.id]
    message = f"with key {codec.present.id}; {count} open workflows looked at, {old} of them of older keys"
    return Finding("encryption", State.OK, message)


def _reads(codec: EncryptionCodec | None, payload: Payload) -> bool:
    try:
        return codec is not None and codec.decrypted(payload) is not None
    except NotConfigured:
        return False

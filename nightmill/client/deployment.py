"""Which build a worker is, of which deployment, and whether the server gives it work: Temporal's worker versioning."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import WorkerDeploymentConfig

from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from temporalio.client import Client

logger = logging.getLogger("nightmill.deployment")

# The names that Temporal's own controller for Kubernetes sets.
NAME = "TEMPORAL_DEPLOYMENT_NAME"
BUILD_ID = "TEMPORAL_WORKER_BUILD_ID"

DEFAULT_NAME = "nightmill"

LONGEST_BUILD_ID = 255
"""A worker of a longer one is never registered (server 1.32): it polls, gets nothing, and nobody says why."""

ALL = 100.0

PATIENCE = timedelta(seconds=5)
"""For one look at a task queue."""


@dataclass(frozen=True)
class Deployment:
    """What a worker tells the server of itself.

    Attributes:
        name: The deployment.
        build: The build; the hash of the code where the environment names none.
        versioned: Whether the server is to give work by version: both were named.
        half: The one variable that is set without the other; None: both or neither are.
    """

    name: str
    build: str
    versioned: bool
    half: str | None = None

    def config(self) -> WorkerDeploymentConfig:
        """Return it for the SDK. Every workflow goes on in whichever version is current (ADR 20)."""
        return WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(self.name, self.build),
            use_worker_versioning=self.versioned,
            default_versioning_behavior=(
                VersioningBehavior.AUTO_UPGRADE if self.versioned else VersioningBehavior.UNSPECIFIED
            ),
        )

    def tell_half(self) -> None:
        """Log what one variable without the other means."""
        if self.half is not None:
            missing = BUILD_ID if self.half == NAME else NAME
            logger.warning(
                "worker versioning is off: one of its two variables is missing",
                extra={"set": self.half, "missing": missing, "build": self.build},
            )


def deployment_of(environment: Mapping[str, str], build: str) -> Deployment:
    """Return what the environment says; `build` is the build where it says nothing.

    Raises:
        NotConfigured: The server would take neither this name nor this build, and give the worker nothing in silence.
    """
    name, named = environment.get(NAME, ""), environment.get(BUILD_ID, "")
    if "." in name or ":" in name or name.startswith("__"):
        raise NotConfigured(f"{NAME}: {name[:80]!r} may hold neither a dot nor a colon, nor begin with two underscores")
    if len(named) > LONGEST_BUILD_ID:
        raise NotConfigured(f"{BUILD_ID}: {named[:40]!r}… is longer than {LONGEST_BUILD_ID} characters")
    half = (NAME if name else BUILD_ID) if bool(name) is not bool(named) else None
    return Deployment(name or DEFAULT_NAME, named or build, versioned=bool(name and named), half=half)


def hash_of_code(folder: Path) -> str:
    """Return what tells a build: it changes with workflows, and the contracts and ids they are made of."""
    digest = hashlib.sha256()
    for pattern in ("workflows/*.py", "nightmill/contracts/*.py", "nightmill/ids.py"):
        for path in sorted(folder.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Share:
    """What of a task queue's work a worker gets.

    Attributes:
        task_queue: The task queue.
        percentage: Of its workflows, 0 to 100; what has no workflow follows the current version.
        current: The version that gets the rest, as `deployment:build`; None: workers without versioning.
        command: What gives all of it to the worker.
    """

    task_queue: str
    percentage: float
    current: str | None
    command: str


async def shares_of(client: Client, own: Deployment, task_queues: Sequence[str], *, programs: str) -> list[Share]:
    """Return what of each task queue's work the server gives to workers of this build.

    `programs` is the task queue that has activities only, and no workflows to ask about.

    Raises:
        RPCError: The server cannot tell.
    """
    return [await _share_of(client, own, queue, activities_only=queue == programs) for queue in task_queues]


async def tell_share(client: Client, own: Deployment, task_queues: Sequence[str], *, programs: str) -> None:
    """Log the task queues whose work the server gives to another version, with the command that changes it."""
    try:
        shares = await shares_of(client, own, task_queues, programs=programs)
    except RPCError as error:
        logger.warning("not known whether this version gets work", extra={"error": error.message})
        return
    for share in shares:
        if share.percentage < ALL:
            logger.warning(
                "this version gets a part of the work" if share.percentage else "this version gets no work",
                extra={
                    "task_queue": share.task_queue,
                    "build": own.build,
                    "current": share.current or "workers without versioning",
                    "percentage": share.percentage,
                    "command": share.command,
                },
            )


async def _share_of(client: Client, own: Deployment, task_queue: str, *, activities_only: bool) -> Share:
    kind = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY if activities_only else TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    found = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind
        ),
        timeout=PATIENCE,
    )
    given = found.versioning_info
    version = (own.name, own.build) if own.versioned else ("", "")
    current = (given.current_deployment_version.deployment_name, given.current_deployment_version.build_id)
    ramping = (given.ramping_deployment_version.deployment_name, given.ramping_deployment_version.build_id)
    ramped = given.ramping_version_percentage
    share = {current: ALL - ramped, ramping: ramped} if ramped else {current: ALL}
    command = "temporal worker deployment set-current-version --deployment-name"
    return Share(
        task_queue=task_queue,
        percentage=share.get(version, 0.0),
        current=":".join(current) if any(current) else None,
        command=f"{command} {own.name} --build-id {own.build} --yes"
        if own.versioned
        else f"{command} {current[0]} --unversioned --yes",
    )

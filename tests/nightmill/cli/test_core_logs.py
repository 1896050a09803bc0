"""What the SDK's core warns of, which would stand among a command's output."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.stack import ROOT, TemporalServer

COMMAND = """
import asyncio, logging, sys
from temporalio import workflow
from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig
from nightmill.cli.runtime import run_async

tried = 0

@workflow.defn
class Failing:
    @workflow.run
    async def run(self) -> None:
        global tried
        tried += 1
        if tried == 1:
            raise RuntimeError("a bug")

async def command() -> None:
    client = await Client.connect(sys.argv[1])
    build = WorkerDeploymentConfig(WorkerDeploymentVersion("host", "1"), use_worker_versioning=False)
    async with Worker(client, task_queue="core-logs", workflows=[Failing],
                      workflow_runner=UnsandboxedWorkflowRunner(), deployment_config=build):
        await client.execute_workflow(Failing.run, id="core-logs", task_queue="core-logs")
    print(tried)

logging.basicConfig(format="%(name)s %(levelname)s")
run_async(command())
"""


@pytest.mark.server
def test_what_the_core_warns_of_is_no_part_of_the_output(temporal_server: TemporalServer) -> None:
    command = [sys.executable, "-c", COMMAND, temporal_server.address]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "2\n"
    assert "temporalio.core WARNING" in ended.stderr

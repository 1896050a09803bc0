"""What a workflow costs its worker with the sandbox as it is, without passing our modules through, and without it.

    .venv/bin/python -m bench.adr_sandbox_passthrough

Each way runs in a process of its own and loads `ModelCompletionBatch` a number of times, as a worker does for each run
that it takes over. Printed are the median time of a load and the memory that the process has at the end. Without the
sandbox a load is nothing: the class is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

LOADS = 10
WAYS = ("passed through", "nothing passed through", "no sandbox")


async def measure(way: str) -> None:
    """Load the workflow as `way` says and print the figures as JSON."""
    import gc

    from temporalio import workflow
    from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowRunner
    from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

    if way == "nothing passed through":
        workflow.unsafe.imports_passed_through = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    from workflows.batch_completion import ModelCompletionBatch

    definition = workflow._Definition.must_from_class(ModelCompletionBatch)  # noqa: SLF001 - what a worker does
    runner: WorkflowRunner = UnsandboxedWorkflowRunner() if way == "no sandbox" else SandboxedWorkflowRunner()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(LOADS):
        start = time.perf_counter()
        runner.prepare_workflow(definition)
        times.append(time.perf_counter() - start)
        gc.collect()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps({"ms": statistics.median(times) * 1000, "mib": after / 1024, "grown_mib": (after - before) / 1024})
    )


def main() -> None:
    """Run each way and print a table."""
    if len(sys.argv) > 1:
        asyncio.run(measure(sys.argv[1]))
        return
    print(f"{LOADS} loads of ModelCompletionBatch")
    for way in WAYS:
        command = [sys.executable, "-m", "bench.adr_sandbox_passthrough", way]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
        if done.returncode:
            print(f"{way:24} refused: {done.stderr.strip().splitlines()[-1][:160]}")
            continue
        row = json.loads(done.stdout)
        print(f"{way:24} {row['ms']:8.1f} ms a load   peak {row['mib']:6.0f} MiB, grown by {row['grown_mib']:6.0f} MiB")


if __name__ == "__main__":
    main()

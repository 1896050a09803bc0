"""Record the histories that the replay tests guard: `make record-history`. What a release has already, stays.

A recorded history is a promise that the running workflows of that release can go on under today's code. A change of a
workflow that breaks one needs `workflow.patched`, not a new recording.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nightmill.client.connection import register_search_attributes
from nightmill.client.nightmill import Nightmill
from nightmill.sandbox import Fault, Sandbox
from nightmill.settings import DatabaseSettings
from nightmill.storage import schema
from nightmill.storage.engine import open_database
from tests.lanes import Lane
from tests.mailbox import Mailbox
from tests.pages import article
from tests.replay import document_scenes, recovery_scenes, slicing_scenes, told_scenes
from tests.site import Site
from tests.stack import Stack, TemporalServer, WebhookSink, requests
from workflows.story import SEARCH_ATTRIBUTES

FOLDER = Path(__file__).parent / "histories"


async def simple(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """One provider batch, a webhook."""
    return await nightmill.submit(
        requests(5), provider="openai", model="gpt-5-mini", completion_handler={"kind": "webhook", "url": sink.url}
    )


async def several_parts(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """Three provider batches, each with a child workflow, and a second round of one."""
    sandbox.set_profile(fail_ids=["r1"], failure="server_error")
    return await nightmill.submit(requests(12), provider="xai", model="grok-4-fast", retry_rounds=1)


async def lost_create(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """A create whose answer is lost, and found."""
    sandbox.add_faults(Fault("drop", operation="batches.create", when="after"))
    return await nightmill.submit(requests(3), provider="openai", model="gpt-5-mini")


async def canceled(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """A cancel by update."""
    sandbox.set_profile(finish_after=60.0)
    batch_id = await nightmill.submit(requests(3), provider="anthropic", model="claude-haiku-4-5")
    while not sandbox.batches():
        await asyncio.sleep(0.1)
    await nightmill.cancel(batch_id)
    return batch_id


async def expired(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """Max age reached."""
    sandbox.set_profile(finish_after=60.0)
    return await nightmill.submit(
        requests(3), provider="openai", model="gpt-5-mini", max_age=timedelta(seconds=2),
        completion_handler={"kind": "webhook", "url": sink.url},
    )  # fmt: skip


async def attention(nightmill: Nightmill, sandbox: Sandbox, sink: WebhookSink) -> str:
    """A refused poll that waits for an operator, a poll now, and a webhook that fails at first."""
    sink.answers[:] = [500]
    sandbox.add_faults(Fault("status", operation="batches.get", status=403))
    batch_id = await nightmill.submit(
        requests(3), provider="google", model="gemini-2.5-flash",
        completion_handler={"kind": "webhook", "url": sink.url},
    )  # fmt: skip
    while not nightmill.assembly.batches.get(batch_id).needs_attention:
        await asyncio.sleep(0.1)
    await nightmill.poll_now(batch_id)
    return batch_id


SCENES: tuple[Callable[[Nightmill, Sandbox, WebhookSink], Awaitable[str]], ...] = (
    simple, several_parts, lost_create, canceled, expired, attention,
)  # fmt: skip


async def play(scene: Callable[[Nightmill, Sandbox, WebhookSink], Awaitable[str]], stack: Stack, prefix: str) -> None:
    sink = WebhookSink()
    with stack.assembly() as assembly:
        nightmill = await stack.nightmill(assembly)
        batch_id = await scene(nightmill, stack.sandbox, sink)
        await nightmill.wait(batch_id, timeout=timedelta(seconds=120))
        ids = [f"batch/{batch_id}"]
        ids += [f"batch/{batch_id}/{p.round}/{p.part}" for p in assembly.batches.parts(batch_id)]
        for number, workflow_id in enumerate(ids):
            history = await fetch(nightmill, workflow_id)
            if history is None:  # a single part has no workflow of its own
                continue
            name = f"{prefix}-{name_of(scene)}-{number}.json"
            (FOLDER / name).write_text(history, encoding="utf-8")
            sys.stdout.write(f"{name}\n")
    sink.close()


async def play_documents(scene: Callable[[document_scenes.Stage], Awaitable[str]], stack: Stack, prefix: str) -> None:
    sink = WebhookSink()
    with stack.assembly() as assembly, Site({f"/{number}": article(number) for number in range(3)}) as site:
        nightmill = await stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        workflow_id = await scene(document_scenes.Stage(nightmill, site, sink))
        history = await fetch(nightmill, workflow_id)
        name = f"{prefix}-document-{name_of(scene)}.json"
        (FOLDER / name).write_text(history or "", encoding="utf-8")
        sys.stdout.write(f"{name}\n")
    sink.close()


async def play_slicing(
    scene: Callable[[slicing_scenes.Stage], Awaitable[list[str]]], stack: Stack, prefix: str
) -> None:
    with stack.assembly() as assembly:
        nightmill = await stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        for workflow_id in await scene(slicing_scenes.Stage(nightmill, name_of(scene), stack.folder)):
            history = await fetch(nightmill, workflow_id)
            kind = "document_slicing" if workflow_id.startswith("slice/") else "slicer_health"
            name = f"{prefix}-{kind}-{name_of(scene)}.json"
            (FOLDER / name).write_text(history or "", encoding="utf-8")
            sys.stdout.write(f"{name}\n")


async def play_recovery(scene: Callable[[Nightmill, Sandbox], Awaitable[list[str]]], stack: Stack, prefix: str) -> None:
    with stack.assembly() as assembly:
        nightmill = await stack.nightmill(assembly)
        await register_search_attributes(nightmill.temporal, SEARCH_ATTRIBUTES)
        for number, workflow_id in enumerate(await scene(nightmill, stack.sandbox)):
            name = f"{prefix}-recovery-{name_of(scene)}-{number}.json"
            (FOLDER / name).write_text(await fetch(nightmill, workflow_id) or "", encoding="utf-8")
            sys.stdout.write(f"{name}\n")


def is_recorded(prefix: str, *names: str) -> bool:
    return any(path for name in names for path in FOLDER.glob(f"{prefix}-{name}.json"))


def name_of(scene: Callable[..., Any]) -> str:
    return str(getattr(scene, "__name__", "scene"))


async def fetch(nightmill: Nightmill, workflow_id: str) -> str | None:
    from temporalio.service import RPCError

    try:
        history = await nightmill.temporal.get_workflow_handle(workflow_id).fetch_history()
    except RPCError:
        return None
    return json.dumps(anonymous(json.loads(history.to_json())), indent=2)


def anonymous(node: Any) -> Any:
    """Leave out what tells of the machine that recorded: who was at work, and where its files are."""
    if isinstance(node, dict):
        kept = {name: anonymous(value) for name, value in node.items() if name != "stackTrace"}
        return kept | ({"identity": "recorder"} if "identity" in kept else {})
    return [anonymous(item) for item in node] if isinstance(node, list) else node


def main() -> None:
    prefix = sys.argv[1] if len(sys.argv) > 1 else version("nightmill")
    FOLDER.mkdir(exist_ok=True)
    server = TemporalServer()
    server.start()
    try:
        for scene in (*SCENES, *told_scenes.SCENES):
            if not is_recorded(prefix, f"{name_of(scene)}-*"):
                with on_stage(server, name_of(scene)) as stack:
                    stack.extra = {**stack.extra, **told_scenes.SETTINGS.get(name_of(scene), {})}
                    stack.start_worker()
                    asyncio.run(play(scene, stack, prefix))
        for document_scene in (*document_scenes.SCENES, *told_scenes.DOCUMENT_SCENES):
            if not is_recorded(prefix, f"document-{name_of(document_scene)}"):
                with on_stage(server, f"document-{name_of(document_scene)}") as stack:
                    stack.start_worker()
                    asyncio.run(play_documents(document_scene, stack, prefix))
        for slicing_scene in slicing_scenes.SCENES:
            name = name_of(slicing_scene)
            if not is_recorded(prefix, f"document_slicing-{name}", f"slicer_health-{name}"):
                with on_stage(server, f"slicing-{name}") as stack, Mailbox() as mailbox:
                    sink = WebhookSink()
                    lane = Lane(stack, stack.sandbox, sink)
                    slicing_scenes.set_up(lane, name)
                    mailbox.notified_by(lane)
                    stack.start_worker()
                    asyncio.run(play_slicing(slicing_scene, stack, prefix))
                    sink.close()
        for recovery_scene in recovery_scenes.SCENES:
            if not is_recorded(prefix, f"recovery-{name_of(recovery_scene)}-*"):
                with on_stage(server, f"recovery-{name_of(recovery_scene)}") as stack:
                    stack.extra = {**stack.extra, **recovery_scenes.SETTINGS}
                    stack.start_worker()
                    asyncio.run(play_recovery(recovery_scene, stack, prefix))
    finally:
        server.stop()


@contextmanager
def on_stage(server: TemporalServer, name: str) -> Iterator[Stack]:
    """Give a scene a database of its own, and end its workers."""
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        sandbox.set_profile(finish_after=1.0)
        url = f"sqlite:///{folder}/nightmill.db"
        database = open_database(url, DatabaseSettings())
        schema.upgrade(database)
        database.close()
        extra: dict[str, Any] = {"NIGHTMILL_XAI__MAX_REQUESTS": "4"}
        stack = Stack(Path(folder), server, sandbox, url, f"record-{name}", extra)
        try:
            yield stack
        finally:
            stack.stop()


if __name__ == "__main__":
    main()

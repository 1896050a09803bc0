"""Scenes of slicings and of the breakers over slicers whose histories `record.py` records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SlicingStatus
from tests.lanes import PATIENCE, Lane, until
from tests.slicing import breaker_of, command, row_of, slicing_here, small_pdf
from tests.stack import WebhookSink

OWNER = "mailto:owner@example.org"
PAGES_OF_TWO_RANGES = 501


@dataclass
class Stage:
    """What a scene has: a Nightmill with a worker, and a profile of its own name whose slicer follows a plan.

    Attributes:
        nightmill: The Nightmill.
        name: The scene's and the profile's name.
        folder: A folder for PDFs.
    """

    nightmill: Nightmill
    name: str
    folder: Path

    @property
    def profile(self) -> str:
        """The profile."""
        return profile_of(self.name)

    def plan(self, behaviours: str) -> None:
        """Say what the slicer does from its next start on; see `tests/slicers/slicer.py`."""
        plan_in(self.folder).write_text(behaviours)

    async def start(self, *, profile: str | None = None, pages: int = 3) -> str:
        """Start a document; return its SHA-256."""
        pdf = small_pdf(self.folder, pages=pages)
        return await self.nightmill.slicings.slice(pdf, profile=profile or self.profile, notify=OWNER)

    async def stands(self, sha256: str, status: SlicingStatus) -> None:
        """Wait until a document stands so; the worker may still have to start."""
        await until(lambda: row_of(self.nightmill, sha256, self.profile).status is status, within=PATIENCE)

    async def end(self, sha256: str, *, profile: str | None = None) -> list[str]:
        """Wait for a document's end; return its workflow."""
        profile = profile or self.profile
        await self.nightmill.slicings.wait(sha256, profile, timeout=PATIENCE)
        return [ids.slicing_workflow_id(sha256, profile)]


def profile_of(scene: str) -> str:
    """Return a scene's profile: the breaker's watch is named after it."""
    return scene.replace("_", "-")


def plan_in(folder: Path) -> Path:
    """Return the file of a scene's plan."""
    return folder / "plan"


def set_up(lane: Lane, scene: str) -> None:
    """Let the workers of a scene have its profile."""
    folder = lane.stack.folder
    plan_in(folder).write_text("cut")
    canary = small_pdf(folder, "canary")
    profile = {"command": command(f"@{plan_in(folder)}"), "canary": str(canary)}
    if scene == "plain":
        profile["metadata_command"] = command("metadata")
    if scene == "timed_out":
        profile["job_timeout"] = "PT2S"
    faults = "1" if scene in ("opened", "hurried") else "5"
    slicing_here(lane, {profile_of(scene): profile}, BREAKER_FAULTS=faults, COOL_DOWN="1")


async def plain(stage: Stage) -> list[str]:
    """A slicer, a metadata program, and an owner who is told."""
    return await stage.end(await stage.start())


async def divided(stage: Stage) -> list[str]:
    """Two page ranges, read side by side."""
    return await stage.end(await stage.start(profile="gazette", pages=PAGES_OF_TWO_RANGES), profile="gazette")


async def tried_again(stage: Stage) -> list[str]:
    """A slicer that fails once."""
    stage.plan("exit,cut")
    return await stage.end(await stage.start())


async def failed(stage: Stage) -> list[str]:
    """A slicer that fails twice."""
    stage.plan("exit")
    return await stage.end(await stage.start())


async def refused(stage: Stage) -> list[str]:
    """A file that is no PDF."""
    page = stage.folder / "page.pdf"
    page.write_text(f"<html>{stage.folder}</html>")
    return await stage.end(await stage.nightmill.slicings.slice(page, profile=stage.profile, notify=OWNER))


async def parked(stage: Stage) -> list[str]:
    """A breaker that is opened and closed by hand, and a document that waits meanwhile."""
    await stage.nightmill.slicings.open_breaker(stage.profile, reason="maintenance", by="operator")
    sha256 = await stage.start()
    await stage.stands(sha256, SlicingStatus.WAITING)
    await stage.nightmill.slicings.close_breaker(stage.profile, reason="done", by="operator")
    return await stage.end(sha256)


async def canceled(stage: Stage) -> list[str]:
    """A cancel while the slicer runs."""
    stage.plan("walk")
    sha256 = await stage.start()
    await stage.stands(sha256, SlicingStatus.SLICING)
    await asyncio.sleep(1)
    await stage.nightmill.slicings.cancel(sha256, stage.profile)
    return await stage.end(sha256)


async def timed_out(stage: Stage) -> list[str]:
    """A slicer that takes longer than the job may."""
    stage.plan("walk")
    return await stage.end(await stage.start())


async def passed(stage: Stage) -> list[str]:
    """A health check that finds a slicer well."""
    await stage.nightmill.slicings.check_health(stage.profile, timeout=PATIENCE)
    return [f"{ids.health_workflow_id(stage.profile)}/check"]


async def opened(stage: Stage) -> list[str]:
    """A fault that opens the breaker, a canary that fails, one that passes, and the document that waited."""
    stage.plan("exit")
    sha256 = await stage.start()
    await until(lambda: breaker_of(stage.nightmill, stage.profile).probes, within=PATIENCE)
    stage.plan("cut")
    workflows = await stage.end(sha256)
    watch = ids.health_workflow_id(stage.profile)
    await stage.nightmill.temporal.get_workflow_handle(watch).result()
    return [*workflows, watch]


async def hurried(stage: Stage) -> list[str]:
    """A breaker that is open, and a canary that somebody does not want to wait for."""
    stage.plan("exit")
    sha256 = await stage.start()
    await until(lambda: breaker_of(stage.nightmill, stage.profile).probes, within=PATIENCE)
    stage.plan("cut")
    watch = stage.nightmill.temporal.get_workflow_handle(ids.health_workflow_id(stage.profile))
    await watch.signal("try_now")
    await stage.end(sha256)
    await watch.result()
    return [watch.id]


async def untold(stage: Stage) -> list[str]:
    """An owner whose address is gone."""
    sink = WebhookSink()
    sink.answers[:] = [410]
    pdf = small_pdf(stage.folder)
    sha256 = await stage.nightmill.slicings.slice(pdf, profile=stage.profile, notify=sink.url)
    found = await stage.end(sha256)
    await stage.nightmill.temporal.get_workflow_handle(found[0]).result()
    sink.close()
    return found


SCENES: tuple[Callable[[Stage], Awaitable[list[str]]], ...] = (
    plain, divided, tried_again, failed, refused, parked, canceled, timed_out, passed, opened,
    hurried, untold,
)  # fmt: skip

"""Slicings for tests of whole runs: small PDFs that are nobody else's, slicers that misbehave, and who is told."""

from __future__ import annotations

import asyncio
import email
import email.policy
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SlicingStatus, SlicingSummary
from nightmill.storage.slicing_models import SlicerBreakerRow, SlicingRow
from tests.lanes import PATIENCE, Lane, until
from tests.mailbox import Mailbox
from tests.small_pdfs import body, text_pdf

SLICER = Path(__file__).parent / "slicers" / "slicer.py"
PAGES = 3

_numbers = itertools.count()


def small_pdf(folder: Path, name: str = "", *, pages: int = PAGES) -> Path:
    """Write a PDF whose content, and thus whose workflow id, no other test has."""
    number = next(_numbers)
    lines = [[f"# {folder} {number}", *body(3)] for _ in range(pages)]
    return text_pdf(folder / f"{name or f'document-{number}'}.pdf", lines)


def command(plan: str) -> list[str]:
    """Return the command of the slicer that follows a plan; see `tests/slicers/slicer.py`."""
    return [sys.executable, "-I", "-S", str(SLICER), plan]


def profile(plan: str, **settings: Any) -> dict[str, Any]:
    """Return the settings of a profile whose slicer follows a plan."""
    return {"command": command(plan), **settings}


def slicing_here(lane: Lane, profiles: Mapping[str, Mapping[str, Any]] | None = None, **settings: str) -> None:
    """Let a lane's workers serve slicing only, with these profiles and settings (`COOL_DOWN="1"`)."""
    lane.set(
        WORKER__QUEUES=f"{lane.stack.task_queue}-slicing",
        SLICING__PROFILES=json.dumps(dict(profiles or {})),
        **{f"SLICING__{name}": value for name, value in settings.items()},
    )


async def sliced(nightmill: Nightmill, pdf: Path, profile: str = "cut", **options: Any) -> SlicingSummary:
    """Slice a PDF to the end."""
    sha256 = await nightmill.slicings.slice(pdf, profile=profile, **options)
    return await nightmill.slicings.wait(sha256, profile, timeout=PATIENCE)


def row_of(nightmill: Nightmill, sha256: str, profile: str = "cut") -> SlicingRow:
    return nightmill.assembly.slicing.slicings.get(sha256, profile)


def breaker_of(nightmill: Nightmill, profile: str = "cut") -> SlicerBreakerRow:
    return nightmill.assembly.slicing.breakers.get(profile)


async def until_status(nightmill: Nightmill, sha256: str, status: SlicingStatus, profile: str = "cut") -> SlicingRow:
    """Return the document's row once it stands so."""

    def stands() -> SlicingRow | None:
        row = row_of(nightmill, sha256, profile)
        return row if row.status is status else None

    row = await until(stands)
    assert isinstance(row, SlicingRow)
    return row


def programs_run(nightmill: Nightmill, row: SlicingRow, step: str = "slice") -> list[str | None]:
    """Return how the programs of a step ended that ran for a document: error codes, None for those that ended well."""
    return [attempt.error_code for attempt in nightmill.assembly.slicing.attempts.of(row) if attempt.step == step]


def stored_files(lane: Lane, sha256: str, profile: str = "cut") -> set[str]:
    """Return the files that are stored of a document by a profile, by their paths below it."""
    root = lane.stack.folder / "files" / "slicings" / sha256 / profile
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


async def events(client: Client, workflow_id: str, run_id: str | None = None) -> list[Any]:
    """Return the events of a workflow's history."""
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    return [event async for event in handle.fetch_history_events()]


async def history(nightmill: Nightmill, sha256: str, profile: str = "cut") -> list[Any]:
    """Return the events of a slicing's last run."""
    return await events(nightmill.temporal, ids.slicing_workflow_id(sha256, profile))


def scheduled(found: Sequence[Any], activity: str) -> list[Any]:
    """Return the events by which activities of this type were scheduled."""
    kind = EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    attributes = [
        (event, event.activity_task_scheduled_event_attributes) for event in found if event.event_type == kind
    ]
    return [event for event, given in attributes if given.activity_type.name == activity]


def mails_to(mailbox: Mailbox, name: str) -> list[EmailMessage]:
    """Return what `name@example.org` got."""
    parsed = [email.message_from_string(mail, policy=email.policy.default) for mail in list(mailbox.mails)]
    return [mail for mail in parsed if mail["to"].startswith(f"{name}@")]


def text_of(mail: EmailMessage) -> str:
    """Return a mail's text."""
    return str(mail.get_content())


async def parked(nightmill: Nightmill, pdfs: Sequence[Path], profile: str = "cut") -> list[str]:
    """Start documents whose breaker is open, one after the other, and return them once they wait."""
    found = []
    for pdf in pdfs:
        found.append(await nightmill.slicings.slice(pdf, profile=profile))
        await until_status(nightmill, found[-1], SlicingStatus.WAITING, profile)
    return found


async def all_of(nightmill: Nightmill, documents: Sequence[str], profile: str = "cut") -> list[SlicingSummary]:
    """Return what documents came to."""
    return list(await asyncio.gather(*(nightmill.slicings.wait(each, profile, timeout=PATIENCE) for each in documents)))


SOON = timedelta(seconds=20)

"""A PDF is sliced by real programs: what is stored, what a second run changes, how it is started, how it is watched."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from nightmill import ids
from nightmill.client.nightmill import Nightmill
from nightmill.contracts import SlicerBeat, SlicingErrorCode, SlicingStatus
from nightmill.errors import InvalidInput, SlicingConflict
from nightmill.slicer.samples import SampleOptions, make_sample
from nightmill.slicer.samples.finishing import scanned
from nightmill.slicing.stored_results import read_stored_result
from nightmill.storage.slicing_models import SliceRow
from tests.lanes import PATIENCE, Lane, in_a_lane, until
from tests.mailbox import Mailbox
from tests.site import Page, Site
from tests.slicing import (
    all_of,
    history,
    mails_to,
    profile,
    programs_run,
    row_of,
    scheduled,
    sliced,
    slicing_here,
    small_pdf,
    stored_files,
    text_of,
    until_status,
)

pytestmark = pytest.mark.server


def slices_of(nightmill: Nightmill, sha256: str, profile: str = "cut") -> list[SliceRow]:
    return list(nightmill.assembly.slicing.slices.stream(row_of(nightmill, sha256, profile)))


def sha256_of(pdf: Path) -> str:
    return hashlib.sha256(pdf.read_bytes()).hexdigest()


# --- what is stored


@in_a_lane
async def test_a_gazette_becomes_the_slices_that_it_was_printed_with(lane: Lane) -> None:
    slicing_here(lane)
    sample = make_sample(SampleOptions(seed=1207, acts=3, pages=8))
    truth, pdf = sample.truth, lane.stack.folder / "gazette.pdf"
    pdf.write_bytes(sample.pdf)
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            summary = await sliced(nightmill, pdf, "gazette", notify="mailto:owner@example.org", metadata={"desk": 4})
            row = row_of(nightmill, summary.sha256, "gazette")
            slices = slices_of(nightmill, summary.sha256, "gazette")
            files = [b"".join(nightmill.assembly.files.read(each.file_key or "")) for each in slices]
            found = await history(nightmill, summary.sha256, "gazette")
            [mail] = mails_to(mailbox, "owner")
    assert (summary.status, summary.slices, summary.flagged) == (SlicingStatus.SLICED, len(truth.pieces), 0)
    assert (summary.number, summary.issued_on) == (truth.number, date.fromisoformat(truth.issued_on))
    assert (summary.page_count, row.text_source, row.user_metadata) == (truth.page_count, "digital", {"desk": 4})
    assert [each.position for each in slices] == list(range(len(slices)))
    assert [(each.start_page, each.end_page) for each in slices] == [
        (piece.start_page, piece.end_page) for piece in truth.pieces
    ]
    assert all("Gaceta" in each.tags for each in slices)
    assert {"Avisos Legales", "Marcas de Fábrica"} <= {each.name for each in slices}
    for each, content in zip(slices, files, strict=True):
        assert (each.file_size, each.file_sha256) == (len(content), hashlib.sha256(content).hexdigest())
        path = lane.stack.folder / "slice.pdf"
        path.write_bytes(content)
        with pikepdf.open(path) as opened:
            assert len(opened.pages) == each.end_page - each.start_page + 1
    assert "is sliced" in mail["subject"]
    assert f"Gazette: No. {truth.number} of {truth.issued_on}" in text_of(mail)
    assert len(found) < 100
    assert stored_files(lane, summary.sha256, "gazette") == {
        f"{row.run_id}/result.jsonl",
        *(f"{row.run_id}/{number + 1:04}.pdf" for number in range(len(slices))),
    }


@in_a_lane
async def test_what_a_slicer_says_is_cleaned_tagged_and_kept(lane: Lane) -> None:
    lane.in_the_workflow_sandbox()
    slicing_here(lane, {"cut": profile("cut")})
    async with lane.running() as nightmill:
        summary = await sliced(nightmill, small_pdf(lane.stack.folder))
        row = row_of(nightmill, summary.sha256)
        slices = slices_of(nightmill, summary.sha256)
        entries = read_stored_result(
            nightmill.assembly.files.read(f"slicings/{row.sha256}/cut/{row.run_id}/result.jsonl")
        )[1]
    assert (summary.number, summary.issued_on) == ("33,463", date(2014, 6, 26))
    first = slices[0]
    assert (first.name, first.issue_id, first.issuer, first.materia) == (
        "", "ACUERDO No. 1-2014", "Poder Ejecutivo", "Correos",
    )  # fmt: skip
    assert (first.short_description, first.description) == ("Óscar", "Ángel")
    assert {"Gaceta", "Acuerdo", "Correos"} <= set(first.tags)
    assert [entry.issue_id for entry in entries] == [each.issue_id for each in slices]
    [attempt] = [each for each in nightmill.assembly.slicing.attempts.of(row) if each.step == "slice"]
    assert (attempt.exit_code, attempt.signal, attempt.pages) == (0, None, 3)
    assert attempt.stdout_bytes > 100
    assert attempt.command.endswith("-1")


# --- a second run


@in_a_lane
async def test_a_second_run_replaces_slices_and_files_and_one_that_fails_leaves_both(lane: Lane) -> None:
    plan = lane.stack.folder / "plan"
    plan.write_text("cut")
    slicing_here(lane, {"cut": profile(f"@{plan}")})
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            pdf = small_pdf(lane.stack.folder)
            first = await sliced(nightmill, pdf)
            before = slices_of(nightmill, first.sha256), stored_files(lane, first.sha256)
            await sliced(nightmill, pdf)
            row = row_of(nightmill, first.sha256)
            second = slices_of(nightmill, first.sha256), stored_files(lane, first.sha256)
            plan.write_text("list")
            failed = await sliced(nightmill, pdf, notify="mailto:owner@example.org")
            after = slices_of(nightmill, first.sha256), stored_files(lane, first.sha256)
            last = row_of(nightmill, first.sha256)
            [mail] = mails_to(mailbox, "owner")
    assert [each.issue_id for each in before[0]] == [each.issue_id for each in second[0]]
    assert {each.file_key for each in before[0]}.isdisjoint(each.file_key for each in second[0])
    assert before[1].isdisjoint(second[1])
    assert {name.partition("/")[0] for name in second[1]} == {row.run_id}
    assert len(second[1]) == 4
    assert (failed.status, failed.error_code, failed.slices) == (
        SlicingStatus.FAILED, SlicingErrorCode.INVALID_RESULT, 3,
    )  # fmt: skip
    assert [each.file_key for each in after[0]] == [each.file_key for each in second[0]]
    assert {name for name in after[1] if not name.startswith("raw/")} == second[1]
    assert (last.result_run, last.number, last.page_count) == (row.run_id, "33,463", 3)
    assert last.run_id != row.run_id
    assert "What an earlier run found is kept: 3 slices" in text_of(mail)


@in_a_lane
async def test_a_pdf_given_twice_at_once_is_one_run_and_two_profiles_are_two(lane: Lane) -> None:
    gate = lane.stack.folder / "gate"
    slicing_here(lane, {"cut": profile(f"gate={gate}"), "other": profile("cut")})
    async with lane.running() as nightmill:
        pdf = small_pdf(lane.stack.folder)
        same = lane.stack.folder / "copy.pdf"
        same.write_bytes(pdf.read_bytes())
        first = await nightmill.slicings.slice(pdf, profile="cut")
        await until_status(nightmill, first, SlicingStatus.SLICING)
        run = row_of(nightmill, first).run_id
        assert await nightmill.slicings.slice(same, profile="cut") == first
        other = await sliced(nightmill, pdf, "other")
        assert row_of(nightmill, first).status is SlicingStatus.SLICING
        gate.touch()
        [summary] = await all_of(nightmill, [first])
        row = row_of(nightmill, first)
        assert programs_run(nightmill, row) == [None]
    assert (summary.status, other.status) == (SlicingStatus.SLICED, SlicingStatus.SLICED)
    assert row.run_id == run
    assert other.sha256 == first
    assert stored_files(lane, first).isdisjoint(stored_files(lane, first, "other"))


@in_a_lane
async def test_a_metadata_program_has_the_last_word_on_number_and_date(lane: Lane) -> None:
    second = profile("metadata")["command"]
    slicing_here(
        lane,
        {
            "cut": profile("cut", metadata_command=second),
            "broken": profile("cut", metadata_command=profile("exit")["command"]),
        },
    )
    async with lane.running() as nightmill:
        pdf = small_pdf(lane.stack.folder)
        good, broken = await asyncio.gather(sliced(nightmill, pdf), sliced(nightmill, pdf, "broken"))
        row = row_of(nightmill, broken.sha256, "broken")
        runs = programs_run(nightmill, row, "metadata")
    assert (good.status, good.number, good.issued_on) == (SlicingStatus.SLICED, "35,205", date(2019, 12, 31))
    assert (broken.status, broken.number, broken.slices) == (SlicingStatus.NEEDS_REVIEW, "33,463", 3)
    assert "number and date: the metadata program ended with exit code 3" in (broken.message or "")
    assert runs == [SlicingErrorCode.PROGRAM_FAILED] * 2


# --- how it is started


async def started(nightmill: Nightmill, workflow_id: str, *given: Any) -> Any:
    """Start it as the Temporal command line does, and return what it came to."""
    handle = await nightmill.temporal.start_workflow(
        "DocumentSlicing",
        args=given,
        id=workflow_id,
        task_queue=nightmill.assembly.settings.slicing.task_queue,
    )
    async with asyncio.timeout(PATIENCE.total_seconds()):
        return await handle.result()


async def refused(nightmill: Nightmill, workflow_id: str, *given: Any) -> str:
    """Return the line by which it was refused."""
    with pytest.raises(WorkflowFailureError) as caught:
        await started(nightmill, workflow_id, *given)
    found: BaseException | None = caught.value
    while found is not None and not isinstance(found, ApplicationError):
        found = found.__cause__
    assert found is not None
    assert found.type == "InvalidInput"
    assert found.message is not None
    assert len(found.message.splitlines()) == 1
    return found.message


@in_a_lane
async def test_json_alone_starts_it_from_a_path_a_file_url_or_an_address(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")})
    folder = lane.stack.folder
    by_path, by_url, by_address = (small_pdf(folder, name) for name in ("a path", "a url", "an-address"))
    with Site({"/pdfs/issue.pdf": Page(by_address.read_bytes(), content_type="application/pdf")}) as site:
        async with lane.running() as nightmill:
            sources = {
                by_path: str(by_path),
                by_url: by_url.as_uri(),
                by_address: site.url("/pdfs/issue.pdf") + "?token=hidden",
            }
            found = await asyncio.gather(
                *(
                    started(nightmill, f"slice/{sha256_of(pdf)}/cut", {"source": source, "profile": "cut"})
                    for pdf, source in sources.items()
                )
            )
            rows = [row_of(nightmill, sha256_of(pdf)) for pdf in sources]
    assert [each["status"] for each in found] == ["sliced"] * 3
    assert [row.name for row in rows] == ["a path.pdf", "a url.pdf", "issue.pdf"]
    assert rows[2].source == site.url("/pdfs/issue.pdf"), "of an address no query is stored"


@in_a_lane
async def test_what_does_not_fit_is_refused_in_a_line(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")})
    pdf = small_pdf(lane.stack.folder)
    sha256, other = sha256_of(pdf), hashlib.sha256(str(lane.stack.folder).encode()).hexdigest()
    given = {"source": str(pdf), "profile": "cut"}
    async with lane.running() as nightmill:
        lines = {
            "another hash": await refused(nightmill, f"slice/{other}/cut", given),
            "another shape": await refused(nightmill, f"slices-{sha256}", given),
            "another profile": await refused(nightmill, f"slice/{sha256}/gazette", given),
            "no such profile": await refused(nightmill, f"slice/{sha256}/none", {**given, "profile": "none"}),
            "no input": await refused(nightmill, f"slice/{sha256}/cut"),
            "two inputs": await refused(nightmill, f"slice/{sha256}/cut", given, given),
            "no source": await refused(nightmill, f"slice/{sha256}/cut", {"profile": "cut"}),
            "no such scheme": await refused(nightmill, f"slice/{other}/cut", {**given, "source": "ftp://host/a.pdf"}),
        }
        with pytest.raises(InvalidInput, match="none"):
            await nightmill.slicings.slice(pdf, profile="none")
        with pytest.raises(InvalidInput, match="notify"):
            await nightmill.slicings.slice(pdf, profile="cut", notify="somebody")
    assert sha256 in lines["another hash"]
    assert "slice/<SHA-256" in lines["another shape"]
    assert "gazette" in lines["another profile"]
    assert "none" in lines["no such profile"]
    assert "0 input" in lines["no input"]
    assert "2 input" in lines["two inputs"]
    assert "source" in lines["no source"]
    assert "ftp://host/a.pdf" in lines["no such scheme"]


@in_a_lane
async def test_a_source_that_cannot_be_read_is_told_and_nothing_of_the_machine_with_it(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")})
    sha256 = hashlib.sha256(str(lane.stack.folder).encode()).hexdigest()
    with Site({}) as site:
        sources = {
            "/etc/passwd": SlicingErrorCode.NOT_A_FILE,
            str(lane.stack.folder / "no.pdf"): SlicingErrorCode.NOT_A_FILE,
            str(lane.stack.folder): SlicingErrorCode.NOT_A_FILE,
            "stored:no.pdf": SlicingErrorCode.NOT_A_FILE,
            site.url("/no.pdf"): SlicingErrorCode.UNREADABLE,
        }
        with Mailbox() as mailbox:
            mailbox.notified_by(lane)
            async with lane.running() as nightmill:
                found = {}
                for number, source in enumerate(sources):
                    given = {"source": source, "profile": "cut", "notify": f"mailto:owner-{number}@example.org"}
                    found[source] = await started(nightmill, f"slice/{sha256}/cut", given)
                told = [len(mails_to(mailbox, f"owner-{number}")) for number in range(len(sources))]
                programs = nightmill.assembly.slicing.attempts.of(row_of(nightmill, sha256))
    assert {source: each["error_code"] for source, each in found.items()} == sources
    assert told == [1] * len(sources)
    assert programs == [], "it is found before a program starts"
    outside, missing = found["/etc/passwd"]["message"], found[str(lane.stack.folder / "no.pdf")]["message"]
    assert outside.replace("/etc/passwd", "") == missing.replace(str(lane.stack.folder / "no.pdf"), "")


# --- how it is watched


@in_a_lane
async def test_progress_is_told_by_query_and_heartbeat_and_signals_stay_few(lane: Lane) -> None:
    gate = lane.stack.folder / "gate"
    slicing_here(lane, {"cut": profile(f"gate={gate}")})
    async with lane.running() as nightmill:
        sha256 = await nightmill.slicings.slice(small_pdf(lane.stack.folder), profile="cut")
        await until_status(nightmill, sha256, SlicingStatus.SLICING)
        beat = await heard(nightmill, sha256)
        progress = await nightmill.slicings.progress(sha256, "cut")
        await asyncio.sleep(2)  # forty lines of progress
        gate.touch()
        summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
        ended = await nightmill.slicings.progress(sha256, "cut")
        found = await history(nightmill, sha256)
    assert (beat.step, beat.phase, beat.page, beat.of) == ("slice", "running", 1, 3)
    assert (progress.status, progress.phase, progress.page, progress.of) == (SlicingStatus.SLICING, "slice", 1, 3)
    assert progress.estimate is not None
    assert progress.started_at is not None
    assert (ended.status, ended.phase) == (summary.status, "ended")
    kinds = Counter(event.event_type for event in found)
    assert kinds[EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED] <= 4
    assert len(found) < 100


async def heard(nightmill: Nightmill, sha256: str) -> SlicerBeat:
    """Return what the slicer's heartbeat says, once it counts pages."""
    handle = nightmill.temporal.get_workflow_handle(ids.slicing_workflow_id(sha256, "cut"))
    async with asyncio.timeout(20):
        while True:
            described = await handle.describe()
            for pending in described.raw_description.pending_activities:
                payloads = pending.heartbeat_details.payloads
                [beat] = await nightmill.temporal.data_converter.decode(payloads, [SlicerBeat]) if payloads else [None]
                if beat is not None and beat.step == "slice" and beat.page:
                    assert isinstance(beat, SlicerBeat)
                    return beat
            await asyncio.sleep(0.05)


@in_a_lane
async def test_no_history_holds_a_page_s_text_or_a_webhook_s_token(lane: Lane) -> None:
    slicing_here(lane, {"cut": profile("cut")})
    async with lane.running() as nightmill:
        pdf = small_pdf(lane.stack.folder)
        target = f"{lane.webhook.url}?token=s3cr3t-t0k3n"
        summary = await sliced(nightmill, pdf, notify=[target])
        found = await history(nightmill, summary.sha256)
        written = b"".join(event.SerializeToString() for event in found)
        slices = slices_of(nightmill, summary.sha256)
    assert len(lane.webhook.received) == 1
    assert summary.slices == 3
    assert b"Considerando" not in written
    assert b"PRESIDENTE ACUERDA" in slices[0].full_text.encode()
    assert b"PRESIDENTE ACUERDA" not in written
    assert b"s3cr3t" not in written


# --- cancel


@in_a_lane
async def test_a_cancel_ends_the_program_at_once_and_keeps_what_an_earlier_run_found(lane: Lane) -> None:
    plan = lane.stack.folder / "plan"
    plan.write_text("cut")
    slicing_here(lane, {"cut": profile(f"@{plan}")})
    with Mailbox() as mailbox:
        mailbox.notified_by(lane)
        async with lane.running() as nightmill:
            pdf = small_pdf(lane.stack.folder)
            first = await sliced(nightmill, pdf)
            before = stored_files(lane, first.sha256)
            plan.write_text("walk")
            sha256 = await nightmill.slicings.slice(pdf, profile="cut", notify="mailto:owner@example.org")
            await until(lambda: row_of(nightmill, sha256).status is SlicingStatus.SLICING)
            await heard(nightmill, sha256)
            began = asyncio.get_running_loop().time()
            await nightmill.slicings.cancel(sha256, "cut")
            summary = await nightmill.slicings.wait(sha256, "cut", timeout=PATIENCE)
            took = asyncio.get_running_loop().time() - began
            slices = slices_of(nightmill, sha256)
            described = await nightmill.temporal.get_workflow_handle(f"slice/{sha256}/cut").describe()
            with pytest.raises(SlicingConflict, match="nothing to cancel"):
                await nightmill.slicings.cancel(sha256, "cut")
    assert (summary.status, summary.slices, len(slices)) == (SlicingStatus.CANCELED, 3, 3)
    assert described.status is WorkflowExecutionStatus.CANCELED
    assert took < 8, "3 s for the program's end, and what a busy machine takes"
    assert stored_files(lane, sha256) == before
    assert mails_to(mailbox, "owner") == [], "somebody wanted it: nobody is told"


# --- many page ranges


@in_a_lane
async def test_page_ranges_that_are_read_side_by_side_give_what_a_single_run_gives(
    lane: Lane,
) -> None:
    built_in = ["{python}", "-m", "nightmill.slicer", "--mode", "every", "--pages", "100"]
    slicing_here(lane, {"whole": {"command": built_in}, "parts": {"command": built_in, "fan_out": True}})
    async with lane.running() as nightmill:
        pdf = small_pdf(lane.stack.folder, pages=510)
        whole, parts = await asyncio.gather(*(sliced(nightmill, pdf, name) for name in ("whole", "parts")))
        shown = [compared(slices_of(nightmill, pdf_.sha256, pdf_.profile)) for pdf_ in (whole, parts)]
        ranges = programs_run(nightmill, row_of(nightmill, parts.sha256, "parts"), "pages")
        single = programs_run(nightmill, row_of(nightmill, whole.sha256, "whole"), "pages")
        found = await history(nightmill, parts.sha256, "parts")
        files = stored_files(lane, parts.sha256, "parts")
    assert (whole.status, parts.status) == (SlicingStatus.SLICED, SlicingStatus.SLICED), parts.message
    assert (ranges, single) == ([None, None], [])
    assert len(scheduled(found, "read_pages")) == 2
    assert shown[0] == shown[1]
    assert len(shown[0]) == 6
    assert all(text for *_, text in shown[0])
    assert not [name for name in files if "pages" in name], "what was read is not kept"
    assert len(found) < 150


def compared(slices: list[SliceRow]) -> list[tuple[Any, ...]]:
    return [
        (each.position, each.name, each.issue_id, each.start_page, each.end_page, each.tags, each.full_text)
        for each in slices
    ]


@pytest.mark.system
@in_a_lane
async def test_a_scan_that_is_read_by_ranges_gives_what_a_single_run_gives(lane: Lane) -> None:
    built_in = ["{python}", "-m", "nightmill.slicer", "--mode", "every", "--pages", "2", "--ocr-dpi", "100"]
    slicing_here(
        lane,
        {"whole": {"command": built_in}, "parts": {"command": built_in, "fan_out": True}},
    )
    pdf = lane.stack.folder / "scan.pdf"
    pdf.write_bytes(scanned(small_pdf(lane.stack.folder, pages=6).read_bytes(), 1))
    async with lane.running() as nightmill:
        whole = await sliced(nightmill, pdf, "whole")
        parts = await sliced(nightmill, pdf, "parts")
        shown = [compared(slices_of(nightmill, each.sha256, each.profile)) for each in (whole, parts)]
        ranges = programs_run(nightmill, row_of(nightmill, parts.sha256, "parts"), "pages")
        source = row_of(nightmill, parts.sha256, "parts").text_source
    assert source == "scanned"
    assert len(ranges) > 1
    assert shown[0] == shown[1]
    assert all("Estado" in text for *_, text in shown[0])

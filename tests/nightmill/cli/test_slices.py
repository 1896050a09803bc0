"""PDFs from the command line: sliced by a real worker, watched, looked at, exported, and the slicers looked after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightmill.assembly import assembled
from nightmill.cli.slice_breaker import user_name
from nightmill.cli.slices import app
from nightmill.contracts import Fault, FinishSlicing, ProgramOutcome, SlicingErrorCode, SlicingRef, SlicingStatus
from nightmill.settings import load_settings
from nightmill.slicing import keys
from nightmill.storage.slices import NewSlice
from tests.nightmill.cli.conftest import Cli
from tests.small_pdfs import body, text_pdf
from tests.stack import Stack, environment

SHA = "ab12" * 16
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
HOOK = "https://hooks.example.org/T0/secret-token"
FILES = {0: b"%PDF first", 1: b"%PDF second"}
HEADINGS = ["ACUERDO No. 1", "ACUERDO No. 2", "ACUERDO No. 3"]


def book(path: Path, headings: list[str] = HEADINGS) -> Path:
    """Write a PDF with a bookmark on each page."""
    pages = [[f"# {heading}", *body()] for heading in headings]
    return text_pdf(path, pages, bookmarks=[(heading, page, 0) for page, heading in enumerate(headings)])


def store(run_id: str = "run", *, number: str = "35,000") -> None:
    """Store a document of three slices, of which one has no PDF, in the database of the settings."""
    with assembled(load_settings()) as assembly:
        slicings, ref = assembly.slicing.slicings, SlicingRef(sha256=SHA, profile="gazette", run_id=run_id)
        slicings.open(
            ref, name="Gaceta 35000.pdf", source=f"https://example.org/a.pdf?key=secret-{run_id}", size=10,
            notify=[HOOK], metadata={"desk": 7}, now=NOW,
        )  # fmt: skip
        for position, content in FILES.items():
            assembly.files.write(keys.slice_file(ref, position), [content])
        slices = [
            NewSlice(
                position=position,
                start_page=position,
                end_page=position + 1,
                issue_id=f"Resolución No. {position}/26: \x1b[31mÑandú",
                full_text=f"Text of slice {position}\nof {run_id}",
                file_key=keys.slice_file(ref, position) if position in FILES else None,
                file_sha256=hashlib.sha256(FILES[position]).hexdigest() if position in FILES else None,
                problem=None if position in FILES else "file_missing: it wrote none",
            )
            for position in range(3)
        ]
        found = ProgramOutcome(slices=3, flagged=1, page_count=9, number=number)
        status, reasons = SlicingStatus.NEEDS_REVIEW, ("the SUMARIO names one more",)
        slicings.finish(FinishSlicing(ref=ref, status=status, result=found, reasons=reasons), slices, now=NOW)


def fail(run_id: str) -> None:
    """Let a later run of the document fail."""
    with assembled(load_settings()) as assembly:
        slicings, ref = assembly.slicing.slicings, SlicingRef(sha256=SHA, profile="gazette", run_id=run_id)
        slicings.open(ref, name=None, source="x", size=10, notify=None, metadata=None, now=NOW)
        fault = Fault(code=SlicingErrorCode.STALL_CLOCK, message="silent for 2 min")
        slicings.finish(FinishSlicing(ref=ref, status=SlicingStatus.FAILED, fault=fault), [], now=NOW)


@pytest.mark.parametrize(
    "command",
    [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    + ["breaker", "breaker list", "breaker open", "breaker close"],
)
def test_the_help_of_every_command_shows_an_example(cli: Cli, command: str) -> None:
    ended = cli("slice", *command.split(), "--help")
    assert ended.code == 0
    assert f"nightmill slice {command}" in ended.out.split("Example:\n")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.pdf"], "nowhere.pdf: no such file"),
        (["run", "."], ".: is a folder, not a file"),
        (["run", "here.pdf", "--profile", "unknown"], "slicer profile 'unknown': known are gazette"),
        (["run", "here.pdf", "--notify", "secret-token"], "--notify: give mailto:…, https://… or channel:NAME"),
        (["run", "here.pdf", "--metadata", "[1]"], "--metadata: give a JSON object"),
        (["run", "here.pdf", "--timeout", "3"], "--timeout: only with --watch"),
        (["list", "--status", "fine"], "--status: 'fine' is unknown; known are queued, slicing"),
        (["show", "nowhere"], "nowhere: no such file, and not 8 or more digits of a PDF's SHA-256"),
        (["show", "here.pdf"], "here.pdf (SHA-256 da0be"),
        (["show", "abcdef0123"], "no sliced document 'abcdef0123'"),
        (["show", "abcdef0123", "--text", "1", "--attempts"], "--text, --attempts: give one of the two"),
        (["watch", "abcdef0123"], "no sliced document 'abcdef0123'"),
        (["watch", "abcdef0123", "--timeout", "never"], "--timeout: 'never' is no duration"),
        (["export", "abcdef0123", "out"], "no sliced document 'abcdef0123'"),
        (["health", "--profile", "unknown"], "slicer profile 'unknown': known are gazette"),
        (["breaker", "list", "unknown"], "slicer profile 'unknown': known are gazette"),
        (["breaker", "open", "gazette", "--reason", " "], "--reason: say why"),
        (["breaker", "open", "unknown", "--reason", "x"], "slicer profile 'unknown': known are gazette"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(
    cli: Cli, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "here.pdf").write_bytes(b"%PDF here")
    ended = cli("slice", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.message.startswith(message.replace("da0be", hashlib.sha256(b"%PDF here").hexdigest()[:5]))
    assert "secret-token" not in ended.err


def test_without_a_temporal_server_nothing_is_started_and_reading_goes_on(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "here.pdf").write_bytes(b"%PDF here")
    for arguments in (["run", "here.pdf"], ["health"], ["breaker", "open", "gazette", "--reason", "x"]):
        assert cli("slice", *arguments).code == 5
    assert cli("slice", "list").lines == []
    assert {line["state"] for line in cli("slice", "breaker").lines} == {"closed"}


def test_a_document_is_listed_and_shown_without_what_its_addresses_keep_secret(cli: Cli) -> None:
    store()
    [listed] = cli("slice", "list", "--status", "needs_review", "--profile", "gazette").lines
    assert (listed["sha256"], listed["slices"], listed["flagged"], listed["number"]) == (SHA, 3, 1, "35,000")
    assert cli("slice", "list", "--status", "failed").lines == []
    assert cli("slice", "list", "--after", SHA[:8]).lines == []
    [shown] = cli("slice", "show", SHA[:8], "--limit", "2").lines
    assert (shown["notify"], shown["metadata"], shown["next_after"]) == (["https://hooks.example.org"], {"desk": 7}, 1)
    assert [each["position"] for each in shown["slice_list"]] == [0, 1]
    [rest] = cli("slice", "show", SHA[:8], "--after", "1").lines
    assert ([each["position"] for each in rest["slice_list"]], rest["next_after"]) == ([2], None)
    for command in (["list"], ["show", SHA]):
        for form in ("--json", "--no-json"):
            ended = cli("slice", *command, form)
            assert ended.code == 0
            assert "secret" not in ended.out
            assert "\x1b" not in ended.out
    assert "the SUMARIO names one more" in ended.out
    assert "2-3" in ended.out, "pages count from 1 for people"
    assert cli("slice", "show", SHA, "--text", "1", "--no-json").out == "Text of slice 1\nof run\n"
    assert cli("slice", "show", SHA, "--text", "9").message.startswith("no slice 9")
    assert cli("slice", "show", SHA, "--attempts").lines == []


def test_after_a_run_that_failed_the_reason_is_shown_and_that_earlier_slices_are_kept(cli: Cli) -> None:
    store()
    fail("later")
    shown = cli("slice", "show", SHA, "--no-json").out
    assert "failed (stall_clock)" in shown
    assert "silent for 2 min" in shown
    assert "of an earlier run, which are kept" in shown


def test_an_export_goes_on_where_it_stopped_and_writes_over_nothing(cli: Cli, tmp_path: Path) -> None:
    store()
    out = tmp_path / "out"
    ended = cli("slice", "export", SHA[:8], "out", "--text")
    assert ended.code == 0
    counts = {name: ended.lines[0][name] for name in ("written", "kept", "missing")}
    assert counts == {"written": 6, "kept": 0, "missing": 1}
    assert "1 slices have no PDF" in ended.err
    first = "0000-resolucion-no-0-26-31mnandu"
    assert (out / f"{first}.pdf").read_bytes() == FILES[0]
    assert (out / f"{first}.txt").read_text() == "Text of slice 0\nof run"
    index = json.loads((out / "index.json").read_text())
    assert (index["number"], [each["file"] for each in index["files"]][::2]) == ("35,000", [f"{first}.pdf", None])

    (out / f"{first}.pdf").unlink()
    again = cli("slice", "export", SHA[:8], "out", "--text").lines[0]
    assert (again["written"], again["kept"]) == (1, 5)
    (out / f"{first}.pdf").write_text("mine")
    for others in ("index.json", f"{first}.txt"):
        (out / others).write_text("mine")
    refused = cli("slice", "export", SHA[:8], "out", "--text")
    assert refused.code == 2
    for name in ("index.json", f"{first}.txt", f"{first}.pdf"):
        assert name in refused.message
        assert (out / name).read_text() == "mine"
    assert cli("slice", "export", SHA[:8], "out", "--text", "--force").lines[0]["written"] == 3
    assert (out / f"{first}.pdf").read_bytes() == FILES[0]

    assert cli("slice", "export", SHA[:8], "one", "--position", "1").lines[0]["written"] == 1
    assert [path.name[:4] for path in (tmp_path / "one").iterdir()] == ["0001"]
    assert cli("slice", "export", SHA[:8], "one", "--position", "7").code == 2
    assert not list(tmp_path.rglob("*.part"))


def test_a_stored_pdf_that_is_damaged_or_gone_is_not_exported(cli: Cli, tmp_path: Path) -> None:
    store()
    [stored] = (tmp_path / "files").rglob("0002.pdf")
    stored.write_bytes(b"%PDF other")
    damaged = cli("slice", "export", SHA, "out")
    assert (damaged.code, damaged.message) == (1, "the stored PDF of slice 1 is damaged: slice the document again")
    stored.unlink()
    assert cli("slice", "export", SHA, "out").code == 1
    assert sorted(path.name[:4] for path in (tmp_path / "out").iterdir()) == ["0000"], "and no index"


@pytest.fixture
def live(stack: Stack, cli: Cli) -> Iterator[Cli]:
    """A command line on a stack with a worker that slices."""
    stack.extra = {"NIGHTMILL_WORKER__QUEUES": f"{stack.task_queue}-slicing"}
    stack.fork_worker()
    with environment(stack.environment):
        yield cli


@pytest.mark.server
@pytest.mark.timeout(120)
def test_pdfs_are_sliced_watched_parked_canceled_and_exported(live: Cli, tmp_path: Path) -> None:
    outline = ("--profile", "outline")
    book(tmp_path / "a.pdf")
    (tmp_path / "b.pdf").write_bytes((tmp_path / "a.pdf").read_bytes())
    (tmp_path / "bad.pdf").write_text("no PDF at all, though it says so")
    ended = live("slice", "run", "a.pdf", "b.pdf", "bad.pdf", *outline, "--metadata", '{"x": 1}', "--wait")
    assert ended.code == 3
    assert "b.pdf is the same PDF as a.pdf" in ended.err
    found = {line["name"]: line for line in ended.lines}
    assert found.keys() == {"a.pdf", "bad.pdf"}
    assert (found["a.pdf"]["page_count"], found["a.pdf"]["slices"]) == (3, 3)
    assert (found["bad.pdf"]["status"], found["bad.pdf"]["error_code"]) == ("failed", "not_a_pdf")
    assert live("slice", "watch", "bad.pdf").code == 1
    ended = live("slice", "watch", "a.pdf", "--no-json")
    assert ended.code == 0
    assert "a.pdf" in ended.out
    sha256 = found["a.pdf"]["sha256"]
    assert live("slice", "show", "a.pdf").lines[0]["metadata"] == {"x": 1}
    steps = [line["step"] for line in live("slice", "show", sha256, "--attempts").lines]
    assert steps[:2] == ["inspect", "slice"]
    assert "outline" in live("slice", "show", sha256, "--attempts", "--no-json").out
    assert live("slice", "export", "a.pdf", "out").lines[0]["written"] == 4
    assert live("slice", "cancel", "a.pdf").code == 1, "it has ended"

    [opened] = live("slice", "breaker", "open", "outline", "--reason", "a new version").lines
    assert (opened["state"], opened["changed_by"]) == ("held_open", user_name())
    book(tmp_path / "c.pdf", HEADINGS[:2])
    [started] = live("slice", "run", "c.pdf", *outline).lines
    waited = live("slice", "watch", started["sha256"][:8], "--timeout", "2", "--no-json")
    assert waited.code == 4
    assert f"nightmill slice watch {started['sha256'][:12]}/outline" in waited.err
    book(tmp_path / "d.pdf", HEADINGS[:1])
    [other] = live("slice", "run", "d.pdf", *outline).lines
    assert live("slice", "cancel", "d.pdf").code == 0
    assert live("slice", "watch", other["sha256"]).lines[0]["status"] == "canceled"
    [about] = live("slice", "breaker", "list", "outline").lines
    assert (about["parked"], [each["state"] for each in about["history"]]) == (1, ["held_open"])
    assert "a new version" in live("slice", "breaker", "list", "outline", "--no-json").out
    assert live("slice", "breaker", "close", "outline").lines[0]["state"] == "closed"
    assert live("slice", "watch", "c.pdf").lines[0]["slices"] == 2
    [health] = live("slice", "health", *outline, "--timeout", "60").lines
    assert health.keys() == {"profile", "passed", "message", "duration", "breaker"}
    assert health["breaker"]["canary_passed"] is health["passed"]

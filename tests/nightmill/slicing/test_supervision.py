"""Programs are told what they may take, heard while they run, and ended when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from nightmill.slicing import process_tree
from nightmill.slicing.faults import OutputNotWritable, ProgramMissing
from nightmill.slicing.isolation import Level
from nightmill.slicing.programs import Program, ProgramRun, ProgramRunner, readable
from nightmill.slicing.streams import CHUNK, Log
from tests.children.running import BOUNDS, LEVELS, MIB, hostile, isolation, left_of, new_name

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="programs are supervised on Linux only")
both = pytest.mark.parametrize("level", LEVELS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "work"
    path.mkdir(parents=True)
    return path


def run(level: Level, program: Program, on_progress: Callable[[int, int], None] | None = None) -> ProgramRun:
    return asyncio.run(ProgramRunner(isolation(level)).run(program, on_progress))


def script(folder: Path, text: str) -> Path:
    path = folder / "script"
    path.write_text(text)
    path.chmod(0o755)
    return path


async def started(level: Level, program: Program, *, until: str) -> asyncio.Task[ProgramRun]:
    """A running program, all of whose processes are there: one of them by this name."""
    runs = asyncio.Event()
    task = asyncio.create_task(ProgramRunner(isolation(level)).run(program, lambda *_: runs.set()))
    await asyncio.wait_for(runs.wait(), 10)
    deadline = time.monotonic() + 10
    while not any(until in command_line(pid) for pid in left_of(program.command[-1])):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return task


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def children() -> set[int]:
    """Return the children of this process; other tests have servers that stay."""
    us = os.getpid()
    return {one.pid for one in process_tree.descendants(us) if one.parent == us}


@both
def test_a_program_gets_its_bounds_a_clean_environment_and_nothing_of_ours(
    folder: Path, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMILL_DATABASE__URL", "postgresql://user:secret@host/db")
    program = replace(hostile("shows_its_bounds", folder, new_name()), environment={"MODE": "fast"})

    ended = run(level, program)

    shown = ended.stdout.read_text().splitlines()
    assert set(shown) >= {
        f"RLIMIT_AS {BOUNDS.memory}",
        "RLIMIT_CPU 32",  # a backstop, behind the supervisor's clock
        f"RLIMIT_FSIZE {BOUNDS.file_size}",
        f"RLIMIT_NOFILE {BOUNDS.open_files}",
        "RLIMIT_CORE 0",
        "umask 77",
        "nice 5",
        "NoNewPrivs:\t1",
        f"folder {folder}",
        "stdin b''",
        "ignored [13, 25]",  # SIGPIPE and SIGXFSZ, which Python itself ignores when it starts
    }
    variables = {line.partition("=")[0] for line in shown if "=" in line}
    assert variables - {"PWD"} == {
        "PATH", "LANG", "OMP_THREAD_LIMIT", "MODE", "HOME", "TMPDIR", "NIGHTMILL_JOB",
    }  # fmt: skip
    assert f"TMPDIR={folder / 'tmp'}" in shown
    assert "descriptors ['0', '1', '2', '3']" in shown  # the fourth is the listing's own


@both
def test_python_s_own_memory_error_is_seen_in_the_log(folder: Path, level: Level) -> None:
    ended = run(level, hostile("hogs", folder, new_name()))

    assert (ended.exit_code, ended.stderr_tail.splitlines()[-1]) == (1, "MemoryError")
    assert 64 * MIB < ended.peak_memory <= BOUNDS.memory


@both
def test_progress_is_told_while_the_program_runs_and_keeps_the_stall_clock_quiet(folder: Path, level: Level) -> None:
    told: list[tuple[int, int]] = []

    ended = run(
        level, hostile("makes_progress", folder, new_name(), stall=timedelta(seconds=0.8)), lambda *p: told.append(p)
    )

    assert ended.stopped is None
    assert ended.duration > timedelta(seconds=0.8)
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == (8, 8)
    assert ended.stderr_tail == ""
    assert ended.stdout.read_bytes() == b"done\n"


def test_what_only_looks_like_progress_is_log_and_harmless_text(folder: Path) -> None:
    told: list[tuple[int, int]] = []

    ended = run("process", hostile("lies_about_progress", folder, new_name()), lambda *p: told.append(p))

    assert told == []
    assert ended.stderr_tail.startswith('{"page": true, "of": 3}\n')
    assert ended.stderr_tail.endswith("no end of line ␛[2J␀␍��")


def test_text_from_programs_keeps_lines_and_tabs_and_loses_what_steers_terminals() -> None:
    assert readable("a\tb\r\ncañón \x9b31m\x7f\u2028".encode()) == "a\tb\ncañón �31m␡�"


def test_a_line_without_end_is_kept_as_far_as_the_log_is(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    log = Log(reading, tail=1_000, bound=2**40)
    for _ in range(200):
        os.write(writing, b'{"page": ' + b"1" * 50_000)
        log.read()
        assert len(log._line) + len(log._kept) < 4 * CHUNK
    os.write(writing, b'1, "of": 2}\n{"page": 1, "of": 2}\nlast')
    os.close(writing)
    while log.pipe is not None:
        log.read()

    assert (log.progress, log.told) == ((1, 2), 1)
    assert log.tail() == b"1" * 984 + b'1, "of": 2}\nlast'


@both
def test_the_output_file_is_private_and_out_of_the_program_s_folder(folder: Path, level: Level) -> None:
    ended = run(level, hostile("is_done", folder, new_name()))

    assert ended.stdout.parent == folder.parent
    assert stat.S_IMODE(ended.stdout.stat().st_mode) == 0o600


@both
def test_a_program_that_cannot_be_executed_is_missing(folder: Path, level: Level) -> None:
    program = hostile("is_done", folder, new_name())
    runs = (
        ("/nonexistent/slicer",),
        ("no-such-program",),
        (str(folder),),
        (str(script(folder, "#!/nonexistent/interpreter\n")),),
    )
    before = children()
    for command in runs:
        with pytest.raises(ProgramMissing, match=command[0]):
            run(level, replace(program, command=command))
    with pytest.raises(ProgramMissing, match="/nonexistent/data"):
        run(level, replace(program, readable=(Path("/nonexistent/data"),)))
    assert children() == before


@both
def test_a_program_of_any_language_is_run(folder: Path, level: Level) -> None:
    program = replace(hostile("is_done", folder, new_name()), command=("sh", "-c", "echo $0 $1; exit 4", "a b", "ñ"))

    ended = run(level, program)

    assert (ended.stdout.read_text(), ended.exit_code) == ("a b ñ\n", 4)


def test_a_folder_that_cannot_be_written_is_said_so(folder: Path) -> None:
    file = folder / "file"
    file.touch()

    with pytest.raises(OutputNotWritable, match=str(file)):
        run("process", hostile("is_done", file, new_name()))
    with pytest.raises(OutputNotWritable, match="No such file"):
        run("process", hostile("is_done", folder / "none", new_name()))


@both
def test_a_canceled_program_is_gone_before_its_caller_hears_of_it(folder: Path, level: Level) -> None:
    name = new_name()
    before = children()

    async def cancel() -> timedelta:
        task = await started(level, hostile("waits_with_children", folder, name), until="ignores_signals")
        since = time.monotonic()
        for _ in range(3):  # the second and the third do not hurry it
            task.cancel()
            await asyncio.sleep(0.03)
        assert not task.done()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left_of(name) == []
        return timedelta(seconds=time.monotonic() - since)

    assert asyncio.run(cancel()) <= BOUNDS.grace + timedelta(seconds=5)  # a hundredth of it, unless others work here
    assert children() == before


@both
def test_a_canceled_program_has_its_grace_to_end_by_itself(folder: Path, level: Level) -> None:
    path = script(
        folder, "#!/bin/sh\ntrap 'echo tidied >>log; exit 0' TERM\necho ready >log\nwhile :; do sleep 0.02; done\n"
    )
    program = replace(hostile("", folder, "", grace=timedelta(seconds=10)), command=(str(path),))

    async def cancel() -> None:
        task = asyncio.create_task(ProgramRunner(isolation(level)).run(program))
        while not (folder / "log").exists():
            await asyncio.sleep(0.02)
        task.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 5

    asyncio.run(cancel())

    assert (folder / "log").read_text() == "ready\ntidied\n"


@both
def test_a_blocked_worker_stops_no_clock(folder: Path, level: Level) -> None:
    name = new_name()

    async def block() -> ProgramRun:
        program = hostile("waits_with_children", folder, name, wall=timedelta(seconds=1))
        task = await started(level, program, until="ignores_signals")
        time.sleep(2)  # which an event loop should not
        assert left_of(name) == []
        return await task

    assert asyncio.run(block()).stopped == "wall"


@both
def test_a_killed_supervisor_takes_its_program_along(folder: Path, level: Level) -> None:
    name = new_name()
    before = children()

    async def kill() -> ProgramRun:
        task = await started(level, hostile("waits_with_children", folder, name), until="ignores_signals")
        (supervisor,) = children() - before
        os.kill(supervisor, signal.SIGKILL)
        return await task

    ended = asyncio.run(kill())

    # Outside of the sandbox one can hide from the worker that has left its session and its environment.
    hidden = [pid for pid in left_of(name) if level == "process" and process_tree.process(pid)]
    process_tree.send(signal.SIGKILL, hidden)
    assert ended.stopped == "supervisor"
    assert len(hidden) == (1 if level == "process" else 0)


def test_many_programs_run_at_once(tmp_path: Path) -> None:
    async def run_all() -> list[ProgramRun]:
        runner = ProgramRunner(isolation("process"))
        folders = [tmp_path / str(number) for number in range(12)]
        for path in folders:
            path.mkdir()
        program = replace(hostile("", tmp_path, ""), command=("sh", "-c", "pwd; sleep 0.3"))
        started = time.monotonic()
        runs = await asyncio.gather(*(runner.run(replace(program, folder=path)) for path in folders))
        assert time.monotonic() - started < 3
        return runs

    assert [Path(ended.stdout.read_text().strip()).name for ended in asyncio.run(run_all())] == [
        str(n) for n in range(12)
    ]


def test_a_supervisor_needs_the_standard_library_only() -> None:
    root = Path(__file__).parents[3]
    code = f"import sys; sys.path.append({str(root)!r}); import nightmill.slicing.supervisor; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout

    others = {name.partition(".")[0] for name in loaded.split()} - set(sys.stdlib_module_names)
    assert others == {"nightmill", "__main__"} - set(sys.stdlib_module_names)
    assert not {"json", "typing", "pathlib", "dataclasses", "subprocess"} & set(loaded.split())

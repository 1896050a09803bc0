"""Programs that do what programs must not: `hostile.py BEHAVIOUR ID`. The ID is in all their command lines."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

MIB = 1024 * 1024
THIS = [sys.executable, "-I", "-S", __file__]


def sleep() -> None:
    """Do nothing, for longer than any test; but what a broken supervisor leaves behind is to end one day."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(1)
    os._exit(0)


def deaf() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def fork(count: int) -> bool:
    """Start children, and return whether this is one of them."""
    return any(os.fork() == 0 for _ in range(count))


def start(behaviour: str, environment: dict[str, str] | None = None) -> None:
    """Become another of these, with a new environment."""
    os.execve(THIS[0], [*THIS, behaviour, sys.argv[2]], environment or {})


def say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def say_done() -> None:
    os.write(1, b"done\n")


def is_done() -> None:
    say_done()


def gives_up() -> None:
    say('starting\n{"page": 1, "of": 3}\ncannot go on\n')
    sys.exit(3)


def crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ignores_signals() -> None:
    deaf()
    sleep()


def obeys() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    sleep()


def stalls() -> None:
    say('{"page": 1, "of": 3}\n')
    deaf()
    sleep()


def makes_progress() -> None:
    for page in range(8):
        say(f'{{"page": {page + 1}, "of": 8}}\n')
        time.sleep(0.15)
    say_done()


def lies_about_progress() -> None:
    say(
        '{"page": true, "of": 3}\n{"page": 4, "of": 3}\n{"page": -1, "of": 3}\n{"page": 1.5, "of": 3}\n'
        '{"page": 1}\n{"page": 1, "of": 99999999999999999999}\n["page"]\n{"page": ' + "[" * 3_000 + "\n"
        '{"page": 1, "of": 2' + " " * 5_000 + "}\n"
    )
    os.write(2, b"no end of line \x1b[2J\x00\r\xff\xe2\x80\xae")


def spins() -> None:
    deaf()
    burn(60)


def spins_in_children() -> None:
    deaf()
    while True:
        if os.fork() == 0:
            burn(0.15)
            os._exit(0)
        os.wait()


def spins_in_orphans() -> None:
    """Let others do it, whom nobody here waits for."""
    deaf()
    while True:
        if os.fork() == 0:
            if os.fork() == 0:
                burn(0.15)
            os._exit(0)
        os.wait()
        time.sleep(0.25)


def writes_a_lot() -> None:
    os.write(1, b"x" * (3 * MIB))
    os.write(2, b"y" * (MIB // 2) + b"end")


def hogs() -> None:
    kept = []
    while True:
        kept.append(bytearray(8 * MIB))


def hogs_in_children() -> None:
    fork(4)
    kept = bytearray(60 * MIB)
    kept[:: resource.getpagesize()] = b"x" * len(kept[:: resource.getpagesize()])
    sleep()


def floods_output() -> None:
    deaf()
    while True:
        os.write(1, b"x" * 65_536)


def floods_log() -> None:
    deaf()
    while True:
        os.write(2, b"line\n" * 10_000)


def writes_a_line_without_end() -> None:
    deaf()
    while True:
        os.write(2, b'{"page": ' + b"1" * 65_536)


def floods_when_asked_to_end() -> None:
    signal.signal(signal.SIGTERM, lambda *_: floods_output())
    sleep()


def closes_its_pipes() -> None:
    deaf()
    os.closerange(0, 10)
    sleep()


def stops_itself() -> None:
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)


def escapes() -> None:
    """Leave a daemon behind: another session, no parent, no environment of ours, and the pipes."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            start("ignores_signals")
        os._exit(0)
    os.wait()
    say_done()


def escapes_again_and_again() -> None:
    """Be another process all the time, each in a session of its own."""
    deaf()
    while True:
        if os.fork() != 0:
            os._exit(0)
        os.setsid()
        time.sleep(0.001)


def holds_the_pipes() -> None:
    if os.fork() == 0:
        deaf()
        sleep()
    say_done()


def bombs() -> None:
    """Double ten times, and not for ever: a supervisor that fails must cost a test, not the machine it runs on."""
    deaf()
    for _ in range(10):
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)
    time.sleep(20)


def bombs_out_of_its_group() -> None:
    """The same, each process in a session of its own."""
    deaf()
    for _ in range(9):
        if os.fork() == 0:
            os.setsid()
    time.sleep(20)


def leaves_zombies() -> None:
    if fork(5):
        os._exit(0)
    deaf()
    sleep()


def writes_too_long_a_file() -> None:
    file = os.open("large", os.O_WRONLY | os.O_CREAT)
    while True:
        os.write(file, b"x" * MIB)


def writes_too_many_files() -> None:
    deaf()
    for number in range(20):
        os.write(os.open(f"{number}", os.O_WRONLY | os.O_CREAT), b"x" * (3 * MIB))
    sleep()


def hides_files_on_disk() -> None:
    deaf()
    for number in range(20):
        file = os.open(f"{number}", os.O_WRONLY | os.O_CREAT)
        Path(f"{number}").unlink()
        os.write(file, b"x" * (3 * MIB))
    sleep()


def hides_files_in_memory() -> None:
    deaf()
    for _ in range(20):
        os.write(os.memfd_create("hidden"), b"x" * (3 * MIB))
    sleep()


def closes_its_folders() -> None:
    deaf()
    if os.getuid() == 0:  # to whom nothing is closed
        writes_too_many_files()
    Path("closed").mkdir()
    os.chdir("closed")
    Path.cwd().chmod(0o300)
    sleep()


def opens_too_many_files() -> None:
    while True:
        os.open(os.devnull, os.O_RDONLY)


def kills_its_parent() -> None:
    if fork(2):
        deaf()
        sleep()
    deaf()
    os.kill(os.getppid(), signal.SIGKILL)
    sleep()


def waits_with_children() -> None:
    """Have a child, and one that has left: another session, no parent, no environment."""
    if os.fork() == 0:
        deaf()
        sleep()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            start("ignores_signals")
        os._exit(0)
    os.wait()
    deaf()
    say('{"page": 1, "of": 2}\n')
    sleep()


def shows_its_bounds() -> None:
    names = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE")
    lines = [f"{name} {resource.getrlimit(getattr(resource, name))[0]}" for name in names]
    lines += [f"{name}={value}" for name, value in os.environ.items()]
    lines += [
        f"umask {os.umask(0):o}",
        f"nice {os.nice(0)}",
        f"folder {os.path.realpath('.')}",
        f"stdin {os.read(0, 1)!r}",
    ]
    with os.scandir("/proc/self/fd") as descriptors:
        lines += [f"descriptors {sorted(entry.name for entry in descriptors)}"]
    lines += [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("NoNewPrivs")]
    lines += [f"ignored {[n for n in range(1, 32) if signal.getsignal(n) is signal.SIG_IGN]}"]
    os.write(1, "\n".join(lines).encode())


if __name__ == "__main__":
    globals()[sys.argv[1]]()

"""Starts a program for its supervisor: in a session of its own, with bounds, and with nothing of ours.

The standard library only, and little of it: supervisors import this, and have to be there in an instant.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal

from nightmill.slicing import process_tree

TYPE_CHECKING = False  # typing takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Mapping

    from nightmill.slicing.orders import Order

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

NICENESS = 5
"""Of programs: the worker's own answers to Temporal, and the supervisor's looks, come first."""

SPARE_TASKS = 1024
"""RLIMIT_NPROC is compared with all that the user runs, other programs and the worker among them, and not with what
one program starts. So it is a backstop only, far off: nobody is to suffer from what another does until the supervisor,
which counts the program's own processes, has ended that."""

STATUS = 3
"""Descriptor on which bubblewrap reports, see its `--json-status-fd`."""

_libc = ctypes.CDLL(None, use_errno=True)


class NotStarted(Exception):
    """The program could not be started.

    Attributes:
        stage: `exec` or `folder`.
        number: The system's error.
    """

    def __init__(self, stage: str, number: int) -> None:
        super().__init__(f"{stage}: {os.strerror(number)}")
        self.stage = stage
        self.number = number


def adopt_orphans() -> None:
    """Make this process the parent of all descendants that lose theirs, so that it can find and wait for them."""
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def start(order: Order, stdout: int, stderr: int, status: int) -> int:
    """Start the program, and return its process; it leads a session of its own.

    Raises:
        NotStarted: It cannot be executed, or its folder not be entered.
    """
    # Counted before the fork, because the program's child side has bounds already.
    limits = _limits(order)
    our_pid = os.getpid()
    failure, failing = os.pipe()
    pid = os.fork()
    if pid == 0:
        stage = "folder"
        try:
            os.setsid()
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != our_pid:  # it ended before we asked to be told
                os._exit(0)
            _take_descriptors(stdout, stderr, status if order.sandboxed else None)
            os.chdir(order.folder)
            if not order.sandboxed:  # bubblewrap sees to it itself, and may be set-user-ID
                # Nobody becomes another user by sudo and the like, whom the supervisor could not end.
                _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            stage = "exec"
            _bound(limits)
            os.execve(order.command[0], order.command, order.environment)  # noqa: S606
        except OSError as error:
            os.write(failing, f"{stage} {error.errno or errno.EIO}".encode())
        except BaseException:  # noqa: BLE001 - nothing of the supervisor may run a second time in here
            os.write(failing, f"exec {errno.EIO}".encode())
        finally:
            os._exit(127)
    os.close(failing)
    said = os.read(failure, 100)  # ends when the program is executed, for the descriptor is not passed on
    os.close(failure)
    if said:
        os.waitpid(pid, 0)
        stage, _, number = said.decode("ascii").partition(" ")
        raise NotStarted(stage, int(number))
    return pid


def _take_descriptors(stdout: int, stderr: int, status: int | None) -> None:
    # None of these is below 4: the supervisor holds 0 to 3 for that.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    if status is not None:
        os.dup2(status, STATUS)
    else:
        os.close(STATUS)


def _limits(order: Order) -> dict[int, tuple[int, int]]:
    cpu = int(order.cpu) + 2  # the supervisor's own clock, which is finer, comes first
    found = {
        resource.RLIMIT_AS: (order.memory, order.memory),
        resource.RLIMIT_CPU: (cpu, cpu + 2),
        resource.RLIMIT_FSIZE: (order.file_size, order.file_size),
        resource.RLIMIT_NOFILE: (order.open_files, order.open_files),
        resource.RLIMIT_CORE: (0, 0),
    }
    if os.getuid() != 0:  # it does not hold for root
        tasks = process_tree.tasks_of_user() + order.processes + SPARE_TASKS
        found[resource.RLIMIT_NPROC] = (tasks, tasks)
    return found


def _bound(limits: Mapping[int, tuple[int, int]]) -> None:
    os.umask(0o077)
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    with contextlib.suppress(OSError):
        # If the machine's memory ends, the kernel is to take the program, not the worker.
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(file, b"1000")
        os.close(file)
    for number in set(range(1, signal.SIGSYS + 1)) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)  # what Python, or whoever started the worker, ignores is inherited
    for limit, (soft, hard) in limits.items():
        _, most = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(limit, (soft, hard))

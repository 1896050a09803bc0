"""What can go wrong with a slicing: the spec's table of errors, a class a row.

SlicingFault                  attempts  counts for the breaker
├── DocumentFault                    1  no     the document's own fault
│   ├── NotAFile, Unreadable, EmptyFile, NotAPdf, DamagedPdf, EncryptedPdf, TooLarge
├── ResultFault                      1         what the program says cannot be used
│   ├── InvalidJson                  1  yes
│   ├── InvalidResult                1  yes
│   ├── UnsafePath                   1  yes
│   └── OutputFlood                  1  yes
└── SystemFault                      2  yes    the program's or the machine's
    ├── TimedOut                            start-to-close, heartbeat, or the whole job
    ├── ProgramFailed, ProgramKilled, OutOfMemory, EmptyOutput
    ├── WallClock, CpuClock, StallClock
    ├── ProgramMissing, OutputNotWritable, DiskFull
    └── StorageFailed                1  no     raised only when its own retries are used up
"""

from __future__ import annotations

from typing import ClassVar

from nightmill.contracts import Fault, SlicingErrorCode
from nightmill.errors import NightmillError

MAX_MESSAGE = 1_000


class SlicingFault(NightmillError):
    """Base of all of them. `str()` is a line for people.

    Attributes:
        error_code: The kind.
        attempts: How often the program is started at most for a fault of this kind.
        counts: Whether the breaker counts it.
    """

    error_code: ClassVar[SlicingErrorCode] = SlicingErrorCode.INTERNAL
    attempts: ClassVar[int] = 1
    counts: ClassVar[bool] = False

    def fault(self) -> Fault:
        """Return what workflows get to know of it."""
        return Fault(
            code=self.error_code,
            message=" ".join(str(self).split())[:MAX_MESSAGE],
            retried=self.attempts > 1,
            counts=self.counts,
        )


class DocumentFault(SlicingFault):
    """The document cannot be sliced by anybody; found before a program of the user's starts."""


class NotAFile(DocumentFault):
    """There is no such file, or it is something else."""

    error_code = SlicingErrorCode.NOT_A_FILE


class Unreadable(DocumentFault):
    """It is there and may not be read."""

    error_code = SlicingErrorCode.UNREADABLE


class EmptyFile(DocumentFault):
    """It has no bytes."""

    error_code = SlicingErrorCode.EMPTY_FILE


class NotAPdf(DocumentFault):
    """It does not begin like a PDF."""

    error_code = SlicingErrorCode.NOT_A_PDF


class DamagedPdf(DocumentFault):
    """It begins like a PDF, and neither of two libraries can open it, or they do not agree on its pages."""

    error_code = SlicingErrorCode.DAMAGED_PDF


class EncryptedPdf(DocumentFault):
    """It needs a password."""

    error_code = SlicingErrorCode.ENCRYPTED_PDF


class TooLarge(DocumentFault):
    """Over the bound of bytes or pages."""

    error_code = SlicingErrorCode.TOO_LARGE


class ResultFault(SlicingFault):
    """What the program says cannot be used; another attempt would say the same."""

    counts = True


class InvalidJson(ResultFault):
    """Its output is not JSON."""

    error_code = SlicingErrorCode.INVALID_JSON


class InvalidResult(ResultFault):
    """Its output is JSON of another shape, or of other pages than the document has."""

    error_code = SlicingErrorCode.INVALID_RESULT


class UnsafePath(ResultFault):
    """It names a file outside of its output folder, or a link: nothing of it is used."""

    error_code = SlicingErrorCode.UNSAFE_PATH


class OutputFlood(ResultFault):
    """It writes more than the bound."""

    error_code = SlicingErrorCode.OUTPUT_FLOOD


class SystemFault(SlicingFault):
    """The program's or the machine's fault, which a second attempt may not meet."""

    attempts = 2
    counts = True


class TimedOut(SystemFault):
    """The attempt or the whole job took too long, or its worker was lost."""

    error_code = SlicingErrorCode.TIMED_OUT


class ProgramFailed(SystemFault):
    """It ended with an exit code other than 0."""

    error_code = SlicingErrorCode.PROGRAM_FAILED


class ProgramKilled(SystemFault):
    """A signal ended it that was not ours."""

    error_code = SlicingErrorCode.PROGRAM_KILLED


class OutOfMemory(SystemFault):
    """It reached its bound of memory."""

    error_code = SlicingErrorCode.OUT_OF_MEMORY


class EmptyOutput(SystemFault):
    """It ended well and said nothing."""

    error_code = SlicingErrorCode.EMPTY_OUTPUT


class WallClock(SystemFault):
    """It ran longer than it may."""

    error_code = SlicingErrorCode.WALL_CLOCK


class CpuClock(SystemFault):
    """It used more processor time than it may."""

    error_code = SlicingErrorCode.CPU_CLOCK


class StallClock(SystemFault):
    """It made no progress for too long."""

    error_code = SlicingErrorCode.STALL_CLOCK


class ProgramMissing(SystemFault):
    """The program is not there or cannot be executed."""

    error_code = SlicingErrorCode.PROGRAM_MISSING


class OutputNotWritable(SystemFault):
    """No private folder could be made for it."""

    error_code = SlicingErrorCode.OUTPUT_NOT_WRITABLE
    counts = False  # of this worker's disk; the slicer is not to blame


class DiskFull(SystemFault):
    """The disk has too little room for it."""

    error_code = SlicingErrorCode.DISK_FULL
    counts = False


class StorageFailed(SlicingFault):
    """The file storage or the database stayed away until the retries were used up."""

    error_code = SlicingErrorCode.STORAGE_FAILED

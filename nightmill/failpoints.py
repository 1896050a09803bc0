"""Named places where tests kill the process, to show that nothing is lost there. They cost nothing when unset.

`NIGHTMILL_FAIL_POINT=create.sent` kills the process with SIGKILL when it gets there; with `NIGHTMILL_FAIL_MARKER=FILE`
only if FILE does not exist yet, which is then made, so that the next process gets past.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

BATCH_POINTS = (
    "prepare.start",
    "prepare.stored",
    "prepare.planned",
    "submit.start",
    "upload.intent_saved",
    "upload.sent",
    "upload.saved",
    "create.intent_saved",
    "create.sent",
    "create.saved",
    "find.found",
    "poll.asked",
    "poll.saved",
    "poll.requeued",
    "cancel.saved",
    "cancel.sent",
    "harvest.start",
    "harvest.downloaded",
    "harvest.in_transaction",
    "harvest.page",
    "harvest.end",
    "harvest.filled",
    "harvest.settled",
    "clean_up.done",
    "round.start",
    "round.finished",
    "deliver.start",
    "deliver.answered",
    "deliver.saved",
)

DOCUMENT_POINTS = (
    "sync.start",
    "sync.begun",
    "sync.fetched",
    "sync.compared",
    "sync.in_transaction",
    "sync.saved",
    "sync.failed",
    "change.start",
    "change.answered",
    "change.saved",
    "sweep.taken",
    "sweep.half_started",
    "sweep.started",
    "crawl.begun",
    "crawl.fetched",
    "crawl.saved",
)

SLICING_POINTS = (
    "slicing.fetched",
    "slicing.opened",
    "slicing.inspected",
    "slicing.started",
    "slicing.running",
    "slicing.checked",
    "slicing.half_uploaded",
    "slicing.uploaded",
    "slicing.in_transaction",
    "slicing.finished",
    "slicing.swept",
    "notice.begun",
    "notice.sent",
    "notice.recorded",
    "breaker.counted",
    "breaker.judged",
    "breaker.half_released",
)

RECOVERY_POINTS = (
    "repair.found",
    "repair.recorded",
    "repair.done",
    "repair.saved",
)

PRUNE_POINTS = (
    "prune.marked",
    "prune.files_deleted",
    "prune.in_transaction",
    "prune.page_deleted",
    "prune.slicing_deleted",
    "prune.slicing_emptied",
)

_ARMED = os.environ.get("NIGHTMILL_FAIL_POINT", "")


def fail_point(name: str) -> None:
    """Die here if this point is armed."""
    if not _ARMED or name != _ARMED:
        return
    marker = os.environ.get("NIGHTMILL_FAIL_MARKER")
    if marker:
        try:
            Path(marker).touch(exist_ok=False)
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)

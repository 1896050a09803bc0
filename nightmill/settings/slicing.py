"""The settings of slicing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from nightmill.contracts import Duration
from nightmill.ids import SLICING_QUEUE
from nightmill.settings.base import Section


class SlicerSettings(Section):
    """One slicer profile: a program, and how much it may take."""

    command: tuple[str, ...] = Field(
        min_length=1,
        description="the program with its first arguments, a JSON list; PDF, OUTPUT_DIR and JOB_ID are appended. "
        "`{python}` stands for the worker's own Python",
    )
    metadata_command: tuple[str, ...] = Field(
        default=(), description="a second program that prints the gazette's number and date; same arguments"
    )
    job_timeout: Duration = Field(
        default=timedelta(minutes=30), description="for all of it, from the slicer's first start on"
    )
    slicing_timeout: Duration = Field(default=timedelta(minutes=15), description="for one attempt of the slicer")
    metadata_timeout: Duration = Field(default=timedelta(minutes=13), description="for the metadata program")
    wall: Duration | None = Field(
        default=None, description="the program is ended after this; unset: 20 s before its activity's timeout"
    )
    cpu: Duration = Field(default=timedelta(minutes=30), description="processor time of all its processes together")
    stall: Duration = Field(default=timedelta(minutes=2), description="the program is ended when it is silent for this")
    memory: int = Field(
        default=1536 * 1024 * 1024,
        ge=16 * 1024 * 1024,
        description="bytes of memory: of each of its processes, and of all of them together",
    )
    file_size: int = Field(default=1024**3, ge=1024, description="bytes of each file that it writes")
    open_files: int = Field(default=256, ge=16, description="files that it has open at once")
    processes: int = Field(default=64, ge=1, description="processes that it has at once")
    read_paths: tuple[Path, ...] = Field(
        default=(), description="JSON list of files and folders that it may read besides the system's programs"
    )
    environment: dict[str, str] = Field(default={}, description="its environment variables, besides PATH and LANG")
    fan_out: bool = Field(
        default=False, description="it reads page ranges by itself (`--read-pages`, `--pages-from`), like the built-in"
    )
    canary: Path | None = Field(default=None, description="a PDF that it is tried with; unset: the built-in sample")


class SlicingSettings(Section):
    """How PDFs are sliced."""

    isolation: Literal["sandbox", "process"] = Field(
        default="sandbox",
        description="`sandbox`: bubblewrap, no network, a read-only view; `process`: a supervisor and bounds only",
    )
    task_queue: str = Field(default=SLICING_QUEUE, min_length=1, max_length=240, description="Temporal task queue")
    concurrency: int = Field(default=2, ge=1, le=64, description="programs that a worker runs at once")
    profiles: dict[str, SlicerSettings] = Field(
        default={},
        description="more slicer profiles by name, or others in place of the built-in ones: "
        '`{"NAME": {"command": ["/usr/bin/slicer", "--fast"]}}`',
    )
    scratch: Path | None = Field(default=None, description="folder for private temporary folders; unset: the system's")
    max_size: int = Field(default=1024**3, ge=1024, description="bytes of a PDF at most")
    max_pages: int = Field(default=20_000, ge=1, description="pages of a PDF at most")
    max_stdout: int = Field(default=64 * 1024 * 1024, ge=1024, description="bytes that a program may print")
    stderr_tail: int = Field(default=1024 * 1024, ge=1024, description="bytes kept of the end of its standard error")
    grace: Duration = Field(default=timedelta(seconds=1), description="between SIGTERM and SIGKILL")
    heartbeat_timeout: Duration = Field(
        default=timedelta(seconds=30), description="a worker that is silent for this is given up for lost"
    )
    institutions: Path | None = Field(
        default=None, description="CSV file of institutions and their other names: `name,other name`"
    )
    ocr_languages: str = Field(
        default="spa", pattern=r"^[a-zA-Z_]{3,20}(\+[a-zA-Z_]{3,20}){0,9}$", description="languages for tesseract"
    )
    breaker_faults: int = Field(default=5, ge=1, le=100, description="faults in a row that open a profile's breaker")
    breaker_window: Duration = Field(default=timedelta(minutes=10), description="within this time")
    cool_down: Duration = Field(
        default=timedelta(seconds=30), description="from there to the first canary; doubled after each that fails"
    )
    longest_cool_down: Duration = Field(default=timedelta(minutes=10), description="between canaries at most")
    canary_interval: Duration = Field(default=timedelta(minutes=10), description="between health checks")
    canary: bool = Field(default=True, description="let the worker make the schedule of the health check")
    link: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="address of a document in your application, for notices; `{sha256}` and `{profile}` are filled in",
    )

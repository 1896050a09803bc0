"""The container image without a container engine.

`LaidOut` follows the Dockerfile's steps in a folder: the system's own programs and this environment's packages stand
for the layers below the code. `Built` is an image that was really built, by `deploy/try-image`, and runs as its user.
Both run under bubblewrap, with a root that cannot be written, a PID 1 of their own, and no capability.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.stack import ROOT

USER = 10001
# One whose first process is the image's own, as in a container.
BARE = [
    "bwrap", "--unshare-user", "--uid", str(USER), "--gid", str(USER), "--unshare-pid", "--unshare-ipc",
    "--as-pid-1", "--die-with-parent", "--cap-drop", "ALL",
]  # fmt: skip


@dataclass
class Config:
    """What an image says of how it is run."""

    environment: dict[str, str]
    entrypoint: list[str]
    command: list[str]
    health: list[str]
    user: str
    folder: str


@dataclass
class Container:
    """A started one; `pid` is its first process, as the host counts."""

    process: subprocess.Popen[str]
    pid: int


class Image(Protocol):
    """Runs commands in new containers, all of which share /data."""

    config: Config
    data: Path

    def started(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> contextlib.AbstractContextManager[Container]:
        """Start a container of the image's entry point with a command, and end it with the block."""
        ...


def run(
    image: Image, command: Sequence[str], environment: Mapping[str, str], given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Return what a command in a container of its own came to."""
    with image.started(command, environment) as container:
        out, err = container.process.communicate(given, timeout=120)
        return subprocess.CompletedProcess(list(command), container.process.returncode, out, err)


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@dataclass
class LaidOut:
    """The Dockerfile's last steps, followed in a folder.

    Attributes:
        data: What is /data.
    """

    root: Path
    data: Path = field(init=False)
    config: Config = field(init=False)

    def __post_init__(self) -> None:
        self.data = self.root / "data"
        self.config, build = _read_dockerfile((ROOT / "Dockerfile").read_text())
        app, programs = self.root / "app", self.root / "bin"
        for folder in (self.data, app, programs):
            folder.mkdir(parents=True)
        (programs / "python").symlink_to(Path(sys.executable).resolve())
        kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
        for step, words in build:
            if step == "COPY" and "requirements" not in words:
                *sources, target = words.split()
                for source in sources:
                    assert source in kept, f"COPY {source}: .dockerignore leaves it out"
                    _copy(ROOT / source, app / (target if len(sources) == 1 else "") / "")
            if step == "RUN" and "pip" not in words:
                subprocess.run(
                    [*BARE, *self._mounts(writable=True), "/bin/sh", "-c", words],
                    check=True,
                    env={"PATH": "/opt/venv/bin:/usr/bin:/bin"},
                )

    def _mounts(self, *, writable: bool) -> list[str]:
        venv = Path(sys.prefix)
        bind = "--bind" if writable else "--ro-bind"
        base = sys.base_prefix
        return [
            "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", "--symlink", "usr/bin", "/bin",
            "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
            *(() if base.startswith("/usr/") else ("--ro-bind", base, base)),
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
            bind, str(self.root / "app"), "/app", bind, str(self.root / "bin"), "/opt/venv/bin",
            "--ro-bind", str(venv / "lib"), "/opt/venv/lib",
            "--ro-bind", str(venv / "pyvenv.cfg"), "/opt/venv/pyvenv.cfg",
            *(() if writable else ("--bind", str(self.data), "/data", "--tmpfs", "/scratch", "--remount-ro", "/")),
            "--chdir", self.config.folder,
        ]  # fmt: skip

    @contextmanager
    def started(self, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Container]:
        """See `Image.started`."""
        with _contained(self._mounts(writable=False), self.config, command, environment, user=None) as container:
            yield container


@dataclass
class Built:
    """A built image: its unpacked root, and its configuration as `buildah inspect` prints it."""

    root: Path
    described: dict[str, Any]
    work: Path
    data: Path = field(init=False)
    config: Config = field(init=False)

    def __post_init__(self) -> None:
        said = self.described["Docker"]["config"]
        pairs = (pair.split("=", 1) for pair in said["Env"])
        health = said["Healthcheck"]["Test"]
        self.config = Config(dict(pairs), said["Entrypoint"], said["Cmd"], health[1:], said["User"], said["WorkingDir"])
        self.data = self.work / "data"
        for folder in ("data", "scratch"):
            (self.work / folder).mkdir()
            os.chown(self.work / folder, USER, USER)

    @contextmanager
    def started(self, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Container]:
        """See `Image.started`."""
        mounts = [
            "--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
            "--bind", str(self.data), "/data", "--bind", str(self.work / "scratch"), "/scratch",
            "--chdir", self.config.folder,
        ]  # fmt: skip
        with _contained(mounts, self.config, command, environment, user=USER) as container:
            yield container


@contextmanager
def _contained(
    mounts: Sequence[str], config: Config, command: Sequence[str], environment: Mapping[str, str], user: int | None
) -> Iterator[Container]:
    told, telling = os.pipe()
    process = subprocess.Popen(
        [*BARE, *mounts, "--info-fd", str(telling), *config.entrypoint, *command],
        env=config.environment | environment,
        pass_fds=[telling],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    os.close(telling)
    with _ended(process), os.fdopen(told) as info:
        said = info.read()
        assert said, process.communicate()[1]
        yield Container(process, json.loads(said)["child-pid"])


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _read_dockerfile(text: str) -> tuple[Config, list[tuple[str, str]]]:
    """Return what the last stage says, and the steps of the one before."""
    whole = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text))
    steps = [(words[0], words[2].strip()) for line in whole.splitlines() if (words := line.partition(" "))[0]]
    stages: list[list[tuple[str, str]]] = []
    for step in steps:
        if step[0] == "FROM":
            stages.append([])
        elif stages:
            stages[-1].append(step)
    build, last = stages
    said = dict(last)
    pairs = (pair.split("=", 1) for step, words in last if step == "ENV" for pair in shlex.split(words))
    environment = {name: value.replace("$PATH", "/usr/bin:/bin") for name, value in pairs}
    health = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    entry, command = (json.loads(said[step]) for step in ("ENTRYPOINT", "CMD"))
    return Config(environment, entry, command, health, said["USER"], said["WORKDIR"]), build

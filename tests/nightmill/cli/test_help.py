"""Help is complete, quick, and drags nothing heavy in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nightmill.cli.app import app
from tests.nightmill.cli.conftest import Cli
from tests.stack import ROOT

COMMANDS = [
    *[[str(command.name or command.callback.__name__)] for command in app.registered_commands if command.callback],
    *[
        [str(group.name), str(command.name or command.callback.__name__).replace("_", "-")]
        for group in app.registered_groups
        for command in (group.typer_instance.registered_commands if group.typer_instance else ())
        if command.callback
    ],
]


@pytest.mark.parametrize("command", [[], ["batch"], ["db"], *COMMANDS], ids=" ".join)
def test_the_help_of_every_command_shows_an_example(cli: Cli, command: list[str]) -> None:
    ended = cli(*command, "--help")
    assert ended.code == 0
    example = ended.out.split("Example:\n")[1]
    assert " ".join(["nightmill", *command]) in example


def test_every_command_of_the_specification_is_there() -> None:
    expected = "dev worker sandbox doctor submit estimate list show watch results cancel poll redispatch retry-failed"
    assert {*expected.split(), "upgrade"} <= {command[-1] for command in COMMANDS}


def test_help_takes_less_than_a_second_and_imports_nothing_heavy() -> None:
    script = (
        "import resource, sys\n"
        "from nightmill.cli.app import run\n"
        "assert run(['--help']) == 0\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "heavy = {'temporalio', 'sqlmodel', 'sqlalchemy', 'alembic', 'httpx', 'rich'} & set(sys.modules)\n"
        "print(used.ru_utime + used.ru_stime, *heavy, file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ}
    )
    seconds, *heavy = ended.stderr.split()
    assert heavy == []
    assert float(seconds) < 1.0


def test_no_command_at_all_shows_the_help_and_is_wrong_usage(cli: Cli) -> None:
    ended = cli()
    assert ended.code == 2
    assert "Usage: nightmill" in ended.err


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out.startswith("nightmill ")

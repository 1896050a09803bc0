"""The face to people: the command `nightmill`. One module per noun; heavy things are imported by who needs them."""

from __future__ import annotations


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from nightmill.cli.app import run
    from nightmill.cli.ending import finish

    finish(run())

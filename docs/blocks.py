"""The fenced blocks of a page, and what the HTML comments right above them say of running them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

LANGUAGES = ("console", "python", "json")

_BLOCK = re.compile(r"((?:^ *<!--[^\n]*-->\n)*)^ *```(\w+)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_NOTE = re.compile(r"<!-- (not run|given|then|stays until|exits with \d+|with|shape of): (.*?) -->")


class UnknownNote(ValueError):
    """A comment above a block is none that the check knows."""


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        page: Where it stands.
        line: The number of its fence's line, from 1.
        language: `console`, `python` or `json`.
        text: What it says.
        not_run: Why it cannot be run here; empty: it is run.
        given: What must be there before it, which the page takes for granted: lines of a shell, or of Python.
        then: What is to hold after it: lines of Python, below the block's own.
        stays_until: Its last command stays in the foreground; it is up once it prints this. Empty: it ends.
        exits: The exit codes of commands that do not end with 0, by the command, or by how it begins and a `*`.
        fillers: What stands for the words that a reader is to replace.
        shape_of: Of `json`: the command that prints an object of this shape; empty: none does.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""
    given: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    stays_until: str = ""
    exits: dict[str, int] = field(default_factory=dict)
    fillers: dict[str, str] = field(default_factory=dict)
    shape_of: str = ""

    @property
    def runs(self) -> bool:
        """Whether there is anything to run."""
        return not self.not_run and (self.language != "json" or bool(self.shape_of))

    def expected(self, command: str) -> int:
        """Return the exit code that a command should have."""
        return next((code for pattern, code in self.exits.items() if _fits(command, pattern)), 0)


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page that could be run, in their order.

    Raises:
        UnknownNote: A comment above one of them is misspelled.
    """
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        comments, language, body = match.groups()
        if language in LANGUAGES:
            line = text[: match.start(2)].count("\n") + 1
            found.append(_block(page, line, language, dedent(body), dedent(comments)))
    return found


def _block(page: Path, line: int, language: str, body: str, comments: str) -> Block:
    notes: dict[str, list[str]] = {}
    for comment in comments.splitlines():
        match = _NOTE.fullmatch(comment)
        if match is None and ":" in comment.partition("`")[0]:
            raise UnknownNote(f"{page.name}:{line}: {comment}: the check knows no such comment")
        if match is not None:
            notes.setdefault(match[1], []).append(match[2])
    return Block(
        page,
        line,
        language,
        body,
        not_run="; ".join(notes.get("not run", ())),
        given=tuple(notes.get("given", ())),
        then=tuple(notes.get("then", ())),
        stays_until="".join(notes.get("stays until", ())),
        exits={one: int(note.split()[-1]) for note, found in notes.items() if note[:5] == "exits" for one in found},
        fillers=dict(filler.split("=", 1) for filler in notes.get("with", ())),
        shape_of="".join(notes.get("shape of", ())),
    )


def _fits(command: str, pattern: str) -> bool:
    return command.startswith(pattern[:-1]) if pattern.endswith("*") else command == pattern


def commands_of(text: str) -> Iterator[str]:
    """Yield the commands of a shell's text one by one, here-documents and continued lines whole."""
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        if not pending.strip() or pending.lstrip().startswith("#"):
            pending = ""
        elif not line.endswith("\\\n") and _is_whole(pending):
            yield pending.rstrip("\n")
            pending = ""
    if pending:
        yield pending


def _is_whole(text: str) -> bool:
    """Tell whether bash waits for no further line; of a here-document without its end it only warns."""
    bash = shutil.which("bash") or "bash"
    parsed = subprocess.run([bash, "-n"], input=text, capture_output=True, text=True, check=False)
    return parsed.returncode == 0 and not parsed.stderr

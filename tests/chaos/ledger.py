"""The books at the end of a run: what was asked for against what the outside world has seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """What is counted, and what must not be.

    Attributes:
        lines: Headings, and labels with their values.
        violations: What is wrong, by ids.
    """

    lines: list[tuple[str, object] | str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def head(self, title: str) -> None:
        """Begin a part of the book."""
        self.lines.append(title)

    def count(self, label: str, value: object) -> None:
        """Write down a number."""
        self.lines.append((label, value))

    def check(self, label: str, value: object, wrong: list[str]) -> None:
        """Write down a number, and what is wrong with it."""
        self.lines.append((label, value if not wrong else f"{value}  <- {len(wrong)} WRONG"))
        self.violations += [f"{label}: {each}" for each in wrong]

    @property
    def balances(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations

    def text(self, replay: str) -> Iterator[str]:
        """Yield the ledger for people."""
        for line in self.lines:
            if isinstance(line, str):
                yield f"\n{line}"
            else:
                yield f"  {line[0]:<58} {line[1]}"
        yield ""
        for each in self.violations[:200]:
            yield f"VIOLATION  {each}"
        yield "the books balance" if self.balances else f"{len(self.violations)} violations; again: {replay}"

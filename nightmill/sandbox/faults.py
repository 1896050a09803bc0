"""Things that go wrong on purpose: rules that match requests and say what happens to them."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from nightmill.sandbox.model import Phase

CALL_ACTIONS = frozenset({"status", "drop", "hang", "delay", "kill", "call", "hook", "advance"})
"""Happen to the whole request, before or after it takes effect."""
DEEDS = frozenset({"kill", "call", "hook"})
"""Those of them that do something elsewhere and leave the answer alone."""
CREATE_ACTIONS = frozenset({"hide", "fail"})
"""Happen to the batch that a request creates."""
BODY_ACTIONS = frozenset({"patch"})
"""Change a JSON answer."""
STREAM_ACTIONS = frozenset({"truncate", "cut", "drip"})
"""Happen to the bytes of an answer."""
ENTRY_ACTIONS = frozenset(
    {"reorder", "duplicate", "unknown", "missing", "malformed", "poison", "huge_line", "anonymous", "replace"}
)
"""Happen to the entries of a result."""
ACTIONS = CALL_ACTIONS | CREATE_ACTIONS | BODY_ACTIONS | STREAM_ACTIONS | ENTRY_ACTIONS

POISONS = ("u2028", "nul", "surrogate", "bytes", "control", "emoji", "nan", "infinity", "bom", "crlf", "deep")
"""What an entry can be poisoned with; the first six in its text, the others around it."""


@dataclass(frozen=True)
class Fault:
    """One rule. Only the fields that its action reads matter.

    Attributes:
        action: One of `ACTIONS`:
            `status` answers `status`, with `retry_after`, `body` and `headers`;
            `drop` closes the connection;
            `hang` stays silent for `seconds`, then closes it;
            `delay` waits for `seconds`, then goes on;
            `kill` sends `signal` to the process `pid`;
            `call` runs the Python callable `call` (in-process only);
            `hook` sends a POST to `url` and waits for its answer;
            `advance` moves the batch at hand (or all that are open, where there is none) to the phase `value`;
            `hide` keeps a new batch out of reads and lists for `seconds`;
            `fail` makes a new batch fail with `code` and `message` (OpenAI `failed`, xAI `cancel_by_xai_message`,
            Gemini FAILED, Anthropic: every entry errored);
            `patch` merges `body` (an object) into a JSON answer;
            `truncate` ends the body cleanly after `at` bytes, `cut` breaks the connection there (None: a random place);
            `drip` sends `size` bytes every `seconds`;
            `reorder`, `duplicate` (`same` content or not), `unknown`, `missing`, `malformed`, `poison` (`kind`, one of
            `POISONS`), `huge_line` (`size` bytes), `anonymous` (no id left) and `replace` (by `body`)
            change `count` entries of a result, or those named in `ids`.
        provider: A provider's name; `*` and `?` are wild cards here and in the next two fields.
        operation: `files.create`, `files.get`, `files.list`, `files.content`, `files.delete`, `batches.create`,
            `batches.get`, `batches.list`, `batches.cancel`, `batches.delete`, `results.get`. Reading results is
            `results.get` with every provider, and entry actions on it also reach Gemini's inline results.
        path: The request's path, without the query.
        skip: How many matching requests pass unharmed first.
        times: How many it then strikes; None means every one.
        probability: Strikes only this share of them, drawn from `seed`.
        when: `before` or `after` the request takes effect; `kill`, `call` and `hook` may also strike `during` the
            answer, once `at` bytes of its body are sent.
    """

    action: str
    provider: str = "*"
    operation: str = "*"
    path: str = "*"
    skip: int = 0
    times: int | None = 1
    probability: float = 1.0
    seed: int = 0
    when: str = "before"
    status: int = 500
    retry_after: str | float | None = None
    body: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    pid: int = 0
    signal: int = 9
    url: str = ""
    call: Callable[[], object] | None = None
    value: str = ""
    code: str = ""
    message: str = ""
    line: int | None = None
    at: int | None = None
    size: int = 1
    count: int = 1
    ids: tuple[str, ...] = ()
    same: bool = True
    kind: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))
        if self.action not in ACTIONS:
            raise ValueError(f"no such action: {self.action!r}; there are {', '.join(sorted(ACTIONS))}")
        moments = ("before", "after", "during") if self.action in DEEDS else ("before", "after")
        if self.when not in moments:
            raise ValueError(f"when is {self.when!r}; {self.action} can strike {', '.join(moments)}")
        if self.action == "poison" and self.kind not in POISONS:
            raise ValueError(f"kind is {self.kind!r}; choose one of {', '.join(POISONS)}")
        if self.action == "advance":
            Phase(self.value)
        if self.action == "kill" and self.pid <= 1:
            raise ValueError(f"pid is {self.pid}; kill needs the id of one process")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fault:
        """Return the rule that a JSON object describes.

        Raises:
            ValueError: It names an unknown field or action, or `call`, which only Python can give.
        """
        unknown = value.keys() - {field.name for field in dataclasses.fields(cls)} | (value.keys() & {"call"})
        if unknown or "action" not in value:
            raise ValueError(f"a fault has an action and no such fields: {', '.join(sorted(unknown)) or '-'}")
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "call" and getattr(self, field.name) != field.default
        }

    def matches(self, provider: str, operation: str, path: str) -> bool:
        """Whether the rule is about such a request."""
        return (
            fnmatchcase(provider, self.provider)
            and fnmatchcase(operation, self.operation)
            and fnmatchcase(path, self.path)
        )


@dataclass
class _Armed:
    fault: Fault
    rng: random.Random
    seen: int = 0
    struck: int = 0

    def strikes(self) -> bool:
        self.seen += 1
        if self.seen <= self.fault.skip or (self.fault.times is not None and self.struck >= self.fault.times):
            return False
        if self.fault.probability < 1 and self.rng.random() >= self.fault.probability:
            return False
        self.struck += 1
        return True


class FaultPlan:
    """The rules in force, each with its own count. Safe to use from many threads."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """Append rules."""
        with self._lock:
            self._armed += [_Armed(fault, random.Random(fault.seed)) for fault in faults]  # noqa: S311

    def clear(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._armed.clear()

    def strike(self, provider: str, operation: str, path: str, only: frozenset[str] = ACTIONS) -> list[Fault]:
        """Return the rules that this request runs into, counting it against each that matches it."""
        with self._lock:
            return [
                armed.fault
                for armed in self._armed
                if armed.fault.action in only and armed.fault.matches(provider, operation, path) and armed.strikes()
            ]

    def state(self) -> list[dict[str, Any]]:
        """Return each rule with how many requests matched it and how many it struck."""
        with self._lock:
            return [{**armed.fault.to_json(), "seen": armed.seen, "struck": armed.struck} for armed in self._armed]

"""Between HTTP and the providers: finds the operation, checks the key, keeps the log and lets faults strike."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from nightmill.sandbox import effects
from nightmill.sandbox.engine import Engine, hash_key
from nightmill.sandbox.faults import Fault, FaultPlan
from nightmill.sandbox.http import BadBody, Dropped, Reply, Request, json_reply
from nightmill.sandbox.model import Batch, StoredFile


class Refused(Exception):
    """A provider says no.

    Attributes:
        status: The HTTP status.
        message: In words.
        code: The provider's own code, where it has one for this.
        param: The parameter at fault.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


@dataclass
class LogEntry:
    """One request in the log; `status` is None if the connection was dropped instead."""

    seq: int
    time: float
    provider: str
    operation: str
    method: str
    path: str
    query: dict[str, str]
    key_hash: str
    batch_id: str | None = None
    file_id: str | None = None
    tag: str | None = None
    metadata: dict[str, Any] | None = None
    effect: bool = False
    status: int | None = None
    faults: list[str] = field(default_factory=list)


@dataclass
class Call:
    """One request on its way through a provider.

    Attributes:
        params: What the route found in the path.
        faults: The rules that struck it.
        key: The API key it came with.
        plan: All rules, for those that strike a part of the answer.
    """

    request: Request
    provider: str
    operation: str
    params: dict[str, str]
    key: str
    entry: LogEntry
    plan: FaultPlan
    faults: list[Fault] = field(default_factory=list)

    @property
    def key_hash(self) -> str:
        """The key's fingerprint."""
        return self.entry.key_hash

    def about(self, thing: Batch | StoredFile, *, effect: bool = False) -> None:
        """Note in the log which batch or file this is about, and whether it was changed."""
        if isinstance(thing, Batch):
            self.entry.batch_id, self.entry.tag, self.entry.metadata = thing.id, thing.tag, thing.metadata
        else:
            self.entry.file_id = thing.id
            self.entry.batch_id = thing.batch_id
        self.entry.effect = self.entry.effect or effect


Handler = Callable[[Call], Reply]


@dataclass(frozen=True)
class Route:
    """One operation of a provider's API; `pattern` is a path with `{names}`."""

    method: str
    pattern: str
    operation: str
    handler: Handler

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """Return the path's parameters, or None if this route is not meant."""
        if method != self.method:
            return None
        found = _compiled(self.pattern).fullmatch(path)
        return found.groupdict() if found else None


_PATTERNS: dict[str, re.Pattern[str]] = {}


def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern not in _PATTERNS:
        _PATTERNS[pattern] = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", pattern))
    return _PATTERNS[pattern]


class Provider(Protocol):
    """One provider's wire format."""

    name: str
    prefix: str
    routes: list[Route]

    def key_of(self, request: Request) -> str:
        """Return the API key in a request, blank if there is none."""

    def refusal(self, refused: Refused) -> Reply:
        """Return an error answer in the provider's envelope."""


class Gate:
    """Answers every request to a provider."""

    def __init__(self, engine: Engine, plan: FaultPlan, providers: Iterable[Provider]) -> None:
        self.engine = engine
        self.plan = plan
        self.providers = list(providers)
        self.log: list[LogEntry] = []
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        """Answer a request.

        Raises:
            Dropped: The connection has to be closed without an answer.
        """
        for provider in self.providers:
            if request.path.startswith(provider.prefix + "/"):
                return self._serve(provider, request)
        return json_reply({"error": {"message": f"The sandbox serves nothing at {request.path}"}}, 404)

    def _serve(self, provider: Provider, request: Request) -> Reply:
        path = request.path.removeprefix(provider.prefix)
        route, params = next(
            ((one, found) for one in provider.routes if (found := one.match(request.method, path)) is not None),
            (None, {}),
        )
        call = self._open(provider, request, self._operation(route, params), params)
        reply = self._answer(provider, route, call)
        call.entry.status = reply.status
        for name in ("x-request-id", "request-id"):  # OpenAI's and Anthropic's; the others do not mind
            reply.headers.setdefault(name, f"req_sandbox{call.entry.seq}")
        return effects.on_body(call.faults, reply)

    def _operation(self, route: Route | None, params: dict[str, str]) -> str:
        if route is None:
            return "unknown"
        file = self.engine.files.get(params.get("id", ""))
        made_by_batch = file is not None and file.batch_id is not None
        return "results.get" if route.operation == "files.content" and made_by_batch else route.operation

    def _open(self, provider: Provider, request: Request, operation: str, params: dict[str, str]) -> Call:
        key = provider.key_of(request)
        with self._lock:
            entry = LogEntry(
                seq=len(self.log) + 1,
                time=self.engine.clock(),
                provider=provider.name,
                operation=operation,
                method=request.method,
                path=request.path,
                query=dict(request.query),
                key_hash=hash_key(key) if key else "",
            )
            self.log.append(entry)
        call = Call(request, provider.name, operation, params, key, entry, self.plan)
        call.faults = self.plan.strike(provider.name, operation, request.path)
        entry.faults = [fault.action for fault in call.faults]
        return call

    def _answer(self, provider: Provider, route: Route | None, call: Call) -> Reply:
        def refuse(status: int, words: str) -> Reply:
            return provider.refusal(Refused(status, words))

        early = effects.on_call(self.engine, call.faults, "before", call.entry.batch_id, refuse)
        if early is not None:
            return early
        try:
            self._check_key(call)
            reply = route.handler(call) if route else refuse(404, f"Invalid URL: {call.request.path}")
        except Refused as refused:
            reply = provider.refusal(refused)
        except BadBody as error:
            reply = provider.refusal(Refused(400, str(error)))
        call.request.body.drain()
        late = effects.on_call(self.engine, call.faults, "after", call.entry.batch_id, refuse)
        return late if late is not None else reply

    def _check_key(self, call: Call) -> None:
        profile = self.engine.profile
        if not call.key:
            raise Refused(401, "You didn't provide an API key.", "missing_api_key")
        if call.key in profile.rejected_keys:
            raise Refused(401, "Incorrect API key provided.", "invalid_api_key")
        if call.key in profile.forbidden_keys:
            raise Refused(403, "This API key may not do that.", "permission_denied")

    def forget(self) -> None:
        """Empty the log."""
        with self._lock:
            self.log.clear()

    def log_json(self, **wanted: str) -> list[dict[str, Any]]:
        """Return the log, oldest first, as far as it has the wanted values."""
        with self._lock:
            entries = list(self.log)
        return [
            asdict(one) for one in entries if all(str(getattr(one, name)) == value for name, value in wanted.items())
        ]


__all__ = ["Call", "Dropped", "Gate", "Handler", "LogEntry", "Provider", "Refused", "Route"]

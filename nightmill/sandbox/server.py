"""The sandbox as a whole: a server on a thread, or in the foreground."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from types import FrameType, TracebackType
from typing import Any

from nightmill.sandbox.anthropic import Anthropic
from nightmill.sandbox.control import Control, batch_json, file_json
from nightmill.sandbox.engine import Engine
from nightmill.sandbox.faults import Fault, FaultPlan
from nightmill.sandbox.gate import Gate
from nightmill.sandbox.google import Google
from nightmill.sandbox.http import Reply, Request, Server
from nightmill.sandbox.model import Phase
from nightmill.sandbox.openai import OpenAI
from nightmill.sandbox.profile import Profile
from nightmill.sandbox.xai import XAI


class Sandbox:
    """Four providers' batch APIs on one local port.

    Any API key is accepted, but for those that the profile rejects. Leaving its `with` block forgets everything; `stop`
    alone does not, so that a test can take the providers away for a while.

    Example:
        >>> with Sandbox(profile=Profile(finish_after=0)) as sandbox:
        ...     sandbox.base_urls["openai"]
        'http://127.0.0.1:.../openai/v1'
    """

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        faults: Iterable[Fault] = (),
        profile: Profile | None = None,
        seed: int = 0,
    ) -> None:
        """Prepare a sandbox; nothing listens before `start`.

        Args:
            port: Where to listen; 0 takes any free port.
            host: The address to listen on.
            faults: Rules in force from the start.
            profile: How batches behave.
            seed: What shares and answers are drawn from.
        """
        self._initial = profile or Profile()
        self._address = (host, port)
        self._plan = FaultPlan(faults)
        self._engine = Engine(self._initial, seed)
        self._gate = Gate(self._engine, self._plan, [one(self._engine) for one in (OpenAI, Anthropic, Google, XAI)])
        self._control = Control(self)
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    # life

    def start(self) -> Sandbox:
        """Listen, on a thread of its own, and return at once."""
        self._server = Server(self._address, self._handle)
        self._address = (self._address[0], self.port)  # a second start takes the same port
        serve_forever = self._server.serve_forever
        self._thread = threading.Thread(target=serve_forever, args=(0.05,), name="nightmill-sandbox", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close all connections; batches and files stay until `reset` or the end of the process."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.reset()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._address[1] if self._server is None else int(self._server.server_address[1])

    @property
    def base_url(self) -> str:
        """Where it listens, without a path."""
        return f"http://{self._address[0]}:{self.port}"

    @property
    def base_urls(self) -> Mapping[str, str]:
        """What each provider's client wants as its base URL."""
        return {
            "openai": f"{self.base_url}/openai/v1",
            "anthropic": f"{self.base_url}/anthropic",
            "google": f"{self.base_url}/google",
            "xai": f"{self.base_url}/xai/v1",
        }

    def _handle(self, request: Request) -> Reply:
        return self._control(request) if self._control.serves(request) else self._gate(request)

    # control, as under /_sandbox/

    @property
    def profile(self) -> Profile:
        """The profile of batches created from now on."""
        return self._engine.profile

    def set_profile(self, **changes: Any) -> Profile:
        """Change some fields of the profile; running batches keep theirs."""
        self._engine.profile = self._engine.profile.merged(changes)
        return self._engine.profile

    def add_faults(self, *faults: Fault) -> None:
        """Append rules."""
        self._plan.add(faults)

    def clear_faults(self) -> None:
        """Forget all rules."""
        self._plan.clear()

    def faults(self) -> list[dict[str, Any]]:
        """Return the rules with how often each matched and struck."""
        return self._plan.state()

    def log(self, **wanted: str) -> list[dict[str, Any]]:
        """Return every request to a provider, oldest first; keywords such as `operation` keep only the equal ones."""
        return self._gate.log_json(**wanted)

    def batches(self) -> list[dict[str, Any]]:
        """Return every provider batch ever created, oldest first, deleted and hidden ones included."""
        self._engine.refresh_all()
        with self._engine.lock:
            return [batch_json(batch) for batch in self._engine.batches.values()]

    def files(self) -> list[dict[str, Any]]:
        """Return every file ever uploaded or produced, oldest first, deleted ones included."""
        self._engine.refresh_all()
        with self._engine.lock:
            return [file_json(file) for file in self._engine.files.values()]

    def advance(self, batch_id: str, state: str, *, message: str = "", code: str = "") -> dict[str, Any]:
        """Force a batch into a phase (`model.Phase`), as an operator at the provider might.

        Raises:
            KeyError: There is no such batch.
            ValueError: It has ended already, or there is no such phase.
        """
        return batch_json(self._engine.advance(batch_id, Phase(state), message=message, code=code))

    def reset(self) -> None:
        """Forget files, batches, faults and the log, and take back changes of the profile."""
        self._plan.clear()
        self._engine.reset()
        self._engine.profile = self._initial
        self._gate.forget()


def serve(
    host: str = "127.0.0.1",
    port: int = 8700,
    *,
    profile: Profile | None = None,
    faults: Iterable[Fault] = (),
    seed: int = 0,
    ready: Callable[[Sandbox], object] | None = None,
) -> None:
    """Run a sandbox in the foreground until SIGTERM or SIGINT; to be called from the main thread.

    Args:
        host: The address to listen on.
        port: Where to listen.
        profile: How batches behave.
        faults: Rules in force from the start.
        seed: What shares and answers are drawn from.
        ready: Called once it listens.
    """
    stop = threading.Event()

    def asked_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, asked_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Sandbox(port, host, profile=profile, faults=faults, seed=seed) as sandbox:
            if ready is not None:
                ready(sandbox)
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

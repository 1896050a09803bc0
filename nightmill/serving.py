"""Serves a small HTTP application beside other work, on the event loop of whoever starts it."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger("nightmill.serving")

CONNECTIONS = 100
"""At once; more are told to come back (503)."""

KEEP_ALIVE = 5
"""Seconds that a connection may be idle, and twice as many that the head of a question may take."""

STOPS_WITHIN = 2
"""Seconds that open requests get when serving ends."""

UNREAD = 4
"""Times `KEEP_ALIVE` that nothing of an answer may go: a slow reader's system takes 256 kB at once, or nothing."""

ON_THE_WAY = 64 * 1024
"""Bytes of answers that our system holds for a connection, so that it takes more as soon as some are read.

By itself Linux holds 4 MB, and takes more when a third of it is gone.
"""


class PortTaken(NotConfigured):
    """Another process listens on the port already."""


@asynccontextmanager
async def served(app: ASGIApp, host: str, port: int, *, setting: str) -> AsyncIterator[str]:
    """Serve an application within the block, and give the address at which it answers.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        setting: The variable that names the port, for the message.

    Raises:
        PortTaken: Another process listens there.
        NotConfigured: The address cannot be listened on.
    """
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """Ends connections on which nothing moves: uvicorn waits for ever, and only for so many at once.

        Either no whole question comes, or nobody reads the answers: then they stay in the transport, which not even
        closing ends.
        """

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.loop.call_later(KEEP_ALIVE, self._look, (None, 0), 0)

        def _look(self, seen: object, times: int) -> None:
            unread = self.transport.get_write_buffer_size()
            if self.transport.is_closing() and not unread:
                return
            works = self.cycle is not None and not self.cycle.response_complete and not unread
            now = object() if works else (self.cycle, unread)
            times = times + 1 if now == seen else 0
            if times > (UNREAD if unread else 0):
                self.transport.abort()
                return
            self.loop.call_later(KEEP_ALIVE, self._look, now, times)

    class Server(uvicorn.Server):
        """Leaves signals to the process."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    listener = _listen(host, port, setting)
    config = uvicorn.Config(
        app,
        http=Protocol,
        log_config=None,
        log_level="error",  # a warning for each caller too many, or who speaks no HTTP: anybody could fill the log
        access_log=False,
        lifespan="off",
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=STOPS_WITHIN,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def served_if_free(
    app: Callable[[], ASGIApp], host: str, port: int, *, setting: str, chosen: bool
) -> AsyncIterator[str | None]:
    """Serve what other work can do without: as `served` does, or not at all, and give the address or None.

    Not at all means: the port is 0, or another process has a port that nobody chose, as where two workers run on one
    machine; a warning in the log says so.

    Args:
        app: Makes the application; not called where nothing is served.
        host: Address to listen on.
        port: Port; 0 serves nothing.
        setting: The variable that names the port, for the message.
        chosen: Whether someone set the port, `"health_port" in settings.worker.model_fields_set`.

    Raises:
        NotConfigured: The address cannot be listened on.
    """
    async with AsyncExitStack() as stack:
        address = None
        if port:
            try:
                address = await stack.enter_async_context(served(app(), host, port, setting=setting))
            except PortTaken as error:
                if chosen:
                    raise
                logger.warning("not served", extra={"reason": str(error)})
        yield address


def _listen(host: str, port: int, setting: str) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise NotConfigured(f"{setting}: cannot listen on {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ON_THE_WAY)
        listener.bind(address)
        listener.listen(CONNECTIONS)
    except OSError as error:
        listener.close()
        kind = PortTaken if error.errno == errno.EADDRINUSE else NotConfigured
        raise kind(f"{setting}: cannot listen on {host}:{port}: {error.strerror}; choose another port") from None
    return listener

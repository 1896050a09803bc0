"""What the small servers that strangers may call have in common: a bounded read of the question, and a sign of life."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response

if TYPE_CHECKING:
    from starlette.requests import Request


async def body_of(request: Request, largest: int) -> bytes | None:
    """Return the body; None: it is larger than `largest` bytes, and was not read to its end.

    Raises:
        ClientDisconnect: The caller is gone.
    """
    told = request.headers.get("content-length", "0")
    if not told.isdecimal() or int(told) > largest:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > largest:
            return None
    return bytes(body)


async def healthy(_: Request) -> Response:
    """Answer that the process answers."""
    return PlainTextResponse("ok\n")

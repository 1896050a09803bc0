"""The HTTP face of a worker's health: `/healthz` and `/readyz`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from nightmill.health.readiness import Health

_FRESH = {"Cache-Control": "no-store"}


def health_app(health: Health) -> Starlette:
    """Return the application that says how a worker is: 200, or 503 where it is not ready. HEAD works, too.

    `/healthz` needs nothing but the process: while the database is away a worker is not ready, and a restart would not
    help it. `/readyz` looks at what it needs.
    """

    async def healthz(_: Request) -> JSONResponse:
        return JSONResponse(health.alive(), headers=_FRESH)

    async def readyz(_: Request) -> JSONResponse:
        ready, found = await health.ready()
        return JSONResponse(found, status_code=200 if ready else 503, headers=_FRESH)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz)])

"""Prometheus' view of a worker: `/metrics`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.requests import Request


def metrics_app(registry: CollectorRegistry) -> Starlette:
    """Return an application that answers `/metrics`, in the text format or as OpenMetrics, whichever is asked for."""
    one_at_a_time = threading.Lock()  # two collections at once would mix what they found

    def metrics(request: Request) -> Response:
        # A plain function, so on a thread: gauges read the database.
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        with one_at_a_time:
            body = encode(registry)
        return Response(body, headers={"content-type": content_type})

    return Starlette(routes=[Route("/metrics", metrics)])

"""A host application in small: receives signed webhooks on loopback and counts the valid ones."""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from nightmill.errors import InvalidSignature
from nightmill.webhooks import verify_delivery

LARGEST_BODY = 1024 * 1024


class WebhookReceiver:
    """Listens on a free port of loopback while its `with` block runs.

    Attributes:
        secret: What webhooks must be signed with.
        refused: How many were not.
    """

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.refused = 0
        self._received: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhook-receiver", daemon=True)

    def __enter__(self) -> WebhookReceiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where webhooks are to be posted."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/batches"

    def deliveries(self, batch_id: str) -> int:
        """Return how many valid webhooks came for a batch."""
        return self._received[batch_id]

    def changes(self, document_id: str) -> int:
        """Return how many valid webhooks came for changes of a document."""
        return sum(count for name, count in self._received.items() if name.startswith(f"{document_id}."))

    def notices(self, sha256: str) -> int:
        """Return how many valid webhooks came for the end of a PDF's slicing."""
        return sum(count for name, count in self._received.items() if name.startswith(f"msg_nm-slice-{sha256[:12]}-"))

    def _take(self, headers: dict[str, str], body: bytes) -> int:
        """Return the HTTP status to answer with."""
        try:
            verify_delivery(headers, body, secret=self.secret)
        except InvalidSignature:
            self.refused += 1
            return 401
        self._received[{name.lower(): value for name, value in headers.items()}["webhook-id"]] += 1
        return 204

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = min(int(self.headers.get("content-length") or 0), LARGEST_BODY)
                self.send_response(receiver._take(dict(self.headers.items()), self.rfile.read(length)))
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
                """Say nothing: the receiver counts."""

        return Handler

"""The sandbox's own API under `/_sandbox/`, by which a test in another process scripts it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nightmill.sandbox.faults import Fault
from nightmill.sandbox.http import BadBody, Reply, Request, json_reply
from nightmill.sandbox.model import Batch, StoredFile

if TYPE_CHECKING:
    from nightmill.sandbox.server import Sandbox

PREFIX = "/_sandbox/"


class Control:
    """Turns requests under `/_sandbox/` into calls of the sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._verbs: dict[tuple[str, str], Callable[[Request], Any]] = {
            ("GET", "health"): lambda _: {"ok": True, "base_urls": dict(sandbox.base_urls)},
            ("GET", "profile"): lambda _: asdict(sandbox.profile),
            ("POST", "profile"): lambda request: asdict(sandbox.set_profile(**request.json())),
            ("GET", "faults"): lambda _: sandbox.faults(),
            ("POST", "faults"): self._add_faults,
            ("DELETE", "faults"): lambda _: sandbox.clear_faults(),
            ("GET", "log"): lambda request: sandbox.log(**request.query),
            ("GET", "batches"): lambda _: sandbox.batches(),
            ("GET", "files"): lambda _: sandbox.files(),
            ("POST", "reset"): lambda _: sandbox.reset(),
        }

    def serves(self, request: Request) -> bool:
        """Whether a request is meant for the sandbox itself."""
        return request.path.startswith(PREFIX)

    def __call__(self, request: Request) -> Reply:
        """Answer a request; errors come as `{"error": words}` with 400 or 404."""
        verb = request.path.removeprefix(PREFIX)
        try:
            if advanced := re.fullmatch(r"batches/(.+)/advance", verb):
                asked = dict(request.json())
                return json_reply(self._sandbox.advance(advanced[1], str(asked.pop("state")), **asked))
            handler = self._verbs.get((request.method, verb))
            if handler is None:
                return json_reply({"error": f"nothing here: {request.method} {request.path}"}, 404)
            return json_reply(handler(request))
        except KeyError as error:
            return json_reply({"error": f"no such thing: {error}"}, 404)
        except (ValueError, TypeError, AttributeError, BadBody) as error:
            return json_reply({"error": str(error)}, 400)

    def _add_faults(self, request: Request) -> list[dict[str, Any]]:
        asked = request.json()
        self._sandbox.add_faults(*[Fault.from_json(one) for one in (asked if isinstance(asked, list) else [asked])])
        return self._sandbox.faults()


def batch_json(batch: Batch) -> dict[str, Any]:
    """Describe a batch as the control API shows it."""
    return {
        "id": batch.id,
        "provider": batch.provider,
        "tag": batch.tag,
        "metadata": batch.metadata,
        "state": str(batch.phase),
        "requests": len(batch.lines),
        "ids_sha": batch.ids_sha,
        "model": batch.model,
        "endpoint": batch.endpoint,
        "created_at": batch.created_at,
        "input_file_id": batch.input_file_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "polls": batch.polls,
        "key_hash": batch.key_hash,
        "deleted": batch.deleted,
    }


def file_json(file: StoredFile) -> dict[str, Any]:
    """Describe a file as the control API shows it."""
    return {
        "id": file.id,
        "provider": file.provider,
        "filename": file.filename,
        "purpose": file.purpose,
        "bytes": file.size,
        "sha256": file.sha256,
        "created_at": file.created_at,
        "batch_id": file.batch_id,
        "deleted": file.deleted,
    }

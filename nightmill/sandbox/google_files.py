"""Gemini's Files API: resumable uploads, listing, deletion and download.

Facts: ai.google.dev/api/files and the calls of the official `google-genai` package 3.4.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from nightmill.sandbox.engine import Engine
from nightmill.sandbox.gate import Call, Refused
from nightmill.sandbox.google_answers import either
from nightmill.sandbox.http import Reply, json_reply
from nightmill.sandbox.model import StoredFile
from nightmill.sandbox.uploads import page

MAX_BYTES = 2 * 1024**3  # ai.google.dev/gemini-api/docs/files: 2 GB a file
LIFE = 48 * 3600.0  # same page: files are deleted after 48 hours
PAGE, MAX_PAGE = 10, 100  # ai.google.dev/api/files#method:-files.list
NAME = re.compile(r"files/[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclass
class Session:
    """One resumable upload that is under way."""

    path: Path
    file: dict[str, Any]
    key: str
    received: int = 0


class Files:
    """The Files API, of which the batches' API reads uploads and offers results."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sessions: dict[str, Session] = {}

    def start(self, call: Call) -> Reply:
        """Open an upload, and tell where its bytes go."""
        headers = call.request.headers
        if headers.get("x-goog-upload-protocol") != "resumable" or headers.get("x-goog-upload-command") != "start":
            raise Refused(400, "Only X-Goog-Upload-Protocol: resumable with X-Goog-Upload-Command: start is served.")
        data = call.request.body.read()
        described = _described(data)
        name = described.get("name")
        if name and (not NAME.fullmatch(name) or self.engine.file("google", name.removeprefix("files/"))):
            taken = NAME.fullmatch(name) is not None
            raise Refused(409 if taken else 400, f"The file name {name} is {'taken' if taken else 'not valid'}.")
        described.setdefault("mime_type", headers.get("x-goog-upload-header-content-type"))
        token = secrets.token_urlsafe(24)
        with self.engine.lock:
            self.sessions[token] = Session(self.engine.spool(), described, call.key)
        where = f"{call.request.origin}/google/upload/{call.params['version']}/sessions/{token}"
        status = {"X-Goog-Upload-Status": "active", "X-Goog-Upload-URL": where, "X-Goog-Upload-Control-URL": where}
        return json_reply({}, headers=status)

    def upload(self, call: Call) -> Reply:
        """Take bytes into an open upload, and close it if asked to."""
        session = self.sessions.get(call.params["upload"])
        if session is None:
            raise Refused(404, "There is no such upload.")
        commands = {one.strip() for one in call.request.headers.get("x-goog-upload-command", "").split(",")}
        if "query" in commands:
            size = {"X-Goog-Upload-Status": "active", "X-Goog-Upload-Size-Received": str(session.received)}
            return Reply(200, b"", headers=size)
        if "upload" in commands:
            self._append(call, session)
        if "finalize" not in commands:
            return Reply(200, b"", headers={"X-Goog-Upload-Status": "active"})
        file = self._finish(session)
        del self.sessions[call.params["upload"]]
        call.about(file, effect=True)
        described = {"file": self.describe(file, call.request.origin)}
        return json_reply(described, headers={"X-Goog-Upload-Status": "final"})

    def _append(self, call: Call, session: Session) -> None:
        offset = call.request.headers.get("x-goog-upload-offset", "0")
        if offset != str(session.received):
            raise Refused(400, f"Offset {offset} does not go on from {session.received}.")
        limit = self.engine.profile.max_bytes or MAX_BYTES
        with session.path.open("ab") as out:
            for data in call.request.body.chunks():
                session.received += len(data)
                if session.received > limit:
                    raise Refused(400, f"The file is larger than {limit} bytes.")
                out.write(data)

    def _finish(self, session: Session) -> StoredFile:
        session.path.touch()
        with session.path.open("rb") as done:
            digest = hashlib.file_digest(done, "sha256").hexdigest()
        now = self.engine.clock()
        name = session.file.get("name") or f"files/{secrets.token_hex(6)}"
        return self.engine.add_file(
            StoredFile(
                id=name.removeprefix("files/"),
                provider="google",
                filename=str(session.file.get("display_name") or ""),
                purpose="",
                created_at=now,
                path=session.path,
                size=session.received,
                sha256=digest,
                mime_type=session.file.get("mime_type") or "application/octet-stream",
                expires_at=now + LIFE,
            )
        )

    def get(self, call: Call) -> Reply:
        """Describe a file."""
        return json_reply(self.describe(self.file(call), call.request.origin))

    def list(self, call: Call) -> Reply:
        """List files, newest first."""
        some, token = pages(call, self.engine.list_files("google"), PAGE, MAX_PAGE)
        listed: dict[str, Any] = {"files": [self.describe(file, call.request.origin) for file in some]}
        return json_reply(listed | ({"nextPageToken": token} if token else {}))

    def delete(self, call: Call) -> Reply:
        """Delete a file."""
        file = self.file(call)
        file.deleted = True
        call.about(file, effect=True)
        return json_reply({})

    def file(self, call: Call) -> StoredFile:
        """Return the file that a call names.

        Raises:
            Refused: There is none; Google says 403 to that, so as not to tell whose it is.
        """
        file = self.engine.file("google", call.params["id"])
        if file is None:
            name = call.params["id"]
            raise Refused(403, f"You do not have permission to access the File {name} or it may not exist.")
        call.about(file)
        return file

    def describe(self, file: StoredFile, origin: str) -> dict[str, Any]:
        """Return a file's resource; zeros and blanks are left out, as in all of Google's JSON."""
        generated = file.batch_id is not None
        uri = f"{origin}/google/v1beta/files/{file.id}"
        described = {
            "name": f"files/{file.id}",
            "displayName": file.filename or None,
            "mimeType": file.mime_type,
            "sizeBytes": str(file.size) if file.size else None,
            "createTime": stamp(file.created_at),
            "updateTime": stamp(file.created_at),
            "expirationTime": stamp(file.expires_at) if file.expires_at else None,
            "sha256Hash": base64.b64encode(file.sha256.encode()).decode() or None,
            "uri": uri,
            "downloadUri": f"{uri}:download?alt=media" if generated else None,
            "state": "ACTIVE",
            "source": "GENERATED" if generated else "UPLOADED",
        }
        return {name: value for name, value in described.items() if value is not None}


def _described(data: bytes) -> dict[str, Any]:
    file = (orjson.loads(data) if data.strip() else {}).get("file") or {}
    wanted = {"name": "name", "display_name": "displayName", "mime_type": "mimeType"}
    return {ours: found for ours, theirs in wanted.items() if (found := either(file, theirs)) is not None}


def pages(call: Call, found: list[Any], default: int, most: int) -> tuple[list[Any], str | None]:
    """Return one page of a list and the token of the next; sizes over the maximum count as the maximum."""
    query = call.request.query
    size = query.get("pageSize") or query.get("page_size") or ""
    limit = min(int(size), most) if size.isdigit() and int(size) else default
    token = query.get("pageToken") or query.get("page_token")
    some, more = page(found, limit, base64.urlsafe_b64decode(token).decode() if token else None)
    return some, base64.urlsafe_b64encode(some[-1].id.encode()).decode() if more else None


def stamp(time: float) -> str:
    """Return a time as Google's JSON has it: nine decimals and a Z."""
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"

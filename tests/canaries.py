"""Values that nobody else has: one for every secret there is, and the search for them in whatever was kept or shown."""

from __future__ import annotations

import base64
import gzip
import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

from google.protobuf.message import Message
from pydantic import BaseModel, SecretStr
from temporalio.api.common.v1 import Payload

from nightmill.settings import Settings

ACCOUNT = "acme"


def secret_settings() -> dict[str, str]:
    """Return the variables of all settings that hold secrets, found in the code, and what shape each has."""
    return dict(_secrets("NIGHTMILL", Settings))


def _secrets(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for name, found in model.model_fields.items():
        yield from _of_type(f"{prefix}{'_' if prefix == 'NIGHTMILL' else '__'}{name.upper()}", found.annotation)


def _of_type(variable: str, annotation: Any) -> Iterator[tuple[str, str]]:
    if annotation is SecretStr:
        yield variable, "text"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _secrets(variable, annotation)
    elif getattr(annotation, "__origin__", None) is dict:
        inner = get_args(annotation)[1]
        if inner is SecretStr:
            yield variable, "object"
        else:  # the names are free: one of an account, then one of a provider
            yield from _of_type(f"{variable}__{'OPENAI' if ACCOUNT.upper() in variable else ACCOUNT.upper()}", inner)
    elif SecretStr in get_args(annotation):
        yield variable, "list" if getattr(annotation, "__origin__", None) is tuple else "text"
    else:
        for inner in get_args(annotation):
            yield from _of_type(variable, inner)


@dataclass
class Canaries:
    """One for each place.

    Attributes:
        planted: The values, by what they are the secret of.
    """

    planted: dict[str, str] = field(default_factory=dict)

    def new(self, place: str) -> str:
        """Return the place's canary: a word like any other, so that only whoever knows it can hide it."""
        return self.planted.setdefault(place, f"Kanari{secrets.token_hex(10)}")

    def variables(self, special: Mapping[str, str]) -> dict[str, str]:
        """Return the environment with a canary in every secret setting.

        Args:
            special: What stands around the canary in some of them, as `{}`.
        """
        found = {}
        for variable, shape in secret_settings().items():
            last = variable.rpartition("_")[2]
            if variable.startswith("NIGHTMILL_ENCRYPTION"):
                value = self.planted.setdefault(variable, base64.b64encode(os.urandom(32)).decode())
            elif last == "SECRET":
                value = f"whsec_{self.planted.setdefault(variable, base64.b64encode(os.urandom(24)).decode())}"
            else:
                value = special.get(variable, "{}").format(self.new(variable))
            shapes = {"text": value, "list": json.dumps([value]), "object": json.dumps({"ops": value})}
            found[variable] = shapes[shape]
        return found

    def found_in(self, what: bytes) -> set[str]:
        """Return the places whose canaries stand in some bytes: plain, escaped, as hexadecimal digits or in base64."""
        return {place for place, value in self.planted.items() if any(form in what for form in _forms(value))}

    def found_under(self, folder: Path) -> set[str]:
        """Return the places whose canaries stand in a file of a folder, or in its name; what is gzipped is unzipped."""
        found = set()
        for path in folder.rglob("*"):
            found |= self.found_in(str(path).encode())
            if path.is_file():
                content = path.read_bytes()
                found |= self.found_in(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
        return found


def _forms(value: str) -> Iterator[bytes]:
    plain = value.encode()
    yield plain
    yield quote(value, safe="").encode()
    yield json.dumps(value)[1:-1].replace("/", "\\/").encode()
    yield plain.hex().encode()
    yield plain.hex().upper().encode()
    for before in range(3):  # in base64 a text looks in one of three ways, by where it begins
        cut = base64.b64encode(b"\0" * before + plain)
        yield cut[4 if before else 0 : -4]


class Echo:
    """Answers whatever it is asked with the question, headers and all; 401, so that nobody asks again."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        echo = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = f"{self.command} {self.path} {dict(self.headers)}"
                echo.asked.append(said)
                body = json.dumps({"error": {"message": f"refused: {said}", "code": self.headers["authorization"]}})
                self.send_response(401)
                self.send_header("content-type", "application/json")
                self.send_header("www-authenticate", said[:500].replace("\n", " "))
                self.send_header("content-length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_HEAD = do_POST  # noqa: N815 - names of the standard library

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def payloads(message: Message) -> Iterator[Payload]:
    """Yield every payload in a message of Temporal's."""
    if isinstance(message, Payload):
        yield message
        return
    for description, value in message.ListFields():
        if description.message_type is None:
            continue
        if isinstance(value, Message):
            yield from payloads(value)
        else:
            for one in value.values() if hasattr(value, "values") else value:
                if isinstance(one, Message):
                    yield from payloads(one)

"""Payloads under one key, several, or none; and the codec server, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf import json_format
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload, Payloads

from nightmill.client import codec_server
from nightmill.client.codec import KEY_ID, EncryptionCodec, Key, codec_of
from nightmill.client.converter import data_converter
from nightmill.errors import NotConfigured
from nightmill.serving import served
from nightmill.settings import Settings
from tests.nightmill.cli.conftest import Cli, cli  # noqa: F401 - a fixture
from tests.stack import ROOT

UI = "http://localhost:8233"


def new_key() -> SecretStr:
    return SecretStr(base64.b64encode(os.urandom(32)).decode())


A, B, C = new_key(), new_key(), new_key()


def at_once(work: Coroutine[Any, Any, list[Any]]) -> Any:
    """Run what waits for nothing, also within an event loop, and return the only thing that it gives."""
    try:
        work.send(None)
    except StopIteration as ended:
        [only] = ended.value
        return only
    raise AssertionError("it waits")


def encoded(value: Any, present: SecretStr | None, *old: SecretStr) -> Payload:
    payload: Payload = at_once(data_converter(present, old).encode([value]))
    return payload


def decoded(payload: Payload, present: SecretStr | None, *old: SecretStr) -> Any:
    return at_once(data_converter(present, old).decode([payload]))


def as_before(value: Any, key: SecretStr) -> Payload:
    """Encrypt as it was done when payloads did not name their key."""
    [plain] = data_converter().payload_converter.to_payloads([value])
    nonce = os.urandom(12)
    cipher = AESGCM(base64.b64decode(key.get_secret_value()))
    data = nonce + cipher.encrypt(nonce, plain.SerializeToString(), b"binary/encrypted")
    return Payload(metadata={"encoding": b"binary/encrypted"}, data=data)


# --- keys


def test_the_present_key_encrypts_and_old_ones_still_decrypt() -> None:
    old = encoded("said under A", A)
    new = encoded("said under B", B, A)
    assert decoded(old, B, A) == "said under A"
    assert decoded(new, B) == "said under B", "the old key was not used to encrypt"
    assert decoded(new, None, B) == "said under B", "what only reads needs no present key"
    assert b"said" not in old.SerializeToString() + new.SerializeToString()


def test_payloads_name_their_key_by_digits_that_only_this_key_has_and_that_do_not_give_it_away() -> None:
    names = {encoded("x", key).metadata[KEY_ID] for key in (A, A, B, C)}
    assert len(names) == 3
    raw = base64.b64decode(A.get_secret_value())
    for name in names:
        assert len(name) == 8
        assert name not in (raw.hex().encode(), raw[:4].hex().encode())


def test_payloads_of_before_keys_had_names_are_tried_with_each() -> None:
    assert decoded(as_before("old", A), C, B, A) == "old"
    with pytest.raises(NotConfigured, match="encrypted with a key that it does not name, known are"):
        decoded(as_before("old", A), B)


def test_a_payload_of_another_key_is_refused_by_a_line_that_names_the_variable_and_both_keys() -> None:
    ours, theirs = (encoded("x", key).metadata[KEY_ID].decode() for key in (A, B))
    with pytest.raises(NotConfigured) as refused:
        decoded(encoded("x", B), A)
    assert str(refused.value) == (
        f"NIGHTMILL_ENCRYPTION_KEY: a payload is encrypted with the key {theirs}, known are {ours}: "
        "set that key, or add it to NIGHTMILL_ENCRYPTION_OLD_KEYS"
    )


def test_who_has_no_key_at_all_is_told_the_same() -> None:
    with pytest.raises(NotConfigured, match=r"NIGHTMILL_ENCRYPTION_KEY: a payload is encrypted .* no key is set"):
        decoded(encoded("x", A), None)


def test_a_payload_that_was_tampered_with_is_refused() -> None:
    payload = encoded("x", A)
    payload.data = payload.data[:-1] + bytes([payload.data[-1] ^ 1])
    for broken in (payload, Payload(metadata=payload.metadata, data=b"short")):
        with pytest.raises(NotConfigured, match="encrypted with the key"):
            decoded(broken, A)


def test_a_key_can_be_introduced_and_taken_away_while_work_runs() -> None:
    clear = encoded("clear", None)
    assert decoded(clear, A) == "clear"
    assert encoded("again clear", None, A).metadata["encoding"] == b"json/plain"
    assert decoded(encoded("x", A), None, A) == "x"


@pytest.mark.parametrize("text", ["c2hvcnQ=", "no base64!", "", "ü"])
def test_a_key_that_is_none_is_refused_by_its_variable(text: str) -> None:
    with pytest.raises(NotConfigured, match=r"^NIGHTMILL_ENCRYPTION_KEY: give 32 bytes"):
        codec_of(SecretStr(text))
    with pytest.raises(NotConfigured, match=r"^NIGHTMILL_ENCRYPTION_OLD_KEYS, number 2: give 32 bytes"):
        codec_of(A, [B, SecretStr(text)])


# --- the codec server


@asynccontextmanager
async def serving(present: SecretStr | None = A, *old: SecretStr, token: str | None = None) -> AsyncIterator[Any]:
    codec = codec_of(present, old)
    assert codec is not None
    async with serving_codec(codec, token=token) as client:
        yield client


@asynccontextmanager
async def serving_codec(codec: EncryptionCodec, *, token: str | None = None) -> AsyncIterator[Any]:
    server = codec_server.CodecServer(codec, None if token is None else SecretStr(token), [UI])
    async with (
        served(server.app(), "127.0.0.1", 0, setting="x") as address,
        httpx.AsyncClient(base_url=address, timeout=20) as client,
    ):
        yield client


def run(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


def asked(*payloads: Payload) -> Any:
    return json.loads(json_format.MessageToJson(Payloads(payloads=payloads)))


def answered(answer: httpx.Response) -> list[Payload]:
    assert answer.status_code == 200, answer.text
    return list(json_format.Parse(answer.text, Payloads()).payloads)


def test_what_is_encrypted_is_decoded_and_what_is_not_comes_back_as_it_was() -> None:
    async def scene() -> None:
        async with serving(A, B) as client:
            under_a, under_b, clear = encoded("a", A), encoded("b", B), encoded("c", None)
            found = answered(await client.post("/decode", json=asked(under_a, under_b, clear)))
            assert [payload.data for payload in found] == [b'"a"', b'"b"', b'"c"']
            [again] = answered(await client.post("/encode", json=asked(clear)))
            assert again.metadata[KEY_ID] == under_a.metadata[KEY_ID], "only the present key encrypts"
            assert answered(await client.post("/decode", json=asked(again))) == [clear]
            assert answered(await client.post("/decode", json={})) == []

    run(scene)


def test_a_payload_that_no_key_fits_stays_encrypted_beside_those_that_are_decoded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with serving(A) as client:
            foreign = encoded("secret of B", B)
            for _ in range(3):
                assert answered(await client.post("/decode", json=asked(foreign, encoded("a", A)))) == [
                    foreign,
                    encoded("a", None),
                ]

    with caplog.at_level(logging.WARNING, "nightmill.codec"):
        run(scene)
    assert [record.message for record in caplog.records] == ["payload left encrypted"]


class Waiting(EncryptionCodec):
    """Works on a payload only when it is told to."""

    def __init__(self, key: SecretStr) -> None:
        super().__init__(Key.read(key, "x"))
        self.began, self.go_on = threading.Event(), threading.Event()
        self.told: bool | None = None

    def decrypted(self, payload: Payload) -> Payload:
        self._wait()
        return super().decrypted(payload)

    def encrypted(self, payload: Payload) -> Payload:
        self._wait()
        return super().encrypted(payload)

    def _wait(self) -> None:
        self.began.set()
        self.told = self.go_on.wait(5)


def test_others_are_answered_while_a_large_question_is_worked_on() -> None:
    async def scene() -> None:
        for path, question in (("/decode", encoded("a", A)), ("/encode", encoded("a", None))):
            codec = Waiting(A)
            async with serving_codec(codec) as client:
                asking = asyncio.create_task(client.post(path, json=asked(question)))
                while not codec.began.is_set():
                    await asyncio.sleep(0.01)
                assert (await client.get("/healthz")).status_code == 200
                codec.go_on.set()
                assert len(answered(await asking)) == 1
                assert codec.told, "it waited for us, and not we for it"

    run(scene)


def test_a_page_of_temporals_ui_may_ask_and_other_pages_may_not() -> None:
    async def scene() -> None:
        async with serving() as client:
            wants = {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type,x-namespace",
            }
            allowed = await client.options("/decode", headers={"Origin": UI, **wants})
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == UI
            assert {"authorization", "content-type", "x-namespace"} <= {
                name.strip().lower() for name in allowed.headers["access-control-allow-headers"].split(",")
            }
            answer = await client.post("/decode", json=asked(), headers={"Origin": UI, "X-Namespace": "default"})
            assert answer.headers["access-control-allow-origin"] == UI

            for origin in ("http://evil.example", "http://localhost:8234", "null"):
                refused = await client.options("/decode", headers={"Origin": origin, **wants})
                assert refused.status_code == 400
                assert "access-control-allow-origin" not in refused.headers
                foreign = await client.post("/decode", json=asked(encoded("a", A)), headers={"Origin": origin})
                assert foreign.status_code == 403
                assert "access-control-allow-origin" not in foreign.headers

    run(scene)


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer", "right", "Basic right", "bearer right"])
def test_without_the_token_nothing_is_decoded(given: str | None) -> None:
    async def scene() -> None:
        async with serving(token="right") as client:
            question = asked(encoded("a", A))
            right = await client.post("/decode", json=question, headers={"Authorization": "Bearer right"})
            assert answered(right) == [encoded("a", None)]
            for path in ("/decode", "/encode"):
                headers = {"Origin": UI} | ({} if given is None else {"Authorization": given})
                refused = await client.post(path, json=question, headers=headers)
                assert refused.status_code == 401
                assert refused.headers["access-control-allow-origin"] == UI, "the UI can say why"
            assert (await client.get("/healthz")).status_code == 200

    run(scene)


def test_questions_are_bounded_and_what_is_none_is_refused_without_being_repeated() -> None:
    async def scene() -> None:
        async with serving() as client:
            canary = "canary-in-the-question"
            for body in (b"", b"[1]", b"{", canary.encode(), f'{{"payloads": "{canary}"}}'.encode(), b"\xff"):
                refused = await client.post("/decode", content=body)
                assert refused.status_code == 400, body
                assert canary not in refused.text
            assert (await client.get("/decode")).status_code == 405
            assert (await client.post("/", json={})).status_code == 404

            async def endless() -> AsyncIterator[bytes]:
                for _ in range(codec_server.LARGEST // 65536 + 10):
                    yield b" " * 65536

            content: bytes | AsyncIterator[bytes]
            for content in (endless(), b" " * (codec_server.LARGEST + 1)):
                try:
                    answer = await client.post("/decode", content=content)
                except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                    continue  # the answer came while we were still sending
                assert answer.status_code == 413

    run(scene)


@pytest.mark.parametrize(
    ("host", "token", "allowed"),
    [
        ("127.0.0.1", None, True),
        ("::1", None, True),
        ("localhost", None, True),
        ("0.0.0.0", None, False),
        ("::", None, False),
        ("codec.example.com", None, False),
        ("0.0.0.0", "", False),
        ("0.0.0.0", "t", True),
    ],
)
def test_other_machines_are_let_in_by_a_token_only(host: str, token: str | None, allowed: bool) -> None:
    settings = Settings(
        encryption_key=A,
        codec={"token": None if token is None else SecretStr(token)},
    )
    if allowed:
        codec_server.codec_server(settings, host)
        return
    with pytest.raises(NotConfigured, match="NIGHTMILL_CODEC__TOKEN"):
        codec_server.codec_server(settings, host)


def test_the_command_serves_until_a_signal_and_says_by_which_keys() -> None:
    variables = {
        "NIGHTMILL_ENCRYPTION_KEY": A.get_secret_value(),
        "NIGHTMILL_ENCRYPTION_OLD_KEYS": json.dumps([B.get_secret_value()]),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "nightmill.cli", "codec-server", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        names = [encoded("x", key).metadata[KEY_ID].decode() for key in (A, B)]
        assert said.endswith(f"it writes with key {names[0]}, and reads {names[1]}\n"), said
        assert not {key.get_secret_value() for key in (A, B)} & set(said.split())
        address = said.split("listens on ")[1].split(";")[0]
        assert answered(httpx.post(f"{address}/decode", json=asked(encoded("b", B)))) == [encoded("b", None)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_command_refuses_to_run_without_a_key(cli: Cli) -> None:  # noqa: F811 - the fixture
    ended = cli("codec-server")
    assert ended.code == 2
    assert ended.message.startswith("NIGHTMILL_ENCRYPTION_KEY: not set")

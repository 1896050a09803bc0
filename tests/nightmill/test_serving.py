"""Serving HTTP beside other work: where, and what becomes of a port that is taken."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from nightmill import serving
from nightmill.errors import NotConfigured
from nightmill.serving import PortTaken, served, served_if_free
from nightmill.web.library import httpx


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine function as a test."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def hello() -> Starlette:
    return Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))])


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def get(address: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(address)).text


@in_a_loop
async def test_an_application_answers_within_the_block_and_not_after_it() -> None:
    async with served(hello(), "127.0.0.1", 0, setting="PORT") as address:
        assert await get(address) == "hello"
    with pytest.raises(httpx.ConnectError):
        await get(address)


@in_a_loop
async def test_a_taken_port_is_named_with_its_setting(taken: int) -> None:
    with pytest.raises(PortTaken, match=rf"^PORT: cannot listen on 127\.0\.0\.1:{taken}: .*; choose another port$"):
        async with served(hello(), "127.0.0.1", taken, setting="PORT"):
            pass


@in_a_loop
async def test_a_port_that_nobody_chose_may_be_taken(taken: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with served_if_free(hello, "127.0.0.1", taken, setting="PORT", chosen=False) as address:
            assert address is None
    (record,) = caplog.records
    assert f"PORT: cannot listen on 127.0.0.1:{taken}" in vars(record)["reason"]


@in_a_loop
async def test_a_port_that_was_chosen_may_not(taken: int) -> None:
    with pytest.raises(PortTaken):
        async with served_if_free(hello, "127.0.0.1", taken, setting="PORT", chosen=True):
            pass


@in_a_loop
async def test_port_0_serves_nothing() -> None:
    def never() -> Starlette:
        raise AssertionError

    async with served_if_free(never, "127.0.0.1", 0, setting="PORT", chosen=True) as address:
        assert address is None


@in_a_loop
async def test_an_address_that_is_not_this_machine_s_is_refused_though_nobody_chose_the_port() -> None:
    with pytest.raises(NotConfigured, match=r"PORT: cannot listen on 192\.0\.2\.1:"):
        async with served_if_free(hello, "192.0.2.1", 9464, setting="PORT", chosen=False):
            pass


@in_a_loop
async def test_an_error_within_the_block_is_not_taken_for_one_of_the_port() -> None:
    with pytest.raises(PortTaken, match="another"):
        async with served_if_free(hello, "127.0.0.1", await asyncio.to_thread(free), setting="PORT", chosen=False):
            raise PortTaken("another")


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


async def closed_within(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Return whether the other side ends the connection in time, whatever it says before."""
    try:
        async with asyncio.timeout(seconds):
            while await reader.read(1_000):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT"])
@in_a_loop
async def test_connections_on_which_no_whole_question_comes_do_not_keep_others_out(said: bytes) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(serving, "CONNECTIONS", 3)
        patched.setattr(serving, "KEEP_ALIVE", 0.2)
        async with served(hello(), "127.0.0.1", 0, setting="PORT") as address:
            port = httpx.URL(address).port
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            for _, writer in silent:
                writer.write(said)
            assert all([await closed_within(reader, 20) for reader, _ in silent])
            async with httpx.AsyncClient() as client:
                assert (await client.get(address)).text == "hello"
            for _, writer in silent:
                writer.close()


async def asked(address: str, *questions: bytes, takes: int) -> socket.socket:
    """Return a connection on which something is asked, and whose system takes a few bytes before they are read."""
    asking = socket.socket()
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, takes)
    asking.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(asking, ("127.0.0.1", httpx.URL(address).port))
    for each in questions:
        await loop.sock_sendall(asking, each)
        await asyncio.sleep(0.02)  # of many at once uvicorn refuses some
    return asking


def question(ends: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: x\r\nConnection: {ends}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("size", "questions"),
    [
        (8_000_000, [question("keep-alive")]),
        (8_000_000, [question("close")]),
        (2_000_000, [question("keep-alive")] * 8),
    ],
    ids=["a large answer", "one that ends the connection", "many answers"],
)
@in_a_loop
async def test_clients_that_do_not_read_their_answers_do_not_keep_others_out(size: int, questions: list[bytes]) -> None:
    answers = []

    async def answer(_: Request) -> PlainTextResponse:
        answers.append("x" * size)
        return PlainTextResponse(answers[-1])

    app = Starlette(routes=[Route("/", answer)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(serving, "CONNECTIONS", 3)
        patched.setattr(serving, "KEEP_ALIVE", 0.2)
        async with served(app, "127.0.0.1", 0, setting="PORT") as address, httpx.AsyncClient() as client:
            unread = [await asked(address, *questions, takes=4096) for _ in range(2)]  # whoever comes third is too much
            async with asyncio.timeout(20):
                while len(answers) < len(unread):
                    await asyncio.sleep(0.01)
                while (await client.get(address)).status_code != HTTPStatus.OK:
                    await asyncio.sleep(0.1)
            for each in unread:
                each.close()


@in_a_loop
async def test_a_client_that_reads_slowly_gets_its_whole_answer() -> None:
    size = 6_000_000
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("x" * size))])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(serving, "KEEP_ALIVE", 0.05)
        async with served(app, "127.0.0.1", 0, setting="PORT") as address:
            asking = await asked(address, question("close"), takes=50_000)
            got = 0
            while part := await asyncio.get_running_loop().sock_recv(asking, 200_000):
                got += len(part)
                await asyncio.sleep(len(part) / 3_000_000)
            asking.close()
            assert got > size


@in_a_loop
async def test_an_answer_may_take_longer_than_a_question() -> None:
    async def slow(_: Request) -> PlainTextResponse:
        await asyncio.sleep(1)
        return PlainTextResponse("at last")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(serving, "KEEP_ALIVE", 0.1)
        app = Starlette(routes=[Route("/", slow)])
        async with served(app, "127.0.0.1", 0, setting="PORT") as address, httpx.AsyncClient() as client:
            assert (await client.get(address)).text == "at last"

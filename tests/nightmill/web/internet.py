"""A public internet of one loopback server: names that resolve, and public addresses that lead to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import httpcore

from nightmill.web.resolver import Lookup, system_lookup
from tests.nightmill.web.loopback import Loopback

PUBLIC = "93.184.216.34"


class Internet(httpcore.NetworkBackend):
    """Leads public addresses to a loopback server and really connects to all others, so that a hole shows."""

    def __init__(self, server: Loopback, *dead: str) -> None:
        self.server = server
        self.dead = dead
        self.asked: list[tuple[str, int]] = []
        self._real = httpcore.SyncBackend()

    def connect_tcp(self, host: str, port: int, *args: object, **kwargs: object) -> httpcore.NetworkStream:
        self.asked.append((host, port))
        if host in self.dead:
            raise httpcore.ConnectError("dead")
        if host in (PUBLIC, "93.184.216.35"):
            host, port = "127.0.0.1", self.server.port
        return self._real.connect_tcp(host, port, *args, **kwargs)  # type: ignore[arg-type]


def names(table: Mapping[str, Sequence[str]]) -> Lookup:
    def lookup(host: str) -> Sequence[str]:
        return table[host] if host in table else system_lookup(host)

    return lookup

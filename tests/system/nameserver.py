"""A name server for names that lie: other answers each time, mixed ones, chains of aliases."""

from __future__ import annotations

import itertools
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

A, CNAME, AAAA = 1, 5, 28
_NO_SUCH_NAME = 3
# As some servers answer for names that look like an address: a test of what is done with the answer.
_ADDRESS_IN_NAME = re.compile(r"(?:.*\.)?(\d+\.\d+\.\d+\.\d+)")


@dataclass(frozen=True)
class Record:
    """One answer; `data` is an address or, for an alias, a name."""

    name: str
    data: str
    ttl: int = 0

    @property
    def kind(self) -> int:
        try:
            return A if ip_address(self.data).version == 4 else AAAA
        except ValueError:
            return CNAME

    def packed(self) -> bytes:
        data = _name(self.data) if self.kind == CNAME else ip_address(self.data).packed
        return _name(self.name) + struct.pack("!HHIH", self.kind, 1, self.ttl, len(data)) + data


def addresses(name: str, *texts: str, ttl: int = 0) -> list[Record]:
    """One answer of these addresses."""
    return [Record(name, text, ttl) for text in texts]


def chain(name: str, hops: int, *ends: str) -> list[Record]:
    """One answer of `hops` aliases, the last of which has these addresses."""
    names = [name, *(f"hop{number}.{name}" for number in range(1, hops + 1))]
    aliases = [Record(here, there) for here, there in itertools.pairwise(names)]
    return [*aliases, *addresses(names[-1], *ends)]


@dataclass
class NameServer:
    """Answers from `zone`, name by name: the first answer to the first question of a type, and round again.

    Attributes:
        asked: Questions so far, by name and type.
    """

    address: str
    zone: dict[str, Sequence[Sequence[Record]]] = field(default_factory=dict)
    asked: Counter[tuple[str, int]] = field(default_factory=Counter)

    def start(self) -> None:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((self.address, 53))
        threading.Thread(target=self._serve, args=(server,), name="name server", daemon=True).start()

    def add(self, zone: Mapping[str, Sequence[Sequence[Record]]]) -> None:
        self.zone.update({name.lower(): answers for name, answers in zone.items()})

    def _serve(self, server: socket.socket) -> None:
        while True:
            question, peer = server.recvfrom(4096)
            server.sendto(self.reply(question), peer)

    def reply(self, question: bytes) -> bytes:
        name, end = _read_name(question, 12)
        kind = struct.unpack_from("!H", question, end)[0]
        answers = self.zone.get(name)
        turn = self.asked[name, kind]
        self.asked[name, kind] += 1
        answer = answers[turn % len(answers)] if answers else _spelled(name)
        code = 0 if answer else _NO_SUCH_NAME
        records = [record for record in answer if record.kind in (kind, CNAME)]
        head = question[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(records), 0, 0)
        return head + question[12 : end + 4] + b"".join(record.packed() for record in records)


def _spelled(name: str) -> Sequence[Record]:
    spelled = _ADDRESS_IN_NAME.fullmatch(name)
    try:
        return addresses(name, str(ip_address(spelled[1]))) if spelled else []
    except ValueError:
        return []


def _name(text: str) -> bytes:
    labels = [label.encode("ascii") for label in text.rstrip(".").split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _read_name(packet: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := packet[at]:
        labels.append(packet[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    return ".".join(labels).lower(), at + 1

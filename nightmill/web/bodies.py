"""Bodies decoded with a bound. A 269-byte answer took httpx's own decoder to 2 GiB, so it is not used."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from nightmill.errors import AnswerLost, BodyTooLarge, ProviderUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PIECE = 1024 * 1024
"""Largest piece that decoding yields, in bytes."""

# gzip adds 18 bytes a member and 5 a stored block; more than this over the cap cannot decode to less than the cap.
_ENVELOPE = 64 * 1024
_GZIP_MAGIC = b"\x1f\x8b"


def decoded(chunks: Iterable[bytes], *, encoding: str, max_bytes: int, where: str) -> Iterator[bytes]:
    """Yield the body's bytes in pieces of at most `PIECE`, and at most `max_bytes` in all.

    Args:
        chunks: The body as it came over the wire.
        encoding: The answer's `Content-Encoding`; empty, `identity` and one `gzip` are understood.
        max_bytes: Bound on the decoded body.
        where: Begin of error messages.

    Raises:
        BodyTooLarge: There is more than `max_bytes`.
        AnswerLost: The gzip stream ends early.
        ProviderUnavailable: The encoding is another one, or the gzip stream is broken.
    """
    encoding = encoding.strip().lower()
    if encoding in {"gzip", "x-gzip"}:
        pieces = _gunzipped(_counted(chunks, max_bytes + _ENVELOPE, where), where)
    elif encoding in {"", "identity"}:
        pieces = iter(chunks)
    else:
        raise ProviderUnavailable(f"{where}: the answer is encoded as {encoding[:60]!r}, which was not asked for")
    return _counted(pieces, max_bytes, where)


def _counted(chunks: Iterable[bytes], max_bytes: int, where: str) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > max_bytes:
            raise BodyTooLarge(f"{where}: the body is larger than {max_bytes:,} bytes")
        yield chunk


def _gunzipped(chunks: Iterable[bytes], where: str) -> Iterator[bytes]:
    """Yield the content of one or more gzip members; what follows the last one and is no gzip is ignored."""
    decoder = zlib.decompressobj(wbits=31)
    started = False
    for chunk in chunks:
        data = chunk
        while data:
            if decoder.eof:
                if not data.startswith(_GZIP_MAGIC):
                    return
                decoder = zlib.decompressobj(wbits=31)
            started = True
            try:
                piece = decoder.decompress(data, PIECE)
            except zlib.error as error:
                raise ProviderUnavailable(f"{where}: the gzip encoding of the answer is broken") from error
            if piece:
                yield piece
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    if started and not decoder.eof:
        raise AnswerLost(f"{where}: the answer ends in the middle of its gzip encoding")

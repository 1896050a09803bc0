"""The encryption of payloads: with one key, and with former keys at hand for what they encrypted.

Every payload names the key that it is encrypted with, by a digest of the key, so that keys can be changed while work
runs. See docs/security.md.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from pydantic import SecretStr

ENCODING = b"binary/encrypted"
KEY_ID = "encryption-key-id"
"""The metadata that names a payload's key; payloads of before have none, and are tried with every key."""

KEY_BYTES = 32
_NONCE_BYTES = 12  # AES-GCM's recommended nonce: NIST SP 800-38D, 5.2.1.1
_ID_LABEL = b"nightmill payload key id\0"
_ID_DIGITS = 8  # of 32 random bytes they tell nothing that helps to find them; they only have to tell a few keys apart


@dataclass(frozen=True)
class Key:
    """A key that payloads are encrypted with.

    Attributes:
        id: Eight hexadecimal digits that name it, in payloads, messages and logs.
    """

    id: str
    cipher: AESGCM = field(repr=False)

    @classmethod
    def read(cls, text: SecretStr, variable: str) -> Key:
        """Return the key that a setting holds.

        Raises:
            NotConfigured: It is not 32 bytes as base64; the message names the variable.
        """
        try:
            raw = base64.b64decode(text.get_secret_value(), validate=True)
        except ValueError:
            raw = b""
        if len(raw) != KEY_BYTES:
            raise NotConfigured(f"{variable}: give 32 bytes as base64, from `openssl rand -base64 32`")
        return cls(hashlib.sha256(_ID_LABEL + raw).hexdigest()[:_ID_DIGITS], AESGCM(raw))


class EncryptionCodec(PayloadCodec):
    """Encrypts every payload with AES-256-GCM, each under a nonce of its own.

    Attributes:
        present: The key that encrypts; None: payloads stay as they are, and are only decrypted.
        old: Further keys that decrypt.
    """

    def __init__(self, present: Key | None, old: Sequence[Key] = ()) -> None:
        self.present = present
        self.old = tuple(old)
        self._keys = self.old if present is None else (present, *self.old)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt with the present key."""
        return [self.encrypted(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt what is encrypted; leave the rest, so that a key can be introduced while work is running.

        Raises:
            NotConfigured: The key of one is not among ours; the message names it.
        """
        return [self.decrypted(payload) for payload in payloads]

    def encrypted(self, payload: Payload) -> Payload:
        """Return a payload encrypted with the present key, or itself where there is none."""
        return payload if self.present is None else _encrypted(payload, self.present)

    def decrypted(self, payload: Payload) -> Payload:
        """Return what a payload was before it was encrypted, or itself where it is not.

        Raises:
            NotConfigured: See `decode`.
        """
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        named = payload.metadata.get(KEY_ID, b"").decode(errors="replace")
        for key in self._keys:
            if named in ("", key.id):
                try:
                    data = key.cipher.decrypt(payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:], ENCODING)
                except (InvalidTag, ValueError):  # another key of the same id, or none is named: perhaps the next one
                    continue
                return Payload.FromString(data)
        raise NotConfigured(unreadable(named, [key.id for key in self._keys]))


def unreadable(named: str, known: Sequence[str]) -> str:
    """Return the line that says that a payload cannot be read, and what to set."""
    which = f"the key {named[:_ID_DIGITS]}" if named else "a key that it does not name"
    ours = f"known are {', '.join(known)}" if known else "no key is set"
    return (
        f"NIGHTMILL_ENCRYPTION_KEY: a payload is encrypted with {which}, {ours}: "
        "set that key, or add it to NIGHTMILL_ENCRYPTION_OLD_KEYS"
    )


def codec_of(present: SecretStr | None, old: Sequence[SecretStr] = ()) -> EncryptionCodec | None:
    """Return the codec for the keys of the settings, None where there is no key at all.

    Raises:
        NotConfigured: One is not 32 bytes as base64; the message names the variable.
    """
    if present is None and not old:
        return None
    return EncryptionCodec(
        None if present is None else Key.read(present, "NIGHTMILL_ENCRYPTION_KEY"),
        [Key.read(text, f"NIGHTMILL_ENCRYPTION_OLD_KEYS, number {n}") for n, text in enumerate(old, 1)],
    )


def _encrypted(payload: Payload, key: Key) -> Payload:
    nonce = os.urandom(_NONCE_BYTES)
    data = nonce + key.cipher.encrypt(nonce, payload.SerializeToString(), ENCODING)
    return Payload(metadata={"encoding": ENCODING, KEY_ID: key.id.encode()}, data=data)

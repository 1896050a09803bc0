"""How values become payloads: one converter for worker, clients, tests and replays.

A value that does not fit its contract fails the workflow at once with the field's name. By itself the SDK would fail
the workflow task, and try it again for ever.
"""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pydantic
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
    JSONPlainPayloadConverter,
    PayloadCodec,
)
from temporalio.exceptions import ApplicationError

from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from pydantic import SecretStr

ENCODING = b"binary/encrypted"
_MAX_MESSAGE = 2_000  # what is refused may itself be as large as a payload, and its failure is one
_NONCE_BYTES = 12  # AES-GCM's recommended nonce: NIST SP 800-38D, 5.2.1.1


class _ClearJSON(PydanticJSONPlainPayloadConverter):
    """JSON by pydantic, whose refusals are short and name the field, without the input."""

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        try:
            return super().from_payload(payload, type_hint)
        except pydantic.ValidationError as error:
            name = getattr(type_hint, "__name__", str(type_hint))
            found = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or 'input'}: {item['msg']}"
                for item in error.errors(include_url=False, include_input=False)[:10]
            )
            message = f"invalid {name}: {found}"[:_MAX_MESSAGE]
            raise ApplicationError(message, type="InvalidInput", non_retryable=True) from None


class ClearPayloadConverter(CompositePayloadConverter):
    """The SDK's converters, with `_ClearJSON` for JSON."""

    def __init__(self) -> None:
        json = _ClearJSON()
        ordinary = DefaultPayloadConverter.default_encoding_payload_converters
        super().__init__(*(json if isinstance(c, JSONPlainPayloadConverter) else c for c in ordinary))


class EncryptionCodec(PayloadCodec):
    """Encrypts every payload with AES-256-GCM, each under a nonce of its own."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt."""
        return [self._encrypt(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt what is encrypted; leave the rest, so that the key can be introduced while work is running."""
        return [self._decrypt(payload) for payload in payloads]

    def _encrypt(self, payload: Payload) -> Payload:
        nonce = os.urandom(_NONCE_BYTES)
        data = nonce + self._cipher.encrypt(nonce, payload.SerializeToString(), ENCODING)
        return Payload(metadata={"encoding": ENCODING}, data=data)

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        try:
            data = self._cipher.decrypt(payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:], ENCODING)
        except InvalidTag:
            raise NotConfigured("NIGHTMILL_ENCRYPTION_KEY: a payload was encrypted with another key") from None
        return Payload.FromString(data)


DATA_CONVERTER = DataConverter(payload_converter_class=ClearPayloadConverter)


def data_converter(encryption_key: SecretStr | None = None) -> DataConverter:
    """Return the converter that every process uses, encrypting where a key is set.

    Raises:
        NotConfigured: The key is not 32 bytes as base64.
    """
    if encryption_key is None:
        return DATA_CONVERTER
    try:
        key = base64.b64decode(encryption_key.get_secret_value(), validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise NotConfigured("NIGHTMILL_ENCRYPTION_KEY: give 32 bytes as base64, from `openssl rand -base64 32`")
    return dataclasses.replace(
        DATA_CONVERTER,
        payload_codec=EncryptionCodec(key),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )

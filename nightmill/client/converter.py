"""How values become payloads: one converter for worker, clients, tests and replays.

A value that does not fit its contract fails the workflow at once with the field's name. By itself the SDK would fail
the workflow task, and try it again for ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pydantic
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverter,
    DefaultPayloadConverter,
    EncodingPayloadConverter,
    JSONPlainPayloadConverter,
)
from temporalio.exceptions import ApplicationError, FailureError

from nightmill.client.codec import ENCODING, KEY_ID, codec_of, unreadable
from nightmill.concealing import concealed
from nightmill.errors import NotConfigured

if TYPE_CHECKING:
    from pydantic import SecretStr
    from temporalio.api.failure.v1 import Failure
    from temporalio.converter import PayloadConverter

_MAX_MESSAGE = 2_000  # what is refused may itself be as large as a payload, and its failure is one


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


class _StillEncrypted(EncodingPayloadConverter):
    """Says of what no codec has decrypted which key it needs: work that meets it waits until the key is set."""

    @property
    def encoding(self) -> str:
        return ENCODING.decode()

    def to_payload(self, value: Any) -> Payload | None:
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        raise NotConfigured(unreadable(payload.metadata.get(KEY_ID, b"").decode(errors="replace"), ()))


class ClearPayloadConverter(CompositePayloadConverter):
    """The SDK's converters, with `_ClearJSON` for JSON."""

    def __init__(self) -> None:
        json = _ClearJSON()
        ordinary = DefaultPayloadConverter.default_encoding_payload_converters
        super().__init__(
            *(json if isinstance(c, JSONPlainPayloadConverter) else c for c in ordinary), _StillEncrypted()
        )


class ConcealingFailureConverter(DefaultFailureConverter):
    """The SDK's converter, which hides what this process knows as secret: a bug's message may hold anything."""

    def _error_to_failure(self, error: FailureError, payload_converter: PayloadConverter, failure: Failure) -> None:
        # Here and not in `to_failure`, which encrypts the text right after this.
        super()._error_to_failure(error, payload_converter, failure)
        failure.message, failure.stack_trace = concealed(failure.message), concealed(failure.stack_trace)


class EncryptedFailureConverter(ConcealingFailureConverter):
    """The same, whose texts are encrypted."""

    def __init__(self) -> None:
        super().__init__(encode_common_attributes=True)


DATA_CONVERTER = DataConverter(
    payload_converter_class=ClearPayloadConverter, failure_converter_class=ConcealingFailureConverter
)


def data_converter(
    encryption_key: SecretStr | None = None, encryption_old_keys: Sequence[SecretStr] = ()
) -> DataConverter:
    """Return the converter that every process uses, encrypting where a key is set.

    Args:
        encryption_key: Encrypts, and decrypts.
        encryption_old_keys: Decrypt only.

    Raises:
        NotConfigured: A key is not 32 bytes as base64.
    """
    codec = codec_of(encryption_key, encryption_old_keys)
    if codec is None:
        return DATA_CONVERTER
    if codec.present is None:
        return dataclasses.replace(DATA_CONVERTER, payload_codec=codec)
    return dataclasses.replace(DATA_CONVERTER, payload_codec=codec, failure_converter_class=EncryptedFailureConverter)

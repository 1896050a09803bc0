"""What Nightmill answers HTTP on besides a worker's health and metrics: codec server, receiver of providers' events."""

from __future__ import annotations

from pydantic import Field, SecretStr

from nightmill.settings.base import Section


class CodecSettings(Section):
    """The codec server, by which Temporal's UI and CLI show payloads that are encrypted."""

    host: str = Field(default="127.0.0.1", description="address that it listens on")
    port: int = Field(default=8082, ge=1, le=65535, description="its port")
    token: SecretStr | None = Field(
        default=None,
        description="what callers must send as `Authorization: Bearer …`; without one it listens on loopback only",
    )
    origins: tuple[str, ...] = Field(
        default=("http://localhost:8233", "http://127.0.0.1:8233", "http://localhost:8080", "http://127.0.0.1:8080"),
        description="JSON list of the addresses of Temporal UIs that may ask it",
    )


class EventsSettings(Section):
    """The receiver of providers' batch events, which lets a batch be polled as soon as it has ended."""

    host: str = Field(default="127.0.0.1", description="address that it listens on")
    port: int = Field(default=8083, ge=1, le=65535, description="its port")

"""Whom to tell when a batch has ended."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nightmill.contracts.base import Contract
from nightmill.contracts.words import HandledStatus

LONGEST_HOST_CALL = timedelta(hours=1)
"""How long one attempt of a host's activity may take."""


def _names_a_queue(value: str) -> str:
    """Refuse what Temporal would refuse only once the workflow asks for it, and again at each try."""
    if value.startswith("/_sys/") or not value.isprintable() or len(value.encode()) > 1_000:
        raise ValueError("at most 1,000 bytes in UTF-8, printable, and not one of Temporal's own (/_sys/…)")
    return value


TaskQueue = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_names_a_queue)]
"""The name of a task queue of the host's worker."""


class WorkflowHandler(Contract):
    """Tell the host application by a workflow of its own, started with id `batch/<batch id>/handler`: exactly once.

    Attributes:
        type: Workflow type that the host's worker runs. It gets one `HandlerPayload`.
        task_queue: Task queue of the host's worker.
        on: Statuses to be told of; none means every terminal status.
    """

    kind: Literal["workflow"]
    type: str = Field(min_length=1, max_length=255)
    task_queue: TaskQueue
    on: tuple[HandledStatus, ...] = Field(default=(), max_length=4)


class ActivityHandler(Contract):
    """Tell the host application by an activity of its own: at least once.

    Attributes:
        type: Activity type that the host's worker runs. It gets one `HandlerPayload`.
        task_queue: Task queue of the host's worker.
        on: Statuses to be told of; none means every terminal status.
    """

    kind: Literal["activity"]
    type: str = Field(min_length=1, max_length=255)
    task_queue: TaskQueue
    on: tuple[HandledStatus, ...] = Field(default=(), max_length=4)


class WebhookHandler(Contract):
    """Tell the host application by a POST signed by the Standard Webhooks scheme: at least once, message id = batch id.

    Attributes:
        url: `https:` address (`http:` only where private addresses are allowed).
        on: Statuses to be told of; none means every terminal status.
    """

    kind: Literal["webhook"]
    url: str = Field(pattern=r"^https?://[^\s/@]+(/\S*)?$", max_length=2_000)
    on: tuple[HandledStatus, ...] = Field(default=(), max_length=4)


CompletionHandler = Annotated[WorkflowHandler | ActivityHandler | WebhookHandler, Field(discriminator="kind")]


def without_address(handler: CompletionHandler) -> CompletionHandler:
    """Return the handler as histories may show it: what follows a webhook's host often holds a token."""
    if not isinstance(handler, WebhookHandler):
        return handler
    scheme, _, rest = handler.url.partition("://")
    return handler.model_copy(update={"url": f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0]}"})

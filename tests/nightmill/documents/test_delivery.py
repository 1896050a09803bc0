"""The host is told of every change until it has answered: once each, by an id that names the change."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from nightmill.contracts import GONE, ActivityHandler, ChangePayload, ChangeRef, ChangeTold, WebhookHandler
from nightmill.contracts.handlers import without_address
from nightmill.documents.delivery import ChangeDeliverer
from nightmill.errors import AddressRefused, AnswerLost, InvalidInput, PermanentError, TransientError
from nightmill.storage.document_syncs import SyncRepository
from nightmill.storage.documents import DocumentRepository
from nightmill.storage.engine import Database
from nightmill.web.outgoing import Outgoing
from nightmill.webhooks import verify_delivery
from tests.changes import ChangingDocument
from tests.stack import SECRET, WebhookSink


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookSink]:
    sink = WebhookSink()
    yield sink
    sink.close()


@pytest.fixture
def sink(receiver: WebhookSink) -> WebhookSink:
    """A receiver that has heard nothing yet; one for all tests, because to stop one takes half a second."""
    receiver.received.clear()
    receiver.answers.clear()
    receiver.on_request = None
    return receiver


@pytest.fixture(scope="module")
def outgoing() -> Iterator[Outgoing]:
    outgoing = Outgoing(secret=SecretStr(SECRET), allow_private=True)
    yield outgoing
    outgoing.close()


@pytest.fixture
def told(database: Database, sink: WebhookSink, outgoing: Outgoing) -> Host:
    return Host(
        database, sink, ChangeDeliverer(DocumentRepository(database), SyncRepository(database), outgoing.post_signed)
    )


class Host(ChangingDocument):
    """A host with a webhook that wants to be told of changes."""

    def __init__(self, database: Database, sink: WebhookSink, deliverer: ChangeDeliverer) -> None:
        super().__init__(database, WebhookHandler(kind="webhook", url=sink.url))
        self.sink, self.deliverer = sink, deliverer

    def is_told_of(self, fingerprint: str) -> bool:
        """Deliver a change."""
        return self.deliverer.deliver(self.change(fingerprint))

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.sink.received]

    @property
    def payloads(self) -> list[ChangePayload]:
        return [ChangePayload.model_validate_json(body) for _, body in self.sink.received]


def test_a_change_arrives_signed_and_says_what_changed_but_not_the_text(told: Host) -> None:
    told.has("bbb", handled_fingerprint="aaa", changes_told=1)
    assert told.is_told_of("bbb")
    [(headers, body)] = told.sink.received
    verify_delivery(headers, body, secret=SECRET)
    assert headers["webhook-id"] == "d-1.2.bbb"
    payload = json.loads(body)
    assert payload["diff"].pop("kept") == 2
    assert payload == {
        "change_id": "d-1.2.bbb",
        "number": 2,
        "document_id": "d-1",
        "account": "acme",
        "collection": "help",
        "link": "https://example.org/hours#top",
        "name": "Hours",
        "kind": "changed",
        "old_fingerprint": "aaa",
        "new_fingerprint": "bbb",
        "diff": {"added": 2, "removed": 1, "added_at": [1, 3], "removed_at": [1]},
        "content": "document/d-1",
    }
    assert (told.row.handled_fingerprint, told.row.changes_told) == ("bbb", 2)


def test_of_the_first_content_everything_is_new(told: Host) -> None:
    told.has("aaa")
    assert told.is_told_of("aaa")
    [payload] = told.payloads
    assert (payload.number, payload.old_fingerprint, payload.diff.added, payload.diff.removed) == (1, None, 3, 0)


def test_a_text_that_is_no_longer_kept_counts_as_none(told: Host) -> None:
    told.has("aaa", handled_fingerprint="long-ago")
    assert told.is_told_of("aaa")
    [payload] = told.payloads
    assert (payload.old_fingerprint, payload.diff.added, payload.diff.removed) == ("long-ago", 3, 0)


def test_what_was_told_is_not_told_again(told: Host) -> None:
    told.has("aaa")
    assert told.is_told_of("aaa")
    assert not told.is_told_of("aaa")
    told.deliverer.record(ChangeTold(document_id="d-1", number=1, fingerprint="aaa"))
    assert len(told.sink.received) == 1
    assert told.row.changes_told == 1


def test_a_call_whose_answer_is_lost_is_repeated_with_the_same_id(told: Host) -> None:
    told.has("aaa")

    def post_and_lose(url: str, message_id: str, body: bytes) -> None:
        told.deliverer.post_signed(url, message_id, body)
        raise AnswerLost("the connection broke")

    with pytest.raises(AnswerLost):
        ChangeDeliverer(told.deliverer.documents, told.deliverer.syncs, post_and_lose).deliver(told.change("aaa"))
    assert told.row.handled_fingerprint is None
    assert told.is_told_of("aaa")
    assert told.ids == ["d-1.1.aaa", "d-1.1.aaa"]
    assert told.sink.received[0][1] == told.sink.received[1][1]


def test_a_page_that_returns_to_an_earlier_content_is_told_by_another_id(told: Host) -> None:
    """A receiver that remembers ids would otherwise take it for what it has done already."""
    told.has("aaa")
    for fingerprint in ("aaa", "bbb", "aaa", "bbb"):
        told.becomes(content_fingerprint=fingerprint)
        assert told.is_told_of(fingerprint)
    assert told.ids == ["d-1.1.aaa", "d-1.2.bbb", "d-1.3.aaa", "d-1.4.bbb"]


def test_a_content_that_was_superseded_is_passed_over_for_the_present_one(told: Host) -> None:
    told.has("ccc", handled_fingerprint="aaa", changes_told=1)
    assert told.is_told_of("bbb")
    assert [(payload.old_fingerprint, payload.new_fingerprint) for payload in told.payloads] == [("aaa", "ccc")]
    assert told.row.handled_fingerprint == "ccc"


def test_a_content_that_comes_while_the_host_is_told_stays_to_be_told(told: Host) -> None:
    told.has("aaa")
    told.sink.on_request = lambda: told.becomes(content_fingerprint="bbb")
    assert told.is_told_of("aaa")
    assert told.row.handled_fingerprint == "aaa"
    told.sink.on_request = None
    assert told.is_told_of("bbb")
    assert told.ids == ["d-1.1.aaa", "d-1.2.bbb"]


def test_a_page_that_is_gone_is_told_once_and_again_when_it_is_back(told: Host) -> None:
    told.has("aaa", handled_fingerprint="aaa", changes_told=1, gone_days=3)
    assert told.is_told_of(GONE)
    assert not told.is_told_of(GONE)
    assert not told.is_told_of("aaa"), "the content that is kept for a page that is gone is no news"
    told.becomes(gone_days=0)
    assert told.is_told_of("aaa")
    assert [(payload.kind, payload.old_fingerprint, payload.new_fingerprint) for payload in told.payloads] == [
        ("removed", "aaa", GONE),
        ("changed", GONE, "aaa"),
    ]
    assert told.ids == [f"d-1.2.{GONE}", "d-1.3.aaa"]
    assert told.payloads[0].diff.removed == 0
    assert told.payloads[1].diff.added == 3


def test_a_page_that_is_back_before_the_host_was_told_is_not_told_as_gone(told: Host) -> None:
    told.has("aaa", handled_fingerprint="aaa", changes_told=1)
    assert not told.is_told_of(GONE)
    told.becomes(content_fingerprint="bbb")
    assert told.is_told_of(GONE)
    assert [payload.new_fingerprint for payload in told.payloads] == ["bbb"]


@pytest.mark.parametrize(
    "columns", [{"handled_fingerprint": "aaa"}, {"content_fingerprint": None}, {"gone_days": 3}], ids=str
)
def test_where_there_is_nothing_to_tell_nobody_is_called(told: Host, columns: dict[str, Any]) -> None:
    told.has("aaa", changes_told=1)
    told.becomes(**columns)
    assert not told.is_told_of(GONE)
    assert told.sink.received == []
    assert told.row.changes_told == 1


def test_nobody_is_called_for_a_document_that_was_deleted(told: Host) -> None:
    told.has("aaa")
    told.sink.on_request = lambda: told.deliverer.documents.delete("d-1")
    assert told.is_told_of("aaa"), "deleted while the host is told"
    assert not told.is_told_of("aaa")
    assert len(told.sink.received) == 1


def test_nobody_is_called_where_the_handler_was_taken_away(told: Host) -> None:
    told.has("aaa")
    told.has_nobody_to_tell()
    assert not told.is_told_of("aaa")
    assert told.sink.received == []


def test_a_document_s_own_handler_counts_too(told: Host) -> None:
    told.has("aaa", change_handler=told.handler.model_dump(mode="json"))
    told.has_nobody_to_tell()
    assert told.is_told_of("aaa")


@pytest.mark.parametrize(("status", "error"), [(410, PermanentError), (503, TransientError)])
def test_a_change_that_the_host_refuses_stays_to_be_told(told: Host, status: int, error: type[Exception]) -> None:
    told.has("aaa")
    told.sink.answers[:] = [status]
    with pytest.raises(error):
        told.is_told_of("aaa")
    assert (told.row.handled_fingerprint, told.row.changes_told) == (None, 0)
    assert told.is_told_of("aaa")
    assert told.ids == ["d-1.1.aaa"]


def test_a_private_address_is_not_called_and_the_change_stays_to_be_told(told: Host) -> None:
    told.has("aaa")
    guarded = Outgoing(secret=SecretStr(SECRET), allow_private=False)
    with pytest.raises(AddressRefused):
        ChangeDeliverer(told.deliverer.documents, told.deliverer.syncs, guarded.post_signed).deliver(told.change("aaa"))
    guarded.close()
    assert told.sink.received == []
    assert told.row.handled_fingerprint is None


def test_only_webhooks_are_posted(told: Host) -> None:
    told.has("aaa")
    handler = ActivityHandler(kind="activity", type="on_change", task_queue="mine")
    with pytest.raises(InvalidInput, match="no webhook"):
        told.deliverer.deliver(ChangeRef(document_id="d-1", fingerprint="aaa", handler=handler))


def test_a_webhook_is_called_by_the_address_in_the_row_which_the_change_does_not_carry(told: Host) -> None:
    told.has("aaa")
    shown = WebhookHandler(kind="webhook", url="http://127.0.0.1:1")
    assert told.deliverer.deliver(ChangeRef(document_id="d-1", fingerprint="aaa", handler=shown))
    assert told.ids == ["d-1.1.aaa"]


@pytest.mark.parametrize("rest", ["/services/T0K3N", "?token=T0K3N", "/a?b=T0K3N", "#T0K3N", ""])
def test_histories_show_scheme_and_host_of_a_webhook(rest: str) -> None:
    shown = without_address(WebhookHandler(kind="webhook", url=f"https://hooks.example:8443{rest}"))
    assert shown == WebhookHandler(kind="webhook", url="https://hooks.example:8443")


def test_the_documented_payload_is_what_handlers_get() -> None:
    page = (Path(__file__).parents[3] / "docs" / "handlers.md").read_text()
    [example] = [
        text for text in re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "change_id" in text
    ]
    given = json.loads(example)
    assert ChangePayload.model_validate(given).model_dump(mode="json") == given

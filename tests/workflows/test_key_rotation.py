"""A key is introduced, changed or taken away while a batch runs: it goes on, and waits where its key is lacking."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import uuid
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload
from temporalio.api.workflowservice.v1 import DescribeScheduleRequest
from temporalio.client import Client

from nightmill.client.codec import KEY_ID, codec_of
from nightmill.client.nightmill import Nightmill
from nightmill.client.schedules import AUDIT, apply_schedule
from nightmill.contracts import BatchStatus
from nightmill.errors import NotConfigured
from tests.lanes import PATIENCE, Lane, in_a_lane, until

pytestmark = pytest.mark.server


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


A, B = new_key(), new_key()


def name_of(key: str) -> str:
    codec = codec_of(SecretStr(key))
    assert codec is not None
    assert codec.present is not None
    return codec.present.id


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param({}, {"ENCRYPTION_KEY": A}, id="a key is introduced"),
        pytest.param({"ENCRYPTION_KEY": A}, {"ENCRYPTION_KEY": B, "ENCRYPTION_OLD_KEYS": f'["{A}"]'}, id="rotated"),
        pytest.param({"ENCRYPTION_KEY": A}, {"ENCRYPTION_KEY": "", "ENCRYPTION_OLD_KEYS": f'["{A}"]'}, id="taken away"),
    ],
)
@in_a_lane
async def test_a_batch_goes_on_under_another_key(lane: Lane, first: dict[str, str], then: dict[str, str]) -> None:
    lane.sandbox.set_profile(finish_after=None)
    lane.set(**first)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill, metadata={"customer": "canary"})
        await until(lambda: len(lane.asked("batches.get")) >= 2)

    lane.set(**then)
    lane.sandbox.advance(lane.sandbox.batches()[0]["id"], "completed")
    async with lane.running() as nightmill:
        summary = await nightmill.wait(batch_id, timeout=PATIENCE)
        assert (summary.status, summary.completed) == (BatchStatus.ENDED, 5)
        assert summary.metadata == {"customer": "canary"}
        keys = await keys_in(nightmill.temporal, f"batch/{batch_id}")
    lane.assert_once()
    named = {"": "", A: name_of(A), B: name_of(B)}
    assert keys == {named[first.get("ENCRYPTION_KEY", "")], named[then["ENCRYPTION_KEY"]]}


@pytest.mark.parametrize("given", [B, pytest.param("", marks=pytest.mark.slow)], ids=["another key", "no key"])
@in_a_lane
async def test_a_worker_without_the_key_spoils_nothing_and_the_batch_waits_for_one_that_has_it(
    lane: Lane, given: str
) -> None:
    lane.sandbox.set_profile(finish_after=None)
    lane.set(ENCRYPTION_KEY=A)
    async with lane.running() as nightmill:
        batch_id = await lane.submit(nightmill)
        await until(lambda: len(lane.asked("batches.get")) >= 2)

    lane.sandbox.advance(lane.sandbox.batches()[0]["id"], "completed")
    lane.set(ENCRYPTION_KEY=given)
    async with lane.running() as nightmill:
        told = await until_a_task_fails(nightmill.temporal, f"batch/{batch_id}")
        assert f"NIGHTMILL_ENCRYPTION_KEY: a payload is encrypted with the key {name_of(A)}" in told
        [payload] = await first_payloads(nightmill, f"batch/{batch_id}")
        with pytest.raises(NotConfigured, match="NIGHTMILL_ENCRYPTION_OLD_KEYS"):
            await nightmill.temporal.data_converter.decode([payload])
    lane.set(ENCRYPTION_KEY=B, ENCRYPTION_OLD_KEYS=f'["{A}"]')
    async with lane.running() as nightmill:
        assert (await nightmill.wait(batch_id, timeout=PATIENCE)).status is BatchStatus.ENDED
    lane.assert_once()


async def until_a_task_fails(client: Client, workflow_id: str) -> str:
    """Return what a failed workflow task tells, once one tells of the lacking key."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            async for event in client.get_workflow_handle(workflow_id).fetch_history_events():
                failure = event.workflow_task_failed_event_attributes.failure
                error: BaseException | None = await client.data_converter.decode_failure(failure)
                while error is not None:
                    if "ENCRYPTION" in str(error):
                        return str(error)
                    error = error.__cause__
            await asyncio.sleep(0.1)


async def first_payloads(nightmill: Nightmill, workflow_id: str) -> list[Payload]:
    async for event in nightmill.temporal.get_workflow_handle(workflow_id).fetch_history_events():
        return list(event.workflow_execution_started_event_attributes.input.payloads)
    raise AssertionError("no event")


async def keys_in(client: Client, workflow_id: str) -> set[str]:
    """Return the names of the keys of all payloads in a history; "" stands for those that are not encrypted."""
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            metadata = node.get("metadata")
            if isinstance(metadata, dict) and "encoding" in metadata:
                found.add(base64.b64decode(metadata.get(KEY_ID, "")).decode())
            for name, value in node.items():
                if name != "searchAttributes":  # never encrypted: the server searches them
                    walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(json.loads((await client.get_workflow_handle(workflow_id).fetch_history()).to_json()))
    return found


@in_a_lane
async def test_a_schedule_is_written_anew_under_the_present_key(lane: Lane) -> None:
    """As each worker does at its start: else its runs would need the old key for ever."""
    name = f"rotated-{uuid.uuid4()}"
    asked = DescribeScheduleRequest(namespace="default", schedule_id=name)
    under = []
    for keys in ({"ENCRYPTION_KEY": A}, {"ENCRYPTION_KEY": B, "ENCRYPTION_OLD_KEYS": f'["{A}"]'}):
        lane.set(**keys)
        with lane.stack.assembly() as assembly:
            client = (await lane.stack.nightmill(assembly)).temporal
            await apply_schedule(client, replace(AUDIT, id=name), assembly.settings)
        stored = await client.workflow_service.describe_schedule(asked)
        [payload] = stored.schedule.action.start_workflow.input.payloads
        under.append(payload.metadata[KEY_ID].decode())
    await client.get_schedule_handle(name).delete()
    assert under == [name_of(A), name_of(B)]

"""Nightmill from Python: in scripts and notebooks, on a real Temporal server; what type checkers and importers meet."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from nightmill import client, errors, ids
from nightmill.client.documents import Documents
from nightmill.client.nightmill import read_input
from nightmill.client.recovery import Recovery
from nightmill.client.retention import Retention
from nightmill.client.slicings import Slicings
from nightmill.completions.requests import read_request_objects
from nightmill.contracts import ActivityHandler, BatchInput, WebhookHandler, WorkflowHandler
from nightmill.sandbox import Profile, Sandbox
from nightmill.settings import DatabaseSettings
from nightmill.storage.engine import open_database
from tests import host_program
from tests.lanes import running
from tests.small_pdfs import body, text_pdf
from tests.stack import Stack, TemporalServer, environment

HANDLERS = [
    WebhookHandler(kind="webhook", url="https://example.com/hook"),
    WorkflowHandler(kind="workflow", type="OnBatch", task_queue="mine"),
    ActivityHandler(kind="activity", type="on_batch", task_queue="mine"),
]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(profile=Profile(finish_after=0.2)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, temporal_server: TemporalServer, sandbox: Sandbox
) -> Iterator[Path]:
    """Run a worker, and let the environment lead to it; gives a folder."""
    folder = tmp_path_factory.mktemp("host")
    url = f"sqlite:///{shutil.copyfile(migrated_sqlite, folder / 'nightmill.db')}"
    queues = {"NIGHTMILL_WORKER__QUEUES": "host-program,host-program-slicing"}
    stack = Stack(folder, temporal_server, sandbox, database_url=url, task_queue="host-program", extra=queues)
    ready, over, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def work() -> None:
        async with running(stack):
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(work()))
    thread.start()
    try:
        assert ready.wait(60), "the worker did not start"
        with environment(stack.environment):
            yield folder
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        loop.close()


def in_a_notebook(cell: Callable[[], Any]) -> Any:
    """Run a cell as a notebook does: by an event loop that runs already, and leaves interrupts to it."""

    async def run() -> Any:
        return cell()

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


@pytest.mark.server
@pytest.mark.parametrize("way", [lambda cell: cell(), in_a_notebook], ids=["script", "notebook"])
def test_a_program_does_a_batch(folder: Path, way: Callable[..., Any], request: Any) -> None:
    name = request.node.callspec.id
    summary, results = way(lambda: host_program.do_a_batch(name))
    assert (summary.completed, summary.metadata) == (1, {"order": 17})
    assert [(each.custom_id, each.status) for each in results] == [("a", "completed")]
    with pytest.raises(client.BatchConflict, match="nothing to cancel"):
        way(lambda: client.cancel(name))
    with pytest.raises(client.BatchConflict, match="ended already"):
        way(lambda: client.start(name))
    with pytest.raises(client.InvalidInput, match="nothing to send again"):
        way(lambda: client.retry_failed(name))
    with pytest.raises(client.AccountNotFound):
        way(host_program.add_a_page)


@pytest.mark.server
def test_a_program_slices_a_pdf(folder: Path) -> None:
    marks = [(f"ACUERDO No. {number}", number, 0) for number in (0, 1)]
    path = text_pdf(folder / "book.pdf", [[f"# {heading}", *body()] for heading, _, _ in marks], bookmarks=marks)
    found = host_program.slice_a_pdf(path)
    assert [each.position for each in found] == [0, 1]

    async def read() -> tuple[client.SlicingRow, list[client.SliceRow]]:
        async with client.Nightmill.connect() as nightmill:
            with pytest.raises(client.SlicingNotFound):
                await anext(nightmill.slicings.slices("0" * 64))
            return await host_program.read_a_slicing(nightmill, hashlib.sha256(path.read_bytes()).hexdigest())

    row, again = asyncio.run(read())
    assert (row.user_metadata, again) == ({"shelf": 7}, found)


@pytest.mark.server
def test_an_id_of_ones_own_is_never_taken_for_none_and_what_is_stored_can_be_started(folder: Path) -> None:
    url = "https://example.com/"

    async def serve() -> None:
        async with client.Nightmill.connect() as nightmill:
            documents = nightmill.documents
            await documents.add_account("own", "hourly")
            page = {"account": "own", "collection": "help"}
            for empty in (
                nightmill.submit(host_program.ONE, provider="openai", model="gpt-5-mini", batch_id=""),
                documents.crawl(url, **page, crawl_id=""),
                documents.add(url, **page, document_id=""),
            ):
                with pytest.raises(client.InvalidInput, match=r"(batch|crawl|document) id '': use 1 to 64"):
                    await empty
            assert await documents.add(url, **page, document_id="mine", sync=False) == "mine"
            assert await documents.add(url, **page, document_id="other", sync=False) == "mine"
            given = read_input(provider="openai", model="gpt-5-mini", poll_schedule=[0.5])
            reader = read_request_objects(
                host_program.ONE, provider=nightmill.assembly.renderer("openai"), model="gpt-5-mini", endpoint=None
            )
            nightmill.assembly.preparer.store("stored", given, reader)

    asyncio.run(serve())
    client.start("stored")
    assert client.wait("stored", timeout=60).completed == 1


@pytest.mark.server
def test_a_timeout_that_is_none_is_refused_before_anything_is_started(folder: Path) -> None:
    refused: Any = "1h"

    async def ask() -> None:
        async with client.Nightmill.connect() as nightmill:
            await nightmill.documents.add_account("patient", "hourly")
            document_id = await nightmill.documents.add(
                "https://example.com/patient", account="patient", collection="help", sync=False
            )
            for asked in (
                nightmill.documents.sync(document_id, timeout=refused),
                nightmill.documents.sync(document_id, timeout=float("nan")),
                nightmill.documents.sweep(timeout=refused),
                nightmill.slicings.check_health("outline", timeout=refused),
                nightmill.recovery.reconcile(timeout=refused),
            ):
                with pytest.raises(client.InvalidInput, match="give seconds or a timedelta"):
                    await asked
            with pytest.raises(client.DocumentNotFound, match="no sync"):
                await nightmill.documents.wait(document_id, timeout=10)
            mine = "TaskQueue STARTS_WITH 'host-program'"
            begun = [each.id async for each in nightmill.temporal.list_workflows(mine)]
            by_hand = (f"{ids.SYNC_SWEEP_SCHEDULE}/", f"{ids.RECONCILER_SCHEDULE}/", ids.health_workflow_id(""))
            assert not [each for each in begun if each.startswith(by_hand)]

    asyncio.run(ask())


@pytest.mark.server
def test_an_interrupt_ends_a_call_of_a_notebook_and_what_it_began(folder: Path, sandbox: Sandbox) -> None:
    sandbox.set_profile(finish_after=None)
    client.submit(host_program.ONE, provider="openai", model="gpt-5-mini", batch_id="endless")
    with pytest.raises(TimeoutError, match=r"endless has not ended within 0:00:00\.1"):
        client.wait("endless", timeout=0.1)
    main = threading.main_thread().ident
    assert main is not None
    before = time.monotonic()
    threading.Timer(1, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        in_a_notebook(lambda: client.wait("endless"))
    assert time.monotonic() - before < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nightmill-client")]

    async def serve() -> client.BatchSummary:
        async with client.Nightmill.connect() as nightmill:
            return await host_program.cancel_a_batch(nightmill, "canceled")

    assert asyncio.run(serve()).status is client.BatchStatus.CANCELED
    client.cancel("endless")
    assert client.wait("endless", timeout=host_program.PATIENCE).status is client.BatchStatus.CANCELED


@pytest.mark.server
@pytest.mark.parametrize("name", host_program.MISTAKES)
def test_a_mistake_that_a_type_checker_finds_is_refused_by_name(folder: Path, name: str) -> None:
    kind, mistake = host_program.MISTAKES[name]
    with pytest.raises(kind, match=name):
        mistake()


def open_files(path: str) -> int:
    return sum(os.path.realpath(each) == path for each in Path("/proc/self/fd").iterdir())


def test_reading_says_at_once_what_is_wrong_asks_no_temporal_and_leaves_nothing_open(
    sqlite_url: str, tmp_path: Path, store_part: Any
) -> None:
    path = os.path.realpath(sqlite_url.removeprefix("sqlite:///"))
    unreachable = {"NIGHTMILL_DATABASE_URL": sqlite_url, "TEMPORAL_ADDRESS": "127.0.0.1:1"}
    with environment(unreachable):
        database = open_database(sqlite_url, DatabaseSettings())
        store_part(database, "a", "b", "c")
        database.close()
        with pytest.raises(client.BatchNotFound):
            client.results("unknown")
        with pytest.raises(client.SlicingNotFound):
            client.slices("0" * 64)
        with pytest.raises(client.DocumentNotFound):
            client.document_content("unknown")
        assert client.summary("b1").total == 3
        found = client.results("b1")
        assert next(found).custom_id == "a"
        assert open_files(path)
        del found
        assert not open_files(path)
    with environment({"NIGHTMILL_DATABASE_URL": f"sqlite:///{tmp_path}/empty.db"}):
        for ask in (client.results, client.slices, client.summary, client.document_content):
            with pytest.raises(client.SchemaOutdated, match="nightmill db upgrade"):
                ask("b1")


OPTIONS: dict[str, list[Any]] = {
    "endpoint": ["/v1/responses", None],
    "completion_handler": [*HANDLERS, MappingProxyType({"kind": "webhook", "url": "https://example.com/hook"}), None],
    "metadata": [{"order": 17}, MappingProxyType({"order": 17})],
    "poll_schedule": [[60, 90.5, "60", "PT1M", timedelta(minutes=1)], (60,), None],
    "max_age": [timedelta(hours=2), 7_200, 7_200.5, "7200", "PT2H", None],
    "retry_rounds": [2, None],
    "budget": [Decimal("2.5"), 2, 2.5, "2.5", None],
    "account": ["acme", None],
}
"""A value of each type that an option may have."""


def classes(hint: Any) -> set[type]:
    """The classes that a type is a union of."""
    if get_origin(hint) is Annotated:
        return classes(get_args(hint)[0])
    if get_origin(hint) in {Union, UnionType}:
        return {found for each in get_args(hint) for found in classes(each)}
    return {get_origin(hint) or hint}


def test_options_of_a_batch_are_the_fields_of_its_contract_and_are_taken_in_every_type_they_say() -> None:
    hints = get_type_hints(client.BatchOptions)
    sources = {"provider", "model", "requests_uri", "batch_id"}
    assert hints.keys() == BatchInput.model_fields.keys() - sources
    for name, hint in hints.items():
        said, stored = classes(hint), classes(BatchInput.model_fields[name].annotation)
        assert {each for each in stored if not issubclass(each, tuple(said))} == set(), name
        assert {each for each in said if not any(isinstance(value, each) for value in OPTIONS[name])} == set(), name
        for value in OPTIONS[name]:
            given = read_input(provider="openai", model="m", **{name: value})  # type: ignore[arg-type]
            assert isinstance(getattr(given, name), tuple(stored)), name


@pytest.mark.parametrize(
    ("options", "method"), [(client.DocumentOptions, Documents.add), (client.SlicingOptions, Slicings.slice)]
)
def test_options_of_documents_and_slicings_are_the_arguments_of_their_methods(options: Any, method: Any) -> None:
    names = {"Mapping": Mapping, "Sequence": Sequence, "timedelta": timedelta, "Path": Path, "Any": Any}
    arguments = get_type_hints(method, localns=names)
    parameters = inspect.signature(method).parameters
    required = {name for name, each in parameters.items() if each.default is inspect.Parameter.empty}
    assert {name: hint for name, hint in arguments.items() if name not in {*required, "return"}} == get_type_hints(
        options
    )


def test_importing_the_client_loads_neither_temporal_nor_the_database_and_every_name_is_there() -> None:
    heavy = {"sqlalchemy", "temporalio", "pydantic"}
    code = f"import sys; from nightmill import client; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
    for name in client.__all__:
        assert getattr(client, name) is not None, name
    assert set(client.__all__) <= set(dir(client))


def test_every_type_that_a_public_call_returns_is_there_for_annotations() -> None:
    returned = set()
    for kind in (client.Nightmill, Documents, Slicings, Recovery, Retention):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_"):
                returned |= set(re.findall(r"\b[A-Z]\w+", str(inspect.signature(method).return_annotation)))
    general = {"AsyncGenerator", "AsyncIterator", "Literal", "None", "Priority", "Started"}
    assert returned - general - set(client.__all__) == set()
    assert {"SlicingRow", "VersionRow", "AccountRow", "CanaryOutcome"} <= returned


def test_every_error_that_a_call_says_it_raises_is_there() -> None:
    folder = Path(client.__file__).parent
    modules = ("__init__", "nightmill", "documents", "document_syncs", "slicings", "recovery", "retention")
    text = "".join((folder / f"{name}.py").read_text() for name in modules)
    said = set(re.findall(r"^ {8,12}([A-Z]\w+): ", text, re.MULTILINE)) & set(vars(errors))
    assert len(said) > 15
    assert said <= set(client.__all__)

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from nightmill.documents import extractor as module
from nightmill.documents.extractor import Extractor
from nightmill.documents.reading import Reading
from nightmill.errors import ExtractorUnavailable, PageEmpty, PageNotFound, PageTooLarge
from tests.nightmill.documents.pages import article, page

URL = "https://site.example/page"
MAX_HTML = 3 * 1024 * 1024
PATIENT = timedelta(seconds=30)

# Quadratic in libxml2: minutes for 300,000 attributes.
ENDLESS = b"<div " + b" ".join(b"a%d=1" % n for n in range(250_000)) + b">text</div>"


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    with Extractor(1, PATIENT, MAX_HTML) as extractor:
        yield extractor


@pytest.fixture
def hasty() -> Iterator[Extractor]:
    with Extractor(1, timedelta(seconds=1.5), MAX_HTML) as extractor:
        yield extractor


def read(extractor: Extractor, body: bytes | str, media_type: str = "text/html") -> Reading:
    content = body if isinstance(body, bytes) else body.encode()
    return extractor.read(content, media_type=media_type, charset="utf-8", url=URL)


def children(extractor: Extractor) -> list[int]:
    return [child.process.pid for child in extractor._children]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < until, "the process is still there"
        time.sleep(0.02)


def test_a_page_is_read_in_another_process_that_is_kept(extractor: Extractor) -> None:
    first = read(extractor, page())
    pids = children(extractor)
    assert "The observatory opens its doors" in first.content
    assert first.title == "Visiting the observatory | Example"
    assert read(extractor, page(turn=2)).fingerprint == first.fingerprint
    assert children(extractor) == pids
    assert os.getpid() not in pids


def test_titles_are_as_long_as_names_may_be(extractor: Extractor) -> None:
    title = read(extractor, page(title="word " * 300)).title
    assert title is not None
    assert 250 <= len(title) <= 255


def test_refusals_come_back_as_what_they_are(extractor: Extractor) -> None:
    with pytest.raises(PageEmpty) as empty:
        read(extractor, "<title>App</title><body><div id=root></div><script src=x></script></body>")
    assert empty.value.reason == "script_shell"
    with pytest.raises(PageNotFound) as missing:
        read(extractor, page("The page you requested does not exist.", title="Page not found"))
    assert missing.value.reason == "soft_404"


def test_links_are_found_there_too(extractor: Extractor) -> None:
    found = extractor.links(b'<body><a href="/a">a</a> <a href="b#x">b</a></body>', url=URL, charset=None)
    assert found == ["https://site.example/a", "https://site.example/b"]


def test_more_html_than_allowed_is_refused_before_it_is_read() -> None:
    with Extractor(1, PATIENT, MAX_HTML) as extractor:
        with pytest.raises(PageTooLarge) as refused:
            read(extractor, b"x" * (8 * 1024 * 1024))
        assert refused.value.reason == "html"
        assert children(extractor) == []


@pytest.mark.parametrize(
    "body",
    [
        b"<body>" + b"<p></p>" * 100_000 + b"<p>some words</p>",
        b"<p>some words</p>" + b"<div>" * 20_000 + b"deep",
        b"<p>some words</p>" + b"<b><i>" * 100_000,
        b"<p>some words</p>" + b"<table><tr><td>" * 50_000,
        b"<table>" + b"<tr><td colspan=999999999 rowspan=999999999>some words</td></tr>" * 50 + b"</table>",
        b"<p>some words" + b"[a](" * 100_000,
        b"<p>some words" + b" " * 1_000_000 + b"x",
        b"<p>some words \xff\xfe\x80\x00\xc3\x28</p>" * 20,
        b"<![CDATA[ <!-- <p>some words</p><!DOCTYPE x [<!ENTITY a '&a;'>]>" * 10 + b"--><p>some words",
    ],
    ids=["paragraphs", "divs", "unclosed", "tables", "colspan", "brackets", "spaces", "bytes", "declarations"],
)
def test_pages_that_were_made_to_hurt_are_read(extractor: Extractor, body: bytes) -> None:
    assert "some words" in read(extractor, body).content


def test_a_page_that_takes_too_long_loses_its_process_and_the_next_page_gets_another(hasty: Extractor) -> None:
    read(hasty, page())
    [before] = children(hasty)
    start = time.monotonic()
    with pytest.raises(PageTooLarge) as refused:
        read(hasty, ENDLESS)
    assert refused.value.reason == "extraction_time"
    assert time.monotonic() - start < 10
    wait_until_gone(before)
    assert read(hasty, page()).content


def test_a_page_that_takes_too_much_memory_says_so() -> None:
    with Extractor(1, PATIENT, MAX_HTML) as extractor:
        read(extractor, page())
        [pid] = children(extractor)
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (size + 80_000_000, hard))  # a smaller page will do
        with pytest.raises(PageTooLarge) as refused:
            read(extractor, b"words " * 3_500_000, "text/plain")
        assert refused.value.reason == "extraction_memory"
        assert read(extractor, page()).content


def test_a_page_whose_process_somebody_else_kills_is_read_by_another() -> None:
    with Extractor(1, PATIENT, MAX_HTML) as extractor, ThreadPoolExecutor(1) as thread:
        read(extractor, page())
        [pid] = children(extractor)
        os.kill(pid, signal.SIGSTOP)  # so that it is certainly in mid-page
        future = thread.submit(read, extractor, page())
        time.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        assert "observatory" in future.result(timeout=30).content
        assert children(extractor) != [pid]


def test_a_page_that_ends_two_processes_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    with Extractor(1, PATIENT, MAX_HTML) as extractor:
        started = extractor._started

        def doomed() -> module._Child:
            child = started()
            child.process.kill()
            child.process.wait()
            return child

        monkeypatch.setattr(extractor, "_started", doomed)
        with pytest.raises(PageTooLarge) as refused:
            read(extractor, page())
        assert refused.value.reason == "extraction_crash"


def test_an_idle_process_that_was_killed_is_replaced() -> None:
    with Extractor(1, PATIENT, MAX_HTML) as extractor:
        read(extractor, page())
        [pid] = children(extractor)
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        assert read(extractor, page()).content


def test_a_process_is_replaced_after_so_many_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PAGES", 1)
    with Extractor(1, PATIENT, MAX_HTML) as extractor:
        assert read(extractor, page()).content
        assert children(extractor) == []


def test_many_threads_get_their_own_answers_from_two_processes_and_none_is_left() -> None:
    with Extractor(2, PATIENT, MAX_HTML) as extractor, ThreadPoolExecutor(8) as threads:
        bodies = [page(article(f"Text number {n} of many, which is only here."), title=f"Page {n}") for n in range(64)]
        found = list(threads.map(lambda body: read(extractor, body), bodies))
        pids = children(extractor)
    assert [reading.title for reading in found] == [f"Page {n}" for n in range(64)]
    assert all(f"Text number {n} of" in reading.content for n, reading in enumerate(found))
    assert 1 <= len(pids) <= 2
    assert not any(is_alive(pid) for pid in pids)
    with pytest.raises(ExtractorUnavailable):
        read(extractor, page())


def test_a_program_that_does_not_start_is_not_the_pages_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with Extractor(1, PATIENT, MAX_HTML) as extractor:
        monkeypatch.setattr(module, "_ROOT", Path("/nonexistent"))
        monkeypatch.setattr(sys, "executable", "/nonexistent/python")
        with pytest.raises(ExtractorUnavailable, match="No such file"):
            read(extractor, page())
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(ExtractorUnavailable, match="ended with 1"):
            read(extractor, page())
        monkeypatch.undo()
        assert read(extractor, page()).content


def test_the_process_knows_nothing_of_ours_and_is_bounded(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMILL_OPENAI__API_KEY", "sk-secret")
    with Extractor(1, PATIENT, MAX_HTML) as extractor:
        read(extractor, page())
        [pid] = children(extractor)
        process = Path(f"/proc/{pid}")
        assert b"secret" not in process.joinpath("environ").read_bytes()
        limits = {line[:26].strip(): line[26:].split() for line in process.joinpath("limits").read_text().splitlines()}
        assert limits["Max file size"][0] == limits["Max core file size"][0] == "0"
        assert int(limits["Max address space"][0]) <= 2 * 1024**3
        assert int(limits["Max cpu time"][0]) < 100
        maps = process.joinpath("maps").read_text()
        assert "temporalio" not in maps
        assert os.getsid(pid) == pid
        os.kill(pid, signal.SIGINT)
        assert read(extractor, page()).content
        assert children(extractor) == [pid]


def test_the_process_loads_neither_temporal_nor_the_database() -> None:
    script = (
        "import sys, nightmill.documents.extraction_child, nightmill.documents.texts;"
        "print([name for name in ('temporalio', 'sqlmodel', 'sqlalchemy', 'pydantic', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.kill
def test_the_process_dies_with_a_worker_that_is_killed_in_mid_page() -> None:
    script = (
        "import threading\nfrom datetime import timedelta\nfrom nightmill.documents.extractor import Extractor\n"
        "from tests.nightmill.documents.test_extractor import ENDLESS, children, page, read\n"
        "extractor = Extractor(1, timedelta(seconds=60), 10**8)\nread(extractor, page())\n"
        "thread = threading.Thread(target=read, args=(extractor, ENDLESS))\nthread.start()\n"
        "print(children(extractor)[0], flush=True)\nthread.join()\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    with worker.stdout:
        pid = int(worker.stdout.readline())
        time.sleep(0.3)
        assert is_alive(pid)
        worker.kill()
        worker.wait()
    wait_until_gone(pid)

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from itertools import groupby
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from nightmill.errors import NotConfigured, NotFound, StorageFull, StorageUnavailable
from nightmill.storage.files import (
    CHUNK,
    FileMissing,
    FileStore,
    LocalFileStore,
    ObjectFileStore,
    open_file_store,
)

AWS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}


@pytest.fixture(scope="module")
def s3() -> Iterator[int]:
    """The port of an S3 server with a bucket `bucket`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("PUT", "/bucket")
    assert connection.getresponse().status == 200
    connection.close()
    yield port
    server.stop()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    if request.param == "local":
        return open_file_store(f"file://{tmp_path}/files")
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{request.getfixturevalue('s3')}")
    return open_file_store(f"s3://bucket/{tmp_path.name}")


def failing(before: int) -> Iterator[bytes]:
    yield b"x" * before
    raise NotFound("the source is gone")


def test_what_is_written_is_read_from_any_offset(store: FileStore) -> None:
    data = bytes(range(256)) * 12_000
    assert store.write(
        "batches/b-1/results.jsonl", (data[at : at + 7_777] for at in range(0, len(data), 7_777))
    ) == len(data)
    assert store.size("batches/b-1/results.jsonl") == len(data)
    for offset in (0, 1, CHUNK, len(data) - 1, len(data), len(data) + 5):
        assert b"".join(store.read("batches/b-1/results.jsonl", offset=offset)) == data[offset:]


def test_an_empty_file_is_a_file(store: FileStore) -> None:
    assert store.write("empty", []) == 0
    assert store.write("empty2", [b"", b""]) == 0
    assert (store.size("empty"), store.size("empty2")) == (0, 0)
    assert list(store.read("empty")) == []


def test_a_file_that_is_not_there_has_no_size_and_cannot_be_read(store: FileStore) -> None:
    assert store.size("a/b") is None
    for offset in (0, 5):
        with pytest.raises(FileMissing, match="reading a/b"):
            list(store.read("a/b", offset=offset))


def test_a_second_write_replaces_the_first(store: FileStore) -> None:
    store.write("a", [b"long long"])
    store.write("a", [b"short"])
    assert b"".join(store.read("a")) == b"short"


def test_a_source_that_fails_leaves_what_was_there_and_nothing_new(store: FileStore, tmp_path: Path) -> None:
    store.write("kept", [b"before"])
    for key in ("kept", "new"):
        for size in (10, 9_000_000):
            with pytest.raises(NotFound, match="the source is gone"):
                store.write(key, failing(size))
    assert b"".join(store.read("kept")) == b"before"
    assert store.size("new") is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] in ([], [tmp_path / "files" / "kept"])


def test_deleting_takes_a_file_or_a_folder_but_no_namesakes_and_works_twice(store: FileStore) -> None:
    for key in ("b/1/in", "b/1/deep/er", "b/10/in", "b/1.txt", "c"):
        store.write(key, [b"x"])
    for _ in range(2):
        store.delete("b/1")
        store.delete("c")
    gone = [key for key in ("b/1/in", "b/1/deep/er", "b/10/in", "b/1.txt", "c") if store.size(key) is None]
    assert gone == ["b/1/in", "b/1/deep/er", "c"]


def test_what_lies_under_a_prefix_is_listed_with_its_size_and_age_and_folder_by_folder(store: FileStore) -> None:
    assert list(store.listed("batches")) == []
    before = datetime.now(UTC)
    for key in ("batches/b/1/in", "batches/b-2/in", "batches/b/2/out", "batches2/in", "c/batches/in"):
        store.write(key, [key.encode()])
    found = list(store.listed("batches"))
    assert {file.key: file.size for file in found} == {
        "batches/b/1/in": 14, "batches/b/2/out": 15, "batches/b-2/in": 14,
    }  # fmt: skip
    assert len(list(groupby(found, key=lambda file: file.key.split("/")[1]))) == 2
    assert all(abs(file.modified_at - before) < timedelta(minutes=1) for file in found)


def test_more_files_are_deleted_than_one_page_lists(store: FileStore) -> None:
    for number in range(30):
        store.write(f"many/{number}", [b"x"])
    store.delete("many")
    assert [number for number in range(30) if store.size(f"many/{number}") is not None] == []


BAD_KEYS = ["", ".", "..", "/etc/passwd", "a/../b", "a//b", "a/", "/a", "a/./b", ".hidden", "a\\b", "a\0b", "a\nb", "ü"]


@pytest.mark.parametrize("key", [*BAD_KEYS, "x" * 201, "a/" * 500 + "a", "a b", "C:/x", "a?b", "a%2e%2e"])
def test_a_key_that_could_lead_elsewhere_is_refused(store: FileStore, key: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: store.write(key, [b"x"]),
        lambda: list(store.read(key)),
        lambda: store.size(key),
        lambda: store.delete(key),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="not a key"):
            use()


def test_a_large_file_passes_in_flat_memory(tmp_path: Path) -> None:
    store = LocalFileStore(tmp_path)
    tracemalloc.start()
    store.write("big", (b"x" * 1_000_000 for _ in range(50)))
    assert sum(len(chunk) for chunk in store.read("big")) == 50_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    store = LocalFileStore(tmp_path)
    store.write("f", [b"0" * 100_000])
    stop = threading.Event()

    def rewrite() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 10
            store.write("f", [str(number).encode() * 1_000 for _ in range(100)])

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(100):
            data = b"".join(store.read("f"))
            assert len(data) == 100_000
            assert len(set(data)) == 1
    finally:
        stop.set()
        writer.join()


def test_what_a_killed_writer_left_is_gone_once_the_file_is_written_again(tmp_path: Path) -> None:
    killed = (
        "import os, pathlib, signal\n"
        "from nightmill.storage.files import CHUNK, LocalFileStore\n"
        "def chunks():\n"
        "    yield b'x' * 2 * CHUNK\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"LocalFileStore(pathlib.Path({str(tmp_path)!r})).write('a/result', chunks())\n"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
        assert [path.name for path in (tmp_path / "a").iterdir()] == [".result.part"]
    store = LocalFileStore(tmp_path)
    assert store.write("a/result", [b"whole"]) == 5
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result"]
    assert b"".join(store.read("a/result")) == b"whole"


def test_two_who_write_the_same_file_at_once_do_not_meet(tmp_path: Path) -> None:
    store = LocalFileStore(tmp_path)

    def slowly() -> Iterator[bytes]:
        yield b"a" * 2 * CHUNK
        store.write("x", [b"b" * 3])
        assert b"".join(store.read("x")) == b"bbb"
        yield b"a"

    assert store.write("x", slowly()) == 2 * CHUNK + 1
    assert b"".join(store.read("x")) == b"a" * (2 * CHUNK + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_size_limit_is_no_space_and_leaves_nothing(tmp_path: Path) -> None:
    store = LocalFileStore(tmp_path)
    store.write("kept", [b"before"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    try:
        with pytest.raises(StorageFull, match="writing kept"):
            store.write("kept", [b"x" * 1_000_000] * 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert b"".join(store.read("kept")) == b"before"


FULL_DISK = """
import sys, pathlib
from nightmill.errors import StorageFull
from nightmill.storage.files import LocalFileStore
root = pathlib.Path(sys.argv[1])
store = LocalFileStore(root)
store.write("kept", [b"before"])
for chunks in ([b"x" * 1000] * 900, [b"x" * 900_000], [b"x" * 300_000]):
    try:
        store.write("kept", chunks)
    except StorageFull as error:
        assert "No space left" in str(error), error
    else:
        raise SystemExit("no error")
assert [path.name for path in root.iterdir()] == ["kept"], list(root.iterdir())
assert b"".join(store.read("kept")) == b"before"
store.write("kept", [b"y" * 1000])
print("fine")
"""


def test_a_full_disk_is_a_clear_error_and_writing_goes_on_once_there_is_space(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=256k none {tmp_path}"
    in_namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*in_namespace, mount], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare with user namespaces")
    command = f'{mount} && exec "$0" -c "$1" {tmp_path}'
    done = subprocess.run(
        [*in_namespace, command, sys.executable, FULL_DISK], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_a_folder_that_cannot_be_used_is_storage_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = LocalFileStore(tmp_path / "file")
    with pytest.raises(StorageUnavailable, match="writing a"):
        store.write("a", [b"x"])


def test_an_object_store_that_does_not_answer_is_storage_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**AWS, "AWS_ENDPOINT": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    store = open_file_store("s3://bucket")
    for use in (lambda: store.write("a", [b"x"]), lambda: store.size("a"), lambda: list(store.read("a"))):
        with pytest.raises(StorageUnavailable) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_bucket_that_does_not_exist_is_a_setting_to_mend(s3: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**AWS, "AWS_ENDPOINT": f"http://127.0.0.1:{s3}"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotConfigured, match="bucket of the storage URL does not exist"):
        open_file_store("s3://nowhere").write("a", [b"x"])


def test_the_url_chooses_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url, root in {
        "file:///srv/night%20mill": Path("/srv/night mill"),
        "file://localhost/srv": Path("/srv"),
        "/srv/x": Path("/srv/x"),
        "data": tmp_path / "data",
    }.items():
        store = open_file_store(url)
        assert isinstance(store, LocalFileStore)
        assert store.root == root
    for url in ("s3://bucket/prefix", "gs://bucket"):
        assert isinstance(open_file_store(url), ObjectFileStore)


@pytest.mark.parametrize("url", ["", " ", "ftp://x/y", "https://bucket.s3.amazonaws.com/x", "file://host/x", "s3://"])
def test_another_url_is_refused_with_the_ones_that_work(url: str) -> None:
    with pytest.raises(NotConfigured, match="storage URL"):
        open_file_store(url)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(NotConfigured, match=r"nightmill\[objectstore\]"):
        open_file_store("s3://bucket")

"""What a submission costs: rows of SQLite to a provider, side by side with `cp` and `curl -F` of the same file.

    .venv/bin/python -m bench.p4_submit [--requests 50000] [--repeats 3] [provider …]

Every submission runs in a process of its own, to a server on loopback that reads and forgets. Counted are CPU seconds
of user and system between the first row read and the last answer, after a submission of ten requests to warm up, and
how far the process's peak of memory then rose. The target is 6 times `cp` + `curl -F`, and 15 MB.
"""

from __future__ import annotations

import argparse
import json
import resource
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

TARGET_FACTOR, TARGET_MB = 6, 15
NAMES = ("openai", "anthropic", "google", "xai")
MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "google": "gemini-2.5-flash", "xai": "grok-4"}
BODY_CHARACTERS = 1_440  # makes lines of about 1.6 KB, 81 MB for 50,000
WARM_UP = 10


class Sink(socketserver.StreamRequestHandler):
    """Reads a request of a known length, forgets it and answers with every id that somebody may look for."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            length = 0
            while (header := self.rfile.readline().strip().lower()) != b"":
                if header.startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
                elif header == b"expect: 100-continue":
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            buffer = bytearray(1024 * 1024)
            while length:
                length -= self.rfile.readinto(memoryview(buffer)[: min(length, len(buffer))])
            port: int = self.server.server_address[1]  # type: ignore[index, assignment]
            answer = b'{"id":"x","batch_id":"x","name":"batches/x","file":{"name":"files/x"}}'
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"X-Goog-Upload-URL: http://127.0.0.1:%d/upload/x\r\nContent-Length: %d\r\n\r\n%b"
                % (port, len(answer), answer)
            )
            del line


class SinkServer(socketserver.ThreadingTCPServer):
    """Listens on any free port of loopback."""

    allow_reuse_address = True
    daemon_threads = True


def cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def memory(field: str) -> float:
    """Return a figure of this process in MB: `VmRSS` now, `VmHWM` the highest since it was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def run(command: list[str]) -> float:
    """Return the CPU seconds of a command."""
    before = cpu(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return cpu(resource.RUSAGE_CHILDREN) - before


def requests(count: int) -> Iterator[dict[str, object]]:
    words = "The mill grinds on through the night, and nobody needs to be awake for it. " * 40
    for number in range(count):
        yield {"custom_id": f"request-{number}", "prompt": f"{number} {words[: BODY_CHARACTERS + number % 100]}"}


def store(folder: Path, name: str, count: int) -> None:
    """Store a batch of `count` requests and a small one, and write the first as a file for `cp` and `curl`."""
    from nightmill.completions.planning import plan_parts
    from nightmill.completions.requests import read_request_objects
    from nightmill.providers.config import ProviderConfig
    from nightmill.providers.registry import open_provider
    from nightmill.settings import DatabaseSettings
    from nightmill.storage import schema
    from nightmill.storage.batches import BatchRepository
    from nightmill.storage.engine import open_database
    from nightmill.storage.models import BatchRow
    from nightmill.storage.requests import RequestRepository

    db = open_database(f"sqlite:///{folder / name}.db", DatabaseSettings())
    schema.upgrade(db)
    provider = open_provider(name, ProviderConfig(api_key=None, base_url="http://127.0.0.1:1"))
    stored = RequestRepository(db)
    for batch_id, size in (("small", WARM_UP), ("large", count)):
        reader = read_request_objects(requests(size), provider=provider, model=MODELS[name])
        row = BatchRow(
            id=batch_id,
            provider=name,
            model=MODELS[name],
            poll_schedule=[60.0],
            max_age=60.0,
            created_at=datetime.now(UTC),
        )
        batch = stored.store(row, reader)
        assert batch.key is not None
        parts = plan_parts(stored.pending_sizes(batch.key, 0), provider.limits)
        BatchRepository(db).start_round(batch_id, 0, parts, now=datetime.now(UTC))
    with (folder / f"{name}.jsonl").open("wb") as file:
        for part in BatchRepository(db).parts("large"):
            assert part.key is not None
            file.writelines(line + b"\n" for line in stored.lines(part.key))
    db.close()


def submit(folder: Path, name: str, url: str) -> None:
    """Submit the small batch, then the large one, and print what the latter took."""
    from pydantic import SecretStr

    from nightmill.providers.config import ProviderConfig
    from nightmill.providers.registry import open_provider
    from nightmill.settings import DatabaseSettings
    from nightmill.storage.batches import BatchRepository
    from nightmill.storage.engine import open_database
    from nightmill.storage.requests import RequestRepository

    db = open_database(f"sqlite:///{folder / name}.db", DatabaseSettings())
    provider = open_provider(name, ProviderConfig(api_key=SecretStr("key"), base_url=url))
    endpoint = provider.endpoints[0] if provider.endpoints else ""
    before = start = 0.0
    for batch_id in ("small", "large"):
        parts = BatchRepository(db).parts(batch_id)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak that the imports have left
        before, start = cpu(resource.RUSAGE_SELF), memory("VmRSS")
        for part in parts:
            assert part.key is not None
            lines = RequestRepository(db).lines(part.key)
            file_id = provider.upload(lines, tag="nm-bench")
            provider.create(lines, tag="nm-bench", file_id=file_id, model=MODELS[name], endpoint=endpoint)
    used = cpu(resource.RUSAGE_SELF) - before
    print(json.dumps({"cpu": used, "mb": memory("VmHWM") - start}))
    provider.close()
    db.close()


def measure(folder: Path, name: str, url: str, repeats: int) -> bool:
    """Print a line of the table and return whether the target is met."""
    file = folder / f"{name}.jsonl"
    child = [sys.executable, "-m", "bench.p4_submit", "--submit", name, "--folder", str(folder), "--url", url]
    base: list[float] = []
    ours: list[float] = []
    grown: list[float] = []
    for _ in range(repeats):  # in turns, so that a busy machine is unfair to both alike
        copied = run(["cp", str(file), str(folder / "copy")])
        curl = ["curl", "-sS", "-F", "purpose=batch", "-F", f"file=@{file}", f"{url}/files"]
        base.append(copied + run(curl))
        result = json.loads(subprocess.run(child, check=True, capture_output=True).stdout)
        ours.append(result["cpu"])
        grown.append(result["mb"])
    (folder / "copy").unlink()
    mine, theirs, more = statistics.median(ours), statistics.median(base), max(grown)
    print(f"{name:<10} {file.stat().st_size / 1e6:8.1f} {theirs:14.3f} {mine:10.3f} {mine / theirs:7.1f} {more:9.1f}")
    return mine <= TARGET_FACTOR * theirs and more <= TARGET_MB


def main() -> None:
    """Run the table, or one submission."""
    parser = argparse.ArgumentParser(description="P4: build and upload of a batch, every provider.")
    parser.add_argument("providers", nargs="*", default=NAMES)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--submit", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.submit:
        submit(asked.folder, asked.submit, asked.url)
        return
    with tempfile.TemporaryDirectory(prefix="nightmill-p4-") as name, SinkServer(("127.0.0.1", 0), Sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        print("provider         MB   cp + curl (s)   ours (s)   ratio   more MB")
        met = []
        for provider in asked.providers:
            store(Path(name), provider, asked.requests)
            met.append(measure(Path(name), provider, url, asked.repeats))
        server.shutdown()
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()

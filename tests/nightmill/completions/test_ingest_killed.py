"""A worker that is killed while it applies results applies none twice, and the next one goes on where it stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nightmill.storage.engine import Database
from nightmill.storage.outcomes import OutcomeRepository

NAMES = [f"r-{n}" for n in range(30)]


def answer(name: str) -> bytes:
    body = {"choices": [{"message": {"content": f"answer to {name}"}}]}
    return json.dumps({"custom_id": name, "response": {"status_code": 200, "body": body}}).encode()


def answered(db: Database) -> int:
    return OutcomeRepository(db).progress("b1").succeeded or 0


KILLED = """
import os, signal, sys
from pathlib import Path
from pydantic import SecretStr
from nightmill.completions import ingest
from nightmill.providers.base import ResultSource
from nightmill.providers.config import ProviderConfig
from nightmill.providers.openai import OpenAIProvider
from nightmill.settings import DatabaseSettings
from nightmill.storage.engine import open_database
from nightmill.storage.files import LocalFileStore
from nightmill.storage.models import BatchRow, ProviderBatchRow
from nightmill.storage.outcomes import OutcomeRepository

url, folder, source, point = sys.argv[1:]

class FromFile(OpenAIProvider):
    def results(self, provider_batch_id, refs):
        yield ResultSource(name="output", chunks=iter([Path(source).read_bytes()]))

seen = 0
def die(name):
    global seen
    seen += name == point
    if seen == 2:
        os.kill(os.getpid(), signal.SIGKILL)

ingest.PAGE_ROWS = 8
db = open_database(url, DatabaseSettings())
with db.reading() as session:
    batch, part = session.get(BatchRow, 1), session.get(ProviderBatchRow, 1)
provider = FromFile(ProviderConfig(api_key=SecretStr("key"), base_url="http://127.0.0.1:1"))
harvester = ingest.Harvester(OutcomeRepository(db), LocalFileStore(Path(folder)))
report = harvester.harvest(provider, part, batch, heartbeat=lambda _: None, fail_point=die)
print(report.lines)
"""


@pytest.mark.kill
@pytest.mark.parametrize(("point", "left"), [("harvest.page", 14), ("harvest.in_transaction", 22)])
def test_a_killed_worker_applies_no_entry_twice(
    database: Database, database_url: str, store_part: Any, tmp_path: Path, point: str, left: int
) -> None:
    store_part(database, *NAMES)
    source = tmp_path / "results.jsonl"
    source.write_bytes(b"".join(answer(name) + b"\n" for name in NAMES))

    def worker(point: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, database_url, str(tmp_path / "files"), str(source), point]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert worker(point).returncode == -signal.SIGKILL
    assert answered(database) == 30 - left
    after = worker("none")
    assert after.stdout.strip() == str(left), after.stderr
    assert answered(database) == 30

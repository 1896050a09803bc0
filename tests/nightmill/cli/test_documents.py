"""Documents from the command line: added, synced by a real worker from a real site, read, exported and purged."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from temporalio.client import Client

from nightmill import client
from nightmill.cli.document_output import diff_json
from nightmill.cli.fairness import Probe, probe, share_before
from nightmill.contracts import SyncResult
from nightmill.documents.differences import shown
from tests.nightmill.cli.conftest import Cli
from tests.site import Page, Site, failure
from tests.stack import Stack, TemporalServer, environment, eventually

URL = "https://example.com/faq"
MINE = ("--account", "acme", "--collection", "help")
RECORD = {
    "document_id", "account", "collection", "link", "result", "reason", "error_code", "exception_class", "attempt",
    "duration_ms",
}  # fmt: skip

Jsonl = Callable[..., str]


@pytest.fixture
def acme(cli: Cli) -> Cli:
    """A command line, and an account."""
    assert cli("account", "add", "acme", "--plan", "daily").code == 0
    return cli


def page(number: int, *, price: int = 10, clock: str = "12:00") -> Page:
    text = "".join(
        f"<p>Part {part} of article {number} says what its readers want to know about the harbour of the town, "
        f"which was built in {1700 + part} and costs its visitors {price} dollars on every day of the week.</p>"
        for part in range(8)
    )
    return Page(
        f"<!doctype html><title>Article {number}</title><main><h1>Article {number}</h1>{text}</main>"
        f"<footer>It is {clock}</footer>"
    )


def test_an_account_with_an_unknown_plan_is_made_with_a_warning_that_names_the_known_ones(cli: Cli) -> None:
    ended = cli("account", "add", "acme", "--plan", "Gold")
    assert ended.code == 0
    assert "no automatic sync; known are hourly, daily, weekly" in ended.message
    assert cli("account", "add", "acme", "--plan", "DAILY").err == ""
    assert cli("account", "add", "quiet", "--plan", "Gold", "--no-auto-sync").err == ""
    listed = {line["account"]: line for line in cli("account", "list").lines}
    assert {name: (line["plan"], line["auto_sync"]) for name, line in listed.items()} == {
        "acme": ("DAILY", True),
        "quiet": ("Gold", False),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["account", "add", "acme", "--plan", "daily", "--handler", '{"kind": "pigeon"}'], "change_handler"),
        (["account", "add", "a\nb", "--plan", "daily"], "account 'a"),
        (["document", "add", "ftp://example.com/", *MINE], "link 'ftp://example.com/'"),
        (["document", "add", URL, "--account", "nobody", "--collection", "x"], "no account 'nobody'"),
        (["document", "add", URL, *MINE, "--interval", "soon"], "interval 'soon'"),
        (["document", "add", URL, *MINE, "--watch", "--no-sync"], "--no-sync, --watch: give one of the two"),
        (["document", "show", "unknown"], "no document 'unknown'"),
        (["document", "sync"], "give ids of documents, or --all"),
        (["document", "sync", "x", "--all"], "DOCUMENT_ID: give ids, or options"),
        (["document", "list", "--status", "fine"], "--status: 'fine' is unknown; known are synced, syncing, failed"),
        (["document", "list", "--error-code", "oops"], "--error-code: 'oops' is unknown"),
        (["document", "import", "nowhere.csv"], "nowhere.csv: no such file"),
        (["document", "import", "."], ".: is a folder, not a file"),
        (["document", "export", "--account", "nobody"], "no account 'nobody'"),
        (["document", "export", "--format", "pdf"], "--format: 'pdf' is unknown"),
        (["document", "export", "-o", "no/where/a.jsonl"], "--output: no/where/a.jsonl: no file can be made there"),
        (["document", "crawl", URL, *MINE, "--max-time", "never"], "--max-time: 'never' is no duration"),
        (["document", "crawl", URL, *MINE, "--max-time", "P9999999D"], "--max-time: give 30 days at most"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(acme: Cli, arguments: list[str], message: str) -> None:
    ended = acme(*arguments)
    assert ended.code == 2
    assert ended.message.startswith(message)
    assert ended.out == ""


def test_a_link_is_added_once_in_all_its_spellings_without_a_temporal_server(acme: Cli) -> None:
    [first] = acme("document", "add", URL, *MINE, "--no-sync", "--interval", "12h", "--id", "faq").lines
    [second] = acme("document", "add", "HTTPS://EXAMPLE.com:443/faq?utm_source=x#top", *MINE, "--no-sync").lines
    assert first == {"document_id": "faq", "is_new": True}
    assert second == {"document_id": "faq", "is_new": False}
    assert acme("document", "add", f"{URL}/2", *MINE, "--no-sync", "--id", "faq").code == 2
    [shown] = acme("document", "list", "--account", "acme").lines
    assert (shown["link"], shown["interval"], shown["sync_status"]) == (URL, 43200.0, None)
    assert acme("document", "add", URL, *MINE).code == 5, "the sync needs Temporal"
    nothing = {"document_id": first["document_id"], "old": None, "new": None, "pieces": []}
    assert acme("document", "diff", first["document_id"]).lines == [nothing]
    assert acme("document", "diff", first["document_id"], "--no-json").out == ""
    assert acme("document", "history", first["document_id"]).lines == []
    assert acme("document", "disable", first["document_id"]).code == 0
    assert acme("document", "show", first["document_id"]).lines[0]["enabled"] is False
    assert acme("document", "enable", first["document_id"]).code == 0
    assert acme("document", "delete", first["document_id"]).code == 0
    assert acme("document", "list").lines == []


def test_an_import_names_the_lines_that_cannot_be_used_and_adds_the_others_once(acme: Cli, jsonl: Jsonl) -> None:
    good = [{"account": "acme", "collection": "help", "url": f"https://example.com/{n}"} for n in range(700)]
    bad = [
        "{oops",
        "[1]",
        {"account": "acme", "url": URL},
        {"account": "nobody", "collection": "x", "url": URL},
        {"account": "acme", "collection": "x", "url": "example.com"},
        {"account": "acme", "collection": "x", "url": URL, "interval": "soon"},
        {"account": "acme", "collection": "x", "url": URL, "colour": "red"},
    ]
    name = jsonl([*good[:300], *bad, *good[300:], good[0]])
    ended = acme("document", "import", name)
    assert ended.code == 3
    assert ended.lines == [{"new": 700, "known": 1, "refused": 7}]
    for number, why in enumerate(
        ["no JSON", "no JSON object", "collection: missing", "no account 'nobody'", "link 'example.com'", "interval",
         "colour: no such field"], 301,
    ):  # fmt: skip
        assert f"{name}:{number}: {why}" in ended.message
    assert acme("document", "import", jsonl(good)).lines == [{"new": 0, "known": 700, "refused": 0}]
    assert acme("document", "import", jsonl(bad)).code == 2
    many = acme("document", "import", jsonl([bad[0]] * 40))
    assert many.message.endswith("; and 20 more")
    assert acme("document", "import", jsonl([])).message.endswith(": no documents")


def test_an_import_reads_csv_with_names_and_intervals(acme: Cli, tmp_path: Path) -> None:
    rows = 'Account,Collection,URL,Name,Interval\nacme,help,https://example.com/a,"One, two",2h\n\nacme,help,x,,\n'
    (tmp_path / "pages.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    ended = acme("document", "import", "pages.csv")
    assert (ended.code, ended.lines) == (3, [{"new": 1, "known": 0, "refused": 1}])
    assert ended.message.startswith("pages.csv:4: link 'x'")
    [shown] = acme("document", "list").lines
    assert (shown["name"], shown["interval"]) == ("One, two", 7200.0)
    (tmp_path / "odd.csv").write_text("account,url\nacme,https://example.com/b\n")
    assert acme("document", "import", "odd.csv").message == "odd.csv:1: the first line names no column collection"


def test_pieces_of_a_difference_are_told_with_their_kinds_whatever_the_text_begins_with() -> None:
    old = "@@ 1\n\n+ two\n\nthree\n\nfour\n\nthe price of this is 10 dollars\n\nfive"
    new = "@@ 1\n\n+ two\n\nthree\n\nfour\n\nthe price of this is 12 dollars\n\n@@ six"
    assert diff_json("one", None, None, shown(old, new))["pieces"] == [
        {"kind": "left_out", "paragraphs": 3},
        {"kind": "kept", "text": "four"},
        {"kind": "changed", "text": "the price of this is [-10-] {+12+} dollars"},
        {"kind": "removed", "text": "five"},
        {"kind": "added", "text": "@@ six"},
    ]


@pytest.fixture
def live(stack: Stack, cli: Cli) -> Iterator[Cli]:
    """A command line on a stack with a worker."""
    stack.fork_worker()
    with environment(stack.environment):
        yield cli


@pytest.mark.server
@pytest.mark.timeout(90)
def test_documents_are_added_synced_watched_compared_and_exported(live: Cli, tmp_path: Path) -> None:
    live("account", "add", "acme", "--plan", "daily")
    with Site({f"/{n}": page(n) for n in range(4)}) as site:
        [first] = live("document", "add", site.url("/0"), *MINE, "--watch").lines
        assert first.keys() == RECORD
        assert (first["result"], first["link"], first["attempt"]) == ("updated", site.url("/0"), 1)
        rows = [{"account": "acme", "collection": "help", "url": site.url(f"/{n}")} for n in range(4)]
        (tmp_path / "pages.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        assert live("document", "import", "pages.jsonl").lines == [{"new": 3, "known": 1, "refused": 0}]
        ended = live("document", "sync", "--all", "--watch", "--json")
        assert (ended.code, ended.err) == (0, "")
        assert sorted(line["result"] for line in ended.lines) == ["not_modified", "updated", "updated", "updated"]

        site.pages["/1"] = page(1, price=12)
        site.pages["/2"] = page(2, clock="12:01")
        site.pages["/3"] = failure(404)
        ended = live("document", "sync", "--all", "--account", "acme", "--watch", "--json")
        found = {line["link"].rpartition("/")[2]: line for line in ended.lines}
        assert {name: line["result"] for name, line in found.items()} == {
            "0": "not_modified", "1": "updated", "2": "unchanged", "3": "permanent_failure"
        }  # fmt: skip
        assert (ended.code, found["3"]["error_code"]) == (3, "not_found")
        assert live("document", "sync", found["3"]["document_id"], "--watch").code == 1

        changed = found["1"]["document_id"]
        assert client.add_document(site.url("/1"), account="acme", collection="help", sync=False) == changed
        assert client.sync_document(changed).result is SyncResult.NOT_MODIFIED
        assert "costs its visitors 12 dollars" in (client.document_content(changed) or "")
        assert "{+12+}" in live("document", "diff", changed, "--no-json").out
        [compared] = live("document", "diff", changed).lines
        events = live("document", "history", changed).lines
        now, before = ({"fingerprint": event["new_fingerprint"], "name": "Article 1"} for event in events)
        for said, text in ((compared["new"], now), (compared["old"], before)):
            assert {key: said[key] for key in text} == text
            assert said["stored_at"].endswith("Z")
        assert {piece["kind"] for piece in compared["pieces"]} == {"kept", "changed"}
        [earlier] = live("document", "diff", changed, "--json", "--since", now["fingerprint"]).lines
        assert (earlier["old"], earlier["pieces"]) == (compared["new"], [])
        assert [event["result"] for event in events] == ["updated", "updated"]
        [shown] = live("document", "show", changed, "--content").lines
        assert (shown["sync_status"], shown["name"]) == ("synced", "Article 1")
        assert "costs its visitors 12 dollars" in shown["content"]
        [failed] = live("document", "list", "--status", "failed", "--error-code", "not_found").lines
        assert failed["document_id"] == found["3"]["document_id"]

        lines = live("document", "export").lines
        assert len(lines) == 4
        assert all("harbour of the town" in line["content"] for line in lines), "a failed sync keeps the last text"
        assert live("document", "export", "--format", "csv", "-o", "all.csv").code == 0
        with (tmp_path / "all.csv").open(newline="") as file:
            assert [row["link"] for row in csv.DictReader(file)] == [line["link"] for line in lines]
        parsed = list(csv.DictReader(io.StringIO(live("document", "export", "--format", "csv").out)))
        assert [row["content"] for row in parsed] == [line["content"] for line in lines]
        assert [line["sync"] for line in live("document", "sync", "--all", "--status", "synced").lines] == [
            "started"
        ] * 3
        [counted] = eventually(lambda: [
            line for line in live("account", "list").lines if line["documents"]["syncing"] == 0
        ])  # fmt: skip
        assert counted["documents"] == {"synced": 3, "syncing": 0, "failed": 1, "never": 0}


@pytest.mark.server
@pytest.mark.timeout(90)
def test_the_doctor_looks_at_documents_once_there_are_accounts(live: Cli) -> None:
    def found() -> dict[str, dict[str, str]]:
        return {line["check"]: line for line in live("doctor", "--json").lines}

    assert found()["documents"]["message"] == "no accounts: not used"
    live("account", "add", "acme", "--plan", "daily")
    live("account", "add", "other", "--plan", "Gold")
    plans = json.dumps({"daily": {"interval": "P1D"}, "broken": {"interval": "often"}})
    with environment({"NIGHTMILL_DOCUMENTS__PLANS": plans}):
        seen = found()
    names = ("plans", "accounts", "page addresses", "page reader", "schedule", "fairness")
    assert {name: seen[name]["state"] for name in names} == {
        "plans": "warn", "accounts": "warn", "page addresses": "warn", "page reader": "ok", "schedule": "ok",
        "fairness": "ok",
    }  # fmt: skip
    assert seen["plans"]["message"].startswith("broken: no interval")
    assert seen["accounts"]["message"] == "1 of 2 have a plan that syncs nothing: other"
    assert seen["fairness"]["message"] == "the server minds fairness keys"
    with environment({"NIGHTMILL_DOCUMENTS__SWEEP": "true"}):
        assert found()["schedule"]["fix"].startswith("a worker makes it when it starts, if it may; else")


@pytest.mark.server
@pytest.mark.timeout(90)
def test_the_doctor_sees_a_server_that_does_not_mind_fairness_keys(tmp_path: Path) -> None:
    server = TemporalServer(log=tmp_path / "server.log", fair=False)
    server.start()

    async def tried() -> tuple[Probe, int]:
        client = await Client.connect(server.address)
        seen = await probe(client)
        async with asyncio.timeout(30):
            while left := len([each async for each in client.list_workflows()]):
                await asyncio.sleep(0.1)
        return seen, left

    try:
        seen, left = asyncio.run(tried())
    finally:
        server.stop()
    assert (seen.is_fair, seen.partitions, left) == (False, 4, 0)


@pytest.mark.parametrize(
    ("order", "share"),
    [("aaab", 1.0), ("abbaaa", 0.25), ("baaa", 0.0), ("aabaab", 0.75), ("aaa", 1.0), ("", 1.0)],
)
def test_the_share_that_comes_before_the_few_tells_fair_from_first_come(order: str, share: float) -> None:
    assert share_before([{"a": "crowd"}.get(key, key) for key in order]) == share

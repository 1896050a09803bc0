"""Holds what users asked for against the providers' own log, the host's book, the sites, the mailbox and the files."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from nightmill.contracts import SlicingStatus, SyncStatus
from nightmill.sandbox.model import Batch, Outcome, ids_sha
from nightmill.slicer.model import Cut, Piece
from nightmill.slicer.samples.comparison import compare
from tests.chaos.ledger import Ledger
from tests.chaos.work import SMALL_PAGES, Work, prompt
from tests.pages import article
from tests.slicing import mails_to, stored_files


class Change(NamedTuple):
    """A change as the host was told of it: its number, and the fingerprints before and after."""

    number: int
    old: str | None
    new: str | None


def judge_batches(ledger: Ledger, work: Work) -> None:
    """One provider batch a part, each request answered as the provider answered it, each batch told of once."""
    scene = work.scene
    sandbox, host = scene.sandbox, scene.host
    jobs = [job for job in scene.plan.batches if job.id in work.accepted]
    asked = {ids_sha(part): (job, part) for job in jobs for part in job.parts}
    made: dict[str, list[Batch]] = defaultdict(list)
    for batch in sandbox._engine.batches.values():
        made[batch.ids_sha].append(batch)
    ledger.head("batches, by the providers' log and the host's book")
    ledger.count("asked for", len(jobs))
    creates = sandbox.log(operation="batches.create")
    ledger.count("creates sent", len(creates))
    ledger.count("answers of creates that were lost", sum("drop" in entry["faults"] for entry in creates))
    doubles = [f"{asked[sha][0].id}: {[one.id for one in found]}" for sha, found in made.items() if len(found) > 1]
    unknown = [f"{found[0].id} was asked for by nobody" for sha, found in made.items() if sha not in asked]
    ledger.check("provider batches", sum(map(len, made.values())), doubles + unknown)
    tags = Counter(batch.tag for found in made.values() for batch in found if batch.tag)
    ledger.check("marks of theirs", len(tags), [f"{tag}: {count} times" for tag, count in tags.items() if count > 1])

    effects: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)
    for batch_id, *row in host.read("SELECT batch, custom_id, status, text, code FROM effects"):
        effects[batch_id][row[0]] = tuple(row[1:])
    lost = [f"{job.id} ({job.provider}, {job.handler})" for job in jobs if job.id not in effects]
    ledger.check("told to the host", len(effects), [f"{each} was lost" for each in lost])
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    for sha, (job, part) in asked.items():
        given = made.get(sha, [])
        if not given and job.cancel_after is None:
            wrong.append(f"{job.id}: no provider batch for {part[0]} to {part[-1]}")
        for index, custom_id in enumerate(part):
            got = effects[job.id].get(custom_id)
            truth = given[0].outcome(index) if given else Outcome.CANCELLED
            outcomes["missing" if got is None else f"{got[0]} {got[2] or ''}"] += 1
            if got is not None and not _agrees(got, truth, custom_id):
                wrong.append(f"{custom_id}: the provider says {truth.name}, the host was told {got}")
            elif got is None and job.id in effects and effects[job.id]:
                wrong.append(f"{custom_id}: no outcome")
    ledger.check("requests with one outcome, the provider's", sum(outcomes.values()), wrong)
    for name, count in sorted(outcomes.items()):
        ledger.count(f"  {name}", count)
    _judge_calls(ledger, work)


def _agrees(got: tuple[Any, ...], truth: Outcome, custom_id: str) -> bool:
    status, text, code = got
    if truth is Outcome.SUCCEEDED:
        return status == "completed" and str(text).startswith(f"You said: {prompt(custom_id)}")
    codes = {
        Outcome.FAILED: {"provider_error"},
        Outcome.CANCELLED: {"canceled"},
        Outcome.EXPIRED: {"expired"},
    }
    return status == "failed" and code in codes[truth]


def _judge_calls(ledger: Ledger, work: Work) -> None:
    host = work.scene.host
    calls = host.read(
        "SELECT via, count(*), count(DISTINCT key) FROM calls WHERE key NOT LIKE '%.%' GROUP BY via ORDER BY via"
    )
    for via, count, keys in calls:
        ledger.count(f"calls by {via}: in all, and of them again for the same", f"{count}, {count - keys}")
    runs = host.read(
        "SELECT key, count(DISTINCT run) FROM calls WHERE via = 'workflow' GROUP BY key HAVING count(DISTINCT run) > 1"
    )
    ledger.check("handler workflows that ran twice", len(runs), [f"{key}: {count} runs" for key, count in runs])
    complaints = [text for (text,) in host.read("SELECT text FROM violations")]
    ledger.check("effects of the host's that were wanted twice", len(complaints), complaints)


async def judge_documents(ledger: Ledger, work: Work) -> None:
    """The content is the site's last one, and each change was told under one number."""
    scene = work.scene
    ledger.head("documents, by the sites and the host's book")
    wrong: list[str] = []
    told: dict[str, list[Change]] = defaultdict(list)
    for document, *change in scene.host.read("SELECT document, number, old, new FROM changes ORDER BY rowid"):
        told[document].append(Change(*change))
    for number, document_id in sorted(work.documents.items()):
        row = (await scene.nightmill.documents.get(document_id)).row
        found = await scene.nightmill.documents.content(document_id)
        expected = _words_of(number, work.published[number])
        if row.sync_status is not SyncStatus.SYNCED:
            wrong.append(f"{document_id}: {row.sync_status} {row.last_sync_error_reason or ''}")
        elif found is None or expected not in found.content:
            wrong.append(f"{document_id}: page {number} does not say {expected!r}")
        wrong += breaks(document_id, told[document_id], row.content_fingerprint)
    ledger.count("documents", len(work.documents))
    ledger.count("contents that were published", sum(work.published.values()))
    ledger.check("changes that the host was told of", sum(map(len, told.values())), wrong)
    again = sum(len(changes) - len({change.number for change in changes}) for changes in told.values())
    ledger.count("of them with a newer content than in a call that was lost", again)
    calls = scene.host.read("SELECT count(*) - count(DISTINCT key) FROM calls WHERE key LIKE '%.%'")[0][0]
    ledger.count("calls again for the same", calls)
    visits = [visit for site in scene.sites for visit in site.log]
    ledger.count("requests to the sites", len(visits))
    most = max((site.most_at_once for site in scene.sites), default=0)
    ledger.check("requests at once to one site", most, ["a host is asked one page at a time"] if most > 1 else [])


def _words_of(number: int, edition: int) -> str:
    """Return words of a page that only this edition has."""
    html = article(number, edition=edition).read().decode()
    return html.partition("<p>")[2].partition(" of which")[0].partition("in the year ")[2]


def breaks(document: str, told: list[Change], present: str | None) -> list[str]:
    """Return where the changes do not follow from each other.

    Where a call's success could not be recorded, and the content has moved on, the same change is told with the newer
    content and another id, as docs/handlers.md says.
    """
    found = []
    before = Change(0, None, None)
    for each in told:
        if each.number == before.number:
            follows = each.old == before.old
        else:
            follows = each.number == before.number + 1 and each.old == before.new
        if not follows:
            found.append(f"{document}: {each} follows {before}")
        before = each
    if before.new != present:
        found.append(f"{document}: the last content was not told")
    return found


async def judge_slicings(ledger: Ledger, work: Work) -> None:
    """Every slice once, as the PDF's own truth has it; the owner told once; no file but those of the slices."""
    scene = work.scene
    slicings = scene.nightmill.slicings
    ledger.head("slicings, by the PDFs' truth, the files and the mailbox")
    wrong: list[str] = []
    count = 0
    for number, (sha256, profile) in sorted(work.slicings.items()):
        row = await slicings.find(f"{sha256}/{profile}")
        name = f"slicing {number} ({sha256[:12]}, {profile})"
        if row.status not in (SlicingStatus.SLICED, SlicingStatus.NEEDS_REVIEW):
            wrong.append(f"{name}: {row.status} {row.error_code} {row.message}")
            continue
        slices = [each async for each in slicings.slices(row)]
        count += len(slices)
        if [each.position for each in slices] != list(range(len(slices))):
            wrong.append(f"{name}: positions {[each.position for each in slices]}")
        for each in slices:
            content = b"".join([piece async for piece in slicings.read_file(each.file_key or "")])
            if hashlib.sha256(content).hexdigest() != each.file_sha256:
                wrong.append(f"{name}: the file of slice {each.position} is another")
        if number in work.truths:
            pieces = [
                Piece(
                    each.name or each.issue_id,
                    each.start_page,
                    each.end_page,
                    full_text=each.full_text,
                    issuer=each.issuer,
                )
                for each in slices
            ]
            truth = work.truths[number]
            cut = Cut(pieces, number=truth.number, issued_on=truth.issued_on)
            wrong += [f"{name}: {each}" for each in compare(truth, cut).differences]
        elif [(each.start_page, each.end_page) for each in slices] != [(n, n) for n in range(SMALL_PAGES)]:
            wrong.append(f"{name}: {len(slices)} slices")
        files = {each.file_key.partition(f"/{profile}/")[2] for each in slices if each.file_key}
        kept = stored_files(scene, sha256, profile)  # type: ignore[arg-type]
        if kept - files != {f"{row.result_run}/result.jsonl"} or files - kept:
            wrong.append(f"{name}: files {sorted(kept ^ files)}")
    ledger.count("PDFs", len(work.slicings))
    ledger.check("slices", count, wrong)
    mails = Counter(str(mail["message-id"]) for mail in mails_to(scene.mailbox, "owner"))
    ledger.count("mails to owners: in all, and of them again", f"{mails.total()}, {mails.total() - len(mails)}")
    ledger.count("mails to operators", len(mails_to(scene.mailbox, "ops")))

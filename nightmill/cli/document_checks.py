"""What `nightmill doctor` looks at for documents; nothing of it where there are no accounts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightmill.cli.account import plan_trouble
from nightmill.cli.checks import Finding, State, reason_of
from nightmill.cli.recovery_checks import schedule_finding
from nightmill.cli.runtime import run_async
from nightmill.cli.temporal_checks import reached
from nightmill.errors import NightmillError, TemporalUnreachable

if TYPE_CHECKING:
    from temporalio.client import Client

    from nightmill.assembly import Assembly
    from nightmill.settings import DocumentSettings, Settings
    from nightmill.storage.document_models import AccountRow

_NAMED = 5  # accounts that a message names
_PAGE = b"<html><title>Test</title><body><main><p>%s</p></main></body></html>" % (
    b"A page with some words in it. " * 20
)


def examine_documents(assembly: Assembly) -> Iterator[Finding]:
    """Yield the findings about documents."""
    try:
        accounts = assembly.accounts.all()
    except Exception:  # noqa: BLE001 - that the database is away, or has no tables yet, has been said already
        return
    if not accounts:
        yield Finding("documents", State.OK, "no accounts: not used")
        return
    settings = assembly.settings
    yield _plans(settings.documents)
    yield _accounts(accounts, settings.documents)
    yield _addresses(settings.documents)
    yield _extractor(assembly)
    yield from run_async(_temporal(settings))


def _plans(settings: DocumentSettings) -> Finding:
    none = [name for name, plan in settings.plans.items() if plan.interval is None]
    if none:
        message = f"{', '.join(none)}: no interval that can be read, so no automatic sync"
        return Finding("plans", State.WARN, message, "set it in NIGHTMILL_DOCUMENTS__PLANS")
    return Finding("plans", State.OK, f"{', '.join(settings.plans) or 'none'}")


def _accounts(accounts: list[AccountRow], settings: DocumentSettings) -> Finding:
    troubled = [row.name for row in accounts if plan_trouble(row, settings)]
    if troubled:
        named = ", ".join(troubled[:_NAMED]) + (" …" if len(troubled) > _NAMED else "")
        message = f"{len(troubled):,} of {len(accounts):,} have a plan that syncs nothing: {named}"
        return Finding("accounts", State.WARN, message, "`nightmill account list` says why")
    return Finding("accounts", State.OK, f"{len(accounts):,}, each with a plan that is known")


def _addresses(settings: DocumentSettings) -> Finding:
    if settings.allow_private_addresses:
        message = "pages of private networks and loopback are fetched, which is for tests and intranets only"
        fix = "unset NIGHTMILL_DOCUMENTS__ALLOW_PRIVATE_ADDRESSES"
        return Finding("page addresses", State.WARN, message, fix)
    return Finding("page addresses", State.OK, "public ones only")


def _extractor(assembly: Assembly) -> Finding:
    try:
        reading = assembly.extractor.read(_PAGE, media_type="text/html", charset="utf-8", url="http://doctor.invalid/")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return Finding("page reader", State.FAIL, reason_of(error), "reinstall Nightmill with its dependencies")
    if "some words" not in reading.content:
        return Finding("page reader", State.FAIL, "a page's text was not found", "reinstall Nightmill")
    return Finding("page reader", State.OK, "starts, and finds a page's text")


async def _temporal(settings: Settings) -> list[Finding]:
    from temporalio.service import RPCError

    from nightmill.client.schedules import SYNC_SWEEP

    try:
        client = await reached(settings)
        return [await schedule_finding(client, settings, SYNC_SWEEP), await _fairness(client)]
    except NightmillError:  # that Temporal is away has been said already
        return []
    except RPCError as error:
        return [Finding(SYNC_SWEEP.called, State.FAIL, f"{error.message}", "check the rights of the API key")]


async def _fairness(client: Client) -> Finding:
    from temporalio.service import RPCError

    from nightmill.cli.fairness import probe

    try:
        seen = await probe(client)
    except (RPCError, TemporalUnreachable) as error:
        return Finding("fairness", State.WARN, f"could not be tried: {error}", "check the rights of the API key")
    flags = "matching.enableFairness=true"
    one = "matching.numTaskqueueReadPartitions=1 and matching.numTaskqueueWritePartitions=1"
    if not seen.is_fair:
        message = "the server does not mind fairness keys: when workers are short, one account makes others wait"
        return Finding("fairness", State.WARN, message, f"set {flags} in the server's dynamic configuration")
    if seen.partitions > 1:
        message = f"the server seems to mind fairness keys, over {seen.partitions} partitions on average only"
        return Finding("fairness", State.OK, message, f"exact with {one}")
    return Finding("fairness", State.OK, "the server minds fairness keys")

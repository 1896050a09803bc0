"""`nightmill slice health` and `nightmill slice breaker`: are the slicers well, and who may use them."""

from __future__ import annotations

import asyncio
import getpass
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightmill.cli.ending import ExitCode
from nightmill.cli.output import (
    JsonFlag,
    ago,
    note,
    one_line,
    print_facts,
    print_json,
    print_table,
    say,
    shortened,
    wants_json,
)
from nightmill.errors import InvalidInput

if TYPE_CHECKING:
    from nightmill.assembly import Assembly
    from nightmill.client.nightmill import Nightmill
    from nightmill.contracts import CanaryOutcome
    from nightmill.storage.slicing_models import BreakerTransitionRow, SlicerBreakerRow

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    help="See, open and close the breakers over the slicers; while one is open, new slicings wait.",
    epilog="\b\nExample:\n  nightmill slice breaker open gazette --reason 'a new version is tried out'",
)

CANARY_ENDS_WITHIN = "5m"
"""How long `health` waits by default: the canary's own limit is 3 min."""

_HISTORY = 10

Profile = Annotated[str, typer.Argument(metavar="PROFILE", help="The slicer profile.")]


def register(parent: typer.Typer) -> None:
    """Add the commands to `nightmill slice`."""
    parent.command(epilog="\b\nExample:\n  nightmill slice health --profile gazette --json")(health)
    parent.add_typer(app, name="breaker")


def health(
    profile: Annotated[str, typer.Option(help="The slicer profile.")] = "gazette",
    timeout: Annotated[str, typer.Option(help="Stop waiting after this long.")] = CANARY_ENDS_WITHIN,
    json_: JsonFlag = None,
) -> None:
    """Slice a small document whose right answer is known, now.

    The exit code is 0 if the answer was right, 1 if it was wrong, 4 if no answer came in time or another such check
    is under way. Over an open breaker a right answer closes it.
    """
    from nightmill.cli.progress import bar
    from nightmill.cli.runtime import duration_of, run_async
    from nightmill.client.nightmill import Nightmill

    limit = duration_of(timeout, "--timeout")
    _check_profile(profile)

    async def work() -> tuple[CanaryOutcome | None, dict[str, Any]]:
        async with Nightmill.connect() as nightmill:
            with bar("slicing the canary"):
                outcome = await nightmill.slicings.check_health(profile, timeout=limit)
            return outcome, await asyncio.to_thread(_stand, nightmill.assembly, profile)

    try:
        outcome, stand = run_async(work())
    except TimeoutError:
        note(f"No answer within {timeout}: does a slicing worker run? The check goes on, and is waited for again.")
        raise typer.Exit(ExitCode.WAITING) from None
    except KeyboardInterrupt:
        note("Stopped waiting; the check goes on.")
        raise typer.Exit(ExitCode.WAITING) from None
    passed = None if outcome is None else outcome.passed
    message = "another canary is being sliced" if outcome is None else outcome.message
    duration = None if outcome is None else outcome.duration
    if wants_json(json_):
        took = None if duration is None else duration.total_seconds()
        print_json({"profile": profile, "passed": passed, "message": message, "duration": took, "breaker": stand})
    else:
        from nightmill.contracts import duration_text

        word = "not known" if passed is None else "ok" if passed else "failed"
        print_facts(
            [
                ("profile", profile),
                ("health", word),
                ("reason", message),
                ("took", None if duration is None else duration_text(duration)),
                ("breaker", stand["state"]),
                ("waiting", f"{stand['parked']:,} documents" if stand["parked"] else None),
            ]
        )
    raise typer.Exit(ExitCode.WAITING if passed is None else ExitCode.FINE if passed else ExitCode.FAILED)


@app.callback()
def breaker(context: typer.Context) -> None:
    """See, open and close the breakers over the slicers."""
    if context.invoked_subcommand is None:
        list_breakers()


@app.command("list", epilog="\b\nExample:\n  nightmill slice breaker list gazette")
def list_breakers(
    profile: Annotated[
        str | None, typer.Argument(metavar="[PROFILE]", help="Only this profile's, with what happened to it.")
    ] = None,
    json_: JsonFlag = None,
) -> None:
    """Show how the breakers stand, or all about one of them."""
    from nightmill.cli.runtime import stored

    as_json = wants_json(json_)
    if profile is not None:
        _check_profile(profile)
    with stored() as assembly:
        if profile is not None:
            history = assembly.slicing.breakers.history(profile, limit=_HISTORY)
            stand = _stand(assembly, profile)
            if as_json:
                print_json(stand | {"history": [_transition_json(each) for each in history]})
            else:
                _print_breaker(assembly.slicing.breakers.get(profile), stand["parked"], history)
            return
        stands = [_stand(assembly, name) for name in _profiles(assembly)]
        rows = {row.profile: row for row in assembly.slicing.breakers.all()}
    if as_json:
        for each in stands:
            print_json(each)
        return
    print_table(
        ["profile", "breaker", "since", "waiting", "canary", "reason"],
        [
            [
                each["profile"],
                each["state"],
                ago(each["opened_at"]),
                f"{each['parked']:,}" if each["parked"] else "",
                _canary_of(rows.get(each["profile"])),
                shortened(each["reason"], 200),
            ]
            for each in stands
        ],
        numbers=["waiting"],
    )


@app.command(
    "open", epilog="\b\nExample:\n  nightmill slice breaker open gazette --reason 'a new version is tried out'"
)
def open_breaker(
    profile: Profile,
    reason: Annotated[str, typer.Option(help="Why; operators and whoever waits are told.")],
    json_: JsonFlag = None,
) -> None:
    """Let new slicings wait until the breaker is closed by hand; those that run go on."""
    _change(profile, _checked(reason), opens=True, as_json=wants_json(json_))


@app.command("close", epilog="\b\nExample:\n  nightmill slice breaker close gazette --reason 'the disk is replaced'")
def close_breaker(
    profile: Profile,
    reason: Annotated[str, typer.Option(help="Why; operators are told.")] = "closed by hand",
    json_: JsonFlag = None,
) -> None:
    """Let a profile slice again; what waits goes on in order."""
    _change(profile, _checked(reason), opens=False, as_json=wants_json(json_))


def _checked(reason: str) -> str:
    text = one_line(reason).strip()
    if not text:
        raise InvalidInput("--reason: say why")
    return text


def _change(profile: str, reason: str, *, opens: bool, as_json: bool) -> None:
    from nightmill.cli.runtime import run_async
    from nightmill.client.nightmill import Nightmill

    _check_profile(profile)
    by = user_name()

    async def work(nightmill: Nightmill) -> tuple[int, dict[str, Any]]:
        before = (await asyncio.to_thread(nightmill.assembly.slicing.breakers.get, profile)).transitions
        act = nightmill.slicings.open_breaker if opens else nightmill.slicings.close_breaker
        await act(profile, reason=reason, by=by)
        return before, await asyncio.to_thread(_stand, nightmill.assembly, profile)

    async def connected() -> tuple[int, dict[str, Any]]:
        async with Nightmill.connect() as nightmill:
            return await work(nightmill)

    before, stand = run_async(connected())
    if as_json:
        print_json(stand)
        return
    already = " already" if stand["transitions"] == before else ""
    if not opens:
        say(f"The breaker of {profile} is {stand['state']}{already}; what waited goes on in order.")
        return
    say(f"The breaker of {profile} is held open{already}, by {stand['changed_by']}: {stand['reason']}")
    say(f"New slicings wait until: nightmill slice breaker close {profile}")


def user_name() -> str:
    """Return who types: the operating system's name of the user, or its number where that has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user often has no name
        return f"user {os.getuid()}"


def _check_profile(profile: str) -> None:
    from nightmill.settings import load_settings
    from nightmill.slicing.profiles import find_profile

    find_profile(load_settings().slicing, profile)


def _profiles(assembly: Assembly) -> list[str]:
    """Return all profiles, those that are not in the settings any more included."""
    from nightmill.slicing.profiles import profile_names

    kept = (row.profile for row in assembly.slicing.breakers.all())
    return sorted({*profile_names(assembly.settings.slicing), *kept})


def _stand(assembly: Assembly, profile: str) -> dict[str, Any]:
    """Return how a breaker stands in the shape that programs rely on."""
    row = assembly.slicing.breakers.get(profile)
    names = (
        "profile", "state", "reason", "changed_by", "opened_at", "probes", "probe_at", "transitions", "canary_at",
        "canary_passed", "canary_message", "canary_ms",
    )  # fmt: skip
    parked = len(assembly.slicing.slicings.parked(profile))
    return {name: getattr(row, name) for name in names} | {"parked": parked}


def _transition_json(transition: BreakerTransitionRow) -> dict[str, Any]:
    return transition.model_dump(exclude={"message_id", "profile"})


def _print_breaker(row: SlicerBreakerRow, parked: int, history: list[BreakerTransitionRow]) -> None:
    faults = sum(not fault["spent"] for fault in row.faults)
    print_facts(
        [
            ("profile", row.profile),
            ("breaker", row.state.value),
            ("since", ago(row.opened_at)),
            ("reason", row.reason),
            ("by", row.changed_by),
            ("waiting", f"{parked:,} documents" if parked else "nothing"),
            ("faults in a row", f"{faults}" if faults else None),
            ("canaries that failed", f"{row.probes}" if row.probes else None),
            ("next canary", ago(row.probe_at)),
            ("last canary", _canary_of(row)),
            ("", row.canary_message if row.canary_passed is False else None),
        ]
    )
    if history:
        print_table(
            ["when", "state", "by", "operators", "reason"],
            [
                [
                    ago(each.at),
                    each.state.value,
                    each.changed_by,
                    "told" if each.told_at else "not told yet",
                    shortened(each.reason, 200),
                ]
                for each in history
            ],
        )


def _canary_of(row: SlicerBreakerRow | None) -> str:
    if row is None or row.canary_at is None:
        return ""
    from nightmill.contracts import duration_text

    word = "right" if row.canary_passed else "wrong"
    took = f" after {duration_text(timedelta(milliseconds=row.canary_ms))}" if row.canary_ms is not None else ""
    return f"{word}{took}, {ago(row.canary_at)}"

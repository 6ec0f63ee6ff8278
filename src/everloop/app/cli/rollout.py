"""`everloop rollout …`: let a version prove itself, watch it, and decide by hand where one wants to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from everloop.app.cli.group import Group
from everloop.app.cli.options import Json, Model, Note, Url

if TYPE_CHECKING:
    from everloop.app.client import Client

HELP = """Let a new version prove itself: part of the traffic first, all of it when nothing speaks against it.

Errors, latency and the quality on labels that come later are tested at every look, over all processes; the level holds however often
one looks. Crashes, timeouts and NaN bring the version back at once. What happened is told by `everloop models timeline`.

\b
  everloop models register fraud fraud.onnx --stage --name v2.0
  everloop rollout start fraud v2.0              canary: 1 %, 5 %, 25 %, then everybody
  everloop rollout watch fraud                   step, requests, labels, what the gates say
  everloop rollout pause fraud --note "looking into it"
  everloop rollout promote fraud                 or: rollback, stop
  everloop models timeline fraud
"""
rollout = typer.Typer(cls=Group, help=HELP, no_args_is_help=True, rich_markup_mode=None)

START = """Start to roll a version out.

VERSION is a number, a name or an alias; without it, the newest that waits. Strategies:

\b
  canary       part of the traffic, growing in --steps; promoted at the end unless a gate found it worse
  ab           one fixed --share, to its time and samples; then the verdict
  shadow       a copy of the traffic, whose answers nobody gets; then the verdict
  blue_green   opened and warm, then everybody at once, watched, the old one kept ready
  immediate    everybody, at once

\b
  everloop rollout start fraud v2.0
  everloop rollout start fraud 7 --steps 1,5,25 --seconds 600 --samples 500 --labels 50
  everloop rollout start fraud 7 --strategy ab --share 50% --seconds 86400
  everloop rollout start fraud 7 --strategy shadow --samples 10000
  everloop rollout start fraud 7 --wait          in CI: exit code 0 promoted, 1 not
"""
Revision = Annotated[
    int | None, typer.Option(min=1, help="Only if it is still at this revision (as `show --json` told).")
]
Wait = Annotated[bool, typer.Option("--wait", help="Follow it to its end: exit code 0 if it was promoted, 1 if not.")]


@rollout.command(help=START)
def start(
    model: Model,
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", show_default="the newest that waits")] = None,
    *,
    strategy: Annotated[str, typer.Option(help="canary, ab, shadow, blue_green, immediate.")] = "canary",
    steps: Annotated[str | None, typer.Option(metavar="PERCENTS", help="Of a canary.", show_default="1,5,25")] = None,
    share: Annotated[str | None, typer.Option(metavar="SHARE", help="Of an A/B test.", show_default="50%")] = None,
    seconds: Annotated[float | None, typer.Option(help="Least time of a step.", show_default="of the strategy")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Least requests of a step.", show_default="of the strategy")
    ] = None,
    labels: Annotated[int | None, typer.Option(help="Least labels of a step.", show_default="0")] = None,
    level: Annotated[
        float | None,
        typer.Option(help="Chance that a version no worse is brought back, over all gates.", show_default="0.05"),
    ] = None,
    errors: Annotated[bool, typer.Option("--errors/--no-errors", help="Test for more errors.")] = True,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="Test for slower answers.")] = True,
    quality: Annotated[bool, typer.Option("--quality/--no-quality", help="Test for worse quality, by labels.")] = True,
    latency_tolerance: Annotated[
        float | None, typer.Option(help="How much slower is no fault, as 0.1 for 10 %.", show_default="0.1")
    ] = None,
    failures: Annotated[
        int | None, typer.Option(help="Unusable answers that bring it back at once.", show_default="1")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which an answer counts as hanging.", show_default="5")
    ] = None,
    at_end: Annotated[
        str | None,
        typer.Option(
            help="promote, roll_back or hold, when no gate has decided.", show_default="promote; ab, shadow: hold"
        ),
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Without an end by then it is inconclusive.", show_default="7 days")
    ] = None,
    early: Annotated[
        bool | None,
        typer.Option("--early/--no-early", help="Promote before the last step where it is found better."),
    ] = None,
    note: Note = "",
    wait: Wait = False,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.group import UsageError
    from everloop.app.client import model_path
    from everloop.core.errors import InvalidInput

    gates = {
        "level": level,
        "errors": errors,
        "latency": latency,
        "quality": quality,
        "latency_tolerance": latency_tolerance,
        "failures": failures,
        "timeout": timeout,
    }
    plan = {
        "strategy": strategy,
        "steps": steps,
        "share": share,
        "seconds": seconds,
        "samples": samples,
        "labels": labels,
        "gates": {name: value for name, value in gates.items() if value is not None},
        "at_end": at_end,
        "max_seconds": max_seconds,
        "promote_early": early,
    }
    with _connect(url) as client:
        body = {"version": version or _newest_waiting(client, model), "note": note, **plan}
        try:
            found = client.call("POST", model_path(model, "rollout"), body)
        except InvalidInput as error:
            raise UsageError(error.message) from error
        _answer(client, found, wait=wait, as_json=json)


@rollout.command(
    help="The newest rollout: where it stands, what was seen of both versions, what each gate makes of it."
)
def show(model: Model, *, url: Url = None, json: Json = False) -> None:
    from everloop.app.cli.output import as_json, data
    from everloop.app.cli.rollout_view import show_rollout
    from everloop.app.client import model_path

    with _connect(url) as client:
        found = client.get(model_path(model, "rollout"))
    if json:
        data(as_json(found))
    else:
        show_rollout(found)


@rollout.command(
    help="Follow the newest rollout to its end: exit code 0 if it was promoted, 1 if not. Ctrl-C leaves it as it is."
)
def watch(model: Model, *, url: Url = None, json: Json = False) -> None:
    from everloop.app.client import model_path

    with _connect(url) as client:
        _answer(client, client.get(model_path(model, "rollout")), wait=True, as_json=json)


@rollout.command(help="Everybody stays where they are; only crashes, timeouts and NaN still bring the version back.")
def pause(model: Model, *, note: Note = "", revision: Revision = None, url: Url = None, json: Json = False) -> None:
    _act(model, "pause", note, revision, url, as_json=json)


@rollout.command(help="Go on with a paused rollout; the pause does not count as time of the step.")
def resume(model: Model, *, note: Note = "", revision: Revision = None, url: Url = None, json: Json = False) -> None:
    _act(model, "resume", note, revision, url, as_json=json)


@rollout.command(help="The new version serves everybody from now on, whatever the gates still ask for.")
def promote(model: Model, *, note: Note = "", revision: Revision = None, url: Url = None, json: Json = False) -> None:
    _act(model, "promote", note, revision, url, as_json=json)


@rollout.command(help="The old version serves everybody again; the new one is rejected.")
def rollback(model: Model, *, note: Note = "", revision: Revision = None, url: Url = None, json: Json = False) -> None:
    _act(model, "rollback", note, revision, url, as_json=json)


@rollout.command(help="End it without a verdict: the old version serves everybody, the new one waits as before.")
def stop(model: Model, *, note: Note = "", revision: Revision = None, url: Url = None, json: Json = False) -> None:
    _act(model, "stop", note, revision, url, as_json=json)


@rollout.command(help="All rollouts of a model, and how they ended.")
def history(model: Model, *, url: Url = None, json: Json = False) -> None:
    from everloop.app.cli.output import as_json, data, table, when
    from everloop.app.client import model_path

    with _connect(url) as client:
        found = client.get(model_path(model, "rollouts"))
    if json:
        data(as_json(found))
        return
    table(
        ("rollout", "version", "against", "plan", "state", "started", "by", "reason"),
        [
            (
                r["id"],
                r["challenger"],
                r["champion"],
                r["summary"],
                r["state"],
                when(r["started_at"]),
                r["by"],
                r["reason"],
            )
            for r in found["rollouts"]
        ],
    )


def _act(model: str, verb: str, note: str, revision: int | None, url: str | None, *, as_json: bool) -> None:
    from everloop.app.client import model_path

    with _connect(url) as client:
        found = client.call("POST", model_path(model, "rollout", verb), {"note": note, "revision": revision})
        _answer(client, found, wait=False, as_json=as_json)


def _answer(client: Client, found: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    """The rollout on stdout: as JSON, or its state; where it stands, on stderr."""
    from everloop.app.cli.output import as_json as to_json
    from everloop.app.cli.output import data, say
    from everloop.app.cli.rollout_view import follow, standing

    if wait:
        found = follow(client, found)
    if as_json:
        data(to_json(found))
    else:
        data(found["state"])
        if not wait:
            say(standing(found))
    if wait and found["state"] != "promoted":
        raise typer.Exit(1)


def _newest_waiting(client: Client, model: str) -> int:
    """Raises Conflict where no version waits."""
    from everloop.app.client import model_path
    from everloop.core.errors import Conflict

    waiting = [v["version"] for v in client.get(model_path(model, "versions"))["versions"] if v["status"] == "staging"]
    if not waiting:
        raise Conflict(
            f"no version of {model!r} waits; hand one in with `everloop models register {model} FILE --stage`, or say which"
        )
    return int(waiting[-1])


def _connect(url: str | None) -> Client:
    from everloop.app.cli.calls import connect

    return connect(url)

"""`everloop models …` on versions: what there is, what it is called, where it came from, and who is answered by which.

It adds its commands to the group of `cli.models`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from everloop.app.cli.models import models
from everloop.app.cli.options import Json, Model, Note, Url, Version

if TYPE_CHECKING:
    from everloop.app.client import Client


@models.command(help="A model's versions: when, how good, which one serves, and whose share of the traffic it has.")
def versions(model: Model, *, url: Url = None, json: Json = False) -> None:
    from everloop.app.cli.output import as_json, data, number, share, table, when
    from everloop.app.client import model_path

    with _connect(url) as client:
        found = client.get(model_path(model, "versions"))
    if json:
        data(as_json(found))
        return
    table(
        ("version", "name", "status", "traffic", "aliases", "made", "runtime", "metrics", "tags", "note"),
        [
            (
                v["version"],
                v["name"],
                "serving" if v["serving"] else v["status"],
                "shadow" if v["shadow"] else share(v["share"]) if v["share"] else "–",
                ", ".join(v["aliases"]),
                when(v["created_at"]),
                v["runtime"],
                ", ".join(f"{key} {number(value)}" for key, value in v["metrics"].items()),
                ", ".join(f"{key}={value}" for key, value in v["tags"].items()),
                v["note"],
            )
            for v in found["versions"]
        ],
        sparse=True,
    )


@models.command(help="Make a version the one that serves everybody, at once. `everloop rollout` does it step by step.")
def promote(model: Model, version: Version, *, note: Note = "", url: Url = None, json: Json = False) -> None:
    _change(model, "promote", {"version": version, "note": note}, url, as_json=json)


@models.command(help="Back to the version that served before; a rollout that is under way is rolled back.")
def rollback(model: Model, *, note: Note = "", url: Url = None, json: Json = False) -> None:
    _change(model, "rollback", {"note": note}, url, as_json=json)


@models.command(help="Put a version that does not serve out of use.")
def archive(model: Model, version: Version, *, url: Url = None, json: Json = False) -> None:
    _change(model, "archive", {"version": version}, url, as_json=json)


@models.command(help="Fit now, instead of waiting for the learner.")
def train(
    model: Model,
    *,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the fit.", min=1.0)] = 3600.0,
    url: Url = None,
    json: Json = False,
) -> None:
    _change(model, "train", {}, url, as_json=json, timeout=timeout)


@models.command(
    help="Look for a faster form of the version that serves, in the background of the server: what comes of it is on the timeline."
)
def optimize(
    model: Model,
    *,
    int8: Annotated[bool, typer.Option("--int8", help="INT8 as well, whose answers differ a little.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.output import as_json, data, say
    from everloop.app.client import model_path

    with _connect(url) as client:
        found = client.call("POST", model_path(model, "optimize"), {"int8": int8})
    if json:
        data(as_json(found))
        return
    data(found["state"])
    say(f"{model} version {found['version']}: {found['state']} {found['reason']}")
    say(f"follow it with `everloop models timeline {model} --follow`")


ALIAS = """Names that stand for versions, as in fraud@stable: list them, set one, take one away.

\b
  everloop models alias fraud                    what there is
  everloop models alias fraud stable 3
  everloop models alias fraud stable --remove
"""


@models.command(help=ALIAS)
def alias(
    model: Model,
    name: Annotated[str | None, typer.Argument(metavar="[ALIAS]")] = None,
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="What it shall stand for.")] = None,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Take it away.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.group import UsageError
    from everloop.app.cli.output import as_json, data, table
    from everloop.app.client import model_path

    if (name is None) != (version is None) and not (remove and name is not None and version is None):
        raise UsageError("say ALIAS and VERSION, or ALIAS --remove, or nothing to list them")
    if remove and (name is None or version is not None):
        raise UsageError("--remove takes an ALIAS and no VERSION")
    with _connect(url) as client:
        if remove:
            client.call("DELETE", model_path(model, "aliases", name or ""))
        elif name is not None:
            client.call("PUT", model_path(model, "aliases", name), {"version": version})
        found = client.get(model_path(model, "aliases"))
    if json:
        data(as_json(found))
        return
    table(("alias", "version"), list(found["aliases"].items()))


@models.command(help="Tags of a version: KEY=VALUE each; KEY= takes one away.")
def tag(
    model: Model,
    version: Version,
    tags: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...")],
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.group import UsageError

    wanted: dict[str, str | None] = {}
    for text in tags:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{text}: expected KEY=VALUE")
        wanted[key.strip()] = value.strip() or None
    _describe(model, version, {"tags": wanted}, url, as_json=json)


@models.command(help="The note of a version; an empty one takes it away.")
def note(
    model: Model,
    version: Version,
    text: Annotated[str, typer.Argument(metavar="TEXT")],
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    _describe(model, version, {"note": text}, url, as_json=json)


@models.command(help="What a version is called, like v2.0; unique within the model, an empty name takes it away.")
def name(
    model: Model,
    version: Version,
    text: Annotated[str, typer.Argument(metavar="TEXT")],
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    _describe(model, version, {"name": text}, url, as_json=json)


@models.command(help="Where a version comes from: its parents, its examples, the alarm that asked for it.")
def lineage(model: Model, version: Version, *, url: Url = None, json: Json = False) -> None:
    from everloop.app.cli.output import as_json, data, say, table, when
    from everloop.app.client import model_path

    with _connect(url) as client:
        found = client.get(model_path(model, "versions", version, "lineage"))
    if json:
        data(as_json(found))
        return
    table(
        ("version", "name", "status", "made", "by", "reason", "examples", "drift", "note"),
        [
            (
                each["version"],
                each["name"],
                each["status"],
                when(each["created_at"]),
                each["by"],
                each["reason"],
                _examples(each),
                each["alarm"]["message"] if each["alarm"] else "",
                each["note"],
            )
            for each in found["chain"]
        ],
        sparse=True,
    )
    if found["children"]:
        say(f"trained from it: {', '.join(f'version {number}' for number in found['children'])}")


TRAFFIC = """Who is answered by which version: show it, or split it by hand.

Shares are percents with the sign, or from 0 to 1, and sum to 100 %. Users stay where they are as far as the new shares allow.
A rollout (`everloop rollout start`) does this by itself, and takes the version back if it is worse.

\b
  everloop models traffic fraud                      what there is
  everloop models traffic fraud champion=95% v2.0=5%
  everloop models traffic fraud champion=100% --shadow v2.0
"""


@models.command(help=TRAFFIC)
def traffic(
    model: Model,
    shares: Annotated[list[str] | None, typer.Argument(metavar="[VERSION=SHARE]...")] = None,
    *,
    shadow: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The version that is shown a copy of the traffic.")
    ] = None,
    note: Note = "",
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.group import UsageError
    from everloop.app.cli.output import as_json, data, share, table
    from everloop.app.client import model_path

    if shadow is not None and not shares:
        raise UsageError("--shadow goes with the shares: whatever is not said is taken away; e.g. champion=100%")
    with _connect(url) as client:
        if shares:
            body = {"weights": read_shares(shares), "shadow": shadow, "note": note}
            found = client.call("PUT", model_path(model, "traffic"), body)
        else:
            found = client.get(model_path(model, "traffic"))
    if json:
        data(as_json(found))
        return
    rows = [
        (int(number), share(weight), "champion" if int(number) == found["live_version"] else "")
        for number, weight in found["weights"].items()
    ]
    if found["shadow"] is not None:
        rows.append((found["shadow"], "a copy", "shadow"))
    table(("version", "traffic", ""), rows)


def read_shares(texts: list[str]) -> dict[str, float]:
    """`v2.0=5%` or `2=0.05` -> share by version. Raises UsageError."""
    from everloop.app.cli.group import UsageError

    found: dict[str, float] = {}
    for text in texts:
        version, equals, value = text.rpartition("=")
        try:
            number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
        except ValueError:
            number = -1.0
        if not equals or not version.strip() or not 0 <= number <= 1:
            raise UsageError(f"{text}: expected VERSION=SHARE, e.g. champion=95% or 2=0.05")
        found[version.strip()] = number
    return found


def _examples(ancestor: dict[str, Any]) -> str:
    count, first, last = (ancestor[key] for key in ("examples", "first_example", "last_example"))
    return "" if count is None else f"{count:,}" if first is None else f"{count:,} ({first}–{last})"


def _describe(model: str, version: str, body: dict[str, Any], url: str | None, *, as_json: bool) -> None:
    from everloop.app.cli.output import as_json as to_json
    from everloop.app.cli.output import data, say
    from everloop.app.client import model_path

    with _connect(url) as client:
        made = client.call("PATCH", model_path(model, "versions", version), body)
    if as_json:
        data(to_json(made))
        return
    data(str(made["version"]))
    tags = ", ".join(f"{key}={value}" for key, value in made["tags"].items())
    say(f"{model} version {made['version']}: " + ("; ".join(filter(None, (made["name"], tags, made["note"]))) or "–"))


def _change(
    model: str, verb: str, body: dict[str, Any], url: str | None, *, as_json: bool, timeout: float = 60.0
) -> None:
    from everloop.app.cli.output import as_json as to_json
    from everloop.app.cli.output import data, say
    from everloop.app.client import model_path

    with _connect(url, timeout=timeout) as client:
        made = client.call("POST", model_path(model, verb), body)
    if as_json:
        data(to_json(made))
        return
    data(str(made["version"]))
    say(f"{model} version {made['version']} {'serves now' if made['serving'] else 'is ' + made['status']}")


def _connect(url: str | None, *, timeout: float = 60.0) -> Client:
    from everloop.app.cli.calls import connect

    return connect(url, timeout=timeout)

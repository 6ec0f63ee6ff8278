"""`everloop models …`: look at the models of a running server, create and remove them, follow what happens to them.

The group's commands on versions are in `cli.versions`, those on files in `cli.transfer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from everloop.app.cli.group import Group
from everloop.app.cli.options import Json, Model, Url

if TYPE_CHECKING:
    from everloop.app.client import Client

HELP = """Look at a server's models, and change what serves.

\b
  everloop models list
  everloop models create price --kind linear --param with_bias=true --set min_samples=50
  everloop models show price
  everloop models register price price.onnx --stage    a version from elsewhere, that waits
  everloop models versions price                 what there is, who has which share of the traffic
  everloop models timeline price --follow        drift, fits, rollouts and swaps as they happen
  everloop models rollback price
"""
models = typer.Typer(cls=Group, help=HELP, no_args_is_help=True, rich_markup_mode=None)
MOST_ASKED = 50
"""Models whose quality `list` asks for: the server's list is without it, and each is a request."""


@models.command("list", help="Every model: its version, its labels, how it does.")
def list_models(*, url: Url = None, json: Json = False) -> None:
    from everloop.app.cli.output import as_json, data, say, table

    with _connect(url) as client:
        found = client.get("/v1/models")
        _add_quality(client, found["models"])
    if json:
        data(as_json(found))
        return
    if not found["models"]:
        say("no models yet; make one with `everloop models create NAME --kind linear`, or `everloop serve NAME=PATH`")
        return
    table(
        ("model", "kind", "task", "status", "version", "labels", "quality", "no-change"),
        [
            (m["name"], m["kind"], m["task"], m["status"], m["live_version"], m["labels"], *_figures(m["quality"]))
            for m in found["models"]
        ],
    )
    say("quality: of the newest 1,000 labels; no-change: of answering with the label before")
    if len(found["models"]) > MOST_ASKED:
        say(f"quality is shown of the first {MOST_ASKED} models; of another with `everloop models show NAME`")


@models.command(help="Everything about one model: schema, quality, drift, traffic, learner.")
def show(model: Model, *, url: Url = None, json: Json = False) -> None:
    from everloop.app.cli.output import as_json, data, pairs, when
    from everloop.app.client import model_path

    with _connect(url) as client:
        found = client.get(model_path(model))
        handed_in = found["kind"] == "artifact" and found["live_version"] is not None and not json
        live = client.get(f"{model_path(model)}/versions/{found['live_version']}") if handed_in else None
    if json:
        data(as_json(found))
        return
    schema, target, learner = found["schema"], found["target"], found["learner"]
    entries: list[tuple[str, Any]] = [
        ("name", found["name"]),
        ("kind", _said(found["kind"], found["parameters"])),
        *([("runtime", live["runtime"])] if live is not None else []),
        ("status", found["status"]),
        ("version", found["serving_version"]),
        ("features", None if schema is None else ", ".join(_field(f) for f in schema["fields"])),
        ("target", None if target is None else f"{target['task']}, {target['kind']}"),
        (
            "labels",
            f"{found['labels']} acknowledged, {learner['examples_learned']} learned, {learner['backlog']} waiting",
        ),
        ("learning", _said("as configured", found["learning"])),
        ("training now", learner["is_training"]),
        ("last fit", when(learner["last_fit"]) if learner["last_fit"] else None),
        ("last failure", learner["last_error"]),
        ("created", when(found["created_at"])),
    ]
    for section in ("traffic", "quality", "drift", "input_drift", "batching"):
        entries += _flat(section.replace("_", " "), found[section])
    pairs(entries)


@models.command(help="Create a model that learns from the labels it is sent.")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    *,
    kind: Annotated[str, typer.Option(help="linear, ridge, logistic, auto, forest, boosting.")] = "auto",
    param: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the kind; repeatable.")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of this model's learning, e.g. min_samples=50; repeatable."),
    ] = None,
    rollout: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="How what it learns goes out, e.g. strategy=canary; repeatable."),
    ] = None,
    serving: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="How it is served, e.g. target_latency_ms=50; repeatable."),
    ] = None,
    record: Annotated[float, typer.Option(help="Share of predictions to record.", min=0.0, max=1.0)] = 1.0,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.output import as_json, data, say

    body = {
        "name": name,
        "kind": kind,
        "parameters": _settings(param, "--param"),
        "learning": _settings(assign, "--set"),
        "rollout": _settings(rollout, "--rollout"),
        "record": record,
    }
    if serving:
        body["serving"] = _settings(serving, "--serving")
    with _connect(url) as client:
        made = client.call("POST", "/v1/models", body)
    if json:
        data(as_json(made))
        return
    data(made["name"])
    say(
        f"{made['name']}: {made['kind']}, {made['status']}; teach it with `everloop feedback {name} --features … --label …`"
    )


@models.command(
    "set", help="Change how a model is served, e.g. max_batch_size=64 target_latency_ms=50; KEY=null takes one back."
)
def set_serving(
    model: Model,
    settings: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help="Options of the section [serving].")],
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.output import as_json, data, pairs, say
    from everloop.app.client import model_path

    with _connect(url) as client:
        made = client.call("PATCH", model_path(model), {"serving": _settings(settings, "KEY=VALUE")})
    if json:
        data(as_json(made))
        return
    pairs(list(made["serving"].items()))
    say(f"{model} is served by the server's [serving]" + (", but for these" if made["serving"] else ""))


@models.command(help="Remove a model with its versions and its examples. Its timeline stays.")
def remove(
    model: Model,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.group import UsageError
    from everloop.app.cli.output import as_json, data, say
    from everloop.app.client import model_path

    if not yes:
        import sys

        if not sys.stdin.isatty():
            raise UsageError(f"this removes {model!r} and everything it has learned; say --yes")
        typer.confirm(f"Remove {model!r} and everything it has learned?", abort=True, err=True)
    with _connect(url) as client:
        client.call("DELETE", model_path(model))
    if json:
        data(as_json({"removed": model}))
    else:
        say(f"{model} is gone")


@models.command(help="What happened to a model: fits, drift, swaps.")
def timeline(
    model: Model,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Newest so many.", min=1, max=1000)] = 30,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as things happen, until Ctrl-C.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.output import as_json, data, say
    from everloop.app.client import model_path

    with _connect(url) as client:
        found = client.get(f"{model_path(model, 'timeline')}?limit={limit}&latest=true")
        if json and not follow:
            data(as_json(found))
            return
        for event in found["events"]:
            _print_event(event, as_lines=json)
        if not follow:
            return
        try:
            for event in client.events(model=model, after=found["next"]):
                _print_event(event, as_lines=json)
        except KeyboardInterrupt:
            return
        say("the server ended the stream")


def _add_quality(client: Client, listed: list[dict[str, Any]]) -> None:
    """To each model `quality` as its own page has it; None where nobody asked, or where it went meanwhile."""
    from everloop.app.client import model_path
    from everloop.core.errors import ModelNotFound

    for i, model in enumerate(listed):
        model.setdefault("quality", None)
        if model["quality"] is None and i < MOST_ASKED:
            try:
                model["quality"] = client.get(model_path(model["name"]))["quality"]
            except ModelNotFound:
                continue


def _figures(quality: dict[str, Any] | None) -> tuple[str, str]:
    """The model's over the newest labels, and the baseline's."""
    from everloop.app.cli.output import figure

    newest = (quality or {}).get("window", {})
    metric = "accuracy" if "accuracy" in newest else "mae"
    return figure(metric, newest.get(metric)), figure(metric, newest.get(f"baseline_{metric}"))


def _print_event(event: dict[str, Any], *, as_lines: bool) -> None:
    import json

    from everloop.app.cli.output import data, story_line

    if as_lines:
        data(json.dumps(event, ensure_ascii=False))
        return
    data(story_line(event))


def _connect(url: str | None, *, timeout: float = 60.0) -> Client:
    from everloop.app.cli.calls import connect

    return connect(url, timeout=timeout)


def _settings(texts: list[str] | None, option: str) -> dict[str, Any]:
    from everloop.app.cli.calls import parse_label
    from everloop.app.cli.group import UsageError

    found: dict[str, Any] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{option} {text}: expected KEY=VALUE")
        found[key.strip()] = None if value.strip().lower() in ("none", "null") else parse_label(value.strip())
    return found


def _said(what: str, extra: dict[str, Any]) -> str:
    return what + (f" ({', '.join(f'{key}={value}' for key, value in extra.items())})" if extra else "")


def _field(field: dict[str, Any]) -> str:
    kind = "" if field["kind"] == "number" else f" ({field['kind']})"
    return f"{field['name']}{kind}{'?' if field['nullable'] else ''}"


def _flat(prefix: str, values: dict[str, Any]) -> list[tuple[str, Any]]:
    """One level of nesting becomes part of the name; what is deeper stays JSON."""
    entries: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value and not any(isinstance(inner, (dict, list)) for inner in value.values()):
            entries += [(f"{prefix}.{key}.{inner}", each) for inner, each in value.items()]
        else:
            entries.append((f"{prefix}.{key}", value))
    return entries

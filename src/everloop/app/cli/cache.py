"""`everloop cache …`: what a running server remembers of its answers, and how to make it forget."""

from __future__ import annotations

from typing import Annotated

import typer

from everloop.app.cli.group import Group
from everloop.app.cli.options import Json, Url

HELP = """See what a server remembers of its answers, and make it forget.

\b
  everloop models set price cache=true           repeat what a version has answered
  everloop cache show                            how often that saved asking the model
  everloop cache clear price                     forget what was answered; * is every model
"""
cache = typer.Typer(cls=Group, help=HELP, no_args_is_help=True, rich_markup_mode=None)


@cache.command(help="What is remembered of which models, and what it was good for.")
def show(*, url: Url = None, json: Json = False) -> None:
    from everloop.app.cli.calls import connect
    from everloop.app.cli.output import as_json, data, say, table

    with connect(url) as client:
        found = client.get("/v1/cache")
    if json:
        data(as_json(found))
        return
    if found["models"]:
        table(
            ("model", "cache", "ttl", "answers", "hits", "shared", "joined", "misses", "hit rate"),
            [
                (
                    m["model"],
                    "on" if m["on"] else "off",
                    f"{m['ttl_sec']:g} s",
                    sum(v["entries"] for v in m["versions"]),
                    *(m[name] for name in ("hits", "shared", "joined", "misses")),
                    _rate(m["hits"] + m["shared"] + m["joined"], m["misses"]),
                )
                for m in found["models"]
            ],
        )
    else:
        say("no model has a cache; give it one with `everloop models set NAME cache=true`")
    say(
        f"{found['entries']:,} answers in {found['bytes']:,} of {found['capacity']:,} bytes; {found['evicted']:,} were pushed out"
    )
    shared = found["shared"]
    if shared is not None:
        say(f"shared in {shared['name']}" + (f": {shared['trouble']}" if shared["trouble"] else ""))


@cache.command(help="Forget what a model, or every model whose name matches a pattern like 'price-*', has answered.")
def clear(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name, or a pattern; '*' for all.")],
    *,
    version: Annotated[int | None, typer.Option(help="Of this version only.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.calls import connect
    from everloop.app.cli.output import as_json, data, say

    with connect(url) as client:
        found = client.call("POST", "/v1/cache/clear", {"model": model, "version": version})
    if json:
        data(as_json(found))
        return
    if not found["models"]:
        say(f"no model's name matches {model}")
        return
    say(f"{', '.join(found['models'])}: {found['entries']:,} answers forgotten here")
    if found["shared"] is None:
        say(
            "what processes share could not be reached; nobody looks there any more for what was cleared, and it expires"
        )


def _rate(answered: int, asked: int) -> str:
    return f"{answered / (answered + asked):.0%}" if answered + asked else "–"

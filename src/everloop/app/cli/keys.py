"""`everloop keys …`: who may call a server. On the data folder or database that the server uses, or through a server (`--url`)."""

from __future__ import annotations

import contextlib
import getpass
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from everloop.app.cli.group import Group, UsageError
from everloop.app.cli.options import Database, Json

if TYPE_CHECKING:
    from everloop.api.keys import Keyring
    from everloop.stores.opening import Stores

HELP = """Say who may call a server, and for what.

A key is shown once, when it is made; only its digest is kept. As soon as there is one, the server asks every caller for a key. The
commands work on the data folder (or database) of the server, which notices by itself; or through the server, with --url and a key for
admin in EVERLOOP_KEY.

\b
  everloop keys create ops --scope admin                        may do everything
  everloop keys create checkout --scope predict --scope feedback --rate 100
  everloop keys create partner --model churn --expires 90d      predictions of one model, for a while
  everloop keys list
  everloop keys rotate checkout --overlap 7d                    a new one; the old one still works for a week
  everloop keys revoke partner
"""
keys = typer.Typer(cls=Group, help=HELP, no_args_is_help=True, rich_markup_mode=None)

DataDir = Annotated[Path | None, typer.Option(help="The data folder of the server.", show_default="./everloop-data")]
ServerUrl = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="Through a running server, instead of its data folder.")
]
Key = Annotated[str, typer.Argument(metavar="KEY", help="Its id, or its name.")]
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@keys.command(help="Make a key and print it, alone on stdout. It is shown this once.")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who gets it.")],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE", help="predict, feedback or admin (which is all); repeatable.", show_default="predict"
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Only for this model; repeatable.", show_default="all")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second, in the long run.", show_default="any")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once.", show_default="those of 10 seconds")] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends: 90d, 12h, 30m.", show_default="never")
    ] = None,
    data_dir: DataDir = None,
    database: Database = None,
    url: ServerUrl = None,
    json: Json = False,
) -> None:
    spec: dict[str, Any] = {"name": name, "scopes": scope or ["predict"]}
    given = {
        "models": model or None,
        "rate": rate,
        "burst": burst,
        "expires_sec": expires and seconds(expires, "--expires"),
    }
    spec |= {field: value for field, value in given.items() if value is not None}
    if url is not None:
        made = _through(url, "POST", "/v1/keys", spec)
    else:
        from everloop.api.keys import KeySpec

        with _at_hand(data_dir, database, "create_key") as ring:
            made = _plain(ring.create(KeySpec(**spec)))
    _show_made(made, as_json=json)


@keys.command("list", help="All keys that were ever made: for what, until when, when last used.")
def list_(*, data_dir: DataDir = None, database: Database = None, url: ServerUrl = None, json: Json = False) -> None:
    from everloop.app.cli.output import as_json, data, say, table

    if url is not None:
        listed = _through(url, "GET", "/v1/keys")["keys"]
    else:
        with _at_hand(data_dir, database) as ring:
            listed = [_plain(each) for each in ring.listed()]
    if json:
        data(as_json(listed))
        return
    if not listed:
        say("there are no keys: whoever can connect may do everything")
        return
    table(
        ["id", "name", "state", "for", "models", "rate", "expires", "last used"],
        [
            [
                each["id"],
                each["name"],
                each["state"],
                ",".join(each["scopes"]),
                ",".join(each["models"]) if each["models"] else "all",
                "any" if each["rate"] is None else f"{each['rate']:g}/s, {each['burst']} at once",
                _when(each["expires_at"]),
                _when(each["used_at"]),
            ]
            for each in listed
        ],
    )


@keys.command(help="Withdraw a key, at once and for good.")
def revoke(
    key: Key, *, data_dir: DataDir = None, database: Database = None, url: ServerUrl = None, json: Json = False
) -> None:
    from everloop.app.cli.output import as_json, data, say

    if url is not None:
        gone = _through(url, "DELETE", f"/v1/keys/{quote(key, safe='')}")
    else:
        with _at_hand(data_dir, database, "revoke_key") as ring:
            gone = _plain(ring.revoke(key))
    if json:
        data(as_json(gone))
    else:
        say(f"the key {gone['name']!r} ({gone['id']}) is revoked; running servers know within a second")


@keys.command(help="Make a key in the place of another and print it; the other still works for a while.")
def rotate(
    key: Key,
    *,
    overlap: Annotated[str, typer.Option(metavar="TIME", help="How long: 7d, 12h, 0.")] = "1d",
    data_dir: DataDir = None,
    database: Database = None,
    url: ServerUrl = None,
    json: Json = False,
) -> None:
    while_ = seconds(overlap, "--overlap")
    if url is not None:
        made = _through(url, "POST", f"/v1/keys/{quote(key, safe='')}/rotate", {"overlap_sec": while_})
    else:
        with _at_hand(data_dir, database, "rotate_key") as ring:
            made = _plain(ring.rotate(key, while_))
    _show_made(made, as_json=json)


def seconds(text: str, option: str) -> float:
    """`90d`, `12h`, `30m`, `45s`; the unit is part of it, since 5 could be days. Raises UsageError."""
    if text.strip() == "0":
        return 0.0
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{option}: expected a time like 90d, 12h or 30m, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


@contextlib.contextmanager
def _at_hand(data_dir: Path | None, database: str | None, operation: str = "") -> Iterator[Keyring]:
    """The keys of a data folder or database, no server needed. `operation`: what is told in the timeline once it is done."""
    from everloop.api.keys import Keyring
    from everloop.app.cli.storage import storage_here
    from everloop.core.clock import SystemClock
    from everloop.stores.opening import open_stores

    storage, clock = storage_here(data_dir, database), SystemClock()
    place = storage.database or storage.data_dir
    if isinstance(place, Path) and not operation and not place.is_dir():
        raise UsageError(f"there is no data folder {place}; say where it is (--data-dir), or ask a server (--url)")
    stores = open_stores(place, clock=clock)
    try:
        yield Keyring(stores.catalog, clock)
        if operation:
            _tell(stores, operation, clock.now())
    finally:
        stores.close()


def _tell(stores: Stores, operation: str, now: float) -> None:
    from everloop.core.events import Event

    who = f"{getpass.getuser()} (command line)"
    data = {"operation": operation, "by": who, "key": "", "from": "", "via": "cli", "outcome": "done", "target": ""}
    stores.journal.log(Event("", "audit", now, f"{operation} by {who}: done", data=data))


def _through(url: str, method: str, path: str, body: Any = None) -> Any:
    from everloop.app.cli.calls import connect

    with connect(url) as client:
        return client.call(method, path, body)


def _plain(made: Any) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(made)
    return plain


def _show_made(made: dict[str, Any], *, as_json: bool) -> None:
    from everloop.app.cli import output

    if as_json:
        output.data(output.as_json(made))
        return
    output.data(made["key"])
    for_ = " and ".join(made["scopes"])
    models = "" if made["models"] is None else f" of {', '.join(made['models'])}"
    until = "" if made["expires_at"] is None else f", until {_when(made['expires_at'])}"
    output.say(f"{made['name']} ({made['id']}): for {for_}{models}{until}. It is not shown again.")
    output.say("  send it as the header `Authorization: Bearer KEY`, or to this command line in EVERLOOP_KEY")


def _when(at: float | None) -> str:
    from datetime import datetime

    return "never" if at is None else datetime.fromtimestamp(at).astimezone().isoformat(" ", "minutes")[:16]

"""`everloop models …` on files: a version is handed in, a model is exported and imported, what nobody needs is removed.

It adds its commands to the group of `cli.models`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everloop.app.cli.models import models
from everloop.app.cli.options import Database, Json, Model, Note, TrustCode, TrustPickle, TrustType, Url

if TYPE_CHECKING:
    from everloop.app.client import Client
    from everloop.runtime.artifact import Trust

REGISTER = """Hand in a model as the next version: to a running server, or into a data folder or a database.

MODEL is what `everloop serve` takes: a file, a folder, models:/name@alias, package.module:Model. With --url (or EVERLOOP_URL) it is
uploaded, but code never is; otherwise it goes into --data-dir or --database, and a server that runs on it takes it up by itself. It
serves at once, or waits with --stage: for `promote`, or for a rollout that decides on evidence. The options --trust-… are for models
that are read here.

\b
  everloop models register churn churn.onnx --url http://127.0.0.1:3000
  everloop models register churn churn.skops --stage --name v2.0 --note "with the spring's data"
  everloop rollout start churn v2.0
"""


@models.command(help=REGISTER)
def register(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    source: Annotated[str, typer.Argument(metavar="MODEL", help="A file, a folder, or code by its import path.")],
    *,
    stage: Annotated[bool, typer.Option("--stage", help="It waits instead of serving at once.")] = False,
    version_name: Annotated[str, typer.Option("--name", metavar="TEXT", help="What to call it, like v2.0.")] = "",
    note: Note = "",
    url: Annotated[
        str | None,
        typer.Option(envvar="EVERLOOP_URL", metavar="URL", help="The server to hand it to.", show_default="none"),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="The server's data folder.", show_default="./everloop-data")
    ] = None,
    database: Database = None,
    trust_pickle: TrustPickle = False,
    trust_type: TrustType = None,
    trust_code: TrustCode = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.output import as_json, data, say
    from everloop.app.cli.serve import register_source, usable
    from everloop.app.cli.storage import storage_here
    from everloop.runtime.artifact import Trust

    usable(name, source)
    storage = storage_here(data_dir, database, trust_pickle=trust_pickle, trust_types=trust_type, trust_code=trust_code)
    if url is not None and data_dir is None and database is None:
        trust = Trust(storage.trust_pickle, storage.trust_types, storage.trust_code)
        made = _upload(name, source, trust, url, stage=stage, version_name=version_name, note=note)
        where = f"at {url}"
    else:
        made = register_source(name, source, storage, stage=stage, version_name=version_name, note=note)
        where = f"in {made.pop('where')}"
    if json:
        data(as_json(made))
        return
    data(str(made["version"]))
    does = {"staging": "waits to be promoted", "live": "should serve"}.get(
        made["status"], f"is there, {made['status']}"
    )
    say(f"{name} version {made['version']} {does}, from {source}, {where}")
    if made["status"] == "staging":
        say(f"let it prove itself: everloop rollout start {name} {made['version']}")


@models.command(help="A model with its versions, artifacts, tags and timeline as one file.")
def export(
    model: Model,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default="MODEL.everloop")
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.output import as_json, data, say
    from everloop.app.client import model_path

    path = output or Path(f"{model}.everloop")
    with _connect(url) as client:
        payload = client.download(model_path(model, "export"))
    path.write_bytes(payload)
    if json:
        data(as_json({"model": model, "path": str(path), "bytes": len(payload)}))
        return
    data(str(path))
    say(f"{model}: {len(payload):,} bytes in {path}; read it elsewhere with `everloop models import {path}`")


IMPORT = """A model from a file that `export` wrote, with its versions, names and tags.

\b
  everloop models import fraud.everloop --live           it answers here at once
  everloop models import fraud.everloop --as fraud-old   all its versions wait
"""


@models.command("import", help=IMPORT)
def import_model(
    path: Annotated[Path, typer.Argument(metavar="FILE")],
    *,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Under another name.", show_default="its own")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="What was live there is live here.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.output import as_json, data, say

    query = {"live": "true" if live else "false"} | ({"name": name} if name else {})
    payload = _read(path)
    with _connect(url) as client:
        made = client.upload("/v1/imports", payload, query)
    if json:
        data(as_json(made))
        return
    data(made["name"])
    say(f"{made['name']} is {made['status']}; `everloop models versions {made['name']}` shows what came along")


COLLECT = """Remove artifacts that no version names, as a crash leaves them; with --archived those of archived versions, too.

\b
  everloop models archive fraud 3
  everloop models collect --archived --keep 2    of each model, spare the two newest archived versions
"""


@models.command(help=COLLECT)
def collect(
    *,
    archived: Annotated[
        bool, typer.Option("--archived", help="Also those of archived versions; their records stay.")
    ] = False,
    keep: Annotated[int, typer.Option(help="Of each model, spare the newest so many archived ones.", min=0)] = 0,
    url: Url = None,
    json: Json = False,
) -> None:
    from everloop.app.cli.output import as_json, data, say

    with _connect(url) as client:
        found = client.call("POST", "/v1/artifacts/collect", {"archived": archived, "keep": keep})
    if json:
        data(as_json(found))
        return
    data(str(found["artifacts"]))
    say(f"{found['artifacts']} artifacts removed, {found['bytes']:,} bytes; {found['spared']} too young to tell")


def _upload(
    name: str, source: str, trust: Trust, url: str, *, stage: bool, version_name: str, note: str
) -> dict[str, Any]:
    from everloop.app.client import model_path
    from everloop.runtime.source import title, whole_file
    from everloop.showcase.builtin import located

    file = located(source)
    payload = whole_file(file, trust=trust)
    query = {"name": version_name, "note": note, "file": title(file), "live": "false" if stage else "true"}
    with _connect(url) as client:
        made: dict[str, Any] = client.upload(
            model_path(name, "versions"), payload, {key: value for key, value in query.items() if value}
        )
    return made


def _read(path: Path) -> bytes:
    from everloop.app.cli.group import UsageError

    try:
        return path.expanduser().read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None


def _connect(url: str | None) -> Client:
    from everloop.app.cli.calls import connect

    return connect(url, timeout=600.0)

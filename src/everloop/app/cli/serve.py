"""`everloop serve`: from what was typed to a running server, and what it says once it is ready.

Everything that can be wrong with the command line is found before a store is opened. What the files hold is found out while the
server starts, before it says that it is ready.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everloop.app.cli.group import UsageError
from everloop.app.cli.output import complain, say
from everloop.core.errors import EverloopError, InvalidInput, MissingExtra

if TYPE_CHECKING:
    from everloop.api.door import Door
    from everloop.app.build import Engine
    from everloop.app.listening import Address
    from everloop.app.settings import EngineSettings, Settings
    from everloop.core.events import Event
    from everloop.core.schema import Schema
    from everloop.runtime.source import Source
    from everloop.stores.ports import ModelRecord

DATA_DIR = Path("everloop-data")
LEVELS = {
    "drift": logging.INFO,
    "input_drift": logging.INFO,
    "published": logging.INFO,
    "swapped": logging.INFO,
    "promoted": logging.INFO,
    "rolled_back": logging.INFO,
    "rollout_started": logging.INFO,
    "rollout_advanced": logging.INFO,
    "rollout_ended": logging.INFO,
    "guard": logging.WARNING,
    "sample_ratio": logging.WARNING,
    "shadow_failed": logging.WARNING,
    "fit_failed": logging.WARNING,
    "open_failed": logging.WARNING,
    "learner_failed": logging.WARNING,
    "rejected": logging.DEBUG,
    "optimized": logging.INFO,
    "not_optimized": logging.INFO,
}
"""How loud what happens to a model is in the log; other kinds are only in its timeline."""

log = logging.getLogger("everloop.models")


def serve(
    files: list[str], flags: Mapping[str, Any], *, memory: bool, config: Path | None, assignments: tuple[str, ...]
) -> None:
    """Serve until a signal. Raises UsageError for what is wrong with the command line, EverloopError and OSError otherwise."""
    from everloop.app.settings import load_settings

    named = parse_models(files)
    try:
        settings = load_settings(
            flags,
            environ=os.environ,
            cwd=Path.cwd(),
            assignments=(*assignments, *(["engine.data_dir=", "engine.database="] if memory else [])),
            defaults={"engine.data_dir": DATA_DIR, "optimize.on_publish": True},
            config=config,
        )
    except InvalidInput as error:
        raise UsageError(error.message) from error
    for warning in settings.warnings:
        say(f"everloop: {warning}")
    folder = settings.engine.data_dir
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"--data-dir: {folder} is a file, not a folder")
    wanted = {**settings.models, **named}
    shown = {name: source for name, source in showcase(settings).items() if name not in wanted}
    for name, source in wanted.items():
        usable(name, source)
    start(allow_named(settings, wanted), {**shown, **wanted}, optional=frozenset(shown))


def showcase(settings: Settings) -> dict[str, Source]:
    """The models that come with everloop, by the names that their routes ask; none unless that was wished."""
    from everloop.showcase.builtin import builtin_path

    wished = settings.engine.showcase
    if not wished.builtin:
        return {}
    return {
        wished.sentiment: builtin_path("sentiment"),
        wished.image: builtin_path("digits"),
        wished.recommender: builtin_path("shop"),
    }


def start(settings: Settings, wanted: Mapping[str, Source], *, optional: frozenset[str] = frozenset()) -> None:
    from everloop.app.interpreter import one_core_each

    one_core_each(os.environ)  # before libraries that would read it are loaded
    from everloop.api.door import Door
    from everloop.app.build import build_engine
    from everloop.app.logs import configure
    from everloop.app.server import run

    configure(settings.server.log_level, as_json=settings.server.json_logs)
    folder = settings.engine.data_dir
    if settings.engine.in_memory or (folder is not None and not folder.exists()):
        _may_be_reached(settings, Door())  # where nothing is yet, there are no keys: nothing need be made to know that
    engine = build_engine(settings.engine)
    try:
        _may_be_reached(settings, engine.services.door)
    except UsageError:
        engine.stop()
        raise
    engine.services.bus.subscribe(log_event)
    run(
        engine,
        settings.server,
        prepare=lambda: register_all(engine, wanted, optional),
        on_ready=lambda address: announce(engine, address),
    )


def _may_be_reached(settings: Settings, door: Door) -> None:
    """Raises UsageError where other machines could reach a server that asks for no key."""
    from everloop.app.security import check_public

    server = settings.server
    try:
        check_public(server.security, server.host, door, insecure=server.insecure)
    except InvalidInput as error:
        raise UsageError(error.message) from error


def log_event(event: Event) -> None:
    """One line of log; called on the thread where it happened."""
    level = LEVELS.get(event.kind)
    if level is not None:
        log.log(level, "%s: %s: %s", event.model, event.kind, event.message)


def parse_models(texts: list[str]) -> dict[str, Source]:
    """`NAME=MODEL` each. Raises UsageError."""
    found: dict[str, Source] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not equals:
            stem = Path(text).stem if Path(text).suffix[1:].isidentifier() else text.partition(":")[0]
            guess = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "model"
            raise UsageError(f"{text}: expected NAME=MODEL, e.g. {guess}={text}")
        if name in found:
            raise UsageError(f"{name}: named twice, with {found[name]} and {source}")
        if not source:
            raise UsageError(f"{text}: what to serve is missing: a file, a folder, or package.module:Model")
        found[name] = source
    return found


def usable(name: str, source: Source) -> None:
    """Raises UsageError unless `name` can be a model's and `source` can be there."""
    from everloop.registry.references import NAME
    from everloop.runtime.source import check_source
    from everloop.showcase.builtin import located

    if not NAME.match(name):
        raise UsageError(
            f"{name!r} cannot be a model's name: letters, digits and . _ - only, not starting with . _ or -"
        )
    try:
        check_source(located(source))
    except InvalidInput as error:
        raise UsageError(f"{name}: {error.message}") from error


def allow_named(settings: Settings, wanted: Mapping[str, Source]) -> Settings:
    """With the code that is named as a model allowed before anything is opened: what was there before may be of it."""
    from everloop.runtime.artifact import Trust
    from everloop.runtime.source import trust_in
    from everloop.showcase.builtin import located

    trust = Trust(code=settings.engine.trust_code)
    for source in wanted.values():
        trust = trust_in(located(source), trust)
    return replace(settings, engine=replace(settings.engine, trust_code=trust.code))


def register_all(engine: Engine, wanted: Mapping[str, Source], optional: frozenset[str] = frozenset()) -> None:
    """Every model under its name. Raises what the first bad one raised, said with its name and source; of an `optional` one for which
    something is not installed, that is said, and the others are served."""
    for name, source in wanted.items():
        try:
            engine.register_named(name, source)
        except EverloopError as error:
            if name in optional and isinstance(error, MissingExtra):
                complain(f"{name} is not served: {error.message}")
                continue
            raise type(error)(f"{name}={source}: {error.message}", field=error.field) from error


def register_source(
    name: str,
    source: Source,
    storage: EngineSettings,
    *,
    stage: bool,
    version_name: str,
    note: str,
) -> dict[str, Any]:
    """Register a model in a data folder or a database, without a server: the version, its status, and where it is, in words. A server
    there notices by itself."""
    from everloop.app.build import build_engine

    engine = build_engine(storage)
    try:
        made = engine.register_file(name, source, live=not stage, version_name=version_name, note=note, by="cli")
    except EverloopError as error:
        raise type(error)(f"{name}={source}: {error.message}", field=error.field) from error
    finally:
        engine.stop()
    where = engine.place if storage.database is not None else str(storage.data_dir)
    return {"name": name, "version": made.version, "status": made.status, "where": where}


def announce(engine: Engine, address: Address) -> None:
    """What a person needs next, on stderr."""
    records, url = engine.services.registry.list(), address.url
    admin_url, closed = address.admin_url or url, engine.services.door.closed
    lines = [f"everloop serves at {url}" + (f", and speaks gRPC at {address.grpc}" if address.grpc else "")]
    lines += [f"  {line}" for line in _model_lines(engine, records)]
    lines.append(f"  data      {'in memory only: gone when this ends' if engine.settings.in_memory else engine.place}")
    if closed:
        lines.append("  keys      every caller needs one, as `Authorization: Bearer KEY`; `everloop keys list`")
    if address.admin is not None:
        lines.append(f"  admin     {admin_url}")
    shown = engine.settings.showcase
    tried = example(records, url, admin_url, key=closed, texts=shown.sentiment, images=shown.image)
    lines.append(f"  try       {tried}")
    lines.append(f"  docs      {url}/docs")
    lines.append("Ctrl-C ends it.")
    for line in lines:
        say(line)


def example(
    records: list[ModelRecord], url: str, admin_url: str, *, key: bool, texts: str = "", images: str = ""
) -> str:
    """A line to paste: what the model of texts, or of images, says, a prediction by the first model that can answer, or how to make one."""
    who = '-H "Authorization: Bearer $EVERLOOP_KEY" ' if key else ""
    schemas = {record.name: record.schema for record in records if record.live_version is not None}
    for name, field, path, body in (
        (texts, "text", "sentiment", f"-d '{json.dumps({'text': 'This is amazing!'})}'"),
        (images, "image", "image", "-F image=@picture.png"),
    ):
        schema = schemas.get(name)
        if schema is not None and schema.names[:1] == (field,):
            return f"curl -s {who}{url}/api/predict/{path} {body}"
    for record in records:
        if record.live_version is not None and record.schema is not None and record.schema.fields:
            body = json.dumps({"features": sample(record.schema)})
            return f"curl -s {who}{url}/v1/models/{record.name}/predict -d '{body}'"
    body = json.dumps({"name": "first", "kind": "linear"})
    return f"curl -s {who}{admin_url}/v1/models -d '{body}'"


def sample(schema: Schema) -> list[Any] | dict[str, Any]:
    """Features of the right shape, of no meaning."""
    values: list[Any] = ["a" if field.kind == "text" else 0.5 for field in schema.fields]
    return dict(zip(schema.names, values, strict=True)) if schema.named and len(values) <= 4 else values


def _made_of(engine: Engine, record: ModelRecord) -> str:
    """What a model that learns is, or what runtime answers for one that was handed in."""
    live = engine.services.registry.live(record.name) if record.kind == "artifact" else None
    return record.kind if live is None else live.manifest.runtime


def _model_lines(engine: Engine, records: list[ModelRecord]) -> list[str]:
    from everloop.api.verbs import model_status

    if not records:
        return ["models    none yet"]
    width = max(len(record.name) for record in records)
    lines = []
    for i, record in enumerate(records):
        status = model_status(engine.services, record)
        version = f"version {record.live_version}" if record.live_version is not None else "no version yet"
        told = version if status in ("ready", "untrained") else f"{version}, {status}"
        lines.append(f"{'models' if i == 0 else '':<9} {record.name:<{width}}  {told}, {_made_of(engine, record)}")
        failure = engine.services.reconciler.failures.get(record.name)
        if failure is not None:
            complain(f"{record.name}: version {failure.version} cannot be opened: {failure.error.message}")
    return lines

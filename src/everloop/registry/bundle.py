"""A model as one file: written by `export_model`, read by `import_model`, perhaps by another everloop on another machine.

    everloop.json         the model's record, its versions, its timeline, and the digest and size of each artifact
    artifacts/<digest>    the bytes of a version, or of the model's template

A zip of stored entries: nothing is compressed, so what it says to hold is what it weighs. Reading believes nothing: only the
entries that the list names are looked at, by name and never as paths; sizes must be those declared, bytes must have their digests,
and nothing is loaded or unpickled. A version imported is a record and bytes like any other; what may be run is decided when it serves.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import everloop
from everloop.core.clock import Clock
from everloop.core.errors import (
    ArtifactCorrupt,
    Conflict,
    EverloopError,
    InvalidInput,
    Malformed,
    ModelNotFound,
    NotSupported,
    StoreUnavailable,
    TooLarge,
)
from everloop.core.events import Event
from everloop.core.hashing import artifact_digest
from everloop.core.types import VersionStatus
from everloop.core.wording import counted
from everloop.registry import rolling
from everloop.registry.changes import Change
from everloop.registry.references import check_alias, check_new_name
from everloop.registry.registration import check_fits, note_of, tags_of, wanted_record
from everloop.registry.traffic import check_there
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.formats import FORMATS
from everloop.runtime.packaged import read_artifact
from everloop.runtime.sklearn import load_estimator
from everloop.runtime.sniff import look_at
from everloop.runtime.zips import UNREADABLE, Header
from everloop.stores.folders import flush_folder
from everloop.stores.ports import ArtifactStore, Catalog, Journal, ModelRecord, VersionRecord
from everloop.stores.shelving import add_version, make_live

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry

FORMAT = "everloop-model"
LAYOUT = 1
CONTENTS = "everloop.json"
MOST_CONTENTS = 64 << 20
"""Bytes of the list of contents: far more than ten thousand events and versions need."""
MOST_EVENTS = 10_000
"""The newest ones of the timeline that are exported."""

LATEST = 253_402_300_800.0
"""Seconds since the epoch at the end of the year 9999, the last one that dates can be told of."""

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_KEPT: tuple[VersionStatus, ...] = ("rejected", "archived")
"""Put away for a reason that holds elsewhere, too; all others begin as `staging`."""


class Exported(msgspec.Struct, frozen=True):
    path: str
    versions: list[int]
    bytes: int
    """Of the file."""


class Imported(msgspec.Struct, frozen=True):
    model: str
    versions: list[VersionRecord]


class _Contents(msgspec.Struct, frozen=True):
    format: str
    layout: int
    everloop: str
    exported_at: float
    model: ModelRecord
    versions: list[VersionRecord]
    timeline: list[Event]
    artifacts: dict[str, int]
    """Digest -> bytes."""


def export_model(  # noqa: PLR0917 - what a registry is made of, and what is asked of it
    catalog: Catalog,
    artifacts: ArtifactStore,
    journal: Journal,
    clock: Clock,
    name: str,
    path: Path,
    numbers: Sequence[int] | None,
) -> Exported:
    """As `Registry.export_model`."""
    with catalog.look(name) as shelf:
        model = shelf.model
        if numbers is None:
            versions = [record for record in shelf.versions() if not record.collected]
        else:
            versions = [shelf.version(number) for number in sorted(set(numbers))]
    for record in versions:
        check_there(record)
    digests = dict.fromkeys(record.digest for record in versions)
    digests |= {model.template: None} if model.template else {}
    events = journal.events(model=name, limit=MOST_EVENTS, latest=True)
    with _written(path) as draft, zipfile.ZipFile(draft, "x", zipfile.ZIP_STORED) as file:
        sizes: dict[str, int] = {}
        for digest in digests:
            payload = artifacts.get(digest)
            file.writestr(zipfile.ZipInfo(_entry(digest)), payload)
            sizes[digest] = len(payload)
        now = clock.now()
        contents = _Contents(FORMAT, LAYOUT, everloop.__version__, now, model, versions, events, sizes)
        file.writestr(zipfile.ZipInfo(CONTENTS), msgspec.json.encode(contents))
    return Exported(str(path), [record.version for record in versions], path.stat().st_size)


def import_model(
    registry: Registry,
    artifacts: ArtifactStore,
    clock: Clock,
    path: Path,
    name: str | None,
    *,
    live: bool,
    by: str,
    trust: Trust | None,
) -> Imported:
    """As `Registry.import_model`."""
    with _opened(path) as file:
        contents = _contents(file, path)
        model = contents.model
        name = name or model.name
        new = wanted_record(
            name,
            model.kind,
            clock.now(),
            task=model.task,
            parameters=model.parameters,
            learning=model.learning,
            rollout=model.rollout,
            serving=model.serving,
            record=model.record,
            schema=model.schema,
            target=model.target,
        )
        with contextlib.suppress(ModelNotFound):  # before anything is kept
            _check_welcome(registry.get(name), contents)
        if trust is not None:
            _check_code(file, contents, trust)
        for payload in _artifacts(file, contents, path):
            artifacts.put(payload)
    with registry.changes.on(name, by=by, new=msgspec.structs.replace(new, template=model.template)) as change:
        _check_welcome(change.shelf.model, contents)
        if not all(artifacts.renew(digest) for digest in contents.artifacts):
            raise Conflict(f"the artifacts of {name!r} were collected while it was imported: import it again")
        return Imported(name, _add(change, contents, path, live=live))


def _entry(digest: str) -> str:
    return f"artifacts/{digest}"


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A place beside `path` for its new bytes, which take its name once they are all there and on disk."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}.tmp")
    try:
        try:
            yield draft
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)
    except OSError as error:
        raise StoreUnavailable(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except EverloopError:  # what was found inside
        raise
    except FileNotFoundError:
        raise InvalidInput(f"there is no file {path}", field="path") from None
    except OSError as error:
        raise StoreUnavailable(f"cannot read {path}: {error.strerror or error}") from error
    except UNREADABLE as error:
        raise Malformed(f"{path} is no exported model, or is damaged: {error}", field="path") from error


def _contents(file: zipfile.ZipFile, path: Path) -> _Contents:
    entries = {entry.filename: entry for entry in file.infolist()}
    if CONTENTS not in entries or len(entries) != len(file.infolist()):
        raise Malformed(f"{path} is a zip file, but no exported model", field="path")
    if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
        raise TooLarge(f"{path} says to hold more than it weighs", field="path")
    for entry in entries.values():
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Malformed(f"{path} holds entries that are compressed or encrypted; export does neither", field="path")
    if entries[CONTENTS].file_size > MOST_CONTENTS:
        raise TooLarge(f"{path}: a list of contents of {entries[CONTENTS].file_size:,} bytes", field="path")
    text = file.read(CONTENTS)
    header = _decoded(text, Header, path)
    if header.format != FORMAT:
        raise Malformed(f"{path} is no exported model but {header.format[:60]!r}", field="path")
    if header.layout > LAYOUT:
        raise NotSupported(
            f"{path} was written by everloop {header.everloop[:60]} (format {header.layout}, this one knows up to {LAYOUT}); "
            "upgrade everloop",
            field="path",
        )
    contents: _Contents = _decoded(text, _Contents, path)
    listed = {_entry(digest): size for digest, size in contents.artifacts.items() if _DIGEST.match(digest)}
    needed = {record.digest for record in contents.versions} | ({contents.model.template} - {None})
    if len(listed) != len(contents.artifacts) or needed != set(contents.artifacts):
        raise Malformed(f"{path}: its artifacts are not those that its versions name", field="path")
    if {CONTENTS, *listed} != set(entries):
        raise Malformed(f"{path} holds other entries than it lists", field="path")
    for entry_name, size in listed.items():
        if entries[entry_name].file_size != size:
            raise Malformed(f"{path}: {entry_name} has another size than it lists", field="path")
    numbers = [record.version for record in contents.versions]
    if len(set(numbers)) != len(numbers):
        raise Malformed(f"{path} holds one version twice", field="path")
    _check_said(contents, path)
    return contents


def _check_said(contents: _Contents, path: Path) -> None:
    """What is said in the list of contents is what could have been said to the registry. Raises InvalidInput, Malformed."""
    for alias in contents.model.aliases:
        check_alias(alias)
    for record in contents.versions:
        note_of(record.note)
        tags_of(record.tags)
    times = [record.created_at for record in contents.versions] + [event.at for event in contents.timeline]
    if not all(0 <= at < LATEST for at in times):
        raise Malformed(f"{path} holds a time that no calendar has", field="path")


def _decoded(text: bytes, kind: type[Any], path: Path) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"{path}: its list of contents cannot be read: {error}", field="path") from error


def _artifacts(file: zipfile.ZipFile, contents: _Contents, path: Path) -> Iterator[bytes]:
    """One at a time, each verified. Raises Malformed."""
    for digest in contents.artifacts:
        payload = file.read(_entry(digest))
        if artifact_digest(payload) != digest:
            raise Malformed(f"{path}: artifact {digest[:12]}… is damaged; export it again", field="path")
        yield payload


def _check_code(file: zipfile.ZipFile, contents: _Contents, trust: Trust) -> None:
    """Raises Untrusted where a version, or what the model's learner is made from, brings code or a pickle that `trust` does not allow;
    Malformed where it cannot be read."""
    try:
        _open_code(file, contents, trust)
    except ArtifactCorrupt as error:
        raise Malformed(f"an artifact of the file is damaged: {error.message}", field="path") from error
    except EverloopError:
        raise
    except Exception as error:  # skops lets through whatever a forged part raises
        raise Malformed(f"an artifact of the file cannot be read: {error}", field="path") from error


def _open_code(file: zipfile.ZipFile, contents: _Contents, trust: Trust) -> None:
    if contents.model.template is not None:
        template = file.read(_entry(contents.model.template))
        if look_at(template)[0] == "artifact":
            load_session(*read_artifact(template), trust=trust).close()
        elif not template.startswith(b"{"):  # JSON is data: which of the boosted estimators, and its parameters
            load_estimator(template, trust)
    for record in contents.versions:
        known = FORMATS.get(record.manifest.runtime)
        if known is not None and known.code:
            load_session(record.manifest, file.read(_entry(record.digest)), trust=trust).close()


def _check_welcome(there: ModelRecord, contents: _Contents) -> None:
    """Raises Conflict where a model of that name is another one."""
    if there.kind != contents.model.kind:
        raise Conflict(
            f"there is already a model named {there.name!r} of kind {there.kind}, the imported one is of kind "
            f"{contents.model.kind}; import it under another name",
            field="name",
        )
    for record in contents.versions:
        check_fits(there, record.manifest)


def _add(change: Change, contents: _Contents, path: Path, *, live: bool) -> list[VersionRecord]:
    shelf = change.shelf
    if live:
        rolling.forbid(change, "an imported version cannot go live")
    numbers: dict[int, int] = {}
    added: list[VersionRecord] = []
    taken = {record.name for record in shelf.versions()} | set(shelf.model.aliases)
    for record in sorted(contents.versions, key=lambda record: record.version):
        name = "" if record.name in taken else record.name
        if name:
            check_new_name(shelf, name)
        version = add_version(
            shelf,
            record.digest,
            msgspec.structs.replace(record.manifest, lineage=_lineage(record, contents, numbers)),
            now=record.created_at,
            status=record.status if record.status in _KEPT else "staging",
            note=record.note,
            name=name,
            tags=record.tags,
        )
        numbers[record.version] = version.version
        added.append(version)
    model = shelf.model
    there = {record.name for record in shelf.versions()} | set(model.aliases)
    aliases = {
        alias: numbers[number]
        for alias, number in contents.model.aliases.items()
        if number in numbers and alias not in there
    }
    shelf.put_model(msgspec.structs.replace(model, aliases=model.aliases | aliases))
    if shelf.created:
        _retell(change, contents.timeline, numbers)
    was_live = numbers.get(contents.model.live_version or 0)
    if live and was_live is not None:
        make_live(shelf, was_live)
    change.log(
        "imported",
        f"{counted(len(added), 'version')} of {contents.model.name} from {path.name}"
        + (f"; version {was_live} is live" if live and was_live is not None else ""),
        version=was_live if live else None,
        data={
            "model": contents.model.name,
            "numbers": [version.version for version in added],
            "versions": {str(old): new for old, new in numbers.items()},
            "exported_at": contents.exported_at,
            "everloop": contents.everloop,
            "live": live,
        },
    )
    return [shelf.version(version.version) for version in added]


def _lineage(record: VersionRecord, contents: _Contents, numbers: Mapping[int, int]) -> dict[str, Any]:
    """Numbers of examples and versions there mean nothing here; only parents that came along do."""
    parent = record.manifest.lineage.get("parent")
    return {
        "parent": numbers.get(parent) if isinstance(parent, int) else None,
        "imported": {
            "model": contents.model.name,
            "version": record.version,
            "status": record.status,
            "lineage": record.manifest.lineage,
        },
    }


def _retell(change: Change, timeline: Sequence[Event], numbers: Mapping[int, int]) -> None:
    """The story so far, as it was told there, with the numbers that the versions have here. Nobody is told anew."""
    name = change.shelf.model.name
    for event in timeline:
        version = None if event.version is None else numbers.get(event.version)
        data = {**event.data, "imported": {"model": event.model, "version": event.version}}
        change.shelf.log(msgspec.structs.replace(event, model=name, version=version, data=data, id=0))

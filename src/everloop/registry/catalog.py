"""The registry: the one way that models and versions change.

Artifact first, then catalog, then the event: a crash in between leaves at most bytes that nobody names. Each change is one
transaction of the catalog and one `Event`, which goes to the journal (the model's timeline) and to the bus. What is live
*here* is not the registry's business: `serving.reconciler` makes it so, woken by `subscribe_changes` in this process and
by polling `revision()` for changes of others.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from everloop.core.clock import Clock
from everloop.core.errors import Conflict, InvalidInput, ModelNotFound
from everloop.core.events import Event, EventBus, EventKind
from everloop.core.schema import Schema, Target
from everloop.core.types import Task
from everloop.stores.ports import ArtifactStore, Catalog, Journal, Manifest, ModelRecord, VersionRecord

if TYPE_CHECKING:
    from everloop.runtime.artifact import Trust
    from everloop.runtime.session import Session

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
"""What can be a model's name."""
SHOWN = 128
"""Characters of a refused name that are repeated to whoever gave it."""

# `list` inside the class body is the method.
_Models: TypeAlias = list[ModelRecord]
_Versions: TypeAlias = list[VersionRecord]
_Names: TypeAlias = list[str]
_Events: TypeAlias = list[Event]


class Registry:
    """Safe from any thread; several registries, in several processes, may share one catalog."""

    def __init__(  # noqa: PLR0917 - a constructor takes its collaborators
        self,
        catalog: Catalog,
        artifacts: ArtifactStore,
        journal: Journal,
        bus: EventBus,
        clock: Clock,
        trust: Trust,
    ) -> None:
        self._catalog = catalog
        self._artifacts = artifacts
        self._journal = journal
        self._bus = bus
        self._clock = clock
        self._trust = trust
        self._lock = threading.RLock()
        self._watchers: tuple[Callable[[], None], ...] = ()

    def register(
        self,
        name: str,
        kind: str,
        *,
        task: Task | None,
        parameters: Mapping[str, Any] | None = None,
        learning: Mapping[str, Any] | None = None,
        record: float = 1.0,
        schema: Schema | None = None,
        target: Target | None = None,
        template: bytes | None = None,
    ) -> ModelRecord:
        """A new model, or the one that is there already if it was registered in the same way: so a script can be run
        again over its data folder. `parameters` and `learning` must be JSON-able.

        The bytes of `template` are not compared, only whether there is one: serialisers write the same estimator
        differently each time; its `parameters` tell it apart. Raises InvalidInput, Conflict."""
        if not isinstance(name, str) or not NAME.match(name):
            raise InvalidInput(
                f"name: a model's name has 1 to 128 letters, digits, dots, dashes or underscores and starts with a letter or "
                f"digit, got {_shown(name)}",
                field="name",
            )
        if not isinstance(record, (int, float)) or isinstance(record, bool) or not 0 <= record <= 1:
            raise InvalidInput(f"record: expected a share from 0 to 1, got {record!r}", field="record")
        wanted = ModelRecord(
            name=name,
            kind=kind,
            created_at=self._clock.now(),
            parameters=_jsonable(parameters, "parameters"),
            task=task or (target.task if target else None),
            learning=_jsonable(learning, "learning"),
            record=float(record),
            schema=schema,
            target=target,
        )
        with self._lock:
            existing = self._existing(wanted, template)
            if existing is not None:
                return existing
            if template is not None:
                wanted = msgspec.structs.replace(wanted, template=self._artifacts.put(template))
            try:
                self._catalog.create_model(wanted)
            except Conflict:  # another process was faster
                existing = self._existing(wanted, template)
                if existing is None:
                    raise
                return existing
            event = self._log(name, "registered", f"registered as {kind}", data={"kind": kind, "task": wanted.task})
        self._tell(event)
        return wanted

    @property
    def catalog(self) -> Catalog:
        """What it writes to: for what reads rollouts and their reports. Changes go through the registry or `registry.rollouts`."""
        return self._catalog

    def get(self, name: str) -> ModelRecord:
        """Raises ModelNotFound, with near names."""
        return self._catalog.get_model(name)

    def names(self) -> _Names:
        return [model.name for model in self._catalog.list_models()]

    def fix_schema(self, name: str, schema: Schema, target: Target | None) -> ModelRecord:
        """Fix what the model takes and gives, once. Whoever comes later gets the record with the first schema."""
        with self._lock:
            before = self._catalog.get_model(name)
            after = self._catalog.set_schema(name, schema, target)
            if after == before:
                return after
            assert after.schema is not None
            width = len(after.schema.fields)
            labels = f", {after.target.task} of {after.target.kind} labels" if after.target else ""
            event = self._log(
                name,
                "schema",
                f"takes {width} feature{'s' if width > 1 else ''}{labels}",
                data={
                    "schema": msgspec.to_builtins(after.schema),
                    "target": msgspec.to_builtins(after.target),
                },
            )
        self._tell(event)
        return after

    def add_version(
        self, name: str, manifest: Manifest, payload: bytes, *, live: bool, note: str = ""
    ) -> VersionRecord:
        """Store the artifact and give it the next number. `live`: it serves from now on; otherwise it waits as
        `staging`. Raises Conflict if it takes another number of features than the model, or does another task."""
        with self._lock:
            model = self._catalog.get_model(name)
            _check_fits(model, manifest)
            if model.schema is None or model.target is None:
                self.fix_schema(name, manifest.schema, manifest.target)
            digest = self._artifacts.put(payload)
            version = self._catalog.add_version(
                name, digest, manifest, now=self._clock.now(), status="live" if live else "staging", note=note
            )
            event = self._log(
                name,
                "published",
                f"version {version.version} {'is live' if live else 'waits to be promoted'}{_because(note)}",
                version=version.version,
                data={
                    "live": live,
                    "digest": digest,
                    "previous": model.live_version,
                    "metrics": manifest.metrics,
                    "lineage": manifest.lineage,
                    "note": note,
                },
            )
        self._tell(event)
        return version

    def promote(self, name: str, version: int, *, note: str = "") -> VersionRecord:
        """Make `version` live. Its artifact is verified first, so that a damaged one cannot take over.

        Raises ModelNotFound, VersionNotFound, ArtifactCorrupt. Promoting what is live already changes nothing."""
        with self._lock:
            before = self._catalog.get_version(name, version)
            if before.status == "live":
                return before
            self._artifacts.get(before.digest)
            previous = self._catalog.get_model(name).live_version
            after = self._catalog.set_live(name, version)
            event = self._log(
                name,
                "promoted",
                f"version {version} is live{_because(note)}",
                version=version,
                data={"previous": previous, "from": before.status, "note": note},
            )
        self._tell(event)
        return after

    def rollback(self, name: str, *, note: str = "") -> VersionRecord:
        """Back to the version that was live before; again goes further back. Raises Conflict where there is none."""
        with self._lock:
            previous = self._catalog.get_model(name).live_version
            after = self._catalog.roll_back(name)
            event = self._log(
                name,
                "rolled_back",
                f"back from version {previous} to version {after.version}{_because(note)}",
                version=after.version,
                data={"previous": previous, "note": note},
            )
        self._tell(event)
        return after

    def archive(self, name: str, version: int) -> VersionRecord:
        """Put a version away: rollback passes it over. Raises Conflict for the live one."""
        with self._lock:
            before = self._catalog.get_version(name, version)
            after = self._catalog.set_status(name, version, "archived")
            if before.status == "archived":
                return after
            event = self._log(
                name, "archived", f"version {version} is archived", version=version, data={"from": before.status}
            )
        self._tell(event)
        return after

    def unregister(self, name: str) -> None:
        """Remove a model, its versions, examples and artifacts; its timeline stays. Raises ModelNotFound."""
        with self._lock:
            model = self._catalog.get_model(name)
            owned = {version.digest for version in self._catalog.versions(name)}
            owned |= {model.template} if model.template else set()
            # Before and after: a crash in between must not leave old examples to a later model of that name, and
            # labels may still come while the model is there.
            self._journal.forget_model(name)
            self._catalog.delete_model(name)
            self._journal.forget_model(name)
            for digest in owned - self._digests_in_use():
                self._artifacts.delete(digest)
            event = self._log(name, "unregistered", "unregistered", data={"live": model.live_version})
        self._tell(event)

    def versions(self, name: str) -> _Versions:
        return self._catalog.versions(name)

    def version(self, name: str, number: int) -> VersionRecord:
        """Raises ModelNotFound, VersionNotFound."""
        return self._catalog.get_version(name, number)

    def live(self, name: str) -> VersionRecord | None:
        """The version that should serve. Raises ModelNotFound."""
        number = self._catalog.get_model(name).live_version
        return None if number is None else self._catalog.get_version(name, number)

    def timeline(self, name: str, after: int = 0, limit: int = 100, *, latest: bool = False) -> _Events:
        """What happened to the model up to this call, by ascending id, also after it was unregistered: at most `limit` events
        after the id `after`, with `latest` the newest ones. Raises ModelNotFound for a name that never was."""
        self._journal.flush()
        events = self._journal.events(model=name, after=after, limit=limit, latest=latest)
        if not events and not self._journal.events(model=name, limit=1):
            self._catalog.get_model(name)
        return events

    def template(self, name: str) -> bytes | None:
        """The unfitted estimator's bytes, where the model was registered with one."""
        digest = self._catalog.get_model(name).template
        return None if digest is None else self._artifacts.get(digest)

    def payload(self, record: VersionRecord) -> bytes:
        """A version's bytes, verified. Raises ArtifactCorrupt."""
        return self._artifacts.get(record.digest)

    def open_session(self, record: VersionRecord) -> Session:
        """Load a version. Raises ArtifactCorrupt, Untrusted, NotSupported."""
        from everloop.runtime.artifact import load_session

        return load_session(record.manifest, self._artifacts.get(record.digest), trust=self._trust)

    def subscribe_changes(self, callback: Callable[[], None]) -> Callable[[], None]:
        """`callback` is called after each change made through this registry, on the changing thread; it must not block
        or raise. Returns the function that unsubscribes."""
        with self._lock:
            self._watchers = (*self._watchers, callback)

        def unsubscribe() -> None:
            with self._lock:
                self._watchers = tuple(watcher for watcher in self._watchers if watcher is not callback)

        return unsubscribe

    def revision(self) -> int:
        """Changes whenever any process changed anything. Cheap enough to poll twenty times a second."""
        return self._catalog.revision()

    def list(self) -> _Models:
        """By name."""
        return self._catalog.list_models()

    def _existing(self, wanted: ModelRecord, template: bytes | None) -> ModelRecord | None:
        """The record of that name, if it has the same spec. Raises Conflict if it has another."""
        try:
            there = self._catalog.get_model(wanted.name)
        except ModelNotFound:
            return None
        different = [
            f"{field} ({old!r}, not {new!r})"
            for field, old, new in (
                ("kind", there.kind, wanted.kind),
                ("parameters", there.parameters, wanted.parameters),
                ("learning", there.learning, wanted.learning),
                ("record", there.record, wanted.record),
            )
            if old != new
        ]
        # What was open at first may have been settled by the first examples since.
        for field in ("task", "schema", "target"):
            old, new = getattr(there, field), getattr(wanted, field)
            if new is not None and old is not None and old != new:
                different.append(field)
        if (there.template is None) != (template is None):
            different.append("template")
        if different:
            raise Conflict(
                f"there is already a model named {wanted.name!r} with another {', '.join(different)}; "
                "unregister it first or choose another name",
                field="name",
            )
        return there

    def _digests_in_use(self) -> set[str]:
        used: set[str] = set()
        for model in self._catalog.list_models():
            used |= {version.digest for version in self._catalog.versions(model.name)}
            used |= {model.template} if model.template else set()
        return used

    def _log(
        self, model: str, kind: EventKind, message: str, *, version: int | None = None, data: dict[str, Any]
    ) -> Event:
        event = Event(model, kind, self._clock.now(), message, version, data)
        self._journal.log(event)
        return event

    def _tell(self, event: Event) -> None:
        """Outside the lock: a subscriber may well ask the registry."""
        self._bus.emit(event)
        for watcher in self._watchers:
            watcher()


def _because(note: str) -> str:
    return f": {note}" if note else ""


def _check_fits(model: ModelRecord, manifest: Manifest) -> None:
    if model.schema is not None and len(manifest.schema.fields) != len(model.schema.fields):
        raise Conflict(
            f"model {model.name!r} takes {len(model.schema.fields)} features, this artifact {len(manifest.schema.fields)}; "
            "register it under another name",
            field="schema",
        )
    if model.task is not None and manifest.task != model.task:
        raise Conflict(
            f"model {model.name!r} does {model.task}, this artifact {manifest.task}; register it under another name",
            field="task",
        )


def _jsonable(values: Mapping[str, Any] | None, field: str) -> dict[str, Any]:
    """As they come back from the catalog, so that what is compared is alike."""
    try:
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(values or {})))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{field}: expected values that JSON can hold: {error}", field=field) from error
    return plain


def _shown(name: Any) -> str:
    if isinstance(name, str) and len(name) > SHOWN:
        return f"{name[:SHOWN]!r}… ({len(name):,} characters)"
    return repr(name)

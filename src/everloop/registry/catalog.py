"""The registry: the one way that models and versions change.

Artifact first, then one transaction of the catalog with the event that tells of it (the model's timeline), then the bus: a crash
in between leaves at most bytes that nobody names, which `collect_garbage` takes. What is live *here* is not the registry's
business: `serving.reconciler` makes it so, woken by `subscribe_changes` in this process and by polling `revision()` for
changes of others.

A version is called by number, name or alias (`registry.references`). `by` says who wants a change, for the timeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from everloop.core.clock import Clock
from everloop.core.errors import Conflict, ModelNotFound
from everloop.core.events import Event, EventBus
from everloop.core.schema import Schema, Target
from everloop.core.types import Task
from everloop.policy.rollout import Plan
from everloop.registry import bundle, collection, references, traffic
from everloop.registry.changes import Changes, registered
from everloop.registry.collection import Collected
from everloop.registry.lineage import Lineage, lineage_of
from everloop.registry.publishing import fix_schema, publish
from everloop.registry.registration import check_fits, check_same, configure, note_of, tags_of, wanted_record
from everloop.stores.ports import ArtifactStore, Catalog, Journal, Manifest, ModelRecord, VersionRecord
from everloop.stores.settling import check_versions

if TYPE_CHECKING:
    from everloop.runtime.artifact import Trust
    from everloop.runtime.session import Session

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
        self._clock = clock
        self.trust = trust
        """What may be loaded although it can run code; replaced when somebody allows more."""
        self.changes = Changes(catalog, journal, bus, clock)
        """For what changes a model in ways of its own, as `registry.rollouts`."""

    # Models.

    def register(
        self,
        name: str,
        kind: str,
        *,
        task: Task | None,
        parameters: Mapping[str, Any] | None = None,
        learning: Mapping[str, Any] | None = None,
        rollout: Mapping[str, Any] | None = None,
        serving: Mapping[str, Any] | None = None,
        record: float = 1.0,
        schema: Schema | None = None,
        target: Target | None = None,
        template: bytes | None = None,
    ) -> ModelRecord:
        """A new model, or the one that is there already if it was registered in the same way: so a script can be run
        again over its data folder. `parameters`, `learning`, `rollout` (`registry.rollouts.policy_of`) and `serving` must be JSON-able.
        `serving`, where it is said, holds from now on; it is no part of what tells two models apart.

        The bytes of `template` are not compared, only whether there is one: serialisers write the same estimator
        differently each time; its `parameters` tell it apart. Raises InvalidInput, Conflict."""
        now = self._clock.now()
        wanted = wanted_record(
            name,
            kind,
            now,
            task=task,
            parameters=parameters,
            learning=learning,
            rollout=rollout,
            serving=serving,
            record=record,
            schema=schema,
            target=target,
        )
        made = self._register(wanted, template, now)
        if serving is not None and made.serving != wanted.serving:
            return self.configure(name, wanted.serving)
        return made

    def _register(self, wanted: ModelRecord, template: bytes | None, now: float) -> ModelRecord:
        with self.changes.alone():
            existing = self._existing(wanted, template)
            if existing is not None:
                return existing
            if template is not None:
                wanted = msgspec.structs.replace(wanted, template=self._artifacts.put(template))
            event = Event(wanted.name, "registered", now, **registered(wanted))
            try:
                self._catalog.create_model(wanted, event)
            except Conflict:  # another process was faster
                existing = self._existing(wanted, template)
                if existing is None:
                    raise
                return existing
        self.changes.tell([event])
        return wanted

    def configure(self, name: str, serving: Mapping[str, Any], *, by: str = "") -> ModelRecord:
        """How the model is served from now on, instead of what was said before: fields of `serving.config.ServingConfig`, which whoever
        calls has checked. Raises ModelNotFound."""
        with self.changes.on(name, by=by) as change:
            return configure(change, serving)

    def unregister(self, name: str, *, versions: Sequence[int] | None = None, by: str = "") -> None:
        """Remove a model, its versions, examples and artifacts; its timeline stays. Raises ModelNotFound, and Conflict where it has other
        versions than these, if some are given."""
        begun = self._artifacts.now()
        with self.changes.alone():
            model, there = self._catalog.get_model(name), self._catalog.versions(name)
            check_versions(name, (version.version for version in there), versions)
            owned = {version.digest for version in there}
            owned |= {model.template} if model.template else set()
            data = {"live": model.live_version} | ({"by": by} if by else {})
            event = Event(name, "unregistered", self._clock.now(), "unregistered", data=data)
            # Before and after: a crash in between must not leave old examples to a later model of that name, and
            # labels may still come while the model is there.
            self._journal.forget_model(name)
            self._catalog.delete_model(name, event, versions=versions)
            self._journal.forget_model(name)
            collection.discard(self._catalog, self._artifacts, owned, before=begun)
        self.changes.tell([event])

    def fix_schema(self, name: str, schema: Schema, target: Target | None) -> ModelRecord:
        """Fix what the model takes and gives, once. Whoever comes later gets the record with the first schema."""
        before = self._catalog.get_model(name)
        if before.schema is not None and (target is None or before.target == target):
            return before
        with self.changes.on(name) as change:
            return fix_schema(change, schema, target)

    @property
    def catalog(self) -> Catalog:
        """What it writes to: for what reads rollouts and their reports. Changes go through the registry or `registry.rollouts`."""
        return self._catalog

    @property
    def artifacts(self) -> ArtifactStore:
        """Where the bytes are: for what publishes in a change of its own."""
        return self._artifacts

    def get(self, name: str) -> ModelRecord:
        """Raises ModelNotFound, with near names."""
        return self._catalog.get_model(name)

    def names(self) -> _Names:
        return [model.name for model in self._catalog.list_models()]

    def list(self) -> _Models:
        """By name."""
        return self._catalog.list_models()

    def template(self, name: str) -> bytes | None:
        """The unfitted estimator's bytes, where the model was registered with one."""
        digest = self._catalog.get_model(name).template
        return None if digest is None else self._artifacts.get(digest)

    def timeline(self, name: str, after: int = 0, limit: int = 100, *, latest: bool = False) -> _Events:
        """What happened to the model up to this call, by ascending id, also after it was unregistered: at most `limit` events
        after the id `after`, with `latest` the newest ones. Raises ModelNotFound for a name that never was."""
        self._journal.flush()
        events = self._journal.events(model=name, after=after, limit=limit, latest=latest)
        if not events and not self._journal.events(model=name, limit=1):
            self._catalog.get_model(name)
        return events

    # Versions.

    def add_version(
        self,
        name: str,
        manifest: Manifest,
        payload: bytes,
        *,
        live: bool,
        plan: Plan | None = None,
        note: str = "",
        version_name: str = "",
        tags: Mapping[str, str] | None = None,
        by: str = "",
    ) -> VersionRecord:
        """Store the artifact and give it the next number. `live`: it serves from now on; with a `plan` it goes out as that says, in the
        same transaction; otherwise it waits as `staging`. An active rollout is superseded by the first two: it ends without a verdict.
        Raises InvalidInput, and Conflict if it takes another number of features than the model, does another task, `version_name` is
        taken, or it cannot be rolled out now."""
        note_of(note)
        tags_of(tags)
        check_fits(self._catalog.get_model(name), manifest)
        self._artifacts.put(payload)  # before the transaction: others need not wait for it
        with self.changes.on(name, by=by) as change:
            return publish(
                change,
                self._artifacts,
                manifest,
                payload,
                live=live,
                plan=plan,
                note=note,
                name=version_name,
                tags=tags,
            )

    def versions(self, name: str) -> _Versions:
        return self._catalog.versions(name)

    def version(self, name: str, number: int) -> VersionRecord:
        """Raises ModelNotFound, VersionNotFound."""
        return self._catalog.get_version(name, number)

    def live(self, name: str) -> VersionRecord | None:
        """The version that should serve. Raises ModelNotFound."""
        with self._catalog.look(name) as shelf:
            number = shelf.model.live_version
            return None if number is None else shelf.version(number)

    def payload(self, record: VersionRecord) -> bytes:
        """A version's bytes, verified. Raises ArtifactCorrupt, Conflict (collected)."""
        traffic.check_there(record)
        return self._artifacts.get(record.digest)

    def verify(self, name: str, version: int | str) -> VersionRecord:
        """Read the version's artifact and compare its digest. Raises VersionNotFound, ArtifactCorrupt, Conflict (collected)."""
        record = self._catalog.get_version(name, self.resolve(name, version))
        self.payload(record)
        return record

    def open_session(self, record: VersionRecord) -> Session:
        """Load a version. Raises ArtifactCorrupt, Untrusted, NotSupported, Conflict (collected)."""
        from everloop.runtime.artifact import load_session

        return load_session(record.manifest, self.payload(record), trust=self.trust)

    # Who serves.

    def promote(self, name: str, version: int | str, *, note: str = "", by: str = "") -> VersionRecord:
        """Let `version` answer everybody. Its artifact is verified first, so that a damaged one cannot take over. The challenger of
        an active rollout is promoted with it; no other version while one is active.

        Raises ModelNotFound, VersionNotFound, ArtifactCorrupt, Conflict. Promoting what is live already changes nothing."""
        number = self.verify(name, version).version
        with self.changes.on(name, by=by) as change:
            return traffic.promote(change, number, note=note)

    def rollback(self, name: str, *, note: str = "", by: str = "") -> VersionRecord:
        """Undo what came last: an active rollout, else a split of the traffic, else the last promotion (again goes further back).
        Returns the version that answers everybody now. Raises Conflict where there is nothing to go back to."""
        with self.changes.on(name, by=by) as change:
            return traffic.go_back(change, note=note)

    def set_traffic(
        self,
        name: str,
        weights: Mapping[Any, float],
        shadow: int | str | None = None,
        *,
        note: str = "",
        by: str = "",
    ) -> ModelRecord:
        """Split the traffic by hand: version -> its share; they sum to 1, and 0 gets nothing. Only as many units as must change their
        version. `shadow`: is shown a copy of everything and answers nobody; None: no version is.

        The live version stays so while it answers somebody; else the one with the largest share is it. Raises InvalidInput,
        VersionNotFound, ArtifactCorrupt, Conflict while a rollout is active."""
        numbers: dict[int, float] = {}
        for version, weight in weights.items():
            number = self.resolve(name, version) if weight == 0 else self.verify(name, version).version
            references.check_once(number, numbers, version)
            numbers[number] = weight
        watching = None if shadow is None else self.verify(name, shadow).version
        with self.changes.on(name, by=by) as change:
            return traffic.split(change, numbers, shadow=watching, note=note)

    def archive(self, name: str, version: int | str, *, by: str = "") -> VersionRecord:
        """Put a version away: rollback passes it over, and garbage collection may take its artifact. Raises Conflict for one that
        is live, has a share of the traffic, is a shadow or takes part in a rollout."""
        number = self.resolve(name, version)
        with self.changes.on(name, by=by) as change:
            return traffic.archive(change, number)

    # What versions are called, and what is said of them.

    def resolve(self, name: str, version: int | str) -> int:
        """The number of a version given by number, name (`v1.0`), alias, `champion` or `challenger`; also with the model in front
        (`fraud@champion`). Raises ModelNotFound, VersionNotFound, ModelUntrained, InvalidInput."""
        with self._catalog.look(name) as shelf:
            return references.number_of(shelf, version)

    def set_alias(self, name: str, alias: str, version: int | str, *, by: str = "") -> ModelRecord:
        """Let `alias` point at a version, wherever it pointed before. Raises InvalidInput, VersionNotFound, Conflict (a version
        has that name)."""
        with self.changes.on(name, by=by) as change:
            return references.set_alias(change, alias, references.number_of(change.shelf, version))

    def remove_alias(self, name: str, alias: str, *, by: str = "") -> ModelRecord:
        """Raises VersionNotFound where there is no such alias."""
        with self.changes.on(name, by=by) as change:
            return references.remove_alias(change, alias)

    def rename(self, name: str, version: int | str, version_name: str, *, by: str = "") -> VersionRecord:
        """Call a version so; an empty name takes its name away. Raises InvalidInput, VersionNotFound, Conflict (taken)."""
        with self.changes.on(name, by=by) as change:
            return references.rename(change, references.number_of(change.shelf, version), version_name)

    def tag(self, name: str, version: int | str, tags: Mapping[str, str | None], *, by: str = "") -> VersionRecord:
        """Set tags of a version beside those it has; None takes one away. Raises InvalidInput, VersionNotFound."""
        wanted = tags_of({key: value for key, value in tags.items() if value is not None})
        with self.changes.on(name, by=by) as change:
            before = change.shelf.version(references.number_of(change.shelf, version))
            kept = {key: value for key, value in before.tags.items() if key not in tags}
            after = msgspec.structs.replace(before, tags=tags_of(kept | wanted))
            if after == before:
                return before
            change.shelf.put_version(after)
            told = ", ".join(f"{key}={value}" for key, value in after.tags.items()) or "no tags"
            data = {"tags": after.tags, "previous": before.tags}
            change.log("tagged", f"version {before.version}: {told}", version=before.version, data=data)
            return after

    def note(self, name: str, version: int | str, text: str, *, by: str = "") -> VersionRecord:
        """Say something about a version, instead of what was said. Raises InvalidInput, VersionNotFound."""
        note_of(text)
        with self.changes.on(name, by=by) as change:
            before = change.shelf.version(references.number_of(change.shelf, version))
            after = msgspec.structs.replace(before, note=text)
            if after == before:
                return before
            change.shelf.put_version(after)
            data = {"note": text, "previous": before.note}
            change.log("noted", f"version {before.version}: {text or 'no note'}", version=before.version, data=data)
            return after

    def lineage(self, name: str, version: int | str) -> Lineage:
        """How a version came about, with all that it descends from. Raises ModelNotFound, VersionNotFound."""
        self._journal.flush()
        with self._catalog.look(name) as shelf:
            return lineage_of(shelf.versions(), references.number_of(shelf, version), self._journal)

    # Storage.

    def collect_garbage(
        self, *, archived: bool = False, keep: int = 0, grace: float = collection.GRACE, by: str = ""
    ) -> Collected:
        """Delete artifacts that no version or template names, as a crash leaves them; those younger than `grace` seconds stay, for
        somebody may be about to name them. `archived`: those of archived versions, too, but for the newest `keep` of each model
        and what an alias points at; their records stay. Raises InvalidInput."""
        return collection.collect(
            self._catalog, self._artifacts, self.changes, archived=archived, keep=keep, grace=grace, by=by
        )

    def export_model(self, name: str, path: Path | str, versions: Sequence[int | str] | None = None) -> bundle.Exported:
        """Write the model with its versions (None: all whose artifacts are there), artifacts and timeline into one file.
        Atomic: `path` is whole or as it was. Raises ModelNotFound, VersionNotFound, ArtifactCorrupt, StoreUnavailable."""
        numbers = None if versions is None else [self.resolve(name, version) for version in versions]
        self._journal.flush()
        return bundle.export_model(
            self._catalog, self._artifacts, self._journal, self._clock, name, Path(path), numbers
        )

    def import_model(
        self, path: Path | str, name: str | None = None, *, live: bool = False, by: str = "", trust: Trust | None = None
    ) -> bundle.Imported:
        """Add what `export_model` wrote: the model under `name` (None: its own) if there is none, and its versions with new numbers,
        all `staging`. `live`: the one that was live there goes live here. All of it or nothing, as one change. Nothing in the file is run or trusted: bytes
        must have their digests, and a version is loaded only when it serves, by the usual rules. With `trust`, those whose runtime may
        run code are opened once under it before anything is kept: who imports over the network cannot bring code along so.

        Raises InvalidInput, Malformed (not such a file, or damaged), TooLarge, NotSupported (a newer format), Conflict."""
        return bundle.import_model(self, self._artifacts, self._clock, Path(path), name, live=live, by=by, trust=trust)

    # Telling.

    def subscribe_changes(self, callback: Callable[[], None]) -> Callable[[], None]:
        """`callback` is called after each change made through this registry, on the changing thread; it must not block
        or raise. Returns the function that unsubscribes."""
        return self.changes.subscribe(callback)

    def revision(self) -> int:
        """Changes whenever any process changed anything. Cheap enough to poll twenty times a second."""
        return self._catalog.revision()

    def _existing(self, wanted: ModelRecord, template: bytes | None) -> ModelRecord | None:
        """The record of that name, if it has the same spec. Raises Conflict if it has another."""
        try:
            there = self._catalog.get_model(wanted.name)
        except ModelNotFound:
            return None
        check_same(there, wanted, template=template is not None)
        return there

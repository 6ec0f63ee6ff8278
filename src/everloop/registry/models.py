"""`ModelRegistry`: the registry as a person uses it from Python, one id for each version of each model.

It keeps nothing of its own: a folder that it registers in is a server's data folder (and a URL a server's database), and what it
changes is on the same timelines. An id is `name@3`; a version can as well be called by its name or an alias, `name@v1.0`.

    status       in the catalog                                       traffic_percentage
    staging      staging, retired or rejected, and answers nobody     0
    production   live, or owns a share of the traffic                 what was asked for it (`policy.claims`), of `share`, what it gets
    archived     archived                                             0

Production traffic sums to exactly 100 %. Whatever nobody asked for is answered by the live version: the first one in production answers
everybody, whatever its percentage, as there is nobody else. While a rollout is active it decides on the traffic, and this one refuses.
"""

from __future__ import annotations

import math
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from everloop.core.clock import Clock, SystemClock
from everloop.core.errors import Conflict, InvalidInput, ModelNotFound
from everloop.core.events import EventBus
from everloop.core.schema import plain
from everloop.policy.claims import check_share
from everloop.registry import collection, references, removal, rolling, traffic
from everloop.registry.best import better_is_higher
from everloop.registry.catalog import Registry
from everloop.registry.info import STATUSES, ModelInfo, Status, id_of
from everloop.registry.production import claimed, settle
from everloop.registry.publishing import publish
from everloop.registry.registration import wanted_record
from everloop.runtime.artifact import Trust
from everloop.runtime.loaded import LoadedModel
from everloop.runtime.packing import pack
from everloop.stores.objects import FolderArtifacts
from everloop.stores.opening import Stores, open_stores
from everloop.stores.ports import ModelRecord, VersionRecord

__all__ = ["DEFAULT", "ModelInfo", "ModelRegistry"]

DEFAULT = "default"
"""The alias that `set_default` sets."""
_KEPT_OPEN = 4
"""Sessions that `ModelInfo.predict` keeps for the next time."""
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")

# `list` and its like inside the class body are methods.
_Infos: TypeAlias = list[ModelInfo]


class ModelRegistry:
    """Safe from any thread; several, in several processes, may share one storage. Close it, or use it as a context manager."""

    def __init__(
        self,
        storage: str | Path | Registry = "models/",
        *,
        trust_pickle: bool = False,
        trust_types: Sequence[str] = (),
        trust_code: Sequence[str] = (),
        clock: Clock | None = None,
    ) -> None:
        """`storage`: a folder, a `postgresql://` URL, or an engine's registry, which stays that engine's to close. `trust_pickle`,
        `trust_types`, `trust_code`: what may be kept and loaded although it can run code. Raises StoreUnavailable, and for a URL InvalidInput,
        MissingExtra."""
        self._stores: Stores | None = None
        self._clock = clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, LoadedModel] = OrderedDict()
        if isinstance(storage, Registry):
            self.registry = storage
            return
        self._stores = stores = open_stores(storage, clock=clock)
        trust = Trust(pickle=trust_pickle, types=tuple(trust_types), code=tuple(trust_code))
        self.registry = Registry(stores.catalog, stores.artifacts, stores.journal, EventBus(), clock, trust)
        # A script that forgets `close` still leaves its storage complete.
        self._closing = weakref.finalize(self, stores.close)

    def __repr__(self) -> str:
        return f"ModelRegistry({', '.join(self.registry.names()) or 'empty'})"

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            while self._sessions:
                self._sessions.popitem()[1].close()
        if self._stores is not None:
            self._closing()

    def __enter__(self) -> ModelRegistry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- registering ---------------------------------------------------------------------------------------------------

    def register(
        self,
        model: Any = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, Any] | None = None,
        status: Status = "staging",
        onnx_path: str | Path | None = None,
        *,
        name: str | None = None,
        version: str | None = None,
        feature_names: Sequence[str] | None = None,
        classes: Sequence[Any] | None = None,
        note: str = "",
    ) -> str:
        """Keep a model as the next version, and give its id. What is kept is a copy, or the file at `onnx_path`, which then stands
        for a `model` that cannot be kept itself (PyTorch's, say).

        `model`: as `runtime.packing.pack` takes it. `name`: by default the tag `name`, else the model's class or file. `version`:
        what to call it. `status`: `production` gives it all of the traffic. Raises as `pack`, InvalidInput, Conflict (the name of the
        version is taken; it takes other features than the model; production, while a rollout is active); then nothing is kept."""
        if status not in STATUSES:
            raise InvalidInput(f"status: expected one of {', '.join(STATUSES)}, got {status!r}", field="status")
        told = {str(key): str(value) for key, value in (tags or {}).items()}
        called = name or told.get("name") or _class_name(model, onnx_path)
        given = _numbers(metrics)
        if onnx_path is None and model is None:
            raise InvalidInput("model: expected a model, or the path of its ONNX file as onnx_path", field="model")
        manifest, payload = pack(
            model if onnx_path is None else Path(onnx_path),
            trust=self.registry.trust,
            feature_names=feature_names,
            classes=classes,
        )
        if onnx_path is not None and manifest.runtime != "onnx":
            raise InvalidInput(f"onnx_path: {onnx_path} is no ONNX model", field="onnx_path")
        manifest = msgspec.structs.replace(manifest, metrics=manifest.metrics | given)
        new = wanted_record(
            called,
            "artifact",
            self._clock.now(),
            task=manifest.task,
            schema=manifest.schema,
            target=manifest.target,
        )
        self.registry.artifacts.put(payload)
        with self.registry.changes.on(called, by="python", new=new) as change:
            if status == "production":
                rolling.forbid(change, "no other version can be put into production")
            made = publish(
                change,
                self.registry.artifacts,
                manifest,
                payload,
                live=status == "production",
                note=note,
                name=version or "",
                tags=told,
            )
            if status == "archived":
                traffic.archive(change, made.version)
        return id_of(called, made.version)

    def delete(self, model_id: str) -> None:
        """Remove a version for good; with its last version the model goes, too. Raises Conflict for one that answers somebody while
        there are others, a shadow, or one that a rollout is about."""
        name, number = self._find(model_id)
        while [record.version for record in self.registry.versions(name)] == [number]:
            try:
                self.registry.unregister(name, versions=[number], by="python")
            except Conflict:  # it has got another version meanwhile, which has to stay: look again
                continue
            return
        begun = None if self._stores is None else self._stores.artifacts.now()
        with self.registry.changes.on(name, by="python") as change:
            doomed = removal.delete(change, number)
        if self._stores is not None and begun is not None:  # an engine collects its garbage itself
            collection.discard(self._stores.catalog, self._stores.artifacts, [doomed.digest], before=begun)

    # -- looking -------------------------------------------------------------------------------------------------------

    def get(self, model_id: str) -> ModelInfo:
        """By id, or `name@v1.0`, `name@champion`; a model's name alone means its default version. Raises ModelNotFound,
        VersionNotFound, ModelUntrained."""
        name, number = self._find(model_id)
        return self._info(self.registry.get(name), self.registry.version(name, number))

    def get_best(
        self,
        metric: str,
        name: str | None = None,
        *,
        higher_is_better: bool | None = None,
        status: Status | None = None,
    ) -> ModelInfo | None:
        """The version whose `metric` is best, of one model or of all, archived ones aside unless asked for; None where none has it.

        Whether higher is better is known of the usual metrics by their names; of another, InvalidInput is raised unless it is told."""
        higher = better_is_higher(metric) if higher_is_better is None else higher_is_better
        rivals = [
            info
            for info in self.list_models(name, status=status)
            if metric in info.metrics and (status is not None or info.status != "archived")
        ]
        sign = -1 if higher else 1
        return min(rivals, key=lambda info: (sign * info.metrics[metric], -info.created_at), default=None)

    def list_models(self, name: str | None = None, *, status: Status | None = None) -> _Infos:
        """All versions of all models, or of one; by name, then in order."""
        infos: _Infos = []
        for each in self.registry.names() if name is None else [name]:
            try:
                infos += self.state(each)[1]
            except ModelNotFound:  # unregistered since the list was read
                if name is not None:
                    raise
        return [info for info in infos if status is None or info.status == status]

    def state(self, name: str) -> tuple[ModelRecord, _Infos]:
        """The model and its versions as they were at one instant. Raises ModelNotFound."""
        with self.registry.catalog.look(name) as shelf:
            record, versions = shelf.model, shelf.versions()
        return record, [self._info(record, version) for version in versions]

    def list_versions(self, name: str) -> _Infos:
        """The oldest first. Raises ModelNotFound."""
        return self.list_models(name)

    def get_production_models(self, name: str | None = None) -> _Infos:
        """What answers somebody; by name, then in order."""
        return self.list_models(name, status="production")

    @property
    def models_index(self) -> dict[str, dict[str, Any]]:
        """Id -> what is known of it, JSON-able."""
        return {info.id: info.plain() for info in self.list_models()}

    # -- the default ---------------------------------------------------------------------------------------------------

    def set_default(self, model_id: str) -> None:
        """Let this version be what the model's name alone means here, and its model the registry's default. It moves no traffic."""
        name, number = self._find(model_id)
        self.registry.set_alias(name, DEFAULT, number, by="python")
        for other in self.registry.list():
            if other.name != name and DEFAULT in other.aliases:
                self.registry.remove_alias(other.name, DEFAULT, by="python")

    def get_default(self, name: str | None = None) -> ModelInfo | None:
        """What `set_default` has set; where it has not, the live version of `name`, or of the only model there is. None where there is
        no such thing."""
        records = self.registry.list() if name is None else [self.registry.get(name)]
        chosen = [record for record in records if DEFAULT in record.aliases] or records
        if (
            len(chosen) > 1 and DEFAULT in chosen[0].aliases
        ):  # one that set it died before it had taken it from the other
            chosen = [max(chosen, key=lambda record: self._default_since(record.name))]
        if len(chosen) != 1:
            return None
        number = chosen[0].aliases.get(DEFAULT, chosen[0].live_version)
        return None if number is None else self._info(chosen[0], self.registry.version(chosen[0].name, number))

    def _default_since(self, name: str) -> float:
        events = self.registry.timeline(name, limit=1000, latest=True)
        return max((e.at for e in events if e.kind == "aliased" and e.data.get("alias") == DEFAULT), default=0.0)

    # -- who serves ----------------------------------------------------------------------------------------------------

    def promote_to_production(self, model_id: str, traffic_percentage: float = 1.0) -> ModelInfo:
        """Let a version answer this share of its model's traffic, 0 to 1. The others keep theirs as long as there is room; beyond,
        they shrink alike, and only the units that must change their version do. Its artifact is verified first.

        Raises InvalidInput, VersionNotFound, ArtifactCorrupt, Conflict (a rollout is active, the artifact was collected)."""
        name, number = self._find(model_id)
        share = check_share(traffic_percentage)
        if share == 0:
            raise InvalidInput("traffic_percentage: production needs a share above 0", field="traffic_percentage")
        return self._claim(name, number, share)

    def set_traffic_percentage(self, model_id: str, traffic_percentage: float) -> ModelInfo:
        """The same for a version that is in production; 0 takes it out. Raises Conflict for one that is not, and for taking out the
        only one."""
        name, number = self._find(model_id)
        share = check_share(traffic_percentage)
        if self.get(model_id).status != "production":
            raise Conflict(
                f"version {number} of {name!r} is not in production: promote_to_production first", field="model_id"
            )
        return self._claim(name, number, share)

    def archive_model(self, model_id: str) -> ModelInfo:
        """Put a version away; what it answers goes to the others. Raises Conflict for the only one in production, a shadow, or one that
        a rollout is about."""
        name, number = self._find(model_id)
        with self.registry.changes.on(name, by="python") as change:
            if change.shelf.model.allocation is not None and number in traffic.weights_of(change.shelf.model):
                settle(change, number, 0.0)
            traffic.archive(change, number)
        return self.get(id_of(name, number))

    def _claim(self, name: str, number: int, share: float) -> ModelInfo:
        self.registry.verify(name, number)
        with self.registry.changes.on(name, by="python") as change:
            settle(change, number, share)
        return self.get(id_of(name, number))

    # -- helpers of the above ------------------------------------------------------------------------------------------

    def _find(self, model_id: str) -> tuple[str, int]:
        name, version = references.split_reference(model_id)
        if version is None:
            record = self.registry.get(name)
            version = DEFAULT if DEFAULT in record.aliases else "champion"
        return name, self.registry.resolve(name, version)

    def _info(self, model: ModelRecord, version: VersionRecord) -> ModelInfo:
        share = traffic.weights_of(model).get(version.version, 0.0)
        return ModelInfo(
            id=id_of(model.name, version.version),
            name=model.name,
            version=version.name or str(version.version),
            number=version.version,
            status="production" if share else "archived" if version.status == "archived" else "staging",
            traffic_percentage=claimed(version, share),
            share=share,
            shadow=model.shadow == version.version,
            metrics=dict(version.manifest.metrics),
            tags=dict(version.tags),
            created_at=version.created_at,
            onnx_path=self._onnx_path(version),
            digest=version.digest,
            note=version.note,
            _open=lambda: LoadedModel(self.registry.open_session(version)),
            _kept=lambda: self._kept(version),
        )

    def _onnx_path(self, version: VersionRecord) -> str | None:
        artifacts = self._stores.artifacts if self._stores is not None else None
        if version.manifest.runtime != "onnx" or version.collected or not isinstance(artifacts, FolderArtifacts):
            return None
        return str(artifacts.path_of(version.digest))

    def _kept(self, version: VersionRecord) -> LoadedModel:
        with self._lock:
            found = self._sessions.get(version.digest)
            if found is None:
                found = self._sessions[version.digest] = LoadedModel(self.registry.open_session(version))
            self._sessions.move_to_end(version.digest)
            while len(self._sessions) > _KEPT_OPEN:
                self._sessions.popitem(last=False)  # not closed: another thread may be using it
            return found


def _class_name(model: Any, onnx_path: str | Path | None) -> str:
    """What to call a model that was given no name."""
    if isinstance(model, (str, Path)) or (model is None and onnx_path is not None):
        text = Path(onnx_path if model is None else model).stem  # type: ignore[arg-type]
    elif model is None or isinstance(model, (bytes, bytearray, memoryview)):
        text = "model"
    else:
        last = model
        while getattr(last, "steps", None) and isinstance(last.steps, list):
            last = last.steps[-1][1]
        text = type(last).__name__
    return _UNFIT.sub("-", text).lstrip("._-")[:128] or "model"


def _numbers(metrics: Mapping[str, float] | None) -> dict[str, float]:
    given = {}
    for name, value in (metrics or {}).items():
        number = plain(value)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) < math.inf:
            raise InvalidInput(f"metrics.{name}: expected a finite number, got {value!r}", field="metrics")
        try:
            given[str(name)] = float(number)
        except OverflowError:
            raise InvalidInput(f"metrics.{name}: a number beyond float64", field="metrics") from None
    return given

"""The in-memory catalog: models and versions of one process, under one lock."""

from __future__ import annotations

import threading

import msgspec

from everloop.core.errors import Closed, ModelNotFound
from everloop.core.schema import Schema, Target
from everloop.core.types import VersionStatus
from everloop.stores.ports import Manifest, ModelRecord, VersionRecord
from everloop.stores.settling import check_status, name_taken, no_version, popped, pushed, with_schema


class MemoryCatalog:
    """The `Catalog` port without a file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, ModelRecord] = {}
        self._versions: dict[str, dict[int, VersionRecord]] = {}
        self._history: dict[str, list[int]] = {}
        self._numbers: dict[str, int] = {}  # outlives its model, so that no number is ever reused
        self._revision = 0
        self._closed = False

    def create_model(self, record: ModelRecord) -> None:
        with self._lock:
            self._check_open()
            if record.name in self._models:
                raise name_taken(record.name)
            self._models[record.name] = record
            self._versions[record.name] = {}
            self._history[record.name] = []
            self._revision += 1

    def get_model(self, name: str) -> ModelRecord:
        with self._lock:
            return self._model(name)

    def list_models(self) -> list[ModelRecord]:
        with self._lock:
            return [self._models[name] for name in sorted(self._models)]

    def delete_model(self, name: str) -> None:
        with self._lock:
            self._check_open()
            self._model(name)
            del self._models[name], self._versions[name], self._history[name]
            self._revision += 1

    def set_schema(self, name: str, schema: Schema, target: Target | None) -> ModelRecord:
        with self._lock:
            self._check_open()
            before = self._model(name)
            after = with_schema(before, schema, target)
            if after != before:
                self._models[name] = after
                self._revision += 1
            return after

    def add_version(
        self,
        model: str,
        digest: str,
        manifest: Manifest,
        *,
        now: float,
        status: VersionStatus = "staging",
        note: str = "",
    ) -> VersionRecord:
        with self._lock:
            self._check_open()
            self._model(model)
            number = self._numbers[model] = self._numbers.get(model, 0) + 1
            first: VersionStatus = "staging" if status == "live" else status
            self._versions[model][number] = VersionRecord(model, number, digest, first, now, manifest, note)
            self._revision += 1
            if status == "live":
                self._make_live(model, number, pushed(self._history[model], number))
            return self._versions[model][number]

    def versions(self, model: str) -> list[VersionRecord]:
        with self._lock:
            self._model(model)
            return list(self._versions[model].values())

    def get_version(self, model: str, version: int) -> VersionRecord:
        with self._lock:
            return self._version(model, version)

    def set_live(self, model: str, version: int) -> VersionRecord:
        with self._lock:
            self._check_open()
            record = self._version(model, version)
            if record.status == "live":
                return record
            return self._make_live(model, version, pushed(self._history[model], version))

    def roll_back(self, model: str) -> VersionRecord:
        with self._lock:
            self._check_open()
            self._model(model)
            usable = {v.version for v in self._versions[model].values() if v.status == "retired"}
            history = popped(model, self._history[model], usable)
            return self._make_live(model, history[-1], history)

    def set_status(self, model: str, version: int, status: VersionStatus) -> VersionRecord:
        with self._lock:
            self._check_open()
            record = self._version(model, version)
            check_status(record, status)
            if record.status != status:
                record = self._put(msgspec.structs.replace(record, status=status))
                self._revision += 1
            return record

    def revision(self) -> int:
        return self._revision

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the catalog is closed")

    def _model(self, name: str) -> ModelRecord:
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFound.named(name, self._models) from None

    def _version(self, model: str, version: int) -> VersionRecord:
        self._model(model)
        known = self._versions[model]
        try:
            return known[version]
        except KeyError:
            raise no_version(model, version, list(known)) from None

    def _put(self, record: VersionRecord) -> VersionRecord:
        self._versions[record.model][record.version] = record
        return record

    def _make_live(self, model: str, version: int, history: list[int]) -> VersionRecord:
        live = self._models[model].live_version
        if live is not None:
            self._put(msgspec.structs.replace(self._versions[model][live], status="retired"))
        self._models[model] = msgspec.structs.replace(self._models[model], live_version=version)
        self._history[model] = history
        self._revision += 1
        return self._put(msgspec.structs.replace(self._versions[model][version], status="live"))

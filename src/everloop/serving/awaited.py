"""What is asked of a reconciler from outside: whether a version answers here, why it does not, and to be told when it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from everloop.core.errors import Conflict, EverloopError
from everloop.serving.failures import Failure, Failures

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry
    from everloop.serving.arranger import Arranger
    from everloop.serving.table import TableRef


class Awaited:
    """The half of a `Reconciler` that looks outwards. Safe from any thread."""

    _registry: Registry
    _table: TableRef
    _arranger: Arranger
    _champions: Failures[str]
    _others: Failures[tuple[str, int]]
    unloaded: frozenset[str]

    @property
    def failures(self) -> Mapping[str, Failure]:
        """Model -> why the version that should serve does not. Safe from any thread."""
        return self._champions.all

    @property
    def challenger_failures(self) -> Mapping[tuple[str, int], Failure]:
        """(model, version) -> why a version beside the champion does not answer here. Safe from any thread."""
        return self._others.all

    def wait_for(self, model: str, version: int, timeout: float) -> bool:
        """Until this process answers with `version`, or with a later one that has superseded it. False after `timeout`
        seconds, or as soon as it is known that this version cannot be opened (`failures` tells why)."""

        def settled() -> bool:
            return self._serves(model, version) or self._failed(model, version)

        with self._arranger.changed:
            self._arranger.changed.wait_for(settled, timeout)
        return self._serves(model, version)

    def wait_open(self, model: str, version: int, timeout: float) -> bool:
        """Until this version is open here, whatever its share. False as `wait_for`."""

        def settled() -> bool:
            return version in self._table.current.versions(model) or (model, version) in self.challenger_failures

        with self._arranger.changed:
            self._arranger.changed.wait_for(settled, timeout)
        return version in self._table.current.versions(model)

    def refused(self, model: str, version: int) -> EverloopError | None:
        """Why this version is not open, as an error of its own for each who raises it; None as far as is known."""
        if model in self.unloaded:
            return Conflict(f"model {model!r} is unloaded; load it to ask it again", field="name")
        failure = self.failures.get(model)
        if failure is None or failure.version != version:
            failure = self.challenger_failures.get((model, version))
        return None if failure is None else failure.told(model)

    def _serves(self, model: str, version: int) -> bool:
        lane = self._table.current.lanes.get(model)
        if lane is None or lane.version <= version:
            return lane is not None and lane.version == version
        try:  # on the way back from a later version it is not there yet
            return self._registry.get(model).live_version != version
        except EverloopError:
            return False

    def _failed(self, model: str, version: int) -> bool:
        failure = self.failures.get(model)
        return model in self.unloaded or (failure is not None and failure.version == version)

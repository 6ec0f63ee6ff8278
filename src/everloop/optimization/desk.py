"""One model, as the background optimiser of this process knows it: what it waits for, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from everloop.optimization.config import Mode
from everloop.optimization.recorded import Recorded
from everloop.optimization.succession import VARIANT_OF
from everloop.stores.ports import ModelRecord, VersionRecord

LOOK = 5.0
"""Seconds between two looks at a model, at first."""
COMPILED = frozenset({"linear"})
"""Runtimes that nothing of ours is faster than."""


class Status(msgspec.Struct, frozen=True):
    """Where the optimisation of a model stands in this process."""

    state: str = "off"
    """`off`, `waiting`, `running`, `done`."""
    reason: str = ""
    """What it waits for, or what came of it."""
    version: int | None = None
    """Which one that is of."""
    since: float | None = None
    """When it began, seconds since the epoch, while it runs."""
    result: dict[str, Any] = {}
    """Of the last attempt: what was chosen, how much faster it is, what was dropped and why."""


@dataclass
class Desk:
    """One model, as this process knows it."""

    created_at: float
    version: int | None = None
    serving: dict[str, Any] = field(default_factory=dict)
    settled: bool = False
    """Nothing is to be done for `version`, served so."""
    asked: Mode | None = None
    """Somebody wants an attempt, whatever was decided before."""
    look_at: float = 0.0
    pause: float = LOOK
    status: Status = field(default_factory=Status)

    def wait(self, reason: str, version: int | None) -> None:
        self.status = Status("waiting", reason, version, result=self.status.result)

    def settle(self, reason: str, version: int | None, *, state: str = "done") -> None:
        self.settled = True
        self.status = Status(state, reason, version, result=self.status.result)


@dataclass(frozen=True)
class Ready:
    model: ModelRecord
    version: VersionRecord
    mode: Mode
    examples: Recorded


def pointless(model: ModelRecord, version: VersionRecord | None, *, asked: bool) -> str:
    """Why nothing is to be had for this version; empty if something may be."""
    if version is None:
        return "there is no version yet"
    if model.task == "tensors":
        return "it takes tensors, of which none are recorded"
    if version.manifest.runtime in COMPILED:
        return "it is compiled already"
    if VARIANT_OF in version.manifest.lineage and not asked:
        return f"it is the faster form of version {version.manifest.lineage[VARIANT_OF]}"
    return ""

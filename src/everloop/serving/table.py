"""The table: which lane answers for which model, in this process, right now.

Immutable, and replaced whole by one reference assignment, which is atomic in CPython. Whoever took a table keeps a
consistent view of it: a request takes one snapshot and never looks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from everloop.core.types import Features, Prediction

if TYPE_CHECKING:
    from everloop.serving.lane import Lane

Answer = Callable[[Features], Prediction]


@dataclass(frozen=True, slots=True)
class Table:
    lanes: Mapping[str, Lane] = field(default_factory=lambda: MappingProxyType({}))
    answers: dict[str, Answer] = field(default_factory=dict)
    """`lane.answer` by model: saves the hot path one attribute. Never changed after construction."""

    @classmethod
    def of(cls, lanes: Mapping[str, Lane]) -> Table:
        lanes = dict(lanes)
        return cls(lanes, {name: lane.answer for name, lane in lanes.items()})

    def with_lane(self, lane: Lane) -> Table:
        return Table.of({**self.lanes, lane.name: lane})

    def without(self, name: str) -> Table:
        return Table.of({n: lane for n, lane in self.lanes.items() if n != name})


class TableRef:
    """The one place that says which table is in force. Only the reconciler assigns `current`."""

    __slots__ = ("current",)

    def __init__(self, table: Table | None = None) -> None:
        self.current = table or Table()

    def __repr__(self) -> str:
        lanes = ", ".join(f"{name}@{lane.version}" for name, lane in self.current.lanes.items())
        return f"TableRef({lanes})"

"""The table: which lanes answer for which model, in this process, right now.

Immutable, and replaced whole by one reference assignment, which is atomic in CPython. Whoever took a table keeps a
consistent view of it: a request takes one snapshot and never looks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from everloop.core.types import Features, Prediction

if TYPE_CHECKING:
    from everloop.serving.lane import Lane
    from everloop.serving.split import Split

T = TypeVar("T")
Answer = Callable[[Features], Prediction]


@dataclass(frozen=True, slots=True)
class Table:
    lanes: Mapping[str, Lane] = field(default_factory=lambda: MappingProxyType({}))
    """Model -> the champion's lane."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """`lane.answer` by model, or its split's: saves the hot path one attribute. Never changed after construction."""
    splits: Mapping[str, Split] = field(default_factory=lambda: MappingProxyType({}))
    """Only of models that have one: with several versions open."""

    @classmethod
    def of(cls, lanes: Mapping[str, Lane], splits: Mapping[str, Split] | None = None) -> Table:
        lanes, splits = dict(lanes), dict(splits or {})
        answers = {name: splits[name].answer if name in splits else lane.answer for name, lane in lanes.items()}
        return cls(lanes, answers, splits)

    def with_lane(self, lane: Lane) -> Table:
        """One version answers everybody."""
        return Table.of({**self.lanes, lane.name: lane}, _without(self.splits, lane.name))

    def with_split(self, split: Split) -> Table:
        name = split.champion.name
        return Table.of({**self.lanes, name: split.champion}, {**self.splits, name: split})

    def without(self, name: str) -> Table:
        return Table.of(_without(self.lanes, name), _without(self.splits, name))

    def versions(self, name: str) -> dict[int, Lane]:
        """Version -> its lane, of all that are open; empty where nothing is."""
        if name in self.splits:
            return dict(self.splits[name].by_version)
        lane = self.lanes.get(name)
        return {} if lane is None else {lane.version: lane}

    @property
    def all_lanes(self) -> Iterator[Lane]:
        """Of all models, all versions; each model's champion first."""
        for name, lane in self.lanes.items():
            if name in self.splits:
                yield from self.splits[name].by_version.values()
            else:
                yield lane


class TableRef:
    """The one place that says which table is in force. Only the reconciler assigns `current`."""

    __slots__ = ("current",)

    def __init__(self, table: Table | None = None) -> None:
        self.current = table or Table()

    def __repr__(self) -> str:
        lanes = ", ".join(f"{lane.name}@{lane.version}" for lane in self.current.all_lanes)
        return f"TableRef({lanes})"


def _without(mapping: Mapping[str, T], name: str) -> dict[str, T]:
    return {other: value for other, value in mapping.items() if other != name}

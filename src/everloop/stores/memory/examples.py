"""Labelled examples in memory: by model in the order of acknowledgement, and by the answered row that a label came for."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from operator import attrgetter

import msgspec

from everloop.core.schema import Encoding
from everloop.core.types import Example, Label, Scalar, request_id
from everloop.stores.joining import Address, unpack_row
from everloop.stores.memory.records import OVERHEAD
from everloop.stores.ports import Checkpoint


class Kept(msgspec.Struct, frozen=True, gc=False):
    """One example, its row packed: a list of 30 floats would take four times the memory."""

    id: int
    model: str
    label: Scalar
    at: float
    address: Address | None
    encoding: Encoding
    data: bytes
    prediction: Scalar | None
    version: int | None
    validation: bool
    record_id: int
    """The journal id of the prediction it was joined with; 0 if it brought its own row."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data) + OVERHEAD


class Examples:
    """Guarded by its journal's lock."""

    def __init__(self) -> None:
        self.last = 0
        """The id of the newest one."""
        self.held = 0
        self.bytes = 0
        self._kept: dict[str, list[Kept]] = {}
        self._totals: dict[str, int] = {}
        self._labelled: dict[Address, Kept] = {}

    def add(
        self,
        label: Label,
        address: Address | None,
        packed: tuple[Encoding, bytes],
        *,
        prediction: Scalar | None = None,
        version: int | None = None,
        record_id: int = 0,
    ) -> int:
        """The new example's id."""
        self.last += 1
        kept = Kept(
            self.last,
            label.model,
            label.label,
            label.at,
            address,
            *packed,
            prediction,
            version,
            label.validation,
            record_id,
        )
        self._kept.setdefault(label.model, []).append(kept)
        self._totals[label.model] = self._totals.get(label.model, 0) + 1
        if address is not None:
            self._labelled[address] = kept
        self.held += 1
        self.bytes += kept.size
        return kept.id

    def labelled(self, address: Address) -> Kept | None:
        """The example that this answered row has become."""
        return self._labelled.get(address)

    def total(self, model: str) -> int:
        """How many there ever were."""
        return self._totals.get(model, 0)

    def count(self, model: str, after: int) -> int:
        kept = self._kept.get(model, [])
        return len(kept) - bisect_right(kept, after, key=attrgetter("id"))

    def page(self, model: str, *, after: int, limit: int, latest: bool) -> list[Kept]:
        kept = self._kept.get(model, [])
        start = bisect_right(kept, after, key=attrgetter("id"))
        if latest:
            start = max(start, len(kept) - limit)
        return kept[start : start + limit]

    def learned(self, checkpoints: Mapping[str, Checkpoint]) -> Iterator[Kept]:
        """Those that their model's checkpoint has passed, oldest first."""
        passed = [
            islice(kept, bisect_right(kept, checkpoints[model].cursor, key=attrgetter("id")))
            for model, kept in self._kept.items()
            if model in checkpoints
        ]
        return heapq.merge(*passed, key=attrgetter("id"))

    def drop(self, doomed: Sequence[Kept]) -> None:
        """`doomed` are the oldest learned ones, so each model loses a prefix of its list."""
        ids = {kept.id for kept in doomed}
        for kept in self._kept.values():
            del kept[: sum(1 for _ in takewhile(lambda one: one.id in ids, kept))]
        for one in doomed:
            self._uncount(one)

    def forget(self, model: str) -> None:
        for kept in self._kept.pop(model, ()):
            self._uncount(kept)
        self._totals.pop(model, None)

    def _uncount(self, kept: Kept) -> None:
        self.held -= 1
        self.bytes -= kept.size
        if kept.address is not None:
            del self._labelled[kept.address]


def as_example(model: str, kept: Kept) -> Example:
    return Example(
        id=kept.id,
        model=model,
        row=unpack_row(kept.encoding, kept.data),
        label=kept.label,
        at=kept.at,
        request_id=None if kept.address is None else request_id(kept.address[0], kept.address[1]),
        index=0 if kept.address is None else kept.address[2],
        prediction=kept.prediction,
        version=kept.version,
        validation=kept.validation,
    )

"""The learner's memory: the most recent labelled examples of one model, packed.

Rows of numbers are kept as float64 arrays, 8 bytes a value: ten thousand rows as Python lists would be a million objects that
every full garbage collection walks through while predictions wait. The newest rows stay lists until a block is full, so that
adding one example costs nothing.

    oldest [ block of 256 ][ block of 256 ] … [ open block: lists ] newest
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from everloop.core.schema import Schema, Target
from everloop.core.types import Example, Row, Scalar

_BLOCK = 256


class Rows(Sequence[Row]):
    """Rows in schema order as a read-only sequence of lists, kept as one array where all fields are numbers.

    NumPy takes the array as it is (`np.asarray(rows)`); who iterates gets plain Python lists, missing values as None."""

    __slots__ = ("_data",)

    def __init__(self, data: npt.NDArray[np.float64] | list[Row]) -> None:
        self._data = data

    @property
    def data(self) -> npt.NDArray[np.float64] | list[Row]:
        return self._data

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Row | Rows:
        if isinstance(at, slice):
            return Rows(self._data[at])
        if isinstance(self._data, list):
            return self._data[at]
        return [None if v != v else v for v in self._data[at].tolist()]

    def __iter__(self) -> Iterator[Row]:
        if isinstance(self._data, list):
            yield from self._data
            return
        for start in range(0, len(self._data), _BLOCK):
            block = self._data[start : start + _BLOCK]
            if np.isnan(block).any():
                yield from ([None if v != v else v for v in row] for row in block.tolist())
            else:
                yield from block.tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if isinstance(self._data, list):
            out = np.empty((len(self._data), len(self._data[0]) if self._data else 0), dtype=object)
            for i, row in enumerate(self._data):
                out[i, :] = row
            return out if dtype is None else out.astype(dtype)
        if copy or (dtype is not None and dtype != self._data.dtype):
            return self._data.astype(dtype or self._data.dtype)
        return self._data

    def __repr__(self) -> str:
        return f"Rows({len(self)})"


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive examples of a window, oldest first."""

    ids: npt.NDArray[np.int64]
    rows: Rows
    labels: list[Scalar]
    versions: npt.NDArray[np.int64]
    """Which version served each; 0 where the example came with its own features."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> Slice:
        return Slice(self.ids[start:stop], self.rows[start:stop], self.labels[start:stop], self.versions[start:stop])

    def joined(self, newer: Slice) -> Slice:
        if not len(newer):
            return self
        return _join([self, newer]) if len(self) else newer


class Window:
    """The newest examples, at most `limit` of them; everything by ascending id. Not thread-safe: its trainer owns it."""

    def __init__(self, schema: Schema, target: Target) -> None:
        self._numeric = schema.numeric
        self._width = len(schema.fields)
        self._regression = target.task == "regression"
        self._blocks: deque[Slice] = deque()
        self._packed = 0
        self._open: list[Example] = []

    def __len__(self) -> int:
        return self._packed + len(self._open)

    def __repr__(self) -> str:
        return f"Window({len(self)} examples, ids {self.first_id}..{self.last_id})"

    @property
    def first_id(self) -> int:
        """Id of the oldest example; 0 if there is none."""
        if self._blocks:
            return int(self._blocks[0].ids[0])
        return self._open[0].id if self._open else 0

    @property
    def last_id(self) -> int:
        if self._open:
            return self._open[-1].id
        return int(self._blocks[-1].ids[-1]) if self._blocks else 0

    @property
    def varied(self) -> bool:
        """Whether there are at least two different labels."""
        parts = [block.labels for block in self._blocks] + [[example.label for example in self._open]]
        first = next((part[0] for part in parts if part), None)
        return any(label != first for part in parts for label in part)

    def extend(self, examples: Sequence[Example], limit: int) -> None:
        """Add newer examples, then forget the oldest beyond `limit`."""
        self._open.extend(examples)
        if len(self._open) >= _BLOCK:
            self._blocks.append(self._pack(self._open))
            self._packed += len(self._open)
            self._open = []
        self._keep(limit)

    def cut(self, first_id: int) -> None:
        """Forget everything before the example `first_id`."""
        self._keep(self.count_from(first_id))

    def count_from(self, first_id: int) -> int:
        """How many examples have an id of at least `first_id`."""
        count = 0
        for example in reversed(self._open):
            if example.id < first_id:
                return count
            count += 1
        for block in reversed(self._blocks):
            if block.ids[0] >= first_id:
                count += len(block.ids)
                continue
            return count + len(block.ids) - int(np.searchsorted(block.ids, first_id))
        return count

    def newest(self, count: int) -> Slice:
        """The newest `count` examples (or all there are)."""
        parts: list[Slice] = []
        missing = min(count, len(self))
        if self._open and missing:
            take = self._open[-missing:]
            parts.append(self._pack(take))
            missing -= len(take)
        for block in reversed(self._blocks):
            if missing <= 0:
                break
            part = block if len(block.ids) <= missing else block.part(len(block.ids) - missing, len(block.ids))
            parts.append(part)
            missing -= len(part.ids)
        return _join(parts[::-1]) if parts else self._pack([])

    def _keep(self, count: int) -> None:
        excess = len(self) - max(count, 0)
        while excess > 0 and self._blocks:
            block = self._blocks[0]
            if len(block.ids) <= excess:
                self._blocks.popleft()
                self._packed -= len(block.ids)
                excess -= len(block.ids)
            else:
                self._blocks[0] = block.part(excess, len(block.ids))
                self._packed -= excess
                excess = 0
        if excess > 0:
            del self._open[:excess]

    def _pack(self, examples: Sequence[Example]) -> Slice:
        rows = [example.row for example in examples]
        return Slice(
            np.fromiter((e.id for e in examples), np.int64, len(examples)),
            Rows(np.array(rows, np.float64).reshape(len(rows), self._width)) if self._numeric else Rows(rows),
            [e.label for e in examples],
            np.fromiter((e.version or 0 for e in examples), np.int64, len(examples)),
        )


def _join(parts: Sequence[Slice]) -> Slice:
    if len(parts) == 1:
        return parts[0]
    data = [part.rows.data for part in parts]
    # Blocks of one window are all of one kind.
    rows = [row for part in data for row in part] if isinstance(data[0], list) else np.concatenate(data)
    return Slice(
        np.concatenate([part.ids for part in parts]),
        Rows(rows),
        [label for part in parts for label in part.labels],
        np.concatenate([part.versions for part in parts]),
    )

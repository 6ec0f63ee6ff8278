"""Tensors as a batcher runs them: what several requests brought, put together along the first axis, and cut apart again.

Requests run together if their tensors differ in the first axis only; a model whose axes are free gets a run for each of the shapes that came.
One whose first axis is not a batch (`TensorModel.batched`) gets a run for each request. A run computes what any of its requests
asked for, and what is recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from everloop.core.errors import EverloopError, Failure, InvalidInput, ModelFailed
from everloop.core.tensors import Array, Tensors
from everloop.policy.batching import slices
from everloop.runtime.tensors import Answered, tensor_model
from everloop.serving.runner import GONE, Runner, of_instance
from everloop.serving.work import Work, told

if TYPE_CHECKING:
    from everloop.policy.batching import BatchRules
    from everloop.serving.guard import Guard


OBJECT_BYTES = 64
"""What a value in an array of objects takes beside its own bytes, about."""


class TensorsAsked(NamedTuple):
    """One request's payload: arrays as `TensorModel.take` gave them, and the outputs that are wanted."""

    arrays: list[Array]
    outputs: tuple[str, ...]


class _Group(NamedTuple):
    arrays: list[Array]
    rows: int
    requests: int


class Gathered(NamedTuple):
    """The inputs of one batch."""

    groups: list[_Group]
    places: dict[int, tuple[int, int]]
    """First row of a request in the batch -> its group, and its first row there."""
    outputs: tuple[str, ...]


class TensorAnswers(NamedTuple):
    asked: Gathered
    found: list[Tensors]
    """One a group."""


class TensorWork:
    """Of one version: a `serving.work.Work`."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.tensors = tensor_model(runner.session)
        self.outputs: tuple[str, ...] = tuple(spec.name for spec in self.tensors.signature.outputs)
        """All that it gives, in the model's order."""
        self._fixed = all(-1 not in spec.shape[1:] for spec in self.tensors.signature.inputs)
        self._alone = not self.tensors.batched
        """Each request has a run of its own; also found out, when the answer to several is not one a row."""

    @property
    def model(self) -> str:
        return self.runner.model

    @property
    def version(self) -> int:
        return self.runner.version

    @property
    def rules(self) -> BatchRules:
        return self.runner.rules

    @property
    def varies(self) -> bool:
        return self.runner.varies

    @property
    def guard(self) -> Guard | None:
        return self.runner.guard

    def rows_of(self, arrays: Sequence[Array]) -> int:
        """How much of a batch a request is."""
        return len(arrays[0]) if arrays[0].ndim and not self._alone else 1

    def gather(self, payloads: Sequence[TensorsAsked], counts: Sequence[int] | None) -> Gathered:
        outputs = self._wanted(payloads)
        if len(payloads) == 1:
            arrays = payloads[0].arrays
            return Gathered([_Group(arrays, counts[0] if counts else 1, 1)], {0: (0, 0)}, outputs)
        members: dict[Any, list[TensorsAsked]] = {}
        sizes: dict[Any, int] = {}
        places: dict[int, tuple[int, int]] = {}
        start = 0
        for i, payload in enumerate(payloads):
            count = (counts[i] if counts else 0) or 1
            shape = i if self._alone else self._fixed or tuple(array.shape[1:] for array in payload.arrays)
            group = members.setdefault(shape, [])
            group.append(payload)
            places[start] = (list(members).index(shape) if len(members) > 1 else 0, sizes.get(shape, 0))
            sizes[shape] = sizes.get(shape, 0) + count
            start += count
        return Gathered(
            [_Group(_joined(group), sizes[shape], len(group)) for shape, group in members.items()], places, outputs
        )

    def run(self, inputs: Gathered) -> TensorAnswers:
        try:
            with np.errstate(all="ignore"):  # what overflowed is told by its answer, not by a warning
                found = [self._sliced(group, inputs.outputs) for group in inputs.groups]
        except EverloopError as error:
            if self.guard is not None and isinstance(error, ModelFailed) and error.how in GONE:
                self.guard.lose(self.runner, error)
            raise
        except Exception as error:
            raise self.runner.failed(f"{type(error).__name__}: {error}") from error
        return TensorAnswers(inputs, found)

    def sound(self, answers: TensorAnswers) -> bool:
        if not self.runner.regression:
            return True
        needed = (found[name] for found in answers.found for name in self.tensors.always)
        return all(array.dtype == object or np.isfinite(array).all() for array in needed)

    def part(self, answers: TensorAnswers, start: int, stop: int) -> Tensors:
        index, first = answers.asked.places[start]
        found, group = answers.found[index], answers.asked.groups[index]
        if group.requests == 1:
            return found
        last = first + stop - start
        return {name: array[first:last] for name, array in found.items()}

    def recorded(self, answers: TensorAnswers, start: int, stop: int) -> Answered | None:
        """What the journal keeps of the request that has these rows."""
        index, first = answers.asked.places[start]
        group, last = answers.asked.groups[index], first + stop - start
        arrays = group.arrays if group.requests == 1 else [array[first:last] for array in group.arrays]
        return self.tensors.answered(arrays, self.part(answers, start, stop))

    def failed(self, what: str, how: Failure = "raised") -> ModelFailed:
        return self.runner.failed(what, how)

    def weight(self, payload: TensorsAsked, count: int) -> int:  # noqa: ARG002  the arrays tell
        arrays = payload.arrays
        return _bytes_of(arrays[0]) if len(arrays) == 1 else sum(map(_bytes_of, arrays))

    def blame(self, payload: TensorsAsked, count: int) -> EverloopError | None:
        try:
            answers = self.run(self.gather([payload], [count]))
        except EverloopError as error:
            return told(self, error)
        if self.sound(answers):
            return None
        values = answers.found[0][self.tensors.always[0]].reshape(-1).tolist()
        for i, value in enumerate(values):
            unsound = self.runner.unsound(value)
            if unsound is not None:
                return of_instance(i, unsound) if len(values) > 1 else unsound
        return None

    def adopt(self, payload: TensorsAsked, count: int, other: Work) -> TensorsAsked:  # noqa: ARG002  as `Work`
        if isinstance(other, TensorWork) and other.tensors.signature == self.tensors.signature:
            return payload
        raise InvalidInput(
            f"version {self.version} of model {self.model!r} takes other tensors than version {other.version}"
        )

    def take_detour(self) -> float:
        return self.runner.take_detour()

    def key(self, payload: TensorsAsked, count: int) -> bytes | None:  # noqa: ARG002  the arrays tell
        """All of the inputs, and which outputs were asked for. The letter, and with it the length, are no key of rows: one part of the
        cache holds both, and rows could be chosen so that their numbers are this digest."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update("\0".join(sorted(payload.outputs)).encode())
        for array in payload.arrays:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            if array.dtype == object:
                _update_by_objects(digest, array)
            else:
                digest.update(array.tobytes())
        return b"t" + digest.digest()

    def _wanted(self, payloads: Sequence[TensorsAsked]) -> tuple[str, ...]:
        """Outputs that any of them asks for, in the model's order."""
        first = payloads[0].outputs
        always = self.tensors.always
        if all(payload.outputs is first or payload.outputs == first for payload in payloads):
            return first if set(always) <= set(first) else (*always, *first)
        wanted = {name for payload in payloads for name in payload.outputs}.union(always)
        return tuple(name for name in self.outputs if name in wanted)

    def _sliced(self, group: _Group, outputs: tuple[str, ...]) -> Tensors:
        """More rows than a batch may have are run in slices, so that memory stays bounded."""
        if self._alone or group.rows <= self.rules.max_rows:
            return self._run(group, outputs)
        parts = [
            self._run(_Group([array[start:stop] for array in group.arrays], stop - start, group.requests), outputs)
            for start, stop in slices(group.rows, self.rules)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, group: _Group, outputs: tuple[str, ...]) -> Tensors:
        found = self.tensors.infer(group.arrays, outputs)
        if self._alone:
            return found
        wrong = next((name for name, array in found.items() if not array.ndim or len(array) != group.rows), None)
        if wrong is None:
            return found
        shape = found[wrong].shape
        if self.tensors.always or group.requests > 1:
            # Of a model of tensors the first axis of an output may be something else; then nobody may share a run.
            self._alone = not self.tensors.always
            raise self.runner.failed(f"its output {wrong!r} has shape {shape} for {group.rows} rows", "shape")
        self._alone = True
        return found


def _bytes_of(array: Array) -> int:
    """What it holds; of texts and files, which are objects elsewhere, these."""
    if array.dtype != object:
        return int(array.nbytes)
    return sum(len(value) + OBJECT_BYTES if isinstance(value, (str, bytes)) else OBJECT_BYTES for value in array.flat)


def _update_by_objects(digest: hashlib.blake2b, array: Array) -> None:
    """Each value behind its kind and length, so that no two arrays are alike to it."""
    for value in array.flat:
        told = value if type(value) is bytes else repr(value).encode("utf-8", "surrogatepass")
        digest.update(f"{type(value).__name__}{len(told)}:".encode())
        digest.update(told)


def _joined(group: list[TensorsAsked]) -> list[Array]:
    if len(group) == 1:
        return group[0].arrays
    return [np.concatenate(parts) for parts in zip(*(asked.arrays for asked in group), strict=True)]

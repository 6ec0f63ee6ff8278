"""A model by its own inputs and outputs, whatever they are: several of them, images, axes of any size, text.

What an ONNX file or a PyTorch program brings. Requests are put together along the first axis where the model says that this is one batch
in all inputs and outputs; otherwise each request runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from everloop.core.errors import InvalidInput, NotSupported
from everloop.core.schema import NoRows, Schema, Target
from everloop.core.tensors import DATATYPES, Array, Signature, Tensor, Tensors, all_finite
from everloop.runtime.session import Matrix
from everloop.runtime.tensors import Answered, by_names, different_rows, texts, wrong_shape, wrong_type

Call: TypeAlias = Callable[[list[Array], Sequence[str]], Sequence[Any]]
"""Arrays in the order of the inputs, and the names of the outputs wanted -> those outputs."""


class Rows(NamedTuple):
    """How a model that rows can fill is read: its answer for each row."""

    output: str
    read: Callable[[Any, int], Any]


class OwnTensors:
    """A `runtime.tensors.TensorModel`."""

    def __init__(self, signature: Signature, call: Call, *, batched: bool, rows: Rows | None = None) -> None:
        """`rows`: None for a model that no row can fill."""
        self.signature = signature
        self.batched = batched
        self.always = () if rows is None else (rows.output,)
        self._call = call
        self._rows = rows
        self._names = tuple(spec.name for spec in signature.inputs)
        self._types = {spec.name: np.dtype(DATATYPES[spec.datatype]) for spec in signature.inputs}

    def take(self, tensors: Sequence[Tensor]) -> list[Array]:
        given = by_names(tensors, self._names)
        arrays: list[Array] = []
        for spec in self.signature.inputs:
            tensor = given[spec.name]
            if tensor.datatype != spec.datatype:
                raise wrong_type(tensor, spec.datatype)
            if not _fits(tensor.shape, spec.shape):
                raise wrong_shape(tensor, spec.shape)
            data = texts(tensor) if spec.datatype == "BYTES" else tensor.data
            if self._rows is not None and data.dtype.kind == "f" and not all_finite(data):
                raise _not_finite(tensor)
            arrays.append(data)
        if len(arrays) > 1 and (self.batched or self._rows is not None) and len({a.shape[:1] for a in arrays}) > 1:
            # a model may stretch one row to many; put together with other requests it would take theirs
            raise different_rows(arrays)
        return arrays

    def infer(self, arrays: list[Array], outputs: Sequence[str]) -> Tensors:
        found = self._call([np.ascontiguousarray(a) for a in arrays], outputs)
        return {name: np.asarray(each) for name, each in zip(outputs, found, strict=True)}

    def answered(self, arrays: list[Array], answers: Tensors) -> Answered | None:
        if self._rows is None:
            return None
        rows = len(arrays[0])
        parts = [a.reshape(rows, -1) for a in arrays]
        X = parts[0] if len(parts) == 1 else _side_by_side(parts)
        if X.dtype.kind not in "fO":
            X = X.astype(np.float64)
        elif X.dtype == np.float16:
            X = X.astype(np.float32)
        return Answered(X, self._rows.read(answers[self._rows.output], rows).tolist())


class TensorSession:
    """A model that no row of features can fill: it is asked by tensors only."""

    classes: list[Any] | None = None
    scored = False
    dtype: Any = object

    def __init__(self, target: Target, tensors: OwnTensors, why: str, close: Callable[[], None]) -> None:
        """`why` no row can fill it. `close` frees what it holds."""
        self.schema: Schema = NoRows((), why=why)
        self.target = target
        self.tensors = tensors
        self.close = close

    def run(self, X: Matrix) -> Matrix:  # noqa: ARG002  the contract of a session
        raise NotSupported("this model takes tensors, not rows")

    def scores(self, X: Matrix) -> None:  # noqa: ARG002  as above
        return None


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    if shape[1:] == wanted[1:] and shape and wanted[0] == -1:  # most often only the batch's axis is free
        return True
    return all(axis in (-1, got) for got, axis in zip(shape, wanted, strict=True))


def _side_by_side(parts: list[Array]) -> Array:
    if any(part.dtype.kind == "O" for part in parts):
        return np.concatenate([part.astype(object) for part in parts], axis=1)
    return np.concatenate([part.astype(np.float64) for part in parts], axis=1)


def _not_finite(tensor: Tensor) -> InvalidInput:
    return InvalidInput(
        f"inputs.{tensor.name}: NaN or infinity is among its values, expected finite numbers",
        field=f"inputs.{tensor.name}",
    )

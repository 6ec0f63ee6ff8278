"""An ONNX model by its own inputs and outputs, whatever they are: several of them, images, axes of any size, text.

Requests are put together along the first axis where the file gives it one name in all inputs and outputs; where it is named differently
anywhere, has no name, or is fixed, each request runs alone. A `seq(map(…))`, as classifiers of scikit-learn are often exported, is told
as the table of scores that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from everloop.core.errors import InvalidInput, ModelFailed, NotSupported
from everloop.core.schema import NoRows, Schema, Target
from everloop.core.tensors import DATATYPES, Array, Signature, Tensor, Tensors, TensorSpec, all_finite
from everloop.runtime.session import Matrix
from everloop.runtime.tensors import Answered, by_names, different_rows, texts, wrong_shape, wrong_type
from everloop.stores.ports import Manifest

DATATYPE_OF = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_MAPS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")


class Rows(NamedTuple):
    """How a model that rows can fill is read: its answer for each row."""

    output: str
    read: Callable[[Any, int], Any]


class OnnxTensors:
    def __init__(self, runtime: Any, classes: list[Any] | None = None, rows: Rows | None = None) -> None:
        """`rows`: None for a model that no row can fill. Raises NotSupported."""
        self._run: Any = runtime.run
        self._classes = classes
        self._rows = rows
        self._maps = {out.name for out in runtime.get_outputs() if out.type in _MAPS}
        self.signature = signature_of(runtime, classes, strict=rows is None)
        self.batched = _batched(runtime, rows=rows is not None)
        self.always = () if rows is None else (rows.output,)
        self._names = tuple(spec.name for spec in self.signature.inputs)
        self._types = {spec.name: np.dtype(DATATYPES[spec.datatype]) for spec in self.signature.inputs}
        self._finite = rows is not None

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
            if self._finite and data.dtype.kind == "f" and not all_finite(data):
                raise _not_finite(tensor)
            arrays.append(data)
        if len(arrays) > 1 and (self.batched or self._rows is not None) and len({a.shape[:1] for a in arrays}) > 1:
            # a model may stretch one row to many; put together with other requests it would take theirs
            raise different_rows(arrays)
        return arrays

    def infer(self, arrays: list[Array], outputs: Sequence[str]) -> Tensors:
        feed = {name: np.ascontiguousarray(a) for name, a in zip(self._names, arrays, strict=True)}
        found = self._run(list(outputs), feed)
        return {
            name: self._table(each) if name in self._maps else np.asarray(each)
            for name, each in zip(outputs, found, strict=True)
        }

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

    def _table(self, maps: Any) -> Array:
        assert self._classes is not None
        return np.array([[row[label] for label in self._classes] for row in maps], np.float32)

    def close(self) -> None:
        """ONNX Runtime frees the model when the last reference goes."""
        self._run = _closed


class OnnxTensorSession:
    """A model that no row of features can fill: it is asked by tensors only."""

    classes: list[Any] | None = None
    scored = False
    dtype: Any = object

    def __init__(self, manifest: Manifest, runtime: Any, why: str) -> None:
        """`why` no row can fill it."""
        self.schema: Schema = NoRows((), why=why)
        self.target: Target = manifest.target
        self.tensors = OnnxTensors(runtime)

    def run(self, X: Matrix) -> Matrix:  # noqa: ARG002  the contract of a session
        raise NotSupported("this model takes tensors, not rows")

    def scores(self, X: Matrix) -> None:  # noqa: ARG002  as above
        return None

    def close(self) -> None:
        self.tensors.close()


def signature_of(runtime: Any, classes: list[Any] | None, *, strict: bool) -> Signature:
    """What the file tells of itself. `strict`: an output that is no tensor is refused (NotSupported), and not just left out."""
    inputs = tuple(_spec(each, "input") for each in runtime.get_inputs())
    outputs = []
    for each in runtime.get_outputs():
        if each.type in _MAPS and classes:
            outputs.append(TensorSpec(each.name, "FP32", (-1, len(classes))))
        elif strict or each.type in DATATYPE_OF:
            outputs.append(_spec(each, "output"))
    if not inputs or not outputs:
        raise NotSupported("the ONNX model has no inputs, or no outputs")
    return Signature(inputs, tuple(outputs))


def _spec(each: Any, what: str) -> TensorSpec:
    datatype = DATATYPE_OF.get(each.type)
    if datatype is None:
        raise NotSupported(
            f"the ONNX model's {what} {each.name!r} has type {each.type}, which is no tensor of the protocol"
        )
    return TensorSpec(each.name, datatype, tuple(size if isinstance(size, int) else -1 for size in each.shape or ()))


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    if shape[1:] == wanted[1:] and shape and wanted[0] == -1:  # most often only the batch's axis is free
        return True
    return all(axis in (-1, got) for got, axis in zip(shape, wanted, strict=True))


def _batched(runtime: Any, *, rows: bool) -> bool:
    """Whether the first axis of everything is the batch. Of a model of tensors only if the file gives it one name everywhere: an axis
    without a name may be anything, such as what was found in an image."""
    firsts = [
        (each.shape or [0])[0] for each in (*runtime.get_inputs(), *runtime.get_outputs()) if each.type not in _MAPS
    ]
    if rows:
        return not any(isinstance(first, int) for first in firsts) and len({f for f in firsts if f is not None}) <= 1
    return isinstance(firsts[0], str) and len(set(firsts)) == 1


def _side_by_side(parts: list[Array]) -> Array:
    if any(part.dtype.kind == "O" for part in parts):
        return np.concatenate([part.astype(object) for part in parts], axis=1)
    return np.concatenate([part.astype(np.float64) for part in parts], axis=1)


def _not_finite(tensor: Tensor) -> InvalidInput:
    return InvalidInput(
        f"inputs.{tensor.name}: NaN or infinity is among its values, expected finite numbers",
        field=f"inputs.{tensor.name}",
    )


def _closed(*_: Any) -> Any:
    raise ModelFailed("this ONNX session is closed")

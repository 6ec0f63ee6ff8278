"""An ONNX model by its own inputs and outputs (`runtime.own_tensors`), as ONNX Runtime tells them.

Requests are put together along the first axis where the file gives it one name in all inputs and outputs; where it is named differently
anywhere, has no name, or is fixed, each request runs alone. A `seq(map(…))`, as classifiers of scikit-learn are often exported, is told
as the table of scores that it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from everloop.core.errors import ModelFailed, NotSupported
from everloop.core.tensors import Array, Signature, TensorSpec
from everloop.runtime.own_tensors import OwnTensors, Rows, TensorSession
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


class OnnxTensors(OwnTensors):
    def __init__(self, runtime: Any, classes: list[Any] | None = None, rows: Rows | None = None) -> None:
        """`rows`: None for a model that no row can fill. Raises NotSupported."""
        signature = signature_of(runtime, classes, strict=rows is None)
        super().__init__(signature, self._answers, batched=_batched(runtime, rows=rows is not None), rows=rows)
        self._run: Any = runtime.run
        self._classes = classes
        self._maps = {out.name for out in runtime.get_outputs() if out.type in _MAPS}

    def _answers(self, arrays: list[Array], outputs: Sequence[str]) -> list[Any]:
        found = self._run(list(outputs), dict(zip(self._names, arrays, strict=True)))
        return [self._table(each) if name in self._maps else each for name, each in zip(outputs, found, strict=True)]

    def _table(self, maps: Any) -> Array:
        assert self._classes is not None
        return np.array([[row[label] for label in self._classes] for row in maps], np.float32)

    def close(self) -> None:
        """ONNX Runtime frees the model when the last reference goes."""
        self._run = _closed


def tensors_only(manifest: Manifest, runtime: Any, why: str) -> TensorSession:
    """The session of a model that no row can fill, `why` in words."""
    tensors = OnnxTensors(runtime)
    return TensorSession(manifest.target, tensors, why, tensors.close)


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


def _batched(runtime: Any, *, rows: bool) -> bool:
    """Whether the first axis of everything is the batch. Of a model of tensors only if the file gives it one name everywhere: an axis
    without a name may be anything, such as what was found in an image."""
    firsts = [
        (each.shape or [0])[0] for each in (*runtime.get_inputs(), *runtime.get_outputs()) if each.type not in _MAPS
    ]
    if rows:
        return not any(isinstance(first, int) for first in firsts) and len({f for f in firsts if f is not None}) <= 1
    return isinstance(firsts[0], str) and len(set(firsts)) == 1


def _closed(*_: Any) -> Any:
    raise ModelFailed("this ONNX session is closed")

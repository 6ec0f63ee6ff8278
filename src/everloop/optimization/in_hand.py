"""A model as somebody holds it: a PyTorch module, a fitted scikit-learn estimator, an ONNX file. How each is called by hand, how large it is
as a file, and how it becomes ONNX."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput
from everloop.core.tensors import DATATYPES
from everloop.optimization.onnx_torch import export_module, is_module, still, tensors_of
from everloop.runtime import onnx
from everloop.runtime.artifact import Trust
from everloop.runtime.loaded import rows_of
from everloop.runtime.packing import pack
from everloop.stores.ports import Manifest

OPSET = 18
"""What the dynamo exporter writes without converting anything."""
Array = npt.NDArray[Any]


class InHand(Protocol):
    def call(self, samples: Any) -> Callable[[], Any]:
        """What asks for `samples`, (n, …), as whoever holds the model would: what can be done beforehand is."""

    def numbers(self, samples: Any) -> Array:
        """(n,) values, (n, k) scores, or whatever shape the model answers; (n,) labels where it answers nothing else."""

    def answers(self, samples: Any) -> Array:
        """(n,) labels of a classifier; `numbers` of any other."""

    @property
    def size_bytes(self) -> int:
        """As a file."""


def in_hand(model: Any) -> InHand:
    """Raises NotSupported, InvalidInput, ArtifactCorrupt."""
    if isinstance(model, OnnxModel):
        return model
    if is_module(model):
        return _Module(model)
    if isinstance(model, (str, Path, bytes)):
        return OnnxModel(*as_onnx(model))
    return _Estimator(model)


def as_onnx(model: Any, sample: Any = None) -> tuple[Manifest, bytes]:
    """`sample`: inputs to trace a module with, (n, …) each. Raises NotSupported, InvalidInput, MissingExtra, ArtifactCorrupt."""
    if is_module(model):
        payload, _ = export_module(model, _traced_with(model, sample), opset=OPSET)
        return onnx.read_file(payload), payload
    manifest, payload = pack(model, trust=Trust())
    if manifest.runtime == "onnx":
        return manifest, payload
    from everloop.optimization.onnx import convert_artifact

    return convert_artifact(manifest, payload, trust=Trust())


class OnnxModel:
    """An ONNX artifact, called as the model that it came from. Safe from any thread."""

    def __init__(self, manifest: Manifest, payload: bytes) -> None:
        """Raises NotSupported, ArtifactCorrupt."""
        self.manifest = manifest
        self.payload = payload
        """The ONNX file's bytes."""
        self._session: Any = onnx.load(manifest, payload)
        signature = self._session.tensors.signature
        self._dtypes = [np.dtype(DATATYPES[spec.datatype]) for spec in signature.inputs]
        self._first = signature.outputs[0].name

    @property
    def size_bytes(self) -> int:
        """Of its file."""
        return len(self.payload)

    def __call__(self, *inputs: Any) -> Any:
        """The first output for its inputs, (n, …) each; a tensor of PyTorch is answered by one."""
        if len(inputs) != len(self._dtypes):
            raise InvalidInput(f"the model takes {len(self._dtypes)} inputs, got {len(inputs)}", field="inputs")
        given = [as_array(each).astype(dtype, copy=False) for each, dtype in zip(inputs, self._dtypes, strict=True)]
        out = np.asarray(self._session.tensors.infer(given, (self._first,))[self._first])
        if is_tensor(inputs[0]):
            import torch

            return torch.from_numpy(out)
        return out

    def predict(self, X: Any) -> Array:
        """(n, fields) -> (n,) labels or values: a frame, an array or rows. Raises InvalidInput, NotSupported (a model of tensors)."""
        answers: Array = self._session.run(rows_of(flat(X), self._session))
        return answers

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64] | None:
        """(n, fields) -> (n, classes) scores; None where there are none."""
        scores: npt.NDArray[np.float64] | None = self._session.scores(rows_of(flat(X), self._session))
        return scores

    def call(self, samples: Any) -> Callable[[], Any]:
        """As `InHand` says, and so are the next two."""
        if is_tensor(samples) or isinstance(samples, np.ndarray):
            return lambda: self(samples)
        return lambda: self.predict(samples)

    def numbers(self, samples: Any) -> Array:
        if self.manifest.task == "tensors":
            return np.asarray(self(samples))
        scores = self.predict_proba(samples)
        return self.predict(samples) if scores is None else scores

    def answers(self, samples: Any) -> Array:
        return self.numbers(samples) if self.manifest.task == "tensors" else self.predict(samples)

    def examples(self, rows: Any) -> Any:
        """As `quantize_artifact` takes them."""
        if self.manifest.task != "tensors":
            return rows_of(flat(rows), self._session)
        names = [spec.name for spec in self._session.tensors.signature.inputs]
        parts = rows if isinstance(rows, tuple) else (rows,)
        if len(parts) != len(names):
            raise InvalidInput(f"the model takes {len(names)} inputs, got {len(parts)}", field="rows")
        return dict(zip(names, map(as_array, parts), strict=True))


class _Module:
    def __init__(self, module: Any) -> None:
        self._module = still(module)

    def call(self, samples: Any) -> Callable[[], Any]:
        import torch

        module, tensors = self._module, tensors_of(samples)

        def ask() -> Any:
            with torch.inference_mode():
                return module(*tensors)

        return ask

    def numbers(self, samples: Any) -> Array:
        out = np.asarray(self.call(samples)(), np.float64)
        return out[:, 0] if out.ndim == 2 and out.shape[1] == 1 else out

    def answers(self, samples: Any) -> Array:
        numbers = self.numbers(samples)
        return numbers.argmax(axis=1) if numbers.ndim == 2 else numbers

    @property
    def size_bytes(self) -> int:
        """Of what `torch.save` writes of its weights."""
        import torch

        file = io.BytesIO()
        torch.save(self._module.state_dict(), file)
        return file.tell()


class _Estimator:
    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self._payload = pack(estimator, trust=Trust())[1]

    def call(self, samples: Any) -> Callable[[], Any]:
        return lambda: self._estimator.predict(samples)

    def numbers(self, samples: Any) -> Array:
        ask = getattr(self._estimator, "predict_proba", self._estimator.predict)
        return np.asarray(ask(samples))

    def answers(self, samples: Any) -> Array:
        return np.asarray(self._estimator.predict(samples))

    @property
    def size_bytes(self) -> int:
        """Of its skops file."""
        return len(self._payload)


def is_tensor(value: Any) -> bool:
    """Of PyTorch, without importing it."""
    return type(value).__module__.partition(".")[0] == "torch"


def as_array(values: Any) -> Array:
    return np.asarray(values.detach().cpu() if is_tensor(values) else values)


def flat(rows: Any) -> Any:
    """Images and the like as rows."""
    rows = as_array(rows) if is_tensor(rows) else rows
    return rows.reshape(len(rows), -1) if isinstance(rows, np.ndarray) and rows.ndim > 2 else rows


def _traced_with(module: Any, sample: Any) -> Any:
    """Two rows: of what was given, or zeros as wide as the first layer, where that is a linear one."""
    import torch

    if sample is not None:
        return tuple(each[:2] for each in tensors_of(sample))
    layer = next((each for each in module.modules() if any(True for _ in each.parameters(recurse=False))), None)
    if isinstance(layer, torch.nn.Linear):
        return torch.zeros(2, layer.in_features)
    raise InvalidInput(
        f"the first layer of this {type(module).__name__} does not tell the shape of its input: give sample_input=",
        field="sample_input",
    )

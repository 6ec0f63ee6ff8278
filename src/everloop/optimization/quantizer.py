"""`ModelQuantizer`: a model in hand becomes a smaller one, which is called as the one it came from, and compared with it.

PyTorch modules are exported to ONNX first, fitted estimators are converted; ONNX files are taken as they are. What comes out is ONNX
whatever its file is called (also `model_quantized.pt`): `torch.ao.quantization` is deprecated, and ONNX Runtime's kernels are what everloop
serves with. So such a file is opened by `QuantizedModel.load`, `ONNXPredictor` or `everloop serve`, and not by `torch.load`.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput
from everloop.core.tensors import DATATYPES
from everloop.optimization.labels import strangers
from everloop.optimization.onnx_torch import export_module, is_module, tensors_of
from everloop.optimization.quantization import Method, QuantizationConfig, quantize_artifact
from everloop.optimization.sides import sides_of, time_in_turns
from everloop.runtime import onnx
from everloop.runtime.artifact import Trust, read_payload
from everloop.runtime.loaded import rows_of
from everloop.runtime.packing import pack, trust_in_hand
from everloop.stores.ports import Manifest

OPSET = 18
"""What the dynamo exporter writes without converting anything."""
Array = npt.NDArray[Any]


class QuantizedModel:
    """What a `ModelQuantizer` makes: an ONNX model that is called as the model it came from. Safe from any thread."""

    def __init__(self, manifest: Manifest, payload: bytes, path: Path | None = None) -> None:
        """Raises NotSupported, ArtifactCorrupt."""
        self.manifest = manifest
        self.payload = payload
        """The ONNX file's bytes."""
        self.path = path
        self._session: Any = onnx.load(manifest, payload)
        signature = self._session.tensors.signature
        self._dtypes = [np.dtype(DATATYPES[spec.datatype]) for spec in signature.inputs]
        self._first = signature.outputs[0].name

    @classmethod
    def load(cls, path: str | Path) -> QuantizedModel:
        """Raises InvalidInput (no such file), ArtifactCorrupt (no ONNX model), NotSupported."""
        payload = read_payload(path)
        return cls(onnx.read_file(payload), payload, Path(path))

    @property
    def how(self) -> dict[str, Any]:
        """How it was made: method, calibration, which operators stayed in float, what it loses; empty where it was only loaded."""
        told: dict[str, Any] = self.manifest.lineage.get("quantization", {})
        return told

    @property
    def size_bytes(self) -> int:
        """Of its file."""
        return len(self.payload)

    def __call__(self, *inputs: Any) -> Any:
        """The first output for its inputs, (n, …) each; a tensor of PyTorch is answered by one."""
        if len(inputs) != len(self._dtypes):
            raise InvalidInput(f"the model takes {len(self._dtypes)} inputs, got {len(inputs)}", field="inputs")
        given = [_array(each).astype(dtype, copy=False) for each, dtype in zip(inputs, self._dtypes, strict=True)]
        out = np.asarray(self._session.tensors.infer(given, (self._first,))[self._first])
        if _is_tensor(inputs[0]):
            import torch

            return torch.from_numpy(out)
        return out

    def predict(self, X: Any) -> Array:
        """(n, fields) -> (n,) labels or values: a frame, an array or rows. Raises InvalidInput, NotSupported (a model of tensors)."""
        answers: Array = self._session.run(rows_of(_flat(X), self._session))
        return answers

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64] | None:
        """(n, fields) -> (n, classes) scores; None where there are none."""
        scores: npt.NDArray[np.float64] | None = self._session.scores(rows_of(_flat(X), self._session))
        return scores

    def save(self, path: str | Path) -> Path:
        """Write the ONNX file, whole or not at all."""
        path = Path(path)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            partial = Path(folder, path.name)
            partial.write_bytes(self.payload)
            return partial.replace(path)


class ModelQuantizer:
    """`model` may be a `torch.nn.Module`, a fitted estimator, an ONNX file's path or bytes. It is never changed."""

    def __init__(self, config: QuantizationConfig | None = None) -> None:
        self.config = config or QuantizationConfig()

    def quantize_dynamic(
        self, model: Any, path: str | Path | None = None, *, sample_input: Any = None
    ) -> QuantizedModel:
        """INT8 weights; needs no data. `sample_input`: what a module is called with, (n, …), where its first layer does not tell.

        Raises NotSupported, InvalidInput, MissingExtra, ArtifactCorrupt."""
        return self._quantize(model, "dynamic", path, sample_input)

    def quantize_static(
        self, model: Any, calibration_frame: Any, path: str | Path | None = None, *, labels: Sequence[Any] | None = None
    ) -> QuantizedModel:
        """INT8 weights and activations. `calibration_frame`: rows like those that will come, (n, …): a Polars or pandas frame, an array or a
        tensor. Half of them calibrate, at most `calibration_rows`; what is lost is found on the others. `labels`: (n,).

        Raises as `quantize_dynamic`."""
        return self._quantize(model, "static", path, calibration_frame, judged=True, labels=labels)

    def quantize_fp16(self, model: Any, path: str | Path | None = None, *, sample_input: Any = None) -> QuantizedModel:
        """Weights in half precision: half the file, the same speed. Raises as `quantize_dynamic`."""
        return self._quantize(model, "fp16", path, sample_input)

    def compare_accuracy(
        self, original: Any, quantized: QuantizedModel, samples: Any, labels: Sequence[Any] | None = None
    ) -> dict[str, float]:
        """Both on the same `samples`, (n, …): `rows max_difference mean_difference` of their scores or values; of classifiers `label_flips
        agreement`, and with `labels`, (n,), `original_accuracy quantized_accuracy accuracy_change_points`; of a regression with them
        `original_mae quantized_mae`. Raises InvalidInput, and what the models raise."""
        sides = sides_of(_opened(original), quantized.payload, _sample(original, samples))
        pairs = [(a, b) for _, a, b in sides.answers()]
        told: dict[str, float] = {"rows": sides.rows}
        numbers = next(((a, b) for a, b in reversed(pairs) if a.dtype.kind == "f"), None)
        if numbers is not None:
            difference = np.abs(numbers[0].astype(np.float64) - numbers[1])
            told |= {"max_difference": float(difference.max(initial=0)), "mean_difference": float(difference.mean())}
        before, after = pairs[0]
        classes = sides.classes
        if before.dtype.kind == "f" and before.ndim == 2 and before.shape[1] > 1:
            classes = list(range(before.shape[1]))
            before, after = before.argmax(axis=1), after.argmax(axis=1)
        if before.dtype.kind != "f":
            flips = int(np.sum(before != after))
            told |= {"label_flips": flips, "agreement": 1 - flips / max(1, len(before))}
        return told if labels is None else told | _judged(before, after, np.asarray(labels), classes)

    def benchmark_quantized(
        self, original: Any, quantized: QuantizedModel, sample: Any, iterations: int = 100
    ) -> dict[str, float]:
        """How long a call with `sample`, (n, …), takes, on one thread, in turns: `speedup original_ms quantized_ms rows iterations`; and
        what they are as files: `size_reduction_pct original_bytes quantized_bytes` (of a module, what `torch.save` writes of its
        weights). Raises InvalidInput, and what the models raise."""
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise InvalidInput(f"iterations: expected a whole number from 1 on, got {iterations!r}", field="iterations")
        sides = sides_of(_opened(original), quantized.payload, _sample(original, sample))
        timed = time_in_turns(sides, iterations)
        size = _bytes_of(original)
        return {
            "speedup": timed["speedup"],
            "original_ms": timed["model_p50_ms"],
            "quantized_ms": timed["onnx_p50_ms"],
            "size_reduction_pct": (1 - quantized.size_bytes / size) * 100,
            "original_bytes": size,
            "quantized_bytes": quantized.size_bytes,
            "rows": sides.rows,
            "iterations": iterations,
        }

    def _quantize(
        self,
        model: Any,
        method: Method,
        path: str | Path | None,
        sample: Any,
        *,
        judged: bool = False,
        labels: Sequence[Any] | None = None,
    ) -> QuantizedModel:
        manifest, payload = as_onnx(model, sample)
        rows = _examples(manifest, payload, sample) if judged else None
        made = QuantizedModel(*quantize_artifact(manifest, payload, rows, replace(self.config, method=method), labels))
        if path is not None:
            made.path = made.save(path)
        return made


def as_onnx(model: Any, sample: Any = None) -> tuple[Manifest, bytes]:
    """`sample`: inputs to trace a module with, (n, …) each. Raises NotSupported, InvalidInput, MissingExtra, ArtifactCorrupt."""
    if is_module(model):
        payload, _ = export_module(model, _traced_with(model, sample), opset=OPSET)
        return onnx.read_file(payload), payload
    manifest, payload = pack(_opened(model), trust=trust_in_hand(model))
    if manifest.runtime == "onnx":
        return manifest, payload
    from everloop.optimization.onnx import convert_artifact

    manifest, payload = convert_artifact(manifest, payload, trust=trust_in_hand(model))
    # by hand it is called by the graph's own inputs, and not by those of the model that it would stand in for
    options = {name: value for name, value in manifest.options.items() if name != "tensors"}
    return msgspec.structs.replace(manifest, options=options), payload


def _opened(model: Any) -> Any:
    """A file as its bytes, checked to be no pickle."""
    if not isinstance(model, (str, Path)):
        return model
    payload = read_payload(model)
    pack(payload, trust=Trust())
    return payload


def _sample(original: Any, samples: Any) -> Any:
    """As the original takes it: images stay images only where it is a module."""
    return samples if is_module(original) else _flat(samples)


def _examples(manifest: Manifest, payload: bytes, rows: Any) -> Any:
    """As `quantize_artifact` takes them."""
    session: Any = onnx.load(manifest, payload)
    if manifest.task != "tensors":
        return rows_of(_flat(rows), session)
    names = [spec.name for spec in session.tensors.signature.inputs]
    parts = rows if isinstance(rows, tuple) else (rows,)
    if len(parts) != len(names):
        raise InvalidInput(f"the model takes {len(names)} inputs, got {len(parts)}", field="rows")
    return dict(zip(names, map(_array, parts), strict=True))


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


def _bytes_of(model: Any) -> int:
    """As a file."""
    if not is_module(model):
        return len(pack(_opened(model), trust=trust_in_hand(model))[1])
    import torch

    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def _judged(before: Array, after: Array, y: Array, classes: list[Any] | None) -> dict[str, float]:
    if len(y) != len(before):
        raise InvalidInput(f"labels: expected {len(before)}, got {len(y)}", field="labels")
    if before.dtype.kind == "f":
        errors = (float(np.abs(each.reshape(len(y), -1) - y.reshape(len(y), -1)).mean()) for each in (before, after))
        return dict(zip(("original_mae", "quantized_mae"), errors, strict=True))
    strangers(y.tolist(), classes)
    was, is_now = float(np.mean(before == y)), float(np.mean(after == y))
    return {"original_accuracy": was, "quantized_accuracy": is_now, "accuracy_change_points": (is_now - was) * 100}


def _is_tensor(value: Any) -> bool:
    """Of PyTorch, without importing it."""
    return type(value).__module__.partition(".")[0] == "torch"


def _array(values: Any) -> Array:
    return np.asarray(values.detach().cpu() if _is_tensor(values) else values)


def _flat(rows: Any) -> Any:
    """Images and the like as rows."""
    rows = _array(rows) if _is_tensor(rows) else rows
    return rows.reshape(len(rows), -1) if isinstance(rows, np.ndarray) and rows.ndim > 2 else rows

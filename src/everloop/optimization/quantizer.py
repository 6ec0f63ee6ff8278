"""`ModelQuantizer`: a model in hand becomes a smaller one, which is called as the one it came from, and compared with it.

PyTorch modules are exported to ONNX first, fitted scikit-learn estimators are converted; ONNX files are taken as they are. What comes out
is ONNX whatever its file is called (also `model_quantized.pt`): `torch.ao.quantization` is deprecated, and ONNX Runtime's kernels are what
everloop serves with. So such a file is opened by `QuantizedModel.load`, `ONNXPredictor` or `everloop serve`, and not by `torch.load`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from everloop.core.errors import InvalidInput
from everloop.optimization.in_hand import Array, OnnxModel, as_onnx, in_hand
from everloop.optimization.quantization import Method, QuantizationConfig, quantize_artifact
from everloop.runtime import onnx
from everloop.runtime.artifact import read_payload
from everloop.stores.ports import Manifest

ROUNDS = 20
"""In which two models take turns, so that a machine that slows down slows both."""


class QuantizedModel(OnnxModel):
    """What a `ModelQuantizer` makes."""

    def __init__(self, manifest: Manifest, payload: bytes, path: Path | None = None) -> None:
        super().__init__(manifest, payload)
        self.path = path

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

    def save(self, path: str | Path) -> Path:
        """Write the ONNX file, whole or not at all."""
        path = Path(path)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            partial = Path(folder, path.name)
            partial.write_bytes(self.payload)
            return partial.replace(path)


class ModelQuantizer:
    """`model` may be a `torch.nn.Module`, a fitted scikit-learn estimator, an ONNX file's path or bytes. It is never changed."""

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
        self, original: Any, quantized: Any, samples: Any, labels: Sequence[Any] | None = None
    ) -> dict[str, float]:
        """Both on the same `samples`, (n, …): `rows max_difference mean_difference` of their scores or values; of classifiers `label_flips
        agreement`, and with `labels`, (n,), `original_accuracy quantized_accuracy accuracy_change_points`; of a regression with them
        `original_mae quantized_mae`. Raises InvalidInput, and what the models raise."""
        one, other = in_hand(original), in_hand(quantized)
        before, after = one.numbers(samples), other.numbers(samples)
        told = {"rows": float(len(before))}
        if before.dtype.kind == "f":
            difference = np.abs(before.astype(np.float64) - after)
            told |= {"max_difference": float(difference.max(initial=0)), "mean_difference": float(difference.mean())}
        a, b = one.answers(samples), other.answers(samples)
        classifies = a.ndim == 1 and (before.ndim == 2 or a.dtype.kind != "f")
        if classifies:
            flips = int(np.sum(a != b))
            told |= {"label_flips": float(flips), "agreement": 1 - flips / max(1, len(a))}
        return told if labels is None else told | _judged(a, b, np.asarray(labels), classifies=classifies)

    def benchmark_quantized(
        self, original: Any, quantized: Any, sample: Any, iterations: int = 100
    ) -> dict[str, float]:
        """How long a call with `sample`, (n, …), takes, on one thread, in turns: `speedup original_ms quantized_ms rows iterations`; and
        what they are as files: `size_reduction_pct original_bytes quantized_bytes` (of a module, what `torch.save` writes of its
        weights). Raises InvalidInput, and what the models raise."""
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise InvalidInput(f"iterations: expected a whole number from 1 on, got {iterations!r}", field="iterations")
        one, other = in_hand(original), in_hand(quantized)
        with _one_thread():
            before, after = _in_turns(one.call(sample), other.call(sample), iterations)
        sizes = one.size_bytes, other.size_bytes
        return {
            "speedup": statistics.median(a / b for a, b in zip(before, after, strict=True)),
            "original_ms": statistics.median(before) * 1e3,
            "quantized_ms": statistics.median(after) * 1e3,
            "size_reduction_pct": (1 - sizes[1] / sizes[0]) * 100,
            "original_bytes": float(sizes[0]),
            "quantized_bytes": float(sizes[1]),
            "rows": float(len(sample)),
            "iterations": float(iterations),
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
        rows = OnnxModel(manifest, payload).examples(sample) if judged else None
        made = QuantizedModel(*quantize_artifact(manifest, payload, rows, replace(self.config, method=method), labels))
        if path is not None:
            made.path = made.save(path)
        return made


def _judged(a: Array, b: Array, y: Array, *, classifies: bool) -> dict[str, float]:
    if len(y) != len(a):
        raise InvalidInput(f"labels: expected {len(a)}, got {len(y)}", field="labels")
    if not classifies:
        return {"original_mae": float(np.abs(a - y).mean()), "quantized_mae": float(np.abs(b - y).mean())}
    before, after = float(np.mean(a == y)), float(np.mean(b == y))
    return {
        "original_accuracy": before,
        "quantized_accuracy": after,
        "accuracy_change_points": (after - before) * 100,
    }


def _in_turns(one: Callable[[], Any], other: Callable[[], Any], iterations: int) -> tuple[list[float], list[float]]:
    """Seconds a call, a value a round; as many calls of each as were asked for, in all."""
    took: tuple[list[float], list[float]] = ([], [])
    one()
    other()
    rounds = min(ROUNDS, iterations)
    for i in range(rounds):
        repeats = iterations * (i + 1) // rounds - iterations * i // rounds
        for call, seconds in zip((one, other), took, strict=True):
            begun = perf_counter()
            for _ in range(repeats):
                call()
            seconds.append((perf_counter() - begun) / repeats)
    return took


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch's own threads as well, where it is loaded."""
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    try:
        if torch is not None:
            torch.set_num_threads(1)
        with threadpool_limits(1):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)

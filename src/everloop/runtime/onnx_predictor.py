"""`ONNXPredictor`: an ONNX file by hand, without a server; anything that batches or compares calls its `predict`.

It gives the model's own output. Where a server would answer one class a row, the table of scores stays a table here.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput, NotSupported
from everloop.core.schema import Schema
from everloop.core.tensors import DATATYPES
from everloop.runtime.artifact import Trust, read_payload
from everloop.runtime.loaded import rows_of
from everloop.runtime.onnx import OnnxSession, load, read_file
from everloop.runtime.own_tensors import TensorSession


class ONNXPredictor:
    """Safe from any thread. Needs no closing; `close` frees the model early."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises InvalidInput (no such file), ArtifactCorrupt (no ONNX model), NotSupported (inputs that no array can fill)."""
        self.path = Path(path)
        payload = read_payload(self.path)
        manifest = read_file(payload)
        if manifest.task != "tensors":
            # a file does not tell whether its model knows missing values; whoever holds the model does
            fields = tuple(msgspec.structs.replace(field, nullable=True) for field in manifest.schema.fields)
            manifest = msgspec.structs.replace(manifest, schema=Schema(fields, manifest.schema.named))
        self._session: OnnxSession | TensorSession = load(manifest, payload, Trust())
        self._tensors = self._session.tensors
        self.input_names = tuple(spec.name for spec in self._tensors.signature.inputs)
        self.output_names = tuple(spec.name for spec in self._tensors.signature.outputs)

    @property
    def classes(self) -> list[Any] | None:
        """Classification: the labels, in the order of `predict_proba`'s columns, where the file tells them."""
        return self._session.classes

    def predict(self, features: Any) -> npt.NDArray[Any]:
        """(n, fields) -> (n,) labels or values, or (n, k) where the model answers a table: a Polars or pandas frame (columns by name
        where the model has names), an array, or rows. Of a model that no row can fill: its first output, for an array that fits its one
        input. Raises InvalidInput, NotSupported."""
        if isinstance(self._session, TensorSession):
            return self._infer(features)
        X = rows_of(features, self._session)
        table = self._session.scores(X) if self._session.tabular else None
        return self._session.run(X) if table is None else table

    def predict_proba(self, features: Any) -> npt.NDArray[np.float64] | None:
        """(n, fields) -> (n, classes) scores; None where the model gives none."""
        return self._session.scores(rows_of(features, self._session))

    def benchmark(self, X: Any, iterations: int = 100) -> dict[str, float]:
        """How long `predict(X)` takes, all of it: `mean_ms`, `p50_ms`, `p95_ms`, `p99_ms`, `min_ms`, `rows_per_second`, `rows`,
        `iterations`. Warmed up first. Raises InvalidInput, and what `predict` raises."""
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise InvalidInput(f"iterations: expected a whole number from 1 on, got {iterations!r}", field="iterations")
        rows = len(self.predict(X))
        for _ in range(min(10, iterations)):
            self.predict(X)
        took = np.empty(iterations)
        for i in range(iterations):
            begun = perf_counter()
            self.predict(X)
            took[i] = perf_counter() - begun
        took *= 1e3
        middle, late, last = np.percentile(took, (50, 95, 99))
        return {
            "mean_ms": float(took.mean()),
            "p50_ms": float(middle),
            "p95_ms": float(late),
            "p99_ms": float(last),
            "min_ms": float(took.min()),
            "rows_per_second": rows / float(took.mean()) * 1e3,
            "rows": float(rows),
            "iterations": float(iterations),
        }

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> ONNXPredictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _infer(self, features: Any) -> npt.NDArray[Any]:
        if len(self.input_names) != 1:
            raise NotSupported(
                f"this model takes {len(self.input_names)} inputs ({', '.join(self.input_names)}), and not rows: ask it by "
                "onnxruntime, or serve it and ask by the Open Inference Protocol"
            )
        array = np.asarray(features)
        wanted = np.dtype(DATATYPES[self._tensors.signature.inputs[0].datatype])
        found = self._tensors.infer([array.astype(wanted, copy=False)], self.output_names[:1])
        return np.asarray(found[self.output_names[0]])

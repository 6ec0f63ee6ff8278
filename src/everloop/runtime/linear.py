"""Linear models as data: a compact, safe artifact format, and the session that answers from it.

Format: the eight bytes `EVLINEAR`, a little-endian uint32 with the length of a JSON header, the header, then little-endian
float64: weights (outputs × fields), bias (outputs), fill (fields: what stands in for a missing value). There is nothing in it
that could run.

How a row is answered: up to 128 fields, `compile_row` writes the sum out as Python source with the weights as constants
(`0.5*a0 + 1.25*a1 + 3.0`), which is as little work as CPython can do for it. `run` adds in the same order, so that a row gets
the same answer to the last bit alone or in any batch. Wider models go through a NumPy product.

Manifest option `scores`: how a classifier makes probabilities of its outputs; `softmax` (where nothing is said), `ovr` (a sigmoid a
class, normalised), or `none`.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.core.errors import ArtifactCorrupt
from everloop.core.schema import Schema, Target
from everloop.runtime.artifact import Trust
from everloop.runtime.session import Matrix, RowFunction
from everloop.stores.ports import Manifest

Floats = npt.NDArray[np.float64]

MAGIC = b"EVLINEAR"
UNROLL_FIELDS = 128
# Beyond these many products, a conversion and one NumPy product cost less than writing them all out (measured in µs, written out
# against product: 30 fields 0.4 and 1.7, 256 fields 3.2 and 4.2, 1,000 fields 28 and 12; 64 fields × 10 classes 7.5 and 3.0).
UNROLL_TERMS = 192


@dataclass(frozen=True)
class LinearModel:
    """`weights @ x + bias`: one output for regression and two classes, one a class for more."""

    weights: Floats
    """(outputs, fields)"""
    bias: Floats
    """(outputs,)"""
    fill: Floats
    """(fields,): the value that a missing one is taken for."""

    def pack(self) -> bytes:
        outputs, fields = self.weights.shape
        header = json.dumps({"format": 1, "outputs": outputs, "fields": fields}).encode()
        parts = (a.astype("<f8").tobytes() for a in (self.weights, self.bias, self.fill))
        return MAGIC + struct.pack("<I", len(header)) + header + b"".join(parts)

    @classmethod
    def unpack(cls, payload: bytes) -> LinearModel:
        """Raises ArtifactCorrupt."""
        if not payload.startswith(MAGIC) or len(payload) < len(MAGIC) + 4:
            raise ArtifactCorrupt("not a linear model: the bytes do not begin as everloop's linear format does")
        start = len(MAGIC) + 4
        (length,) = struct.unpack_from("<I", payload, len(MAGIC))
        try:
            header = json.loads(payload[start : start + length])
            outputs, fields, version = int(header["outputs"]), int(header["fields"]), int(header["format"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactCorrupt(f"a linear model with an unreadable header: {error}") from error
        if version != 1:
            raise ArtifactCorrupt(f"a linear model of format {version}; this everloop reads format 1")
        body = payload[start + length :]
        if outputs < 1 or fields < 1 or len(body) != 8 * (outputs * fields + outputs + fields):
            raise ArtifactCorrupt(f"a linear model of {outputs} × {fields} weights with {len(body)} bytes of numbers")
        numbers = np.frombuffer(body, "<f8").astype(np.float64)
        if not np.isfinite(numbers).all():
            raise ArtifactCorrupt("a linear model whose weights are not finite")
        weights, bias, fill = np.split(numbers, [outputs * fields, outputs * fields + outputs])
        return cls(weights.reshape(outputs, fields), bias, fill)

    def outputs(self, X: Matrix) -> Floats:
        """(n, fields) -> (n, outputs). A row's numbers do not depend on its neighbours."""
        X = np.asarray(X, np.float64)
        outputs = self._sums(X)
        if np.isnan(outputs).any():  # a value is missing; or infinities have met, which the second time tells again
            outputs = self._sums(np.where(np.isnan(X), self.fill, X))
        return outputs

    def _sums(self, X: Floats) -> Floats:
        if not _worth_unrolling(self):
            # One product a row, as `compile_row` does: a matrix product may round a row differently in another batch.
            products: Floats = np.matmul(self.weights, X[:, :, None])[:, :, 0] + self.bias
            return products
        if len(X) == 1:
            columns = [np.add.accumulate(X[0] * w)[-1:] for w in self.weights]
        else:
            # Along the axis that is not contiguous NumPy adds whole rows, one after the other: in the order of the written out sum.
            columns = [np.add.reduce(np.multiply(X.T, w[:, None], order="C"), axis=0) for w in self.weights]
        return np.stack(columns, axis=1) + self.bias


class LinearSession:
    """A linear regression, or a binary or multi-class logistic regression. Implements `CompiledSession`."""

    dtype: Any = np.float64

    def __init__(self, manifest: Manifest, model: LinearModel) -> None:
        outputs, fields = model.weights.shape
        expected = _outputs_of(manifest)
        if fields != len(manifest.schema.fields) or outputs != expected:
            raise ArtifactCorrupt(
                f"a linear model of {outputs} × {fields} weights, but its manifest tells of {expected} outputs and "
                f"{len(manifest.schema.fields)} fields"
            )
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = list(manifest.classes) if manifest.classes is not None else None
        self.model = model
        self._labels = _label_array(self.classes) if self.classes is not None else None
        link = manifest.options.get("scores", "softmax")
        if link not in ("softmax", "ovr", "none"):
            raise ArtifactCorrupt(f"a linear model that makes its probabilities by {link!r:.40}")
        self.scored = self.classes is not None and link != "none"
        self._probabilities = one_versus_rest if link == "ovr" and outputs > 1 else softmax
        self._row: RowFunction | None = None
        self._by_hand = 0
        if _worth_unrolling(model):
            self._row = _written_out(model, self.classes)
            self._by_hand = int((8.0 + 4.0 * outputs) / (0.4 + 0.02 * model.weights.size))

    def run(self, X: Matrix) -> Matrix:
        if len(X) <= self._by_hand and (answers := self._one_by_one(X)) is not None:
            return answers
        outputs = self.model.outputs(X)
        if self._labels is None:
            return outputs[:, 0]
        best = (outputs[:, 0] > 0).astype(np.intp) if outputs.shape[1] == 1 else outputs.argmax(axis=1)
        labels: Matrix = self._labels[best]
        return labels

    def _one_by_one(self, X: Matrix) -> Matrix | None:
        """What NumPy takes to begin with, µs, would answer some rows. None where a value is missing or a score not finite."""
        assert self._row is not None
        try:
            answers = [self._row(row) for row in X.tolist()]
        except ValueError:
            return None
        out = np.empty(len(answers), np.float64 if self.classes is None else object)
        out[:] = answers
        return out if self.classes is not None or np.isfinite(out).all() else None

    def scores(self, X: Matrix) -> Floats | None:
        if not self.scored:
            return None
        outputs = self.model.outputs(X)
        if outputs.shape[1] == 1:
            outputs = np.hstack([np.zeros_like(outputs), outputs])
        return self._probabilities(outputs)

    def compile_row(self) -> RowFunction:
        return self._row or _by_product(self.model, self.classes)

    def close(self) -> None:
        """Nothing is held."""


def load(manifest: Manifest, payload: bytes, trust: Trust | None = None) -> LinearSession:  # noqa: ARG001  there is nothing to trust
    return LinearSession(manifest, LinearModel.unpack(payload))


def softmax(outputs: Floats) -> Floats:
    """(n, classes) -> rows that sum to one; shifted by their maximum, so that no exponential overflows."""
    exponentials = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    normalised: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return normalised


def one_versus_rest(outputs: Floats) -> Floats:
    """(n, classes) -> a sigmoid each, in rows that sum to one; all alike where every sigmoid is 0."""
    each = 1.0 / (1.0 + np.exp(np.minimum(-outputs, 700.0)))
    each[outputs <= -700.0] = 0.0
    total = each.sum(axis=1, keepdims=True)
    each[(total == 0.0)[:, 0]] = 1.0
    normalised: Floats = each / each.sum(axis=1, keepdims=True)
    return normalised


def _worth_unrolling(model: LinearModel) -> bool:
    return model.weights.shape[1] <= UNROLL_FIELDS and model.weights.size <= UNROLL_TERMS


def _outputs_of(manifest: Manifest) -> int:
    if manifest.task == "regression":
        return 1
    classes = len(manifest.classes or ())
    if classes < 2:
        raise ArtifactCorrupt(f"a linear classifier needs at least 2 classes, its manifest names {classes}")
    return 1 if classes == 2 else classes


def _label_array(classes: list[Any]) -> npt.NDArray[Any]:
    labels = np.empty(len(classes), dtype=object)
    labels[:] = classes
    return labels


def _written_out(model: LinearModel, classes: list[Any] | None) -> RowFunction:
    """Source of plain arithmetic, compiled. Only our own floats' `repr` get into it.

    Every product has a float constant, so int and bool values give floats; text, None and lists raise TypeError; a wrong number of
    values raises ValueError at unpacking. A classifier looks at whether its score is finite, since no label could tell."""
    names = [f"a{i}" for i in range(model.weights.shape[1])]
    sums = [
        " + ".join([*(f"{w!r}*{name}" for w, name in zip(row, names, strict=True)), repr(b)])
        for row, b in zip(model.weights.tolist(), model.bias.tolist(), strict=True)
    ]
    lines = ["def answer(row):", f"    {', '.join(names)}, = row"]
    if classes is None:
        lines.append(f"    return {sums[0]}")
    elif len(sums) == 1:
        lines += [
            f"    score = {sums[0]}",
            "    if 0.0 < score < infinity: return c1",
            "    if -infinity < score <= 0.0: return c0",
            "    raise ValueError('the score is not finite')",
        ]
    else:
        lines += [f"    best = {sums[0]}", "    label = c0"]
        for i, expression in enumerate(sums[1:], 1):
            lines += [f"    score = {expression}", f"    if score > best: best = score; label = c{i}"]
        lines += [
            "    if -infinity < best < infinity: return label",
            "    raise ValueError('the score is not finite')",
        ]
    namespace: dict[str, Any] = {"infinity": float("inf")}
    namespace.update({f"c{i}": label for i, label in enumerate(classes or ())})
    exec(compile("\n".join(lines), "<everloop linear model>", "exec"), namespace)  # noqa: S102 - our own floats
    function: RowFunction = namespace["answer"]
    return function


def _by_product(model: LinearModel, classes: list[Any] | None) -> RowFunction:
    """One NumPy product a row. `array` is what refuses text and None, which NumPy would convert."""
    weights, bias, width = model.weights, model.bias, model.weights.shape[1]
    frombuffer, isfinite = np.frombuffer, np.isfinite

    def outputs(row: list[Any]) -> Floats:
        values = array("d", row)
        if len(values) != width:
            raise ValueError(f"expected {width} values, got {len(values)}")
        out: Floats = weights @ frombuffer(values) + bias
        return out

    if classes is None:
        return lambda row: outputs(row).item()
    labels: list[Any] = classes

    def binary(row: list[Any]) -> Any:
        score = outputs(row).item()
        if not isfinite(score):
            raise ValueError("the score is not finite")
        return labels[score > 0]

    def multiclass(row: list[Any]) -> Any:
        scores = outputs(row)
        best = scores.argmax()
        if not isfinite(scores[best]):
            raise ValueError("the score is not finite")
        return labels[best]

    chosen: Callable[[list[Any]], Any] = binary if len(bias) == 1 else multiclass
    return chosen

"""How the outputs of a PyTorch model are read as one answer a row: a value, a label, or the greatest of the scores.

The outputs of modules are logits more often than probabilities, and nothing in a file says which. So the model is asked 64 rows of noise
when it comes in: scores that are all probabilities are given as they are, logarithms of such are raised, and what remains is made
probabilities by softmax (by the logistic function, where one score tells two classes apart). What was found is kept in the manifest's
options as `answer`, where a person can say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from everloop.core.errors import ArtifactCorrupt, InvalidInput, ModelFailed, NotSupported
from everloop.core.structs import looked_into
from everloop.core.tensors import Signature, TensorSpec
from everloop.core.types import Task
from everloop.runtime.session import Matrix, labels_by_place

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOATS = ("FP32", "FP64", "FP16")
_LABELS = ("INT64", "INT32", "INT16", "INT8", "UINT8", "BOOL")
_SEED, _NOISE = 6, 64
Scale = Literal["given", "exp", "softmax", "logistic"]


@looked_into
class Answer(msgspec.Struct, frozen=True):
    output: str
    how: Literal["value", "label", "argmax", "threshold"]
    """`threshold`: one score for the second of two classes."""
    scores: str | None = None
    scale: Scale = "given"
    """What makes probabilities of the scores."""

    @property
    def task(self) -> Task:
        return "regression" if self.how == "value" else "classification"


def row_input(signature: Signature) -> TensorSpec:
    """The one input that a row of numbers fills. Raises NotSupported where there is none."""
    first = signature.inputs[0]
    if len(signature.inputs) > 1:
        raise NotSupported(f"the model takes {len(signature.inputs)} inputs")
    if first.datatype not in _FLOATS or len(first.shape) != 2 or first.shape[0] != -1 or first.shape[1] < 1:
        shown = "[" + ",".join(map(str, first.shape)) + "]"
        raise NotSupported(
            f"the model's input {first.name!r} is {first.datatype} {shown}, and no table of numbers [-1,features]"
        )
    return first


def find_answer(signature: Signature, classes: Sequence[Any] | None) -> Answer:
    """Labels where there are any; then a value a row; then the greatest of several scores. Raises NotSupported."""
    rows = [out for out in signature.outputs if out.shape[:1] == (-1,) and -1 not in out.shape[1:]]
    ones = [out for out in rows if math.prod(out.shape[1:]) == 1]
    labels = [out for out in ones if out.datatype in _LABELS]
    values = [out for out in ones if out.datatype in _FLOATS]
    tables = [out for out in rows if out.datatype in _FLOATS and len(out.shape) == 2 and out.shape[1] > 1]
    if labels:
        return Answer(labels[0].name, "label", tables[0].name if tables else None)
    if values and (len(signature.outputs) == 1 or not tables):
        if classes is not None and len(classes) == 2:
            return Answer(values[0].name, "threshold", values[0].name)
        return Answer(values[0].name, "value")
    if tables:
        return Answer(tables[0].name, "argmax", tables[0].name)
    shown = ", ".join(f"{out.name}: {out.datatype} {list(out.shape)}" for out in signature.outputs)
    raise NotSupported(f"no output of the model is one number or one label a row, or one score a class; it has {shown}")


def checked_classes(answer: Answer, signature: Signature, classes: Sequence[Any] | None) -> list[Any] | None:
    """The labels, in the order of the scores. Raises InvalidInput."""
    if answer.how == "value":
        if classes:
            raise InvalidInput(f"classes: the model answers {answer.output!r}, a number, and no class", field="classes")
        return None
    scores = next((out for out in signature.outputs if out.name == answer.scores), None)
    wide = 2 if answer.how == "threshold" else math.prod(scores.shape[1:]) if scores else None
    if classes is None:
        return list(range(wide)) if wide and answer.how == "argmax" else None
    if wide not in (None, len(classes)) or len(set(map(str, classes))) != len(classes):
        raise InvalidInput(f"classes: the model has {wide} scores, got {list(classes)!r}"[:300], field="classes")
    return list(classes)


def scale_of(answer: Answer, ask: Callable[[Matrix], Sequence[Any]], width: int, names: Sequence[str]) -> Answer:
    """`answer`, with what makes probabilities of its scores, as answers to noise tell. `ask`: (n, width) float32 -> the outputs."""
    if answer.scores is None:
        return answer
    rng = np.random.default_rng(_SEED)
    noise = rng.normal(size=(_NOISE, width)) * rng.choice([1.0, 10.0], size=(_NOISE, 1))
    scores = np.asarray(ask(noise.astype(np.float32))[list(names).index(answer.scores)], np.float64).reshape(_NOISE, -1)
    scale: Scale = "logistic" if answer.how == "threshold" else "softmax"
    if _probabilities(scores, answer.how):
        scale = "given"
    elif answer.how != "threshold" and _probabilities(np.exp(np.minimum(scores, 1.0)), answer.how):
        scale = "exp"
    return msgspec.structs.replace(answer, scale=scale)


def answer_of(options: dict[str, Any], signature: Signature) -> Answer:
    """As a manifest keeps it. Raises ArtifactCorrupt."""
    try:
        answer = msgspec.convert(options.get("answer"), Answer)
    except msgspec.ValidationError as error:
        raise ArtifactCorrupt(f"options.answer: {error}") from error
    names = {out.name for out in signature.outputs}
    if answer.output not in names or answer.scores not in (None, *names):
        raise ArtifactCorrupt(f"options.answer: the model has no output {answer.output!r} or {answer.scores!r}")
    return answer


class Reader:
    """Reads outputs as one `Answer` tells."""

    def __init__(self, answer: Answer, classes: list[Any] | None) -> None:
        self.answer = answer
        self._labels = labels_by_place(classes)

    def read(self, out: Any, rows: int) -> Matrix:
        """(rows,) answers."""
        values = np.asarray(out)
        how = self.answer.how
        if how == "argmax":
            return self._named(values.reshape(rows, -1).argmax(axis=1))
        if values.size != rows:
            raise ModelFailed(
                f"the model's output {self.answer.output!r} has shape {values.shape} for {rows} rows: one answer a row is expected"
            )
        values = values.reshape(rows)
        if how == "value":
            return values.astype(np.float64)
        if how == "threshold":
            return self._named((values > (0.5 if self.answer.scale == "given" else 0.0)).astype(np.int64))
        return self._named(values)

    def scores(self, out: Any, rows: int) -> NDArray[np.float64]:
        """(rows, classes) probabilities."""
        values: NDArray[np.float64] = np.asarray(out, np.float64).reshape(rows, -1)
        scale = self.answer.scale
        if scale == "exp":
            values = np.exp(values)
        elif scale == "softmax":
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
        elif scale == "logistic":
            values = 0.5 * (1.0 + np.tanh(0.5 * values))
        return np.concatenate([1.0 - values, values], axis=1) if self.answer.how == "threshold" else values

    def _named(self, places: Matrix) -> Matrix:
        if self._labels is None:
            return places
        if places.dtype.kind not in "iub" or (
            len(places) and not 0 <= places.min() <= places.max() < len(self._labels)
        ):
            raise ModelFailed(f"the model answered a label that is none of its {len(self._labels)} classes")
        return self._labels[places.astype(np.int64)]


def _probabilities(scores: NDArray[np.float64], how: str) -> bool:
    inside = bool(np.isfinite(scores).all() and scores.min() >= -1e-6 and scores.max() <= 1 + 1e-6)
    return inside and (how == "threshold" or bool(np.abs(scores.sum(axis=1) - 1).max() < 1e-3))

"""Text classifiers as everloop serves them: asked by rows of one field `text`, and by tensors of their own.

    rows      `text` -> the label; scores are probabilities
    tensors   `text` BYTES [-1] -> `prediction` BYTES [-1], `probabilities` FP64 [-1, classes], and `explanation` BYTES [-1]: a JSON list
              of [word, weight] each, which only those pay for who ask for it

A run takes as long as its texts are, and explaining them several times as long: such a session never runs on an event loop (`varies`).

Manifest options.

    axis        two labels [low, high]: an explanation then tells how far a word moves the log-odds of the second against the first.
                Without it: of the answer against the mean of the others
    max_text    characters of one text, 10,000 if it is not told: a longer one is refused, by whatever route it comes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import ArtifactCorrupt, InvalidInput
from everloop.core.schema import Field, Schema, Target
from everloop.core.tensors import Array, Signature, Tensor, Tensors, TensorSpec
from everloop.core.types import Row, Scalar
from everloop.runtime.artifact import Trust
from everloop.runtime.session import Matrix, RowFunction
from everloop.runtime.tensors import PREDICTION, PROBABILITIES, Answered, by_names, texts, wrong_shape, wrong_type
from everloop.runtime.text_model import TextModel, softmax, unpack_text
from everloop.stores.ports import Manifest

TEXT, EXPLANATION = "text", "explanation"
SCHEMA = Schema((Field(TEXT, "text"),), named=True)
TARGET = Target("classification", "text")
LONGEST_TEXT = 10_000
"""Characters of an example, and of a text that is asked about unless the manifest says otherwise."""
MOST_WORDS = 10
"""Of one explanation."""


class TextSession:
    """A `runtime.session.CompiledSession`; nothing in it ever changes but what it remembers of words."""

    scored = True
    varies = True
    dtype: Any = object

    def __init__(self, manifest: Manifest, model: TextModel) -> None:
        if manifest.schema != SCHEMA or manifest.target != TARGET:
            raise ArtifactCorrupt("a text model whose manifest tells of other rows than one text -> label")
        classes = manifest.classes or []
        if len(classes) != model.classes or len(set(classes)) != len(classes):
            raise ArtifactCorrupt(f"a text model of {model.classes} classes, and its manifest names {classes!r:.100}")
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = list(classes)
        self.labels: list[str] = list(classes)
        self.model = model
        self.axis = _axis(manifest, self.labels)
        self.max_text = _max_text(manifest)
        self.tensors = TextTensors(self)

    def run(self, X: Matrix) -> Matrix:
        """Raises InvalidInput."""
        self.check(X[:, 0].tolist())
        answers = np.empty(len(X), object)
        answers[:] = [self.label(text) for text in X[:, 0].tolist()]
        return answers

    def scores(self, X: Matrix) -> npt.NDArray[np.float64]:
        found = [self.model.probabilities(text) for text in X[:, 0].tolist()]
        return np.array(found, np.float64).reshape(len(X), len(self.labels))

    def compile_row(self) -> RowFunction:
        def answer(row: list[Any]) -> str:
            (text,) = row
            if type(text) is not str:
                raise TypeError("expected a text")
            self.check([text])
            return self.label(text)

        return answer

    def check(self, asked: list[str]) -> None:
        """Raises InvalidInput naming the text."""
        for i, text in enumerate(asked):
            if len(text) > self.max_text:
                at = TEXT if len(asked) == 1 else f"{TEXT}[{i}]"
                raise InvalidInput(f"{at}: at most {self.max_text:,} characters, got {len(text):,}", field=at)

    def label(self, text: str) -> str:
        return self.labels[_best(self.model.logits(text))]

    def explain(self, text: str) -> list[tuple[str, float]]:
        """Words and their weights, the weightiest first."""
        low, high = self.axis or (None, _best(self.model.logits(text)))
        return self.model.explain(text, high, low, MOST_WORDS)

    def close(self) -> None:
        """Nothing is held."""


class TextTensors:
    """A `runtime.tensors.TensorModel`."""

    batched = True
    always = (PREDICTION,)

    def __init__(self, session: TextSession) -> None:
        self._session = session
        outputs = (
            TensorSpec(PREDICTION, "BYTES", (-1,)),
            TensorSpec(PROBABILITIES, "FP64", (-1, len(session.labels))),
            TensorSpec(EXPLANATION, "BYTES", (-1,)),
        )
        self.signature = Signature((TensorSpec(TEXT, "BYTES", (-1,)),), outputs)

    def take(self, tensors: Sequence[Tensor]) -> list[Array]:
        """Raises InvalidInput."""
        tensor = by_names(tensors, (TEXT,))[TEXT]
        if tensor.datatype != "BYTES":
            raise wrong_type(tensor, "BYTES")
        if tensor.shape[1:] not in ((), (1,)) or not tensor.shape:
            raise wrong_shape(tensor, (-1,))
        asked = texts(tensor).reshape(-1)
        self._session.check(asked.tolist())
        return [asked]

    def infer(self, arrays: list[Array], outputs: Sequence[str]) -> Tensors:
        session = self._session
        asked: list[str] = arrays[0].tolist()
        logits = [session.model.logits(text) for text in asked]
        answers: Tensors = {}
        if PREDICTION in outputs:
            answers[PREDICTION] = _objects([session.labels[_best(each)] for each in logits])
        if PROBABILITIES in outputs:
            found = np.array([softmax(each) for each in logits], np.float64)
            answers[PROBABILITIES] = found.reshape(len(asked), len(session.labels))
        if EXPLANATION in outputs:
            answers[EXPLANATION] = _objects([msgspec.json.encode(session.explain(text)).decode() for text in asked])
        return answers

    def answered(self, arrays: list[Array], answers: Tensors) -> Answered:
        return Answered(arrays[0].reshape(-1, 1), answers[PREDICTION].tolist())


def check_example(row: Row | None, label: Scalar, at: str) -> None:  # noqa: ARG001  a label is checked by its target
    """What it may be taught; None: a row that was asked about. Raises InvalidInput."""
    if row is not None and not 1 <= len(row[0]) <= LONGEST_TEXT:
        field = f"{at}.{TEXT}"
        raise InvalidInput(f"{field}: expected 1 to {LONGEST_TEXT:,} characters, got {len(row[0]):,}", field=field)


def load(manifest: Manifest, payload: bytes, trust: Trust | None = None) -> TextSession:  # noqa: ARG001  there is nothing to trust
    return TextSession(manifest, TextModel(unpack_text(payload)))


def manifest_of(classes: Sequence[str], *, axis: tuple[str, str] | None = None) -> Manifest:
    """Of a text model that tells these labels apart, in the order of its weights."""
    options: dict[str, Any] = {} if axis is None else {"axis": list(axis)}
    return Manifest("text", "classification", SCHEMA, TARGET, list(classes), options=options)


def _axis(manifest: Manifest, labels: list[str]) -> tuple[int, int] | None:
    axis = manifest.options.get("axis")
    if axis is None:
        return None
    if not isinstance(axis, list) or len(axis) != 2 or axis[0] == axis[1] or not set(axis) <= set(labels):
        raise ArtifactCorrupt(f"options.axis: expected two of the labels, got {axis!r:.100}")
    return labels.index(axis[0]), labels.index(axis[1])


def _max_text(manifest: Manifest) -> int:
    most = manifest.options.get("max_text", LONGEST_TEXT)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ArtifactCorrupt(f"options.max_text: expected a whole number of at least 1, got {most!r:.100}")
    return most


def _best(logits: list[float]) -> int:
    return logits.index(max(logits))


def _objects(values: list[str]) -> Array:
    out = np.empty(len(values), object)
    out[:] = values
    return out

"""Recommenders as everloop serves them: asked by rows (user, item), and by questions of their own.

    rows      `user`, `item` -> the label (the rating) to expect, so that feedback, quality and drift are those of any regression
    tensors   `query` BYTES [-1] (JSON, `recommending.Query`) -> `items` BYTES [-1] (JSON lists of `recommending.Recommended`)

What is recorded of a question is a row for each item that was recommended, in order: feedback to request id and `index` is about that
item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import ArtifactCorrupt, InvalidInput
from everloop.core.schema import Field, Schema, Target
from everloop.core.tensors import Array, Signature, Tensor, Tensors, TensorSpec
from everloop.core.types import Row, Scalar
from everloop.runtime.artifact import Trust
from everloop.runtime.factors_file import unpack_factors
from everloop.runtime.factors_model import FactorModel
from everloop.runtime.recommending import Recommended, check_id, check_known, read_query, recommend
from everloop.runtime.session import Matrix
from everloop.runtime.tensors import Answered, by_names, texts, wrong_shape, wrong_type
from everloop.stores.ports import Manifest

SCHEMA = Schema((Field("user", "text"), Field("item", "text")), named=True)
TARGET = Target("regression")
MOST_RATING = 1e6
"""Ratings are from minus this to this: one beyond it is a slip, and would be all that a mean or an error tells."""
QUERY, ITEMS = "query", "items"
MOST_QUERIES = 100
"""Of one request."""

_ITEMS = msgspec.json.Decoder(list[Recommended])


class FactorSession:
    """A `runtime.session.Session`; nothing in it ever changes."""

    classes: list[Any] | None = None
    scored = False
    varies = True
    """A question may ask for ten items or for a thousand, and tell of as many that the user liked."""
    dtype: Any = object

    def __init__(self, manifest: Manifest, model: FactorModel) -> None:
        if manifest.schema != SCHEMA or manifest.target != TARGET:
            raise ArtifactCorrupt("a recommender whose manifest tells of other rows than (user, item) -> number")
        self.schema = manifest.schema
        self.target = manifest.target
        self.model = model
        self.tensors = FactorTensors(model)

    def run(self, X: Matrix) -> Matrix:
        return self.model.expected(X[:, 0].tolist(), X[:, 1].tolist())

    def scores(self, X: Matrix) -> None:  # noqa: ARG002  the contract of a session
        return None

    def close(self) -> None:
        """Nothing is held."""


class FactorTensors:
    """A `runtime.tensors.TensorModel`. A request has a run of its own: how many rows are recorded of it, its answer tells."""

    batched = False
    always = (ITEMS,)
    signature = Signature((TensorSpec(QUERY, "BYTES", (-1,)),), (TensorSpec(ITEMS, "BYTES", (-1,)),))

    def __init__(self, model: FactorModel) -> None:
        self._model = model

    def take(self, tensors: Sequence[Tensor]) -> list[Array]:
        """Every question is checked here, so that what a caller got wrong never fails a run."""
        tensor = by_names(tensors, (QUERY,))[QUERY]
        if tensor.datatype != "BYTES":
            raise wrong_type(tensor, "BYTES")
        if len(tensor.shape) != 1:
            raise wrong_shape(tensor, (-1,))
        if len(tensor.data) > MOST_QUERIES:
            raise InvalidInput(f"inputs.{QUERY}: at most {MOST_QUERIES} questions at a time", field=f"inputs.{QUERY}")
        questions = texts(tensor)
        for question in questions:
            check_known(read_query(question), self._model.catalogue)
        return [questions]

    def infer(self, arrays: list[Array], outputs: Sequence[str]) -> Tensors:  # noqa: ARG002  there is one output
        (questions,) = arrays
        items = np.empty(len(questions), object)
        for i, question in enumerate(questions):
            items[i] = msgspec.json.encode(recommend(self._model, read_query(question)))
        return {ITEMS: items}

    def answered(self, arrays: list[Array], answers: Tensors) -> Answered | None:
        rows: list[tuple[str, str]] = []
        values: list[float] = []
        for question, found in zip(arrays[0], answers[ITEMS], strict=True):
            user = read_query(question).user
            for each in _ITEMS.decode(found):
                rows.append((user, each.item_id))
                values.append(each.expected)
        if not rows:
            return None
        return Answered(np.array(rows, object).reshape(-1, 2), values)


def manifest_of() -> Manifest:
    """Of any recommender."""
    return Manifest(runtime="factors", task="regression", schema=SCHEMA, target=TARGET)


def check_example(row: Row | None, label: Scalar, at: str) -> None:
    """What it may be taught; None: a row that was asked about. Raises InvalidInput."""
    check_rating(label)
    if row is not None:
        for name, value in zip(SCHEMA.names, row, strict=True):
            check_id(value, f"{at}.{name}")


def check_rating(label: Scalar, field: str = "label") -> float:
    """Raises InvalidInput."""
    try:
        value = float(TARGET.check(label))
    except InvalidInput as error:
        raise InvalidInput(error.message.replace("label", field, 1), field=field) from error
    if not -MOST_RATING <= value <= MOST_RATING:
        raise InvalidInput(
            f"{field}: expected a number from {-MOST_RATING:,.0f} to {MOST_RATING:,.0f}, got {value:g}", field=field
        )
    return value


def load(manifest: Manifest, payload: bytes, trust: Trust | None = None) -> FactorSession:  # noqa: ARG001  there is nothing to trust
    return FactorSession(manifest, unpack_factors(payload))

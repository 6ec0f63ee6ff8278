"""What flows through the house: predictions, examples, records of predictions, artifacts' manifests.

Rows are lists in schema order once they have passed `core.schema`; before that they are `Features`, whatever a caller gives.
A request id is `"{lane_key}-{number in hex}"`: the lane that answered and the number of the request on that lane. It costs
an integer on the way of a prediction and becomes text only when somebody looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

Scalar: TypeAlias = float | int | bool | str
"""One label or one prediction: a number for regression, the class itself for classification."""
Features: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""One example's features as a caller gives them: a list, a one-dimensional array, or a mapping by name."""
Row: TypeAlias = list[Any]
"""One example's features in schema order: floats for numbers, str for text, None for missing."""
Task = Literal["regression", "classification", "tensors"]
"""`tensors`: a model that no row of features can fill; it has no labels to learn from."""
VersionStatus = Literal["staging", "live", "retired", "rejected", "archived"]


def request_id(lane_key: str, number: int) -> str:
    return f"{lane_key}-{number:x}"


def parse_request_id(text: str) -> tuple[str, int]:
    """The lane key and the number. Raises ValueError if `text` is not of the form that `request_id` gives."""
    lane_key, dash, number = text.rpartition("-")
    if not dash or not lane_key:
        raise ValueError(f"not a request id: {text!r}")
    return lane_key, int(number, 16)


SHADOW_MARK = "~"


def shadow_key(lane_key: str, version: int) -> str:
    """The lane key of what a shadow made of that lane's requests, under their numbers. Nobody was told it, and no label can name it."""
    return f"{lane_key}{SHADOW_MARK}{version}"


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """One answer, and the version that gave it. The pair is never torn: both come from one lane."""

    prediction: Any
    model_version: int
    lane_key: str
    number: int

    @property
    def request_id(self) -> str:
        """What a later label refers to."""
        return request_id(self.lane_key, self.number)

    def __repr__(self) -> str:
        return (
            f"Prediction(prediction={self.prediction!r}, model_version={self.model_version}, "
            f"request_id={self.request_id!r})"
        )


class PredictionBatch(msgspec.Struct, frozen=True):
    """The answers to all rows of one request, all from one version. Row i's label: `request_id` and `index=i`."""

    predictions: list[Any]
    model_version: int
    lane_key: str
    number: int

    @property
    def request_id(self) -> str:
        return request_id(self.lane_key, self.number)

    def __repr__(self) -> str:
        return (
            f"PredictionBatch(predictions={self.predictions!r}, model_version={self.model_version}, "
            f"request_id={self.request_id!r})"
        )


class PredictionRecord(msgspec.Struct, frozen=True):
    """`count` consecutive requests of one lane, `rows` rows each: request `first + i` owns rows `i*rows … (i+1)*rows-1`.

    `features` holds all `count * rows` rows, encoded by `core.schema.pack_rows` as `encoding` says; `predictions` has one
    entry a row. One record for a whole batch is what makes recording everything affordable.
    """

    model: str
    version: int
    lane_key: str
    first: int
    count: int
    rows: int
    at: float
    encoding: Literal["f4", "f8", "msgpack"]
    features: bytes
    predictions: list[Any]
    shadow: bool = False
    """What a shadow would have answered: nobody was told, so no label can name it."""


class Label(msgspec.Struct, frozen=True):
    """One label on its way into the journal: by `request_id` (and `index` in a batch request), or with its own `row`."""

    model: str
    label: Scalar
    at: float
    request_id: str | None = None
    index: int = 0
    row: Row | None = None
    validation: bool = False


class Example(msgspec.Struct, frozen=True):
    """A labelled example as the journal gives it back. `id` grows in the order of acknowledgement, over all models."""

    id: int
    model: str
    row: Row
    label: Scalar
    at: float
    request_id: str | None = None
    index: int = 0
    prediction: Scalar | None = None
    """What was served for it, where the label came by request id."""
    version: int | None = None
    """Which version served it."""
    validation: bool = False
    """Kept for judging candidates; never trained on."""

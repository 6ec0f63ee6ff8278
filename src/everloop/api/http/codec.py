"""The wire of predictions and labels: decoded and checked here, encoded here, for the app and the fast lane alike."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from everloop.api.http.bodies import decode
from everloop.api.http.limits import Limits
from everloop.core.errors import EverloopError, InvalidInput, Malformed, TooLarge
from everloop.core.types import Prediction, PredictionBatch, Scalar
from everloop.learning.intake import Feedback
from everloop.stores.ports import Appended

Value = float | str | bool | None
Features = list[Value] | dict[str, Value]


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Either `features`, one row, or `instances`, several."""

    features: Features | None = None
    """A list in field order, or an object by name."""
    instances: list[Features] | None = None


class PredictionAnswer(msgspec.Struct):
    prediction: Any
    model_version: int
    request_id: str
    """What a label refers to later."""


class PredictionsAnswer(msgspec.Struct):
    predictions: list[Any]
    model_version: int
    request_id: str
    """What a label refers to later, together with the row's `index`."""


class LabelledExample(msgspec.Struct, forbid_unknown_fields=True):
    label: float | str | bool
    request_id: str | None = None
    index: Annotated[int, Meta(ge=0, le=2**31)] = 0
    features: Features | None = None
    validation: bool = False


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One label, or several as `examples`."""

    label: float | str | bool | None = None
    request_id: str | None = None
    index: Annotated[int, Meta(ge=0, le=2**31)] = 0
    features: Features | None = None
    validation: bool = False
    examples: list[LabelledExample] | None = None


class RejectedLabel(msgspec.Struct):
    index: int
    code: str
    detail: str


class FeedbackAnswer(msgspec.Struct):
    accepted: int
    duplicate: bool
    rejected: list[RejectedLabel]


_encode = msgspec.json.Encoder().encode
_predict = msgspec.json.Decoder(PredictRequest)
_feedback = msgspec.json.Decoder(FeedbackRequest)


def decode_predict(body: bytes, limits: Limits) -> PredictRequest:
    asked = decode(_predict, body)
    if (asked.features is None) == (asked.instances is None):
        raise InvalidInput("body: give either features (one row) or instances (several)", field="features")
    rows = asked.instances if asked.instances is not None else [asked.features]
    if len(rows) > limits.max_rows:
        raise TooLarge(f"instances: {len(rows)} rows, at most {limits.max_rows} at a time", field="instances")
    if any(row is not None and len(row) > limits.max_features for row in rows):
        raise TooLarge(f"features: more than {limits.max_features} values in a row", field="features")
    return asked


def encode_answer(answer: Prediction | PredictionBatch) -> bytes:
    if isinstance(answer, Prediction):
        return _encode(PredictionAnswer(answer.prediction, answer.model_version, answer.request_id))
    return _encode(PredictionsAnswer(answer.predictions, answer.model_version, answer.request_id))


def decode_feedback(body: bytes, limits: Limits) -> list[Feedback]:
    asked = decode(_feedback, body)
    found: list[Any] = [asked] if asked.examples is None else asked.examples
    if len(found) > limits.max_rows:
        raise TooLarge(f"examples: {len(found)} labels, at most {limits.max_rows} at a time", field="examples")
    if not found:
        raise InvalidInput("examples: expected at least one", field="examples")
    if asked.examples is None and asked.label is None:
        raise InvalidInput("label: missing", field="label")
    return [Feedback(e.label, e.request_id, e.index, e.features, e.validation) for e in found]


def encode_feedback(done: Appended) -> bytes:
    rejected = [
        RejectedLabel(i, o.code, o.message) for i, o in enumerate(done.outcomes) if isinstance(o, EverloopError)
    ]
    return _encode(FeedbackAnswer(len(done.outcomes) - len(rejected), done.duplicate, rejected))


def refused_whole(done: Appended) -> EverloopError | None:
    errors = [o for o in done.outcomes if isinstance(o, EverloopError)]
    return errors[0] if errors and len(errors) == len(done.outcomes) else None


_ = (Malformed, Scalar)

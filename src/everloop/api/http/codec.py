"""The wire of predictions and labels: decoded and checked here, encoded here, for the app and the fast lane alike.

Both ways use the same decoders' types and the same encoder, so their bytes are the same. What the fast lane adds are
`PlainRow`, which decodes the usual request in one step, and `AnswerTemplate`, the constant parts of one lane's answers.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from everloop.api.http.bodies import decode
from everloop.api.http.limits import Limits
from everloop.core.errors import EverloopError, InvalidInput, TooLarge
from everloop.core.types import Prediction, PredictionBatch
from everloop.learning.intake import Feedback
from everloop.serving.split import LONGEST_UNIT, checked_unit
from everloop.stores.ports import Appended

Value = float | str | bool | None
Features = list[Value] | dict[str, Value]
Label = int | float | str | bool
Index = Annotated[int, Meta(ge=0, le=2**31)]
Unit = Annotated[str, Meta(min_length=1, max_length=LONGEST_UNIT)]
UNIT_HEADER = "everloop-unit"


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Either `features`, one row, or `instances`, several."""

    features: Features | None = None
    """A list in field order, or an object by name."""
    instances: list[Features] | None = None
    unit: Unit | None = None
    """A user or a session, who meets the same version each time while several are live. Goes before the header Everloop-Unit."""


class PlainRow(msgspec.Struct, forbid_unknown_fields=True):
    """The usual request: one row of finite numbers. Whatever is not that is decoded as `PredictRequest`."""

    features: list[float]
    unit: Unit | None = None


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
    label: Label
    request_id: str | None = None
    index: Index = 0
    features: Features | None = None
    validation: bool = False


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One label, or several as `examples`."""

    label: Label | None = None
    request_id: str | None = None
    index: Index = 0
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


encode = msgspec.json.Encoder().encode
"""The one encoder of every answer."""
_plain_row = msgspec.json.Decoder(PlainRow)
_predict = msgspec.json.Decoder(PredictRequest)
_feedback = msgspec.json.Decoder(FeedbackRequest)


def decode_usual(body: bytes, limits: Limits) -> PlainRow | PredictRequest:
    """The usual request in one step; any other as `decode_predict`, which says what is wrong. Raises as it."""
    try:
        row = _plain_row.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return decode_predict(body, limits)
    return row if len(row.features) <= limits.max_features else decode_predict(body, limits)


def decode_predict(body: bytes, limits: Limits) -> PredictRequest:
    """Raises Malformed, InvalidInput, TooLarge."""
    asked = decode(_predict, body)
    if (asked.features is None) == (asked.instances is None):
        raise InvalidInput("body: give either features (one row) or instances (several)", field="features")
    if asked.instances is None:
        _check_width(asked.features, limits)
        return asked
    if len(asked.instances) > limits.max_rows:
        raise TooLarge(
            f"instances: {len(asked.instances):,} rows, at most {limits.max_rows:,} at a time", field="instances"
        )
    for row in asked.instances:
        _check_width(row, limits)
    return asked


def unit_of(asked: PredictRequest | PlainRow, header: bytes | None) -> str | None:
    """Whom this request is for, from its body or else from its header (UTF-8, or else Latin-1). Raises InvalidInput."""
    if header is None:
        return asked.unit
    text = text_of_unit(header)
    return text if asked.unit is None else asked.unit


def text_of_unit(header: bytes) -> str:
    """UTF-8, or else Latin-1. Raises InvalidInput."""
    try:
        text = header.decode()
    except UnicodeDecodeError:
        text = header.decode("latin-1")
    return checked_unit(text)


def decode_feedback(body: bytes, limits: Limits) -> list[Feedback]:
    """At least one. Raises Malformed, InvalidInput, TooLarge."""
    asked = decode(_feedback, body)
    if asked.examples is None:
        if asked.label is None:
            raise InvalidInput("label: missing; give one label, or several as examples", field="label")
        return [_labelled(asked, asked.label, limits)]
    if asked.label is not None or asked.request_id is not None or asked.features is not None:
        raise InvalidInput("body: give either one label or examples, not both", field="examples")
    if not asked.examples:
        raise InvalidInput("examples: expected at least one", field="examples")
    if len(asked.examples) > limits.max_rows:
        raise TooLarge(
            f"examples: {len(asked.examples):,} labels, at most {limits.max_rows:,} at a time", field="examples"
        )
    return [_labelled(example, example.label, limits) for example in asked.examples]


def encode_answer(answer: Prediction | PredictionBatch) -> bytes:
    if isinstance(answer, Prediction):
        return encode(PredictionAnswer(answer.prediction, answer.model_version, answer.request_id))
    return encode(PredictionsAnswer(answer.predictions, answer.model_version, answer.request_id))


class AnswerTemplate:
    """The answers of one lane, but for the prediction and the request's number: `single % (encode(prediction), number)`."""

    __slots__ = ("several", "single")

    def __init__(self, version: int, lane_key: str) -> None:
        rest = b',"model_version":%d,"request_id":"%b-' % (version, lane_key.encode())
        self.single = b'{"prediction":%b' + rest + b'%x"}'
        self.several = b'{"predictions":%b' + rest + b'%x"}'


ONE_ACCEPTED = encode(FeedbackAnswer(1, False, []))


def encode_feedback(done: Appended) -> bytes:
    if len(done.outcomes) == 1 and not done.duplicate and type(done.outcomes[0]) is int:
        return ONE_ACCEPTED
    rejected = [
        RejectedLabel(i, o.code, o.message) for i, o in enumerate(done.outcomes) if isinstance(o, EverloopError)
    ]
    return encode(FeedbackAnswer(len(done.outcomes) - len(rejected), done.duplicate, rejected))


def refused_whole(done: Appended) -> EverloopError | None:
    """The first refusal, if every label was refused: then it is the answer to the request."""
    first: EverloopError | None = None
    for outcome in done.outcomes:
        if not isinstance(outcome, EverloopError):
            return None
        first = first or outcome
    return first


def _labelled(asked: LabelledExample | FeedbackRequest, label: Label, limits: Limits) -> Feedback:
    if asked.features is not None:
        _check_width(asked.features, limits)
    return Feedback(
        label=label,
        request_id=asked.request_id,
        index=asked.index,
        features=asked.features,
        validation=asked.validation,
    )


def _check_width(row: Features | None, limits: Limits) -> None:
    if row is not None and len(row) > limits.max_features:
        raise TooLarge(
            f"features: {len(row):,} values in a row, at most {limits.max_features:,} are taken", field="features"
        )

"""The wire of predictions and labels: what is taken, what is refused and how, and that both encoders agree."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.api.http import codec
from everloop.api.http.limits import Limits
from everloop.core.errors import Conflict, EverloopError, InvalidInput, Malformed, PredictionNotFound, TooLarge
from everloop.core.types import Prediction, PredictionBatch
from everloop.stores.ports import Appended

LIMITS = Limits(max_rows=3, max_features=4)


@pytest.mark.parametrize(
    ("body", "error", "field"),
    [
        (b"", Malformed, "body"),
        (b"{", Malformed, "body"),
        (b'{"features":[NaN]}', Malformed, "body"),
        (b'{"features":[1]} x', Malformed, "body"),
        (b'{"feature":', Malformed, "body"),
        (b'{"feature":[1]} x', Malformed, "body"),
        (b"\xff", Malformed, "body"),
        (b'{"features":["\xff"]}', Malformed, "body"),
        (b"[1]", InvalidInput, "body"),
        (b"{}", InvalidInput, "features"),
        (b'{"features":[1],"instances":[[1]]}', InvalidInput, "features"),
        (b'{"features":"1"}', InvalidInput, "features"),
        (b'{"features":[[1]]}', InvalidInput, "features[0]"),
        (b'{"features":[1e999]}', InvalidInput, "features[0]"),
        (b'{"instances":[[1],[{}]]}', InvalidInput, "instances[1][0]"),
        (b'{"feature":[1]}', InvalidInput, "body"),
        (b'{"features":[1,2,3,4,5]}', TooLarge, "features"),
        (b'{"instances":[[1],[1],[1],[1]]}', TooLarge, "instances"),
    ],
)
def test_a_prediction_that_cannot_be_read_is_told_where(body: bytes, error: type[EverloopError], field: str) -> None:
    with pytest.raises(error) as caught:
        codec.decode_predict(body, LIMITS)
    assert (caught.value.field or "").startswith(field.partition("[")[0])
    if field != "body":
        assert caught.value.field == field
    with pytest.raises(error) as usual:
        codec.decode_usual(body, LIMITS)
    assert str(usual.value) == str(caught.value)


def test_deep_nesting_is_refused_not_crashed_on() -> None:
    with pytest.raises((Malformed, InvalidInput)):
        codec.decode_predict(b'{"features":' + b"[" * 100_000 + b"]" * 100_000 + b"}", LIMITS)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4))
def test_a_plain_row_reads_the_same_both_ways(row: list[float]) -> None:
    body = json.dumps({"features": row}).encode()
    usual = codec.decode_usual(body, LIMITS)
    assert type(usual) is codec.PlainRow or len(row) > LIMITS.max_features
    assert usual.features == row == codec.decode_predict(body, LIMITS).features


@given(st.text(min_size=1, max_size=256, alphabet=st.characters(exclude_categories=("Cs",))))
def test_a_unit_is_read_the_same_from_body_and_header(unit: str) -> None:
    plain = codec.decode_usual(json.dumps({"features": [1.0], "unit": unit}).encode(), LIMITS)
    several = codec.decode_usual(json.dumps({"instances": [[1.0]], "unit": unit}).encode(), LIMITS)
    without = codec.decode_usual(b'{"features":[1.0]}', LIMITS)
    assert codec.unit_of(plain, None) == codec.unit_of(several, None) == unit
    assert codec.unit_of(without, unit.encode()) == unit
    assert codec.unit_of(plain, b"another") == unit, "the body goes before the header"
    assert codec.unit_of(without, None) is None


@pytest.mark.parametrize("unit", ['""', '"' + "x" * 257 + '"', "3", "[]", "{}", "true"])
def test_what_is_no_unit_is_refused_by_name(unit: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec.decode_usual(b'{"features":[1.0],"unit":%b}' % unit.encode(), LIMITS)
    assert caught.value.field == "unit"


@pytest.mark.parametrize("header", [b"", b"x" * 257])
def test_a_header_that_is_no_unit_is_refused_by_name(header: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec.unit_of(codec.PlainRow([1.0]), header)
    assert caught.value.field == "unit"
    assert codec.unit_of(codec.PlainRow([1.0]), b"caf\xe9") == "café", "Latin-1, where it is not UTF-8"


scalars = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53), st.booleans(), st.text(max_size=20)
)


@given(scalars, st.integers(1, 10**6), st.integers(1, 10**12))
def test_the_template_writes_what_the_encoder_writes(value: Any, version: int, number: int) -> None:
    template = codec.AnswerTemplate(version, "0123456789a")
    single = template.single % (codec.encode(value), number)
    assert single == codec.encode_answer(Prediction(value, version, "0123456789a", number))
    several = template.several % (codec.encode([value, value]), number)
    assert several == codec.encode_answer(PredictionBatch([value, value], version, "0123456789a", number))
    assert json.loads(single)["prediction"] == value


def test_one_label_and_several_are_taken() -> None:
    (one,) = codec.decode_feedback(b'{"request_id":"ab-1","label":1,"index":2}', LIMITS)
    assert (one.request_id, one.label, type(one.label), one.index) == ("ab-1", 1, int, 2)
    two = codec.decode_feedback(
        b'{"examples":[{"features":{"a":1},"label":true},{"features":[2],"label":"x"}]}', LIMITS
    )
    assert [item.label for item in two] == [True, "x"]
    assert [item.features for item in two] == [{"a": 1.0}, [2.0]]


@pytest.mark.parametrize(
    ("body", "error", "field"),
    [
        (b'{"request_id":"a-1"}', InvalidInput, "label"),
        (b'{"request_id":"a-1","label":null}', InvalidInput, "label"),
        (b'{"request_id":1,"label":1}', InvalidInput, "request_id"),
        (b'{"request_id":"a-1","label":[1]}', InvalidInput, "label"),
        (b'{"request_id":"a-1","label":1,"index":-1}', InvalidInput, "index"),
        (b'{"examples":[]}', InvalidInput, "examples"),
        (b'{"examples":[{"label":1}],"label":1}', InvalidInput, "examples"),
        (b'{"examples":[{"features":[1]}]}', InvalidInput, "examples[0]"),
        (b'{"examples":[{"label":1},{"label":1},{"label":1},{"label":1}]}', TooLarge, "examples"),
        (b'{"features":[1,2,3,4,5],"label":1}', TooLarge, "features"),
        (b"nonsense", Malformed, "body"),
    ],
)
def test_labels_that_cannot_be_read_are_told_where(body: bytes, error: type[EverloopError], field: str) -> None:
    with pytest.raises(error) as caught:
        codec.decode_feedback(body, LIMITS)
    assert caught.value.field == field


def test_what_became_of_labels() -> None:
    gone, twice = PredictionNotFound("no such prediction"), Conflict("labelled otherwise")
    assert codec.encode_feedback(Appended([7])) == b'{"accepted":1,"duplicate":false,"rejected":[]}'
    assert json.loads(codec.encode_feedback(Appended([7, gone, 8], duplicate=True))) == {
        "accepted": 2,
        "duplicate": True,
        "rejected": [{"index": 1, "code": "prediction_not_found", "detail": "no such prediction"}],
    }
    assert codec.refused_whole(Appended([7, gone])) is None
    assert codec.refused_whole(Appended([gone, twice])) is gone
    assert codec.refused_whole(Appended([])) is None


@pytest.mark.parametrize(
    ("decode", "body", "said"),
    [
        (codec.decode_feedback, b'{"labl": 1}', "body: unknown field 'labl'; did you mean 'label'?"),
        (codec.decode_predict, b'{"feature": [1]}', "body: unknown field 'feature'; did you mean 'features'?"),
        (
            codec.decode_feedback,
            b'{"examples": [{"label": 1, "feature": [1]}]}',
            "examples[0]: unknown field 'feature'; did you mean 'features'?",
        ),
        (codec.decode_predict, b'{"zzz": 1}', "body: unknown field 'zzz'; it takes features, instances, unit"),
    ],
)
def test_a_misspelt_field_is_told_with_the_near_name(decode: Any, body: bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(body, LIMITS)
    assert caught.value.message == said

"""INT8 and FP16 of ONNX artifacts: smaller, close, and float where it hurts. Speed is the bench's business."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from tests.optimization.graphs import conv_net, mlp, two_inputs

from everloop.core.errors import ArtifactCorrupt, InvalidInput, NotSupported
from everloop.optimization.graphs import at_level
from everloop.optimization.int8 import saturates
from everloop.optimization.quantization import QuantizationConfig, quantize_artifact
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.onnx import read_file
from everloop.runtime.packing import pack
from everloop.stores.ports import Manifest

RNG = np.random.default_rng(1)
X = RNG.normal(size=(300, 64)).astype(np.float32)
DYNAMIC = QuantizationConfig()
STATIC = QuantizationConfig(method="static")


@pytest.fixture(scope="module")
def plain() -> tuple[Manifest, bytes]:
    payload = mlp([64, 128, 128, 5])
    return read_file(payload), payload


def ops(payload: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(payload).graph.node]


def answers(manifest: Manifest, payload: bytes, rows: Any) -> np.ndarray:
    session = load_session(manifest, payload, trust=Trust())
    scores = session.scores(rows)
    return session.run(rows) if scores is None else scores


def lost(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.mean((before - after) ** 2) / np.var(before))


def test_dynamic_needs_no_rows(plain: tuple[Manifest, bytes]) -> None:
    manifest, payload = plain
    kept = bytes(payload)
    made, smaller = quantize_artifact(manifest, payload, None, DYNAMIC)
    assert payload == kept
    assert len(smaller) < 0.3 * len(payload)
    assert ops(smaller).count("MatMulInteger") == 3
    assert (made.schema, made.task, made.target, made.classes) == (
        manifest.schema,
        manifest.task,
        manifest.target,
        manifest.classes,
    )
    assert lost(answers(manifest, payload, X), answers(made, smaller, X)) < 0.002
    told = made.lineage["quantization"]
    assert told["bytes"] == len(smaller)
    assert told["operators"] == 3
    assert msgspec.json.decode(msgspec.json.encode(made), type=Manifest) == made


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_static_ranges_come_from_rows(plain: tuple[Manifest, bytes], method: Any) -> None:
    manifest, payload = plain
    made, smaller = quantize_artifact(manifest, payload, X, QuantizationConfig(method="static", calibration=method))
    assert len(smaller) < 0.3 * len(payload)
    told = made.lineage["quantization"]
    assert told["loss"] <= 0.002
    assert told["calibrated_on"] + told["judged_on"] == len(X)
    assert told["in_float"] == []
    assert lost(answers(manifest, payload, X), answers(made, smaller, X)) < 0.002
    assert ops(smaller)[-1] == "Gemm"  # what it answers is not rounded


def test_static_without_rows_is_refused(plain: tuple[Manifest, bytes]) -> None:
    with pytest.raises(NotSupported, match="rows to calibrate on"):
        quantize_artifact(*plain, None, STATIC)


def test_the_same_again_makes_the_same_bytes(plain: tuple[Manifest, bytes]) -> None:
    assert quantize_artifact(*plain, X, STATIC) == quantize_artifact(*plain, X.tolist(), STATIC)


def test_a_layer_whose_inputs_are_of_all_sizes_stays_in_float() -> None:
    scales = np.geomspace(1, 10_000, 64)
    payload = mlp([64, 128, 128, 5], scales=scales)
    manifest, rows = read_file(payload), (X * scales).astype(np.float32)
    made, smaller = quantize_artifact(manifest, payload, rows, STATIC)
    told = made.lineage["quantization"]
    assert told["loss_of_all"] > 0.002 >= told["loss"]
    assert len(told["in_float"]) == 1
    assert len(smaller) < 0.6 * len(payload)
    assert lost(answers(manifest, payload, rows), answers(made, smaller, rows)) < 0.004


def test_where_nothing_may_be_lost_nothing_is_made(plain: tuple[Manifest, bytes]) -> None:
    with pytest.raises(NotSupported, match="loses more than 0 of the answers' variance, whichever"):
        quantize_artifact(*plain, X, QuantizationConfig(method="static", noise=0))


def test_with_labels_the_budget_is_of_the_metric() -> None:
    X_train, y = X[:, :8], (X[:, 0] + X[:, 1] > 0).astype(int)
    model = MLPClassifier((64, 64), max_iter=400, tol=0.02, n_iter_no_change=3, random_state=0).fit(X_train, y)
    payload = to_onnx(model, X_train[:1], options={"zipmap": False}).SerializeToString()
    manifest = read_file(payload)
    made, smaller = quantize_artifact(manifest, payload, X_train, STATIC, y.tolist())
    told = made.lineage["quantization"]
    assert told["loss_is_of"] == "accuracy"
    assert told["loss"] <= 0.005
    assert len(smaller) < 0.6 * len(payload)
    assert np.mean(answers(made, smaller, X_train) == y) > 0.85


def test_of_a_regression_the_metric_is_r2() -> None:
    y = X[:, 0] - 2 * X[:, 1]
    model = MLPRegressor(hidden_layer_sizes=(64,), max_iter=400, tol=0.02, n_iter_no_change=3, random_state=0).fit(X, y)
    payload = to_onnx(model, X[:1]).SerializeToString()
    made, _ = quantize_artifact(read_file(payload), payload, X, DYNAMIC, y.tolist())
    assert made.lineage["quantization"]["loss_is_of"] == "R²"
    assert made.lineage["quantization"]["loss"] <= 0.005


def test_a_convolution_takes_its_batch_norm_in_and_is_quantised_with_it() -> None:
    payload = conv_net()
    manifest = read_file(payload)
    made, smaller = quantize_artifact(manifest, payload, X, STATIC)
    assert "BatchNormalization" not in ops(smaller)
    weights = {each.name: each.data_type for each in onnx.load_model_from_string(smaller).graph.initializer}
    assert sum(kind == onnx.TensorProto.INT8 for kind in weights.values()) >= 2
    assert lost(answers(manifest, payload, X), answers(made, smaller, X)) < 0.002
    kept, _ = quantize_artifact(manifest, payload, X, replace(STATIC, keep_float=("Conv",)))
    assert kept.lineage["quantization"]["in_float"] == ["Conv_0"]


def test_a_model_of_tensors_is_calibrated_by_its_inputs() -> None:
    payload = two_inputs()
    manifest = read_file(payload)
    assert manifest.task == "tensors"
    inputs = {
        "a": RNG.normal(size=(80, 3, 32)).astype(np.float32),
        "b": RNG.normal(size=(80, 3, 1)).astype(np.float32),
    }
    made, smaller = quantize_artifact(manifest, payload, inputs, STATIC)
    assert made.lineage["quantization"]["loss"] < 0.002
    assert len(smaller) < len(payload) / 2
    with pytest.raises(InvalidInput, match="'b'"):
        quantize_artifact(manifest, payload, {"a": inputs["a"]}, STATIC)
    with pytest.raises(InvalidInput, match="inputs by name"):
        quantize_artifact(manifest, payload, X, STATIC)


def test_a_model_of_one_row_at_a_time_is_calibrated_one_by_one() -> None:
    payload = mlp([64, 32, 5], batch=1)
    manifest = read_file(payload)
    made, smaller = quantize_artifact(manifest, payload, X[:40], STATIC)
    assert answers(made, smaller, X[:3]).shape == (3, 5)


def test_an_old_operator_set_is_brought_up() -> None:
    payload = mlp([64, 32, 5], opset=9)
    made, smaller = quantize_artifact(read_file(payload), payload, X, STATIC)
    assert lost(answers(read_file(payload), payload, X), answers(made, smaller, X)) < 0.002


def test_a_graph_that_was_rewritten_ahead_is_fused_again(plain: tuple[Manifest, bytes]) -> None:
    ahead = at_level(*plain, "basic")
    assert ahead[0].options["graph"] == "none"
    made, _ = quantize_artifact(*ahead, X, STATIC)
    assert "graph" not in made.options


def test_a_form_that_stands_in_for_another_model_is_still_asked_as_that(plain: tuple[Manifest, bytes]) -> None:
    stands_in = msgspec.structs.replace(plain[0], options={"tensors": "rows"})
    made, _ = quantize_artifact(stands_in, plain[1], X, STATIC)
    assert made.options == {"tensors": "rows"}


def test_half_precision_is_half_the_size_and_nearly_the_same(plain: tuple[Manifest, bytes]) -> None:
    manifest, payload = plain
    made, smaller = quantize_artifact(manifest, payload, X, QuantizationConfig(method="fp16"))
    assert 0.45 < len(smaller) / len(payload) < 0.55
    assert made.lineage["quantization"]["loss"] < 1e-5
    np.testing.assert_allclose(answers(made, smaller, X), answers(manifest, payload, X), atol=5e-3)


def test_weights_that_half_precision_cannot_hold_stay() -> None:
    payload = mlp([64, 128, 5], scales=np.full(64, 1e-6))
    made, smaller = quantize_artifact(read_file(payload), payload, None, QuantizationConfig(method="fp16"))
    assert made.lineage["quantization"]["weights"] == 2  # not the first layer's
    assert np.isfinite(answers(made, smaller, X)).all()


def test_rows_with_gaps_calibrate_nothing(plain: tuple[Manifest, bytes]) -> None:
    holes = X.copy()
    holes[::2, 0] = np.nan
    made, _ = quantize_artifact(*plain, holes, STATIC)
    told = made.lineage["quantization"]
    assert told["calibrated_on"] + told["judged_on"] == len(X) // 2
    with pytest.raises(NotSupported, match="no complete rows"):
        quantize_artifact(*plain, np.full((5, 64), np.nan, np.float32), STATIC)


def test_seven_bits_where_the_processor_adds_in_sixteen(plain: tuple[Manifest, bytes]) -> None:
    def largest(reduce_range: bool | None) -> int:
        _, smaller = quantize_artifact(*plain, None, QuantizationConfig(reduce_range=reduce_range))
        tensors = onnx.load_model_from_string(smaller).graph.initializer
        return max(
            int(np.abs(numpy_helper.to_array(each).astype(int)).max())
            for each in tensors
            if each.data_type == onnx.TensorProto.INT8
        )

    assert largest(False) == 127
    assert largest(True) <= 64
    assert largest(None) == (largest(True) if saturates() else 127)


def linear() -> bytes:
    model = LogisticRegression().fit(X[:, :4], (X[:, 0] > 0).astype(int))
    return to_onnx(model, X[:1, :4], options={"zipmap": False}).SerializeToString()


def elsewhere() -> bytes:
    model = onnx.load_model_from_string(mlp([64, 32, 5]))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("payload", "error", "told"),
    [
        (linear(), NotSupported, "LinearClassifier"),
        (mlp([64, 32, 5], dtype=np.float64), NotSupported, "weights in float32"),
        (elsewhere(), NotSupported, "in other files"),
        (b"\x08\x07\xff", ArtifactCorrupt, "no ONNX model"),
    ],
    ids=["no layers", "double", "other files", "broken"],
)
@pytest.mark.parametrize("method", ["dynamic", "fp16"])
def test_what_cannot_be_made_smaller_says_why(payload: bytes, error: Any, told: str, method: Any) -> None:
    manifest = read_file(mlp([64, 32, 5]))
    with pytest.raises(
        error, match=told if method == "dynamic" or error is not NotSupported else "float32|other files"
    ):
        quantize_artifact(manifest, payload, None, QuantizationConfig(method=method))


def test_other_runtimes_go_to_onnx_first() -> None:
    manifest, payload = pack(LogisticRegression().fit(X[:, :2], X[:, 0] > 0), trust=Trust())
    if manifest.runtime == "onnx":
        pytest.fail("a packed estimator is no ONNX artifact")
    with pytest.raises(NotSupported, match="convert it to ONNX first"):
        quantize_artifact(manifest, payload, X[:, :2], DYNAMIC)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "int4"),
        ("calibration", "guess"),
        ("percentile", 20.0),
        ("percentile", "x"),
        ("keep_float", "Conv"),
        ("budget", -1.0),
        ("noise", -1.0),
        ("calibration_rows", 0),
    ],
)
def test_a_configuration_that_makes_no_sense_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=field) as caught:
        QuantizationConfig(**{field: value})
    assert caught.value.field == field


def test_a_bias_of_one_row_takes_a_scale_a_channel() -> None:
    """skl2onnx writes biases as (1, n), which ONNX Runtime's quantiser does not take a channel at a time."""
    estimator = MLPClassifier((16,), max_iter=5, tol=1.0, n_iter_no_change=1, random_state=0).fit(X, X[:, 0] > 0)
    payload = to_onnx(estimator, X[:1], options={"zipmap": False}).SerializeToString()
    config = replace(STATIC, per_channel=True, noise=1.0)
    made, smaller = quantize_artifact(read_file(payload), payload, X, config)
    assert made.lineage["quantization"]["in_float"] == []
    assert ops(smaller).count("QuantizeLinear") > 0
    assert made.lineage["quantization"]["loss"] < 0.05
    with pytest.raises(InvalidInput, match=r"none of the .* labels"):  # also where the graph does not tell its classes
        quantize_artifact(read_file(payload), payload, X, config, ["one"] * len(X))

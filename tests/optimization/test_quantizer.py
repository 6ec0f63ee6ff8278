"""`ModelQuantizer` on what people hold: PyTorch modules (the seed's sample), estimators, ONNX files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from tests.optimization.graphs import mlp, two_inputs
from torch import nn

from everloop.core.errors import InvalidInput, NotSupported
from everloop.optimization import ModelQuantizer, QuantizationConfig, QuantizedModel
from everloop.runtime.artifact import Trust, read_model_file

RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return pl.DataFrame(RNG.normal(size=(200, 100)), schema=[f"f{i}" for i in range(100)])


@pytest.fixture(scope="module")
def quantized(model: Any, frame: pl.DataFrame) -> QuantizedModel:
    return ModelQuantizer().quantize_static(model, frame)


def test_the_seeds_sample_runs(model: Any, frame: pl.DataFrame, tmp_path: Path, capsys: Any) -> None:
    before = copy.deepcopy(model.state_dict())
    threads = torch.get_num_threads()
    quantizer = ModelQuantizer()

    quantized = quantizer.quantize_dynamic(model, str(tmp_path / "model_quantized.pt"))
    assert quantized.size_bytes == (tmp_path / "model_quantized.pt").stat().st_size
    quantized = quantizer.quantize_static(model, frame, str(tmp_path / "model_static_quantized.pt"))
    results = quantizer.benchmark_quantized(model, quantized, torch.randn(100, 100), iterations=40)

    assert results["speedup"] > 0
    assert results["size_reduction_pct"] > 60
    assert results["quantized_bytes"] == (tmp_path / "model_static_quantized.pt").stat().st_size
    assert (results["rows"], results["iterations"]) == (100, 40)
    assert torch.get_num_threads() == threads
    assert model.training, "the caller's module stays as it was"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_quantized.pt", "model_static_quantized.pt"]


def test_it_is_called_as_the_module_was(model: Any, frame: pl.DataFrame, quantized: QuantizedModel) -> None:
    sample = torch.randn(7, 100)
    out = quantized(sample)
    assert isinstance(out, torch.Tensor)
    assert torch.allclose(out, model(sample), atol=0.15)
    assert isinstance(quantized(sample.numpy()), np.ndarray)
    assert quantized.predict(frame).tolist() == quantized.predict(frame.to_numpy()).tolist()
    assert quantized.predict_proba(frame.to_pandas()).shape == (200, 10)
    with pytest.raises(InvalidInput, match="takes 1 inputs, got 2"):
        quantized(sample, sample)


def test_what_was_written_loads_again_and_is_what_a_server_takes(
    quantized: QuantizedModel, frame: pl.DataFrame, tmp_path: Path
) -> None:
    path = quantized.save(tmp_path / "smaller.pt")
    again = QuantizedModel.load(path)
    assert again.path == path
    assert again.how == {}
    assert again.predict(frame).tolist() == quantized.predict(frame).tolist()
    manifest, payload = read_model_file(path, trust=Trust())
    assert manifest.runtime == "onnx"
    assert payload == quantized.payload


def test_a_comparison_tells_differences_flips_and_accuracy(
    model: Any, frame: pl.DataFrame, quantized: QuantizedModel
) -> None:
    quantizer = ModelQuantizer()
    samples = frame.to_numpy().astype(np.float32)
    labels = model(torch.from_numpy(samples)).argmax(1).numpy()
    told = quantizer.compare_accuracy(model, quantized, torch.from_numpy(samples), labels)
    assert told["rows"] == 200
    assert 0 < told["mean_difference"] < told["max_difference"] < 0.2
    assert told["original_accuracy"] == 1
    assert told["agreement"] == told["quantized_accuracy"] == 1 - told["label_flips"] / 200
    assert told["accuracy_change_points"] == pytest.approx(-told["label_flips"] / 2)
    assert "original_accuracy" not in quantizer.compare_accuracy(model, quantized, frame)
    with pytest.raises(InvalidInput, match="expected 200, got 3"):
        quantizer.compare_accuracy(model, quantized, samples, [1, 2, 3])


def test_a_convolution_is_calibrated_by_images_and_needs_a_sample_without() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 1)
    )
    images = RNG.normal(size=(64, 1, 8, 8)).astype(np.float32)
    quantizer = ModelQuantizer(QuantizationConfig(calibration="percentile"))
    quantized = quantizer.quantize_static(net, torch.from_numpy(images))
    assert quantized.how["calibration"] == "percentile"
    assert quantized(images).shape == (64, 1)
    told = quantizer.compare_accuracy(net, quantized, images, RNG.normal(size=64))
    assert set(told) == {"rows", "max_difference", "mean_difference", "original_mae", "quantized_mae"}
    with pytest.raises(InvalidInput, match="give sample_input="):
        quantizer.quantize_fp16(net)
    assert (
        quantizer.quantize_fp16(net, sample_input=images).size_bytes
        < quantizer.benchmark_quantized(net, quantized, images, iterations=1)["original_bytes"]
    )


def test_an_estimator_is_converted_first() -> None:
    X = RNG.normal(size=(200, 6)).astype(np.float32)
    y = np.where(X[:, 0] > 0, "yes", "no")
    estimator = MLPClassifier((64, 64), max_iter=200, tol=0.05, n_iter_no_change=2, random_state=0).fit(X, y)
    quantizer = ModelQuantizer()
    quantized = quantizer.quantize_static(estimator, pd.DataFrame(X), labels=y.tolist())
    assert quantized.how["loss_is_of"] == "accuracy"
    for ask in (
        lambda: quantizer.quantize_static(estimator, X, labels=["maybe"] * len(X)),
        lambda: quantizer.compare_accuracy(estimator, quantized, X, ["maybe"] * len(X)),
    ):
        with pytest.raises(InvalidInput, match=r"none of the .* labels \('maybe'\) is a class of this model"):
            ask()
    told = quantizer.compare_accuracy(estimator, quantized, X, y)
    assert abs(told["accuracy_change_points"]) <= 1
    assert quantizer.benchmark_quantized(estimator, quantized, X, iterations=3)["size_reduction_pct"] > 50
    with pytest.raises(NotSupported, match="LinearClassifier"):
        quantizer.quantize_dynamic(LogisticRegression().fit(X, y))


def test_an_onnx_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    path.write_bytes(mlp([64, 128, 5]))
    quantizer = ModelQuantizer()
    quantized = quantizer.quantize_dynamic(path)
    assert len(quantizer.quantize_fp16(path).payload) < 0.6 * len(path.read_bytes())
    assert path.read_bytes() == mlp([64, 128, 5])
    sample = RNG.normal(size=(9, 64)).astype(np.float32)
    assert quantizer.benchmark_quantized(path, quantized, sample, iterations=2)["original_bytes"] == len(
        path.read_bytes()
    )
    assert quantizer.compare_accuracy(str(path), quantized, sample)["rows"] == 9
    for ask in (quantizer.quantize_static, lambda *given: quantizer.compare_accuracy(given[0], quantized, given[1])):
        with pytest.raises(InvalidInput, match="there are no rows"):
            ask(path, sample[:0])
    for wrong in (0, True, 1.5):
        with pytest.raises(InvalidInput, match="iterations"):
            quantizer.benchmark_quantized(path, quantized, sample, iterations=wrong)  # type: ignore[arg-type]


def test_a_model_of_several_tensors_is_calibrated_by_a_tuple() -> None:
    a, b = RNG.normal(size=(40, 3, 32)).astype(np.float32), RNG.normal(size=(40, 3, 1)).astype(np.float32)
    quantized = ModelQuantizer().quantize_static(two_inputs(), (a, b))
    assert quantized(a, b).shape == (40, 3, 32)
    with pytest.raises(InvalidInput, match="takes 2 inputs, got 1"):
        ModelQuantizer().quantize_static(two_inputs(), a)

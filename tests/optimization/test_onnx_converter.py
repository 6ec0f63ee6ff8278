"""`ONNXConverter` and `ONNXPredictor`: the published sample, modules of several shapes, and what is refused."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pandas as pd
import PIL.Image
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from everloop.core.errors import ArtifactCorrupt, InvalidInput, NotSupported, Untrusted
from everloop.optimization import ONNXConverter
from everloop.optimization.onnx import convert_artifact
from everloop.runtime import ONNXPredictor
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.image_saving import save_image_model
from everloop.runtime.packing import pack
from everloop.serving import BatchPredictor
from everloop.showcase.images import ImageClassifier

nn = torch.nn
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The published sample, up to its benchmark: the module, the converter, what `convert` gave."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))

    # Convert to ONNX
    converter = ONNXConverter(opset_version=14)
    sample_input = torch.randn(1, 100)

    done = converter.convert(
        model,
        sample_input,
        str(path),
        input_names=["features"],
        output_names=["predictions"],
        dynamic_axes={"features": {0: "batch_size"}, "predictions": {0: "batch_size"}},
    )
    return model, converter, done


def test_the_published_sample(sample):
    model, converter, done = sample
    results = converter.benchmark_comparison(model, done.path, torch.randn(100, 100), iterations=20)
    assert f"Speedup: {results['speedup']:.2f}x"
    assert results["speedup"] > 0
    assert results["max_difference"] < 1e-5
    assert (results["rows"], results["iterations"]) == (100, 20)

    written = onnx.load(done)
    assert (done.opset, written.opset_import[0].version) == (14, 14)
    assert written.graph.input[0].name == "features"
    assert written.graph.output[0].name == "predictions"
    assert done.bytes == done.path.stat().st_size
    assert done.validation
    assert model.training  # the caller's module is as it was
    onnx.checker.check_model(written)


def test_the_file_says_nothing_of_the_machine_it_was_made_on(sample):
    _, _, done = sample
    payload = done.path.read_bytes()
    assert __file__.encode() not in payload
    assert b"site-packages" not in payload
    assert b"stack_trace" not in payload


def test_a_predictor_takes_any_number_of_rows(sample):
    model, _, done = sample
    X = RNG.normal(size=(7, 100)).astype(np.float32)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(X)).numpy()
    model.train()
    with ONNXPredictor(done) as predictor:
        for rows in (X, pd.DataFrame(X), X.tolist()):
            np.testing.assert_allclose(predictor.predict(rows), expected, rtol=1e-4, atol=1e-5)
        assert predictor.predict(X[0]).shape == (1, 10)
        assert (predictor.input_names, predictor.output_names) == (("features",), ("predictions",))
        told = predictor.benchmark(X, iterations=5)
        assert told["rows"] == 7
        assert 0 < told["min_ms"] <= told["p50_ms"] <= told["p99_ms"]
        with pytest.raises(InvalidInput, match="iterations"):
            predictor.benchmark(X, iterations=0)
        with pytest.raises(InvalidInput, match="expected 100 features"):
            predictor.predict(X[:, :3])


async def batched(path, frame):
    batch_predictor = BatchPredictor(ONNXPredictor(path), batch_size=32, window_ms=5)
    await batch_predictor.start()
    try:
        return await asyncio.gather(*(batch_predictor.predict(frame[i : i + 1]) for i in range(4)))
    finally:
        await batch_predictor.stop()


def test_inside_a_batch_predictor(sample):
    _, _, done = sample
    frame = pd.DataFrame(RNG.normal(size=(4, 100)))
    found = asyncio.run(batched(done.path, frame))
    alone = ONNXPredictor(done.path).predict(frame)
    np.testing.assert_allclose(np.concatenate([np.asarray(each) for each in found]), alone, rtol=1e-5, atol=1e-6)


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())

    def forward(self, picture):
        return self.inner(picture)


class Two(nn.Module):
    def forward(self, left, right):
        return left + right, left @ right.transpose(0, 1)


def test_images_and_a_first_axis_that_varies_by_itself(tmp_path):
    model = Images()
    done = ONNXConverter(18).convert(model, torch.randn(1, 1, 6, 6), tmp_path / "images.onnx")
    assert done.opset == 18
    pictures = torch.randn(5, 1, 6, 6)
    assert ONNXConverter().validate(model, done, pictures)
    np.testing.assert_allclose(
        ONNXPredictor(done).predict(pictures.reshape(5, 36).numpy()), model.eval()(pictures).detach(), atol=1e-5
    )


def test_a_file_of_another_model_is_told(tmp_path, sample):
    model, converter, done = sample
    other = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
    found = converter.validate(other, done, torch.randn(50, 100))
    assert not found
    assert found.max_difference > 0.01
    assert found.flips > 0
    assert "of predictions differ" in found.why
    assert converter.validate(other, done, torch.randn(50, 100), atol=1e9)
    assert converter.validate(model, done, torch.randn(50, 100))


def test_what_cannot_be_compared_is_told(tmp_path, sample):
    model, converter, done = sample
    X = torch.randn(3, 100)
    for ask in (converter.validate, converter.benchmark_comparison):
        with pytest.raises(InvalidInput, match="there is no file"):
            ask(model, tmp_path / "absent.onnx", X)
        with pytest.raises(InvalidInput, match="there are no rows"):
            ask(model, done, X[:0])
        with pytest.raises(InvalidInput, match=r"does not take the sample.* Expected: 100"):
            ask(nn.Linear(99, 10), done, X[:, :99])
        with pytest.raises(InvalidInput, match="the file gives 1 outputs, the model 2"):
            ask(Pair(), done, X)
    found = converter.validate(Nowhere(), done, X)
    assert (found.passed, found.max_difference) == (False, np.inf)
    assert [type(value) for name, value in told_of(sample, X).items() if name in {"rows", "iterations"}] == [int, int]


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Nowhere(nn.Module):
    def forward(self, x):
        return x[:, :10] * np.nan


def told_of(sample, X):
    model, converter, done = sample
    return converter.benchmark_comparison(model, done, X, iterations=1)


def test_a_program_s_artifact(tmp_path):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    program = torch.export.export(net, (torch.randn(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    manifest, payload = pack(program, trust=Trust(), classes=["a", "b", "c"])
    rows = RNG.normal(size=(20, 4)).astype(np.float32)
    made, graph = convert_artifact(manifest, payload, trust=Trust(), rows=rows.tolist())
    assert (made.runtime, made.classes) == ("onnx", ["a", "b", "c"])
    original, session = (load_session(*each, trust=Trust()) for each in ((manifest, payload), (made, graph)))
    assert original.run(rows).tolist() == session.run(rows).tolist()
    np.testing.assert_allclose(session.scores(rows), original.scores(rows), atol=1e-6)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else x * 2


@pytest.mark.parametrize(
    ("model", "options", "error", "why"),
    [
        (Branches(), {}, NotSupported, r"exported: it branches on a value that .*: line \d+, in forward$"),
        (nn.Linear(3, 1), {"input_names": ["a", "b"]}, InvalidInput, "input_names: 2 names"),
        (nn.Linear(3, 1), {"dynamic_axes": {"nobody": {0: "n"}}}, InvalidInput, "dynamic_axes.nobody"),
        (nn.Linear(3, 1), {"dynamic_axes": {"input": {5: "n"}}}, InvalidInput, "no axis 5"),
    ],
    ids=["a branch on data", "names", "unknown axis", "no such axis"],
)
def test_what_cannot_be_exported_writes_nothing(tmp_path, capfd, model, options, error, why):
    path = tmp_path / "never.onnx"
    with pytest.raises(error, match=why):
        ONNXConverter().convert(model, torch.randn(2, 3), path, **options)
    assert not path.exists()
    assert capfd.readouterr() == ("", "")


def test_an_estimator_with_names_of_its_inputs(tmp_path):
    X = RNG.normal(size=(80, 4)).astype(np.float32)
    model = RandomForestClassifier(5, random_state=0).fit(X, np.where(X[:, 0] > 0, "up", "down"))
    converter = ONNXConverter()
    done = converter.convert(model, X[:10], tmp_path / "forest.onnx", input_names=["features"], output_names=["side"])
    assert done.opset == 14
    predictor = ONNXPredictor(done)
    assert predictor.input_names == ("features",)
    assert predictor.output_names[0] == "side"
    assert predictor.predict(X).tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(predictor.predict_proba(X), model.predict_proba(X), atol=1e-6)
    assert predictor.classes == ["down", "up"]
    assert converter.validate(model, done, X)
    assert converter.benchmark_comparison(model, done, X[:1], iterations=5)["speedup"] > 0
    other = LogisticRegression().fit(X, np.where(X[:, 1] > 0, "up", "down"))
    found = converter.validate(other, done, X)
    assert "answers of answer are others" in found.why
    assert found.flips == np.sum(other.predict(X) != model.predict(X))


def test_what_is_no_onnx_file(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(ArtifactCorrupt):
        ONNXPredictor(tmp_path / "x.onnx")
    with pytest.raises(InvalidInput, match="there is no file"):
        ONNXPredictor(tmp_path / "nowhere.onnx")
    for wrong in (3, 99, True, "14"):
        with pytest.raises(InvalidInput, match="opset_version"):
            ONNXConverter(wrong)


def test_a_pickle_that_is_named_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(LogisticRegression().fit([[0.0], [1.0]], [0, 1])))
    with pytest.raises(Untrusted):
        ONNXConverter().convert(str(path), [[0.5]], tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_the_page_on_images_exports_a_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of its three commands as it is printed, with a net of our own where torchvision's is fetched, as the second's artifact."""
    page = (Path(__file__).parents[2] / "docs/showcase.md").read_text()
    command = page.partition('python -c "\n')[2].partition('"\neverloop image pack')[0].replace("\\\\n", "\\n")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=8), nn.BatchNorm2d(4), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()  # fmt: skip
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(meta={"categories": ["crane", "heron", "crane"]}))
    models = SimpleNamespace(MobileNet_V3_Small_Weights=weights, mobilenet_v3_small=lambda weights: net)
    lines = [line.replace(", torchvision", "") for line in command.splitlines()]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {"torchvision": SimpleNamespace(models=models)})
    path = save_image_model("net", onnx="mobilenet.onnx", labels="imagenet.txt", preset="imagenet")
    picture = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8))
    picture.save("noise.png")
    told = ImageClassifier(path).classify(Path("noise.png"))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = (torch.tensor(np.array(picture)[16:240, 16:240]) / 255 - mean) / std
    with torch.inference_mode():
        theirs = net(seen.permute(2, 0, 1)[None]).softmax(1)[0].tolist()
    found = {each.label: each.confidence for each in told.predictions}
    assert [found[label] for label in ("crane", "heron", "crane (2)")] == pytest.approx(theirs, abs=1e-4)

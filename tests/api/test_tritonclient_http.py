"""The protocol's own client, unmodified, against a server: what its users do, and what they are told when they do it wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tests.api.oip_models import IRIS, ONNX_TYPES, X, echo, iris, pooled, put, sums, values_of
from tests.api.test_fastlane import Server
from tritonclient.utils import InferenceServerException

import everloop
from everloop.api import verbs
from everloop.api.services import Services
from everloop.api.wire import ModelSpec
from everloop.app.build import build_engine
from everloop.app.settings import EngineSettings
from everloop.core.types import Label
from everloop.learning.config import LearningConfig
from everloop.learning.intake import Feedback

Say = Callable[..., Any]


@pytest.fixture(scope="module")
def engine() -> Iterator[Services]:
    engine = build_engine(EngineSettings(learning=LearningConfig(min_samples=20, interval_sec=3600)))
    engine.start(learning=False)
    services = engine.services
    put(services, "iris", iris())
    put(services, "sums", sums())
    put(services, "echo", echo())
    put(services, "pooled", pooled())
    verbs.create_model(services, ModelSpec("line", "linear"))
    services.intake.accept(
        "line", [Feedback(label=2.0 * x + 0.5, features=[float(x), 1.0]) for x in range(40)], lambda _: None
    )
    services.journal.flush()
    services.loop.train_now("line")
    services.reconciler.step()
    yield services
    engine.stop()


@pytest.fixture
def server(engine: Services) -> Iterator[Server]:
    with Server(engine) as running:
        yield running
    engine.recorder.stop()  # its thread would linger
    engine.recorder.start()


@pytest.fixture(params=["sync", "aio"])
def say(request: pytest.FixtureRequest, server: Server) -> Iterator[Say]:
    """Calls a method of one of the two clients."""
    url = f"127.0.0.1:{server.port}"
    if request.param == "sync":
        with triton.InferenceServerClient(url) as client:
            yield lambda method, *given, **named: getattr(client, method)(*given, **named)
        return

    async def call(method: str, *given: Any, **named: Any) -> Any:
        async with triton_aio.InferenceServerClient(url) as client:
            return await getattr(client, method)(*given, **named)

    yield lambda method, *given, **named: asyncio.run(call(method, *given, **named))


def tensor(name: str, datatype: str, array: np.ndarray[Any, Any], *, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def wanted(*names: str, binary: bool = True, classes: int = 0) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary, class_count=classes) for name in names]


def test_what_the_server_is(say: Say) -> None:
    assert say("is_server_live")
    assert say("is_server_ready")
    told = say("get_server_metadata")
    assert (told["name"], told["version"]) == ("everloop", everloop.__version__)
    assert {"binary_tensor_data", "model_repository", "classification", "statistics"} <= set(told["extensions"])


def test_what_a_model_is(say: Say) -> None:
    told = say("get_model_metadata", "iris")
    assert told == {
        "name": "iris",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "output_label", "datatype": "INT64", "shape": [-1]},
            {"name": "output_probability", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }
    assert say("get_model_metadata", "iris", "1") == told
    assert say("get_model_metadata", "line")["inputs"] == [{"name": "features", "datatype": "FP64", "shape": [-1, 2]}]
    config = say("get_model_config", "iris")
    assert config["max_batch_size"] > 0
    assert config["input"] == [{"name": "X", "data_type": "TYPE_FP32", "dims": [4]}]
    assert say("is_model_ready", "iris")
    assert say("is_model_ready", "iris", "1")
    assert not say("is_model_ready", "iris", "7")
    assert not say("is_model_ready", "nobody")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_rows(say: Say, binary_in: bool, binary_out: bool) -> None:
    result = say(
        "infer",
        "iris",
        [tensor("X", "FP32", X[:7], binary=binary_in)],
        outputs=wanted("output_probability", "output_label", binary=binary_out),
        request_id="mine",
    )
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["model_version"] == "1"
    assert [each["name"] for each in result.get_response()["outputs"]] == ["output_probability", "output_label"]
    np.testing.assert_array_equal(result.as_numpy("output_label"), IRIS.predict(X[:7]))
    np.testing.assert_allclose(result.as_numpy("output_probability"), IRIS.predict_proba(X[:7]), atol=1e-5)
    assert result.as_numpy("nothing") is None


@pytest.mark.parametrize("datatype", list(ONNX_TYPES))
@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype(say: Say, datatype: str, binary: bool) -> None:
    arrays = {name: values_of(name) for name in ONNX_TYPES}
    inputs = [tensor(f"in_{name}", name, array, binary=binary) for name, array in arrays.items()]
    result = say("infer", "echo", inputs, outputs=wanted(f"out_{datatype}", binary=binary))
    found = result.as_numpy(f"out_{datatype}")
    expected = arrays[datatype]
    if datatype == "BYTES" and not binary:
        expected = np.array([[text.decode() for text in row] for row in expected], object)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_all_outputs_come_unless_some_are_asked_for(say: Say) -> None:
    a, b = np.float32([[1, 2], [3, 4]]), np.float32([[10, 20], [30, 40]])
    inputs = [tensor("a", "FP32", a), tensor("b", "FP32", b, binary=False)]
    result = say("infer", "sums", inputs)
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(result.as_numpy("difference"), a - b)
    only = say("infer", "sums", inputs, outputs=wanted("difference"))
    assert [each["name"] for each in only.get_response()["outputs"]] == ["difference"]


def test_an_empty_axis_and_a_first_axis_that_is_no_batch(say: Say) -> None:
    nothing = np.empty((2, 0), np.float32)
    result = say("infer", "sums", [tensor("a", "FP32", nothing), tensor("b", "FP32", nothing)])
    assert result.as_numpy("sum").shape == (2, 0)
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 5, 3), np.float32)
    for _ in range(2):
        found = say("infer", "pooled", [tensor("x", "FP32", x), tensor("y", "FP32", y)]).as_numpy("mean")
        np.testing.assert_allclose(found, x.mean(axis=0) + 1)


def test_what_was_learned_here_is_asked_alike(say: Say) -> None:
    rows = np.array([[3.0, 1.0], [5.0, 1.0]])
    for datatype, array in (("FP64", rows), ("FP32", rows.astype(np.float32)), ("INT64", rows.astype(np.int64))):
        found = say("infer", "line", [tensor("features", datatype, array)]).as_numpy("prediction")
        np.testing.assert_allclose(found, [6.5, 10.5], rtol=1e-3)


def test_a_label_follows_an_answer(say: Say, engine: Services) -> None:
    result = say("infer", "iris", [tensor("X", "FP32", X[:2])], request_id="mine")
    known = result.get_response()["parameters"]["request_id"]
    engine.recorder.drain()
    now = engine.clock.now()
    outcome = engine.journal.append_now([Label("iris", 1, now, request_id=known, index=1)])
    assert isinstance(outcome.outcomes[0], int)
    (example,) = engine.journal.examples("iris", limit=1, latest=True)
    assert example.row == pytest.approx(X[1].tolist())
    assert example.prediction == IRIS.predict(X[1:2])[0]
    assert say("infer", "iris", [tensor("X", "FP32", X[:1])]).get_response()["id"] != known


def test_classes(say: Say) -> None:
    result = say("infer", "iris", [tensor("X", "FP32", X[:2])], outputs=wanted("output_probability", classes=2))
    found = result.as_numpy("output_probability")
    assert found.shape == (2, 2)
    score, index, label = found[0, 0].decode().split(":")
    assert (float(score), index, label) == (pytest.approx(IRIS.predict_proba(X[:1])[0, 0], abs=1e-4), "0", "0")


def test_compressed_requests(say: Say) -> None:
    for how in ("gzip", "deflate"):
        result = say("infer", "iris", [tensor("X", "FP32", X[:2])], request_compression_algorithm=how)
        assert result.as_numpy("output_label").tolist() == [0, 0]


def test_parameters_and_versions(say: Say) -> None:
    given = [tensor("X", "FP32", X[:1])]
    result = say("infer", "iris", given, model_version="1", priority=3, timeout=5_000_000, parameters={"tenant": "a"})
    assert result.get_response()["model_version"] == "1"
    with pytest.raises(InferenceServerException, match="version 9") as refused:
        say("infer", "iris", given, model_version="9")
    assert refused.value.status() == "404"


@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "told"),
    [
        ("nobody", [tensor("X", "FP32", X[:1])], None, "no model named 'nobody'"),
        ("iris", [tensor("Z", "FP32", X[:1])], None, "missing 'X'; got 'Z'"),
        ("iris", [tensor("X", "FP64", X[:1].astype(float))], None, "expected FP32, got FP64"),
        ("iris", [tensor("X", "FP32", X[:1, :3])], None, r"expected \[-1,4\], got \[1,3\]"),
        ("iris", [tensor("X", "FP32", X[:1] * np.nan)], None, "finite"),
        ("iris", [tensor("X", "FP32", X[:0])], None, "at least one row"),
        ("iris", [tensor("X", "FP32", X[:1])], wanted("who"), "unexpected inference output 'who'"),
        ("iris", [tensor("X", "FP32", X[:1])], wanted("output_label", classes=2), "table of scores"),
        ("line", [tensor("features", "BYTES", np.array([[b"1", b"2"]], object))], None, "got BYTES"),
        ("sums", [tensor("a", "FP32", X[:1])], None, "missing 'b'"),
    ],
)
def test_errors_say_what_is_wrong(say: Say, model: str, inputs: Any, outputs: Any, told: str) -> None:
    with pytest.raises(InferenceServerException, match=told) as refused:
        say("infer", model, inputs, outputs=outputs)
    assert refused.value.status() in {"404", "422"}


def test_what_there_is_none_of_is_told(say: Say) -> None:
    for method, given in (
        ("get_system_shared_memory_status", ()),
        ("get_trace_settings", ("iris",)),
        ("get_log_settings", ()),
    ):
        with pytest.raises(InferenceServerException, match="there is nothing at"):
            say(method, *given)
    shared = triton.InferInput("X", [1, 4], "FP32")
    shared.set_shared_memory("region", 16)
    with pytest.raises(InferenceServerException, match="shared memory"):
        say("infer", "iris", [shared])


def test_the_repository(say: Say) -> None:
    index = {(each["name"], each["version"]): each["state"] for each in say("get_model_repository_index")}
    assert index["iris", "1"] == index["sums", "1"] == "READY"
    say("unload_model", "sums")
    a = tensor("a", "FP32", X[:1])
    b = tensor("b", "FP32", X[:1])
    assert not say("is_model_ready", "sums")
    with pytest.raises(InferenceServerException, match="unloaded"):
        say("infer", "sums", [a, b])
    (entry,) = [each for each in say("get_model_repository_index") if each["name"] == "sums"]
    assert entry["state"] == "UNAVAILABLE"
    assert "unloaded" in entry["reason"]
    say("load_model", "sums")
    assert say("is_model_ready", "sums")
    np.testing.assert_array_equal(say("infer", "sums", [a, b]).as_numpy("sum"), 2 * X[:1])
    with pytest.raises(InferenceServerException, match="no model named"):
        say("load_model", "nobody")
    with pytest.raises(InferenceServerException, match="as it is registered"):
        say("load_model", "sums", config="{}")


def test_statistics(say: Say) -> None:
    def counted() -> tuple[int, int]:
        (found,) = say("get_inference_statistics", "iris", "1")["model_stats"]
        return found["inference_stats"]["success"]["count"], found["inference_count"]

    before = counted()
    say("infer", "iris", [tensor("X", "FP32", X[:5])])
    assert counted() == (before[0] + 1, before[1] + 5)
    assert {each["name"] for each in say("get_inference_statistics")["model_stats"]} >= {"iris", "line"}


def test_requests_at_once_are_put_together(server: Server, engine: Services) -> None:
    """Different rows, different outputs, one version: each gets its own."""

    async def ask() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:

            async def one(i: int) -> None:
                rows = X[i : i + 1 + i % 3]
                names = ("output_label", "output_probability")[: 1 + i % 2]
                result = await client.infer("iris", [tensor("X", "FP32", rows)], outputs=wanted(*names))
                assert result.as_numpy("output_label").tolist() == IRIS.predict(rows).tolist()
                if len(names) == 2:
                    np.testing.assert_allclose(
                        result.as_numpy("output_probability"), IRIS.predict_proba(rows), atol=1e-5
                    )

            await asyncio.gather(*(one(i) for i in range(100)))

    asyncio.run(ask())

"""The protocol's own client over gRPC, unmodified: what its users do, and what they are told when they do it wrong."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.api.grpc_server import engine_of, speaking
from tests.api.oip_models import IRIS, ONNX_TYPES, X, echo, iris, put, sums, values_of
from tritonclient.utils import InferenceServerException

import everloop
from everloop.api import verbs
from everloop.api.services import Services
from everloop.api.wire import ModelSpec
from everloop.core.types import Label
from everloop.learning.intake import Feedback

Say = Callable[..., Any]
WITHIN = 30.0


def prepare(services: Services) -> None:
    put(services, "recorded", iris())
    services.record = 0.0
    put(services, "iris", iris())
    put(services, "sums", sums())
    put(services, "echo", echo())
    verbs.create_model(services, ModelSpec("line", "linear"))
    verbs.create_model(services, ModelSpec("empty", "linear"))
    services.intake.accept(
        "line", [Feedback(label=2.0 * x + 0.5, features=[float(x), 1.0]) for x in range(40)], lambda _: None
    )
    services.journal.flush()
    services.loop.train_now("line")
    services.reconciler.step()


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    engine = engine_of(prepare)
    yield engine.services
    engine.stop()


@pytest.fixture
def server(services: Services) -> Iterator[str]:
    with speaking(services) as target:
        yield target


@pytest.fixture(params=["sync", "aio"])
def say(request: pytest.FixtureRequest, server: str) -> Iterator[Say]:
    """Calls a method of one of the two clients."""
    if request.param == "sync":
        with triton.InferenceServerClient(server) as client:
            yield lambda method, *given, **named: getattr(client, method)(*given, **named)
        return

    async def call(method: str, *given: Any, **named: Any) -> Any:
        async with triton_aio.InferenceServerClient(server) as client:
            return await getattr(client, method)(*given, **named)

    yield lambda method, *given, **named: asyncio.run(call(method, *given, **named))


def tensor(name: str, datatype: str, array: np.ndarray[Any, Any]) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def wanted(*names: str, classes: int = 0) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, class_count=classes) for name in names]


def test_what_the_server_is(say: Say) -> None:
    assert say("is_server_live")
    assert say("is_server_ready")
    told = say("get_server_metadata")
    assert (told.name, told.version) == ("everloop", everloop.__version__)
    assert {"model_repository", "classification", "statistics"} <= set(told.extensions)


def test_what_a_model_is(say: Say) -> None:
    told = say("get_model_metadata", "iris", as_json=True)
    assert told == {
        "name": "iris",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": ["-1", "4"]}],
        "outputs": [
            {"name": "output_label", "datatype": "INT64", "shape": ["-1"]},
            {"name": "output_probability", "datatype": "FP32", "shape": ["-1", "3"]},
        ],
    }
    assert say("get_model_metadata", "iris", "1", as_json=True) == told
    config = say("get_model_config", "iris").config
    assert (config.name, config.backend, config.max_batch_size > 0) == ("iris", "onnxruntime", True)
    assert (config.input[0].name, config.input[0].data_type, list(config.input[0].dims)) == ("X", 11, [4])
    assert say("is_model_ready", "iris")
    assert say("is_model_ready", "iris", "1")
    assert not say("is_model_ready", "iris", "7")
    assert not say("is_model_ready", "nobody")
    assert not say("is_model_ready", "empty")


def test_rows(say: Say) -> None:
    result = say(
        "infer",
        "iris",
        [tensor("X", "FP32", X[:7])],
        outputs=wanted("output_probability", "output_label"),
        request_id="mine",
        headers={"x-request-id": "seen"},
    )
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("mine", "iris", "1")
    assert [each.name for each in response.outputs] == ["output_probability", "output_label"]
    np.testing.assert_array_equal(result.as_numpy("output_label"), IRIS.predict(X[:7]))
    np.testing.assert_allclose(result.as_numpy("output_probability"), IRIS.predict_proba(X[:7]), atol=1e-5)
    assert result.as_numpy("nothing") is None


@pytest.mark.parametrize("datatype", list(ONNX_TYPES))
def test_every_datatype(say: Say, datatype: str) -> None:
    arrays = {name: values_of(name) for name in ONNX_TYPES}
    inputs = [tensor(f"in_{name}", name, array) for name, array in arrays.items()]
    found = say("infer", "echo", inputs, outputs=wanted(f"out_{datatype}")).as_numpy(f"out_{datatype}")
    np.testing.assert_array_equal(found, arrays[datatype])
    assert found.shape == arrays[datatype].shape


def test_several_inputs_and_outputs(say: Say) -> None:
    a, b = np.float32([[1, 2], [3, 4]]), np.float32([[10, 20], [30, 40]])
    result = say("infer", "sums", [tensor("b", "FP32", b), tensor("a", "FP32", a)])
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(result.as_numpy("difference"), a - b)
    only = say("infer", "sums", [tensor("a", "FP32", a), tensor("b", "FP32", b)], outputs=wanted("difference"))
    assert [each.name for each in only.get_response().outputs] == ["difference"]


def test_compressed_both_ways(say: Say) -> None:
    for how in ("gzip", "deflate"):
        result = say("infer", "iris", [tensor("X", "FP32", X[:2])], compression_algorithm=how)
        assert result.as_numpy("output_label").tolist() == [0, 0]


def test_what_was_learned_here_is_asked_alike(say: Say) -> None:
    found = say("infer", "line", [tensor("features", "FP64", np.array([[3.0, 1.0], [5.0, 1.0]]))])
    np.testing.assert_allclose(found.as_numpy("prediction"), [6.5, 10.5], rtol=1e-3)


def test_a_label_follows_an_answer(say: Say, services: Services) -> None:
    result = say("infer", "recorded", [tensor("X", "FP32", X[:2])], request_id="mine")
    known = result.get_response().parameters["request_id"].string_param
    services.recorder.drain()
    label = Label("recorded", 1, services.clock.now(), request_id=known, index=1)
    assert isinstance(services.journal.append_now([label]).outcomes[0], int)
    (example,) = services.journal.examples("recorded", limit=1, latest=True)
    assert example.row == pytest.approx(X[1].tolist())
    assert say("infer", "recorded", [tensor("X", "FP32", X[:1])]).get_response().id not in ("", known)


def test_classes(say: Say) -> None:
    result = say("infer", "iris", [tensor("X", "FP32", X[:2])], outputs=wanted("output_probability", classes=2))
    found = result.as_numpy("output_probability")
    assert found.shape == (2, 2)
    score, index, label = found[0, 0].decode().split(":")
    assert (float(score), index, label) == (pytest.approx(IRIS.predict_proba(X[:1])[0, 0], abs=1e-4), "0", "0")


def test_parameters_versions_and_time(say: Say) -> None:
    asked = [tensor("X", "FP32", X[:1])]
    result = say(
        "infer", "iris", asked, "1", priority=3, timeout=5_000_000, client_timeout=WITHIN, parameters={"tenant": "a"}
    )
    assert result.get_response().model_version == "1"
    with pytest.raises(InferenceServerException, match="version 9") as refused:
        say("infer", "iris", asked, "9")
    assert refused.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException) as late:
        say("infer", "iris", asked, timeout=1)
    assert late.value.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE")


@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "status", "told"),
    [
        ("nobody", [tensor("X", "FP32", X[:1])], None, "NOT_FOUND", "no model named 'nobody'"),
        ("empty", [tensor("X", "FP32", X[:1])], None, "FAILED_PRECONDITION", "no version yet"),
        ("iris", [tensor("Z", "FP32", X[:1])], None, "INVALID_ARGUMENT", "missing 'X'"),
        ("iris", [tensor("X", "FP64", X[:1].astype(float))], None, "INVALID_ARGUMENT", "expected FP32, got FP64"),
        ("iris", [tensor("X", "FP32", X[:1, :3])], None, "INVALID_ARGUMENT", r"expected \[-1,4\], got \[1,3\]"),
        ("iris", [tensor("X", "FP32", X[:0])], None, "INVALID_ARGUMENT", "at least one row"),
        ("iris", [tensor("X", "FP32", X[:51])], None, "RESOURCE_EXHAUSTED", "at most 50"),
        ("iris", [tensor("X", "FP32", X[:1])], wanted("who"), "INVALID_ARGUMENT", "unexpected inference output 'who'"),
        ("sums", [tensor("a", "FP32", X[:1])], None, "INVALID_ARGUMENT", "missing 'b'"),
        ("sums", [tensor("a", "FP32", np.ones((50, 600), "f4"))], None, "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_errors_say_what_is_wrong(say: Say, model: str, inputs: Any, outputs: Any, status: str, told: str) -> None:
    with pytest.raises(InferenceServerException, match=told) as refused:
        say("infer", model, inputs, outputs=outputs)
    assert refused.value.status() == f"StatusCode.{status}"


def test_what_there_is_none_of_is_told(say: Say) -> None:
    for method, given in (
        ("get_system_shared_memory_status", ()),
        ("get_trace_settings", ("iris",)),
        ("get_log_settings", ()),
    ):
        with pytest.raises(InferenceServerException) as refused:
            say(method, *given)
        assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
    shared = triton.InferInput("X", [1, 4], "FP32")
    shared.set_shared_memory("region", 16)
    with pytest.raises(InferenceServerException, match="shared memory"):
        say("infer", "iris", [shared])


def test_the_repository(say: Say) -> None:
    def states() -> dict[str, tuple[str, str]]:
        return {each.name: (each.state, each.reason) for each in say("get_model_repository_index").models}

    assert states()["sums"] == ("READY", "")
    say("unload_model", "sums")
    both = [tensor("a", "FP32", X[:1]), tensor("b", "FP32", X[:1])]
    assert not say("is_model_ready", "sums")
    with pytest.raises(InferenceServerException, match="unloaded"):
        say("infer", "sums", both)
    assert states()["sums"][0] == "UNAVAILABLE"
    assert "unloaded" in states()["sums"][1]
    say("load_model", "sums")
    assert say("is_model_ready", "sums")
    np.testing.assert_array_equal(say("infer", "sums", both).as_numpy("sum"), 2 * X[:1])
    with pytest.raises(InferenceServerException, match="no model named"):
        say("load_model", "nobody")
    with pytest.raises(InferenceServerException, match="as it is registered"):
        say("load_model", "sums", config="{}")


def test_statistics(say: Say) -> None:
    def counted() -> tuple[int, int]:
        (found,) = say("get_inference_statistics", "iris", "1").model_stats
        return found.inference_stats.success.count, found.inference_count

    before = counted()
    say("infer", "iris", [tensor("X", "FP32", X[:5])])
    assert counted() == (before[0] + 1, before[1] + 5)
    assert {each.name for each in say("get_inference_statistics").model_stats} >= {"iris", "line"}


def test_calls_at_once_get_each_its_own_answer(server: str) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(server) as client:

            async def one(i: int) -> None:
                rows = X[i : i + 1 + i % 3]
                result = await client.infer("iris", [tensor("X", "FP32", rows)], request_id=str(i))
                assert result.as_numpy("output_label").tolist() == IRIS.predict(rows).tolist()
                assert result.get_response().id == str(i)

            await asyncio.gather(*(one(i) for i in range(100)))

    asyncio.run(ask())


def test_a_stream_answers_in_order_and_goes_on_after_an_error(server: str) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(server) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for i in range(70):
            model = "nobody" if i == 33 else "iris"
            client.async_stream_infer(model, [tensor("X", "FP32", X[i : i + 1])], request_id=str(i))
        for i in range(70):
            result, error = answers.get(timeout=WITHIN)
            if i == 33:
                assert "no model named 'nobody'" in str(error)
                continue
            assert error is None
            response = result.get_response()
            assert (response.id, response.parameters["triton_final_response"].bool_param) == (str(i), True)
            assert result.as_numpy("output_label").tolist() == IRIS.predict(X[i : i + 1]).tolist()
        client.stop_stream()


def test_a_stream_over_aio(server: str) -> None:
    async def ask() -> list[int]:
        async def requests() -> Any:
            for i in range(40):
                yield {"model_name": "iris", "inputs": [tensor("X", "FP32", X[i : i + 1])], "request_id": str(i)}

        async with triton_aio.InferenceServerClient(server) as client:
            found = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                found.append(int(result.get_response().id))
            return found

    assert asyncio.run(ask()) == list(range(40))

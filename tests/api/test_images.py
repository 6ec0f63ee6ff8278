"""An image classifier behind the server: an ordinary model, asked by its route, by tensors and by rows."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.runtime.image_nets import COLOURS, colour_net, encoded, plain

from everloop.api import files
from everloop.api.services import Services
from everloop.runtime import image
from everloop.runtime.artifact import Trust
from everloop.runtime.image_saving import pack_image_model

RED, BLUE = encoded(plain((250, 20, 60))), encoded(plain((10, 20, 240)))
REDDISH = base64.b64encode(RED).decode()


def hand_in(services: Services, **options: Any) -> int:
    manifest, payload = pack_image_model(colour_net(), COLOURS, **options)
    record, _ = files.accept(services, "image", manifest, payload, trust=Trust(), live=True, by="test")
    services.reconciler.step()
    return record.version


@pytest.fixture
def served(services: Services) -> Services:
    hand_in(services)
    return services


def ask(client: Any, file: bytes, **headers: str) -> Any:
    answer = client.post("/api/predict/image", files={"image": file}, data={"top_k": "2"}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_its_route_answers_as_in_the_seed(client: Any, served: Services) -> None:
    answer = ask(client, RED)
    assert set(answer) == {"predictions", "latency_ms", "model", "request_id"}
    assert answer["model"] == "image-v1"
    assert [each["label"] for each in answer["predictions"]] == ["red", "blue"]
    assert answer["predictions"][0]["confidence"] > 0.9
    body = client.post("/api/predict/image", json={"image": f"data:image/png;base64,{REDDISH}", "top_k": 2}).json()
    assert body["predictions"] == answer["predictions"]


@pytest.mark.parametrize(
    ("file", "status", "told"),
    [
        (RED[:45], 422, "damaged"),
        (b"<html>", 422, "web page"),
        (encoded(plain("red", (7000, 6000)), "BMP", compression=0)[:54], 413, "42,000,000|7000 x 6000"),
    ],
    ids=["cut", "page", "large"],
)
def test_what_cannot_be_read_is_the_callers_to_mend(
    client: Any, served: Services, file: bytes, status: int, told: str
) -> None:
    answer = client.post("/api/predict/image", files={"image": file})
    problem = answer.json()
    assert (answer.status_code, problem["field"]) == (status, "image")
    assert any(each in problem["detail"] for each in told.split("|"))


def test_tensors_and_rows_ask_the_same(client: Any, served: Services) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [REDDISH, base64.b64encode(BLUE).decode()]}
    found = client.post("/v2/models/image/infer", json={"inputs": [tensor]}).json()
    outputs = {each["name"]: each["data"] for each in found["outputs"]}
    assert outputs["prediction"] == ["red", "blue"]
    assert len(outputs["description"]) == 18
    answer = client.post("/v1/models/image/predict", json={"features": {"image": REDDISH}}).json()
    assert answer["prediction"] == "red"
    problem = client.post("/v1/models/image/predict", json={"features": {"width": 16}}).json()
    assert (problem["code"], problem["field"]) == ("invalid_input", "image")


def test_labels_are_joined_and_a_description_is_what_was_kept(client: Any, served: Services) -> None:
    told = ask(client, RED)["request_id"]
    answer = client.post("/v1/models/image/feedback", json={"request_id": told, "label": "blue"})
    assert answer.status_code == 202, answer.text
    served.recorder.drain()
    (example,) = served.journal.examples("image", after=0, limit=10)
    assert (example.label, example.row[:3]) == ("blue", [None, 16.0, 12.0])
    wrong = client.post("/v1/models/image/feedback", json={"request_id": told, "label": 3})
    assert wrong.status_code == 422


def test_a_new_version_answers_and_the_old_one_can_be_asked_for(client: Any, served: Services) -> None:
    assert hand_in(served, recorded_bytes=4096) == 2
    assert ask(client, RED)["model"] == "image-v2"


def test_it_never_runs_on_the_event_loop(client: Any, served: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where it was always quick: the next image may be a large one."""
    threads: list[str] = []
    decode: Callable[..., Any] = image.decode

    def watched(*given: Any) -> Any:
        threads.append(threading.current_thread().name)
        return decode(*given)

    monkeypatch.setattr(image, "decode", watched)
    for _ in range(30):
        ask(client, RED)
        client.post("/v1/models/image/predict", json={"features": {"image": REDDISH}})
    assert len(threads) == 60
    assert all(name.startswith("everloop-batch-image") for name in threads)


def test_a_bad_image_spoils_no_neighbour(client: Any, served: Services) -> None:
    shape = {"name": "image", "datatype": "BYTES", "shape": [3], "data": [REDDISH, "YQ==", REDDISH]}
    answer = client.post("/v2/models/image/infer", json={"inputs": [shape]})
    assert (answer.status_code, answer.json()["field"]) == (422, "image[1]")
    assert ask(client, RED)["predictions"][0]["label"] == "red"


def test_a_shadow_is_shown_what_was_recorded(client: Any, services: Services) -> None:
    first, second = hand_in(services, recorded_bytes=4096), hand_in(services, recorded_bytes=4097)
    services.registry.set_traffic("image", {second: 1.0}, shadow=first)
    services.reconciler.step()
    (shadow,) = services.reconciler.shadows.all()
    (answer,) = shadow.answers([[REDDISH, *[None] * 9]])
    assert answer == "red"

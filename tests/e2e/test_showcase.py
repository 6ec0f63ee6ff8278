"""`everloop serve --showcase` as a process: what a person types at it, what goes wrong, and that its models are models like any other."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.app.test_cli_serve import Serving

KEY = "a key for those who test"
PRAISE = "This is amazing! Elide makes polyglot programming so easy!"
CURL = """
curl http://localhost:3000/health
curl -X POST http://localhost:3000/api/predict/sentiment \\
  -H "Content-Type: application/json" \\
  -d '{"text": "This is amazing! Elide makes polyglot programming so easy!"}'
curl -X POST http://localhost:3000/api/predict/image \\
  -H "Content-Type: application/json" \\
  -d '{"image_url": "https://example.com/cat.jpg"}'
curl -X POST http://localhost:3000/api/predict/batch \\
  -H "Content-Type: application/json" \\
  -d '{"texts": ["Great product!", "Terrible service", "Okay experience"]}'
curl http://localhost:3000/metrics
"""


class Shown(Serving):
    def ask(self, path: str, body: Any = None, *, method: str | None = None, headers: Any = None) -> tuple[int, Any]:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **(headers or {})}
        request = urllib.request.Request(f"{self.url}{path}", data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def answer(self, path: str, body: Any) -> Any:
        status, answer = self.ask(path, body)
        assert status in (200, 201, 202), answer
        return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    options = "--set", "server.notice=0", "--set", f"server.override_keys={KEY}"
    made = Shown(tmp_path_factory.mktemp("shown"), "--showcase", *options)
    yield made
    if made.process.poll() is None:
        made.end(signal.SIGKILL)


def digit(number: int) -> bytes:
    """A handwritten one, as a PNG."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = digits.images[list(digits.target).index(number)]
    file = io.BytesIO()
    Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


pytestmark = pytest.mark.e2e


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_first_things_that_people_type(server: Shown) -> None:
    typed = CURL.strip().replace("http://localhost:3000", server.url).replace("curl ", "echo; curl -sS ")
    ran = subprocess.run(["sh", "-ec", typed], capture_output=True, text=True, timeout=60, check=True)
    health, praise, image, batch, metrics = (json.loads(line) for line in ran.stdout.split("\n") if line.strip())
    assert health["status"] == "healthy"
    assert health["models"] == {"sentiment": "ready", "image": "ready", "recommender": "ready"}
    assert set(praise) == {"sentiment", "confidence", "score", "latency_ms", "model", "request_id"}
    assert (praise["sentiment"], praise["model"]) == ("positive", "sentiment-v1")
    assert praise["confidence"] > 0.9
    assert (image["status"], image["code"], image["field"]) == (422, "not_supported", "image_url")
    assert [each["sentiment"] for each in batch["results"]][:2] == ["positive", "negative"]
    assert metrics["models"]["sentiment"]["calls"] >= 2
    assert re.fullmatch(r"[\d.]+ms", metrics["models"]["sentiment"]["avgLatency"])
    assert "try       curl -s" in server.talk
    assert "/api/predict/sentiment" in server.talk


def test_an_image_is_told_however_it_comes(server: Shown) -> None:
    file = digit(7)
    told = server.answer("/api/predict/image", {"image": base64.b64encode(file).decode(), "top_k": 3})
    assert (told["predictions"][0]["label"], len(told["predictions"]), told["model"]) == ("7", 3, "image-v1")
    boundary = "a-boundary"
    form = b'--a-boundary\r\nContent-Disposition: form-data; name="image"; filename="7.png"\r\n\r\n' + file
    form += b"\r\n--a-boundary--\r\n"
    status, again = server.ask(
        "/api/predict/image", form, headers={"content-type": f"multipart/form-data; boundary={boundary}"}
    )
    assert (status, again["predictions"][0]) == (200, told["predictions"][0])
    status, problem = server.ask("/api/predict/image", {"image": base64.b64encode(file[:60]).decode()})
    assert (status, problem["field"]) == (422, "image")


def test_recommendations_keep_to_what_was_asked(server: Shown) -> None:
    told = server.answer("/api/predict/recommend", {"user_id": "user123", "context": {"category": "tech"}, "limit": 10})
    items = [each["item_id"] for each in told["recommendations"]]
    assert 0 < len(items) <= 10
    assert all(each["reason"] and each["score"] >= 0 for each in told["recommendations"])
    rest = server.answer("/api/predict/recommend", {"user_id": "user123", "limit": 5, "exclude": items})
    assert not set(items) & {each["item_id"] for each in rest["recommendations"]}
    alike = server.answer("/api/predict/recommend", {"item_id": items[0], "limit": 3})
    assert items[0] not in {each["item_id"] for each in alike["recommendations"]}
    status, problem = server.ask("/api/predict/recommend", {"user_id": "u", "context": {"colour": "red"}})
    assert (status, problem["field"]) == (422, "context.colour")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("sentiment", {"text": ""}, 422),
        ("sentiment", {"text": "x" * 10_001}, 413),
        ("sentiment", {"words": "x"}, 422),
        ("sentiment", b"{", 400),
        ("batch", {"texts": ["a"] * 101}, 413),
        ("batch", {"texts": ["a"], "model": "nobody"}, 404),
        ("image", {"image": "aGVsbG8="}, 422),
        ("recommend", {"limit": 3}, 422),
        ("sentiment", b'{"text": "' + b"a" * (11 << 20) + b'"}', 413),
    ],
)
def test_bad_input_is_a_problem_that_names_it(server: Shown, path: str, body: Any, status: int) -> None:
    got, problem = server.ask(f"/api/predict/{path}", body)
    assert (got, problem["status"]) == (status, status)
    assert problem["detail"]
    assert problem["type"].startswith("urn:everloop:error:")


def test_each_learns_from_labels_by_request_id(server: Shown) -> None:
    sentiment = server.answer("/api/predict/sentiment", {"text": PRAISE})
    batch = server.answer("/api/predict/batch", {"texts": ["so so", PRAISE]})
    image = server.answer("/api/predict/image", {"image": base64.b64encode(digit(3)).decode()})
    shop = server.answer("/api/predict/recommend", {"user_id": "user1", "limit": 3})
    for model, label in (
        ("sentiment", {"request_id": sentiment["request_id"], "label": "positive"}),
        ("sentiment", {"request_id": batch["request_id"], "index": 1, "label": "positive"}),
        ("image", {"request_id": image["request_id"], "label": "3"}),
        ("recommender", {"request_id": shop["request_id"], "index": 1, "label": 4.0}),
    ):
        assert server.answer(f"/v1/models/{model}/feedback", label)["accepted"] == 1
    labels = {each["name"]: each["labels"] for each in server.answer("/v1/models", None)["models"]}
    assert (labels["sentiment"], labels["image"], labels["recommender"]) == (2, 1, 1)


def test_a_next_version_goes_out_by_canary(server: Shown) -> None:
    said = [("the new build is sick, bravo", "positive"), ("the old build is a brick again", "negative")]
    server.answer(
        "/v1/models/sentiment/feedback",
        {
            "examples": [
                {"features": {"text": f"{text} {i}"}, "label": label} for text, label in said for i in range(12)
            ]
        },
    )
    made = server.answer("/v1/models/sentiment/train", {})
    assert made["version"] == 2
    assert server.answer("/api/predict/sentiment", {"text": PRAISE})["model"] == "sentiment-v2"
    status, _ = server.ask("/v1/models/sentiment/rollback", {}, method="POST")
    assert status == 200
    assert server.answer("/api/predict/sentiment", {"text": PRAISE})["model"] == "sentiment-v1"
    chosen = {"everloop-version": "1", "everloop-key": KEY}
    assert server.ask("/api/predict/sentiment", {"text": PRAISE}, headers=chosen)[1]["model"] == "sentiment-v1"
    server.answer("/v1/models/sentiment/rollout", {"version": 2, "strategy": "canary", "steps": "50%"})
    met: set[str] = set()
    until = time.monotonic() + 40
    while len(met) < 2:
        assert time.monotonic() < until, server.ask("/v1/models/sentiment/rollout")
        for unit in range(20):
            _, told = server.ask("/api/predict/sentiment", {"text": "Fine."}, headers={"everloop-unit": f"user {unit}"})
            met.add(told["model"])
    assert met == {"sentiment-v1", "sentiment-v2"}
    chosen["everloop-version"] = "2"
    assert server.ask("/api/predict/sentiment", {"text": PRAISE}, headers=chosen)[1]["model"] == "sentiment-v2"


def test_without_one_of_the_models_the_others_answer(server: Shown) -> None:
    assert server.ask("/v1/models/image", method="DELETE")[0] == 204
    status, problem = server.ask("/api/predict/image", {"image": base64.b64encode(digit(1)).decode()})
    assert (status, problem["code"]) == (404, "model_not_found")
    assert "image=builtin:digits" in problem["detail"]
    assert server.answer("/api/predict/sentiment", {"text": PRAISE})["sentiment"] == "positive"
    assert server.end() == 0

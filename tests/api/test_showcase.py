"""The routes `/api/predict/…` over models that are told what to answer: shapes, limits, refusals, the same both ways."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.api.test_fastlane import Plain, Server, put_lane, put_split

from everloop.api.files import accept
from everloop.api.keys import KeySpec, keyring_of
from everloop.api.services import Services
from everloop.core.errors import InvalidInput
from everloop.core.schema import Field, Schema, Target
from everloop.core.tensors import Signature, TensorSpec
from everloop.runtime.artifact import Trust
from everloop.runtime.own_tensors import OwnTensors, TensorSession
from everloop.runtime.packaged import read_artifact
from everloop.showcase.builtin import builtin_path
from everloop.showcase.config import ShowcaseConfig

LABELS = ["negative", "neutral", "positive"]
TEXTS = Schema((Field("text", "text"),), named=True)


class Feelings:
    """Positive by its count of `good`, negative by its count of `bad`."""

    schema, target, classes, dtype, scored = TEXTS, Target("classification", "text"), LABELS, object, True

    def scores(self, X: Any) -> Any:
        raw = np.array([[text.count("bad"), 0.5, text.count("good")] for (text,) in X.tolist()], float)
        return raw / raw.sum(axis=1, keepdims=True)

    def run(self, X: Any) -> Any:
        return np.array(LABELS, object)[self.scores(X).argmax(axis=1)]

    def close(self) -> None:
        return


class Explaining(Feelings):
    """The same with reasons."""

    def __init__(self) -> None:
        outputs = ("prediction", "BYTES", (-1,)), ("probabilities", "FP64", (-1, 3)), ("explanation", "BYTES", (-1,))
        signature = Signature((TensorSpec("text", "BYTES", (-1,)),), tuple(TensorSpec(*each) for each in outputs))
        self.asked: list[tuple[str, ...]] = []
        self.tensors = OwnTensors(signature, self._call, batched=True)

    def _call(self, arrays: list[Any], outputs: Any) -> list[Any]:
        self.asked.append(tuple(outputs))
        X = arrays[0].reshape(-1, 1)
        words = np.array([b'[["good", 0.5]]'] * len(X), object)
        made = {"prediction": self.run(X), "probabilities": self.scores(X), "explanation": words}
        return [made[name] for name in outputs]


def picture_model(seen: list[bytes]) -> TensorSession:
    """Tells of a file how many of its bytes are a, b or c."""

    def call(arrays: list[Any], outputs: Any) -> list[Any]:
        files = [text.encode() if isinstance(text, str) else text for text in arrays[0]]
        seen.extend(files)
        if b"broken" in files:
            raise InvalidInput("image: this is no image", field="image")
        shares = np.array([[file.count(letter) / len(file) for letter in (b"a", b"b", b"c")] for file in files])
        return [shares if name == "probabilities" else np.array([b"?"] * len(files), object) for name in outputs]

    outputs = TensorSpec("prediction", "BYTES", (-1,)), TensorSpec("probabilities", "FP64", (-1, 3))
    signature = Signature((TensorSpec("image", "BYTES", (-1,)),), outputs)
    session = TensorSession(
        Target("classification", "text"), OwnTensors(signature, call, batched=True), "an image", lambda: None
    )
    session.classes = ["a", "b", "c"]
    return session


def shop(queries: list[Any]) -> TensorSession:
    def call(arrays: list[Any], outputs: Any) -> list[Any]:
        found = []
        for text in arrays[0]:
            query = msgspec.json.decode(text)
            queries.append(query)
            if "colour" in query.get("context", {}):
                raise InvalidInput("context.colour: the items have no such attribute", field="context.colour")
            items = [
                {"item_id": f"i{n}", "score": 0.5, "reason": "popular", "expected": 1} for n in range(query["limit"])
            ]
            found.append(msgspec.json.encode(items))
        return [np.array(found, object)]

    signature = Signature((TensorSpec("query", "BYTES", (-1,)),), (TensorSpec("items", "BYTES", (-1,)),))
    return TensorSession(Target("regression"), OwnTensors(signature, call, batched=True), "a query", lambda: None)


class Shown:
    """The three models, and what they were asked."""

    def __init__(self, services: Services) -> None:
        services.reconciler.stop()
        self.services = services
        self.files: list[bytes] = []
        self.queries: list[Any] = []
        self.explaining = Explaining()
        put_lane(services, "sentiment", self.explaining)
        put_lane(services, "image", picture_model(self.files))
        put_lane(services, "recommender", shop(self.queries))


@pytest.fixture
def shown(services: Services) -> Shown:
    return Shown(services)


def post(client: Any, path: str, body: Any, **options: Any) -> tuple[int, dict[str, Any]]:
    answer = client.post(f"/api/predict/{path}", json=body, **options)
    return answer.status_code, answer.json()


def test_a_text_is_answered_as_in_the_seed(client: Any, shown: Shown) -> None:
    status, answer = post(client, "sentiment", {"text": "good good bad", "options": {"detailed": False}})
    assert status == 200
    assert set(answer) == {"sentiment", "confidence", "score", "latency_ms", "model", "request_id"}
    assert (answer["sentiment"], answer["model"]) == ("positive", "sentiment-v1")
    assert answer["confidence"] == pytest.approx(2 / 3.5, abs=1e-6)
    assert answer["score"] == pytest.approx(1 / 3.5, abs=1e-6)
    assert answer["latency_ms"] > 0
    assert shown.explaining.asked[-1] == ("prediction", "probabilities")


def test_details_are_given_to_those_who_ask(client: Any, shown: Shown) -> None:
    status, answer = post(client, "sentiment", {"text": "good", "options": {"detailed": True}})
    assert (status, answer["words"]) == (200, [{"word": "good", "weight": 0.5}])
    assert answer["scores"] == pytest.approx({"negative": 0, "neutral": 1 / 3, "positive": 2 / 3}, abs=1e-6)


def test_a_classifier_of_ones_own_that_explains_nothing_answers_too(client: Any, shown: Shown) -> None:
    put_lane(shown.services, "sentiment", Feelings(), version=2)
    status, answer = post(client, "sentiment", {"text": "bad", "options": {"detailed": True}})
    assert (status, answer["sentiment"], answer["model"], set(answer["scores"])) == (
        200,
        "negative",
        "sentiment-v2",
        set(LABELS),
    )
    assert "words" not in answer


def test_a_batch_keeps_its_order(client: Any, shown: Shown) -> None:
    texts = ["Great product, good!", "Terrible, bad service", "Okay experience"]
    status, answer = post(client, "batch", {"texts": texts})
    assert (status, answer["count"], answer["model"]) == (200, 3, "sentiment-v1")
    assert [each["sentiment"] for each in answer["results"]] == ["positive", "negative", "neutral"]
    assert set(answer) == {"results", "count", "latency_ms", "model", "request_id"}
    assert all(set(each) == {"sentiment", "confidence", "score"} for each in answer["results"])


def test_a_batch_may_name_another_model_of_texts(client: Any, shown: Shown) -> None:
    put_lane(shown.services, "other", Feelings())
    assert post(client, "batch", {"texts": ["bad"], "model": "other"})[1]["model"] == "other-v1"
    status, problem = post(client, "batch", {"texts": ["bad"], "model": "othr"})
    assert (status, problem["code"]) == (404, "model_not_found")
    assert "'other'" in problem["detail"]


@pytest.mark.parametrize(
    ("path", "body", "status", "field", "words"),
    [
        ("sentiment", {}, 422, "body", "text"),
        ("sentiment", {"text": ""}, 422, "text", "length >= 1"),
        ("sentiment", {"text": "x" * 10_001}, 413, "text", "10,001"),
        ("sentiment", {"text": 7}, 422, "text", "str"),
        ("sentiment", {"text": "a", "txt": 1}, 422, "body", "'txt'"),
        ("sentiment", {"text": "a", "options": {"detailed": "yes"}}, 422, "options.detailed", "bool"),
        ("sentiment", [], 422, "body", "object"),
        ("batch", {"texts": []}, 422, "texts", ">= 1"),
        ("batch", {"texts": "abc"}, 422, "texts", "array"),
        ("batch", {"texts": ["a"] * 101}, 413, "texts", "101"),
        ("batch", {"texts": ["a", ""]}, 422, "texts[1]", ">= 1"),
        ("batch", {"texts": ["a", "x" * 10_001]}, 413, "texts[1]", "10,001"),
        ("image", {}, 422, "image", "image_url"),
        ("image", {"image": "YQ==", "image_url": "http://example.com"}, 422, "image", "either"),
        ("image", {"image": "YQ==", "top_k": 0}, 422, "top_k", ">= 1"),
        ("image", {"image": "YQ==", "top_k": 2000}, 413, "top_k", "2,000"),
        ("image", {"image": "*"}, 422, "image", "base64"),
        ("image", {"image_url": "https://example.com/cat.jpg", "top_k": 5}, 422, "image_url", "image_urls"),
        ("recommend", {}, 422, "user_id", "item_id"),
        ("recommend", {"user_id": "u", "item_id": "i"}, 422, "user_id", "either"),
        ("recommend", {"user_id": "u", "limit": 0}, 422, "limit", ">= 1"),
        ("recommend", {"user_id": "u", "limit": 5000}, 413, "limit", "5,000"),
        ("recommend", {"user_id": "u", "exclude": ["i"] * 1001}, 413, "exclude", "1,001"),
        ("recommend", {"user_id": "u", "context": {"colour": "red"}}, 422, "context.colour", "attribute"),
    ],
)
def test_bad_input_is_refused_naming_the_field(
    client: Any, shown: Shown, path: str, body: Any, status: int, field: str, words: str
) -> None:
    got, problem = post(client, path, body)
    assert (got, problem["field"]) == (status, field)
    assert words in problem["detail"]
    assert problem["error"] == problem["detail"]


def test_what_is_no_json_is_malformed(client: Any, shown: Shown) -> None:
    answer = client.post("/api/predict/sentiment", content=b'{"text": "a', headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    answer = client.post("/api/predict/sentiment", content=b"a", headers={"content-type": "text/csv"})
    assert answer.status_code == 415


def test_an_image_comes_as_base64_or_in_a_form(client: Any, shown: Shown) -> None:
    file = b"aaab" * 30
    text = base64.b64encode(file).decode()
    for body in ({"image": text}, {"image": f"data:image/png;base64,{text}", "top_k": 3}):
        status, answer = post(client, "image", body)
        assert (status, answer["model"]) == (200, "image-v1")
        assert answer["predictions"][0] == {"label": "a", "confidence": 0.75}
        assert [each["label"] for each in answer["predictions"]] == ["a", "b", "c"]
    answer = client.post("/api/predict/image", files={"image": ("digit.png", file, "image/png")}, data={"top_k": "1"})
    assert (answer.status_code, answer.json()["predictions"]) == (200, [{"label": "a", "confidence": 0.75}])
    assert shown.files == [file] * 3


@pytest.mark.parametrize(
    ("files", "data", "field"),
    [
        ({"picture": b"a"}, {}, "picture"),
        ({"image": b""}, {}, "image"),
        ({"image": b"a"}, {"top_k": "two"}, "top_k"),
        ({"image": b"broken"}, {}, "image"),
    ],
)
def test_a_form_that_will_not_do_is_refused(client: Any, shown: Shown, files: Any, data: Any, field: str) -> None:
    answer = client.post("/api/predict/image", files=files, data=data)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_recommendations_are_asked_by_user_or_item(client: Any, shown: Shown) -> None:
    body = {"user_id": "user123", "context": {"category": "tech"}, "limit": 2, "exclude": ["i9", 7]}
    status, answer = post(client, "recommend", body)
    assert (status, answer["model"]) == (200, "recommender-v1")
    assert answer["recommendations"][0] == {"item_id": "i0", "score": 0.5, "reason": "popular"}
    assert len(answer["recommendations"]) == 2
    post(client, "recommend", {"item_id": 7})
    wanted = {"user": "user123", "limit": 2, "context": {"category": "tech"}, "exclude": ["i9", "7"]}
    assert shown.queries == [wanted, {"item": "7", "limit": 10}]


def test_a_model_that_cannot_answer_says_what_it_takes(client: Any, shown: Shown) -> None:
    put_lane(shown.services, "sentiment", Plain(Schema.unnamed(2), lambda X: X.sum(axis=1)), version=2)
    status, problem = post(client, "sentiment", {"text": "good"})
    assert (status, problem["code"]) == (422, "not_supported")
    assert "takes features" in problem["detail"]


def test_labels_that_are_no_feelings_are_no_sentiment(client: Any, shown: Shown) -> None:
    class Spam(Feelings):
        classes = ["ham", "junk", "spam"]

    put_lane(shown.services, "sentiment", Spam(), version=2)
    status, problem = post(client, "sentiment", {"text": "good"})
    assert (status, problem["code"]) == (422, "not_supported")


def test_a_model_that_is_not_there_is_a_404_that_helps(client: Any) -> None:
    for path, body, builtin in (
        ("sentiment", {"text": "a"}, "sentiment=builtin:sentiment"),
        ("image", {"image": "YWE="}, "image=builtin:digits"),
        ("recommend", {"user_id": "u"}, "recommender=builtin:shop"),
    ):
        status, problem = post(client, path, body)
        assert (status, problem["code"]) == (404, "model_not_found")
        assert "--showcase" in problem["detail"]
        assert builtin in problem["detail"]


def test_a_model_whose_library_is_missing_says_what_to_install(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everloop.runtime.formats.find_spec", lambda name: None)
    status, problem = post(client, "image", {"image": "YWE="})
    assert (status, problem["code"]) == (404, "model_not_found")
    assert "pip install 'everloop[images]'" in problem["detail"]


def test_the_models_are_listed_with_what_asks_them(client: Any, shown: Shown) -> None:
    models = {each["name"]: each for each in client.get("/api/models").json()["models"]}
    assert models["sentiment"]["routes"] == ["/api/predict/sentiment", "/api/predict/batch"]
    assert models["image"]["labels"] == ["a", "b", "c"]
    assert (models["recommender"]["model"], models["recommender"]["version"]) == ("recommender-v1", 1)
    assert client.get("/metrics").json()["models"]["sentiment"]["calls"] == 0
    post(client, "sentiment", {"text": "good"})
    assert client.get("/metrics").json()["models"]["sentiment"]["calls"] == 1


def test_other_names_and_limits_are_options(client: Any, shown: Shown) -> None:
    shown.services.showcase = ShowcaseConfig(sentiment="moods", max_text=5, max_texts=1)
    put_lane(shown.services, "moods", Feelings())
    assert post(client, "sentiment", {"text": "good"})[1]["model"] == "moods-v1"
    assert post(client, "sentiment", {"text": "good good"})[0] == 413
    assert post(client, "batch", {"texts": ["good", "bad"]})[0] == 413


def test_nobody_chooses_a_version_without_a_key(client: Any, shown: Shown) -> None:
    status, problem = post(client, "sentiment", {"text": "good"}, headers={"Everloop-Version": "1"})
    assert (status, problem["code"]) == (403, "forbidden")


def test_equal_questions_are_answered_from_memory(client: Any, services: Services) -> None:
    manifest, payload = read_artifact(builtin_path("sentiment").read_bytes())
    accept(services, "sentiment", manifest, payload, trust=Trust(), live=True, by="test")
    client.patch("/v1/models/sentiment", json={"serving": {"cache": True}})
    services.reconciler.step()
    told = [post(client, "sentiment", {"text": "What a lovely day"})[1] for _ in range(3)]
    assert len({each["request_id"] for each in told}) == 3
    assert len({each["confidence"] for each in told}) == 1
    assert client.get("/v1/cache").json()["models"][0]["hits"] == 2


def test_a_form_may_tell_where_the_image_is(client: Any, shown: Shown) -> None:
    """Which this server does not fetch, as its owner has not allowed it."""
    given = {"image_url": (None, "http://example.com/cat.jpg"), "top_k": (None, "1")}
    refused = client.post("/api/predict/image", files=given)
    assert (refused.status_code, refused.json()["field"]) == (422, "image_url")
    both = {**given, "image": ("cat.jpg", b"a")}
    refused = client.post("/api/predict/image", files=both)
    assert (refused.status_code, refused.json()["field"]) == (422, "image")


def test_a_text_has_an_end_on_other_routes_too(client: Any, services: Services) -> None:
    manifest, payload = read_artifact(builtin_path("sentiment").read_bytes())
    accept(services, "sentiment", manifest, payload, trust=Trust(), live=True, by="test")
    services.reconciler.step()
    long = "a" * 10_001
    rows: dict[str, Any] = {"features": {"text": long}}
    tensors = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["good", long]}]}
    for path, body, field in (
        ("v1/models/sentiment/predict", rows, "text"),
        ("v2/models/sentiment/infer", tensors, "text[1]"),
    ):
        refused = client.post(f"/{path}", json=body)
        assert (refused.status_code, "at most 10,000 characters" in refused.text, field in refused.text) == (
            422,
            True,
            True,
        ), refused.text


class Broken(Explaining):
    """Answers something else than what its signature says."""

    def _call(self, arrays: list[Any], outputs: Any) -> list[Any]:
        made = dict(zip(outputs, super()._call(arrays, outputs), strict=True))
        if arrays[0][0].startswith("words"):
            made["explanation"] = np.array([b"not json"] * len(arrays[0]), object)
        elif "probabilities" in made:
            made["probabilities"] = made["probabilities"] * np.nan
        return [made[name] for name in outputs]


@pytest.fixture
def ways(shown: Shown) -> Iterator[tuple[Server, Server]]:
    with Server(shown.services) as fast, Server(shown.services, fast=False) as ordinary:
        yield fast, ordinary


def test_the_fast_lane_answers_and_refuses_as_the_app_does(ways: tuple[Server, Server]) -> None:
    fast, ordinary = ways
    asked: list[tuple[str, Any]] = [
        ("sentiment", {"text": "good bad good"}),
        ("sentiment", {"text": "good", "options": {"detailed": True}}),
        ("sentiment", {"text": ""}),
        ("sentiment", {"text": "x" * 10_001}),
        ("batch", {"texts": ["good", "bad"]}),
        ("batch", {"texts": ["good"], "model": "gone"}),
        ("recommend", {"user_id": 7, "limit": 3}),
        ("recommend", {"user_id": 7, "context": {"colour": "red"}}),
        ("image", {"image": "YWFi"}),
    ]
    for path, body in asked:
        answers = []
        for server in ways:
            with server.connect() as client:
                status, headers, raw = client.ask(body, f"/api/predict/{path}")
            answer = json.loads(raw)
            answer.pop("latency_ms", None)
            answer.pop("request_id", None)
            answers.append((status, headers["content-type"], answer))
        assert answers[0] == answers[1], path
    assert fast.app_requests == 3, "too long a text, another model, an image"
    assert ordinary.app_requests == len(asked)


def test_a_key_is_for_the_models_that_it_names(ways: tuple[Server, Server], shown: Shown) -> None:
    services = shown.services
    put_lane(services, "other", Feelings())
    made = keyring_of(services).create(KeySpec("app", ["predict"], models=["sentiment"]))
    services.door.refresh()
    holder = {"authorization": f"Bearer {made.key}"}
    for server in ways:
        with server.connect() as client:
            text = {"text": "good"}
            assert client.ask(text, "/api/predict/sentiment")[0] == 401
            assert client.ask(text, "/api/predict/sentiment", headers=holder)[0] == 200
            assert client.ask({"user_id": "u"}, "/api/predict/recommend", headers=holder)[0] == 403
            batch = {"texts": ["good"]}
            assert client.ask(batch, "/api/predict/batch", headers=holder)[0] == 200
            assert client.ask({**batch, "model": "other"}, "/api/predict/batch", headers=holder)[0] == 403
            listed = json.loads(client.ask(b"", "/api/models", method="GET", headers=holder)[2])
            assert [each["name"] for each in listed["models"]] == ["sentiment"]


def test_a_unit_meets_the_same_version(ways: tuple[Server, Server], shown: Shown) -> None:
    put_split(shown.services, "sentiment", Feelings(), Feelings())
    for server in ways:
        with server.connect() as client:
            met = {}
            for unit in map(str, range(20)):
                bodies = [
                    json.loads(
                        client.ask({"text": "good"}, "/api/predict/sentiment", headers={"Everloop-Unit": unit})[2]
                    )
                    for _ in range(2)
                ]
                assert bodies[0]["model"] == bodies[1]["model"]
                met[unit] = bodies[0]["model"]
            assert set(met.values()) == {"sentiment-v1", "sentiment-v2"}


def test_a_model_that_answers_nonsense_has_failed_and_its_neighbours_have_not(
    ways: tuple[Server, Server], shown: Shown
) -> None:
    put_lane(shown.services, "sentiment", Broken())
    for server in ways:
        with server.connect() as client:
            for body in ({"text": "nan"}, {"text": "words", "options": {"detailed": True}}):
                status, _, raw = client.ask(body, "/api/predict/sentiment")
                assert (status, json.loads(raw)["code"]) == (500, "model_failed")
            assert client.ask({"user_id": 1}, "/api/predict/recommend")[0] == 200


@pytest.mark.parametrize("text", ["\x00", "\U0001f600", "asdf qwer", "一二三", "\u202e", "..."])
def test_whatever_is_text_is_answered(client: Any, shown: Shown, text: str) -> None:
    assert post(client, "sentiment", {"text": text})[0] == 200


def test_half_a_character_is_no_text(client: Any, shown: Shown) -> None:
    answer = client.post(
        "/api/predict/sentiment", content=b'{"text": "a\\ud83d"}', headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422)


TEXT = st.text(max_size=12) | st.sampled_from(["good", "bad good"])
BODIES = st.one_of(
    st.fixed_dictionaries({"text": TEXT}, optional={"options": st.fixed_dictionaries({"detailed": st.booleans()})}),
    st.fixed_dictionaries(
        {"texts": st.lists(TEXT, max_size=4)}, optional={"model": st.sampled_from(["sentiment", "m"])}
    ),
    st.fixed_dictionaries(
        {"user_id": st.integers(-3, 3) | TEXT},
        optional={
            "limit": st.integers(-1, 4),
            "exclude": st.lists(TEXT, max_size=2),
            "context": st.just({"colour": 1}),
        },
    ),
    st.dictionaries(st.sampled_from(["text", "texts", "user_id", "item_id", "x"]), st.none() | TEXT | st.lists(TEXT)),
    st.binary(max_size=20),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BODIES, st.sampled_from(["sentiment", "batch", "recommend"]))
def test_both_ways_answer_alike_whatever_comes(ways: tuple[Server, Server], body: Any, path: str) -> None:
    answers = []
    for server in ways:
        with server.connect() as client:
            status, headers, raw = client.ask(body, f"/api/predict/{path}")
        answer = json.loads(raw)
        for changing in ("latency_ms", "request_id"):
            answer.pop(changing, None)
        answers.append((status, headers["content-type"], answer))
    assert answers[0] == answers[1]
    assert answers[0][0] in (200, 400, 404, 422)

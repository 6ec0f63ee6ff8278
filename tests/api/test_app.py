"""What a caller of the HTTP API sees: answers, refusals, limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everloop.api.http.app import create_app
from everloop.api.http.operations import OPERATIONS
from everloop.api.services import Services
from everloop.core.errors import EverloopError, ModelFailed, Overloaded

if TYPE_CHECKING:
    from starlette.testclient import TestClient

Make = Callable[..., str]


def refused(answer: Any, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    """The problem document of a refusal, checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == f"urn:everloop:error:{code}"
    assert problem["error"] == problem["detail"] != ""
    assert problem["title"]
    assert problem.get("field") == field
    return problem


# --- models


def test_a_model_is_created_described_and_deleted(client: TestClient) -> None:
    answer = client.post("/v1/models", json={"name": "m", "kind": "linear", "learning": {"min_samples": 30}})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/models/m"
    described = client.get("/v1/models/m").json()
    assert described == answer.json()
    assert (described["status"], described["live_version"], described["labels"]) == ("untrained", None, 0)
    assert described["learning"] == {"min_samples": 30}
    assert [m["name"] for m in client.get("/v1/models").json()["models"]] == ["m"]
    assert client.delete("/v1/models/m").status_code == 204
    refused(client.get("/v1/models/m"), 404, "model_not_found")
    assert client.get("/v1/models").json() == {"models": []}
    kinds = [e["kind"] for e in client.get("/v1/models/m/timeline").json()["events"]]
    assert kinds == ["registered", "audit", "unregistered", "audit"]


def test_the_same_model_again_is_there_and_another_of_its_name_a_conflict(client: TestClient) -> None:
    spec = {"name": "m", "kind": "linear", "parameters": {"learning_rate": 0.1}}
    assert client.post("/v1/models", json=spec).status_code == 201
    assert client.post("/v1/models", json=spec).status_code == 200
    refused(client.post("/v1/models", json={"name": "m", "kind": "ridge"}), 409, "conflict", "name")


@pytest.mark.parametrize(
    ("spec", "status", "code", "field"),
    [
        ({"name": "m", "kind": "no-such-kind"}, 422, "not_supported", None),
        ({"name": "../m", "kind": "linear"}, 422, "invalid_input", "name"),
        ({"name": "m" * 129, "kind": "linear"}, 422, "invalid_input", "name"),
        ({"name": "m", "kind": "linear", "colour": "red"}, 422, "invalid_input", "body"),
        ({"kind": "linear"}, 422, "invalid_input", "body"),
        ({"name": "m", "kind": "linear", "record": 2}, 422, "invalid_input", "record"),
        ({"name": "m", "kind": "linear", "learning": {"min_sample": 3}}, 422, "invalid_input", "learning.min_sample"),
        (
            {"name": "m", "kind": "linear", "learning": {"min_samples": "x"}},
            422,
            "invalid_input",
            "learning.min_samples",
        ),
        (
            {"name": "m", "kind": "linear", "learning": {"min_samples": -1}},
            422,
            "invalid_input",
            "learning.min_samples",
        ),
    ],
)
def test_what_cannot_be_created_is_refused(
    client: TestClient, spec: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    answer = client.post("/v1/models", json=spec)
    assert answer.json()["code"] == code, answer.text
    assert answer.status_code == status
    if field is not None:
        assert answer.json()["field"] == field
    assert client.get("/v1/models").json() == {"models": []}


def test_parameters_of_the_wrong_name_type_or_depth_are_refused(client: TestClient) -> None:
    for parameters in ({"learning_rat": 1}, {"learning_rate": "fast"}, {"learning_rate": 7}):
        answer = client.post("/v1/models", json={"name": "m", "kind": "linear", "parameters": parameters})
        assert answer.status_code == 422, (parameters, answer.text)
    deep: Any = 1
    for _ in range(30):
        deep = [deep]
    answer = client.post("/v1/models", json={"name": "m", "kind": "linear", "parameters": {"a": deep}})
    refused(answer, 422, "invalid_input", "parameters")
    endless = b'{"name": "m", "parameters": {"a": ' + b"[" * 20_000
    refused(client.post("/v1/models", content=endless), 400, "malformed", "body")


@pytest.mark.parametrize("name", ["", "a b", "-a", "ü", "a/b", "a\n", "x" * 5000])
def test_a_bad_name_is_refused_in_words(client: TestClient, name: str) -> None:
    problem = refused(client.post("/v1/models", json={"name": name, "kind": "linear"}), 422, "invalid_input", "name")
    assert problem["detail"].startswith(
        "name: a model's name has 1 to 128 letters, digits, dots, dashes or underscores"
    )
    assert len(problem["detail"]) < 400
    assert client.get("/v1/models").json() == {"models": []}


def test_near_names_are_proposed(client: TestClient) -> None:
    client.post("/v1/models", json={"name": "fraud", "kind": "linear"})
    problem = refused(client.get("/v1/models/fruad"), 404, "model_not_found")
    assert "'fraud'" in problem["detail"]
    problem = refused(client.post("/v1/models/fruad/predict", json={"features": [1]}), 404, "model_not_found")
    assert "'fraud'" in problem["detail"]
    answer = client.post("/v1/models/fruad/feedback", json={"features": [1], "label": 1})
    refused(answer, 404, "model_not_found")


def test_a_name_longer_than_any_is_not_echoed(client: TestClient) -> None:
    name = "x" * 5000
    for answer in (
        client.get(f"/v1/models/{name}"),
        client.post(f"/v1/models/{name}/predict", json={"features": [1]}),
        client.post(f"/v1/models/{name}/feedback", json={"features": [1], "label": 1}),
        client.get(f"/v1/models/{name}/timeline"),
    ):
        assert name not in json.dumps(refused(answer, 404, "model_not_found"))


# --- predictions and labels


def test_it_predicts_one_row_and_many(client: TestClient, trained: Make) -> None:
    name = trained(factor=2.0)
    answer = client.post(f"/v1/models/{name}/predict", json={"features": [3.0]})
    assert answer.status_code == 200
    assert answer.json()["prediction"] == pytest.approx(6.5, abs=1e-3)
    assert answer.json()["model_version"] == 1
    many = client.post(f"/v1/models/{name}/predict", json={"instances": [[1.0], [2.0]]}).json()
    assert many["predictions"] == pytest.approx([2.5, 4.5], abs=1e-3)
    assert many["request_id"] != answer.json()["request_id"]


def test_an_untrained_model_says_so(client: TestClient) -> None:
    client.post("/v1/models", json={"name": "m", "kind": "linear"})
    refused(client.post("/v1/models/m/predict", json={"features": [1]}), 409, "model_untrained")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"features": [1.0, 2.0]}, 422, "invalid_input", "features"),
        ({"features": ["a"]}, 422, "invalid_input", "features[0]"),
        ({"features": [None]}, 422, "invalid_input", "features[0]"),
        ({"features": [[1.0]]}, 422, "invalid_input", "features[0]"),
        ({"features": "abc"}, 422, "invalid_input", "features"),
        ({"features": {"x": 1.0}}, 422, "invalid_input", "features"),
        ({"instances": [[1.0], ["a"]]}, 422, "invalid_input", "instances[1][0]"),
        ({"instances": []}, 422, "invalid_input", "instances"),
        ({"features": [1.0], "instances": [[1.0]]}, 422, "invalid_input", "features"),
        ({}, 422, "invalid_input", "features"),
        ([], 422, "invalid_input", "body"),
        ({"features": [0.0] * 21}, 413, "too_large", "features"),
        ({"instances": [[1.0]] * 51}, 413, "too_large", "instances"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(
    client: TestClient, trained: Make, body: Any, status: int, code: str, field: str
) -> None:
    refused(client.post(f"/v1/models/{trained()}/predict", json=body), status, code, field)


@pytest.mark.parametrize("body", [b"", b"{", b'{"features": [1,]}', b"\xff", b'{"features": NaN}'])
def test_broken_json_is_malformed(client: TestClient, trained: Make, body: bytes) -> None:
    problem = refused(client.post(f"/v1/models/{trained()}/predict", content=body), 400, "malformed", "body")
    if body.startswith(b'{"features": [1,'):
        assert "byte 16" in problem["detail"]


def test_a_label_by_request_id_joins_its_prediction(client: TestClient, trained: Make) -> None:
    name = trained()
    made = client.post(f"/v1/models/{name}/predict", json={"features": [3.0]}).json()
    label = {"request_id": made["request_id"], "label": 6.4}
    answer = client.post(f"/v1/models/{name}/feedback", json=label)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "duplicate": False, "rejected": []})
    assert client.post(f"/v1/models/{name}/feedback", json=label).json()["duplicate"]
    assert client.get(f"/v1/models/{name}").json()["labels"] == 41
    refused(client.post(f"/v1/models/{name}/feedback", json={**label, "label": 1.0}), 409, "conflict", "label")


def test_labels_are_refused_one_by_one(client: TestClient, trained: Make) -> None:
    name = trained()
    examples = [
        {"features": [1.0], "label": 2.5},
        {"features": ["a"], "label": 1.0},
        {"request_id": "zz-1", "label": 1.0},
    ]
    answer = client.post(f"/v1/models/{name}/feedback", json={"examples": examples})
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 1
    assert [(r["index"], r["code"]) for r in answer.json()["rejected"]] == [
        (1, "invalid_input"),
        (2, "prediction_not_found"),
    ]
    refused(
        client.post(f"/v1/models/{name}/feedback", json={"request_id": "zz-1", "label": 1.0}),
        404,
        "prediction_not_found",
        "request_id",
    )


@pytest.mark.parametrize("digits", [20, 400, 6000])
@pytest.mark.parametrize("kind", ["linear", "logistic"])
def test_a_label_of_many_digits_is_refused(client: TestClient, kind: str, digits: int) -> None:
    client.post("/v1/models", json={"name": "m", "kind": kind})
    client.post("/v1/models/m/feedback", json={"features": [1.0], "label": 1})
    body = '{"features": [1.0], "label": %s}' % ("9" * digits)
    answer = client.post("/v1/models/m/feedback", content=body)
    assert answer.status_code in ((202,) if kind == "linear" and digits == 20 else (400, 422)), answer.text


def test_an_idempotency_key_counts_once(client: TestClient, trained: Make) -> None:
    name = trained()
    body, headers = {"features": [1.0], "label": 2.5}, {"Idempotency-Key": "k1"}
    first = client.post(f"/v1/models/{name}/feedback", json=body, headers=headers)
    again = client.post(f"/v1/models/{name}/feedback", json=body, headers=headers)
    assert (first.json()["duplicate"], again.json()["duplicate"]) == (False, True)
    assert again.json()["accepted"] == 1
    assert client.get(f"/v1/models/{name}").json()["labels"] == 41
    other = client.post(f"/v1/models/{name}/feedback", json={"features": [2.0], "label": 2.5}, headers=headers)
    refused(other, 409, "conflict", other.json().get("field"))
    long = client.post(f"/v1/models/{name}/feedback", json=body, headers={"Idempotency-Key": "k" * 256})
    refused(long, 422, "invalid_input", "Idempotency-Key")


# --- versions


def test_versions_are_promoted_rolled_back_and_archived(
    client: TestClient, trained: Make, teach: Callable[..., None]
) -> None:
    name = trained(factor=2.0)
    teach(name, 3.0, 50)
    at = f"/v1/models/{name}"

    def answers() -> tuple[int, float]:
        answer = client.post(f"{at}/predict", json={"features": [10.0]}).json()
        return answer["model_version"], round(answer["prediction"])

    assert answers()[0] == 2
    assert [v["version"] for v in client.get(f"{at}/versions").json()["versions"]] == [1, 2]
    back = client.post(f"{at}/rollback", json={"note": "it was worse"})
    assert back.status_code == 200, back.text
    assert (back.json()["version"], back.json()["serving"], back.json()["status"]) == (1, True, "live")
    assert answers()[0] == 1, "the change is served once it is answered"
    forth = client.post(f"{at}/promote", json={"version": 2})
    assert (forth.json()["version"], forth.json()["serving"]) == (2, True)
    assert answers()[0] == 2
    archived = client.post(f"{at}/archive", json={"version": 1})
    assert (archived.json()["status"], archived.json()["serving"]) == ("archived", False)
    refused(client.post(f"{at}/archive", json={"version": 2}), 409, "conflict", "version")
    assert client.post(f"{at}/rollback").json()["code"] == "conflict"
    assert client.post(f"{at}/promote", json={"version": 9}).json()["code"] == "version_not_found"
    kinds = [e["kind"] for e in client.get(f"{at}/timeline?limit=20&latest=true").json()["events"]]
    assert {"published", "swapped", "rolled_back", "promoted", "archived"} <= set(kinds)


@pytest.mark.parametrize("version", ["x", "0", "-1", "1.5", "99", "9" * 400, "0" * 5000 + "1", "%31%00"])
def test_there_is_no_such_version(client: TestClient, trained: Make, version: str) -> None:
    answer = client.get(f"/v1/models/{trained()}/versions/{version}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "version_not_found"


@pytest.mark.parametrize("version", [0, -1, 2**53 + 1, 10**30, "", "x" * 129, None, 1.5, True])
def test_a_version_is_a_whole_number_or_a_name(client: TestClient, trained: Make, version: Any) -> None:
    refused(client.post(f"/v1/models/{trained()}/promote", json={"version": version}), 422, "invalid_input", "version")


def test_training_without_examples_is_refused(client: TestClient) -> None:
    client.post("/v1/models", json={"name": "m", "kind": "linear"})
    refused(client.post("/v1/models/m/train"), 422, "invalid_input", "model")


@pytest.mark.parametrize(
    "query", ["after=x", "after=-1", "limit=0", "limit=21", "limit=1e9", "latest=maybe", "after=" + "9" * 99]
)
def test_a_wrong_page_is_refused(client: TestClient, query: str) -> None:
    client.post("/v1/models", json={"name": "m", "kind": "linear"})
    problem = client.get(f"/v1/models/m/timeline?{query}")
    refused(problem, 422, "invalid_input", query.partition("=")[0])


def test_a_timeline_is_read_in_pages(client: TestClient, trained: Make) -> None:
    name = trained()
    whole = client.get(f"/v1/models/{name}/timeline?limit=20").json()["events"]
    pages, after = [], 0
    while page := client.get(f"/v1/models/{name}/timeline?limit=2&after={after}").json():
        if not page["events"]:
            break
        pages += page["events"]
        after = page["next"]
    assert pages == whole
    assert client.get(f"/v1/models/{name}/timeline?limit=2&latest=true").json()["events"] == whole[-2:]


# --- the rest


def test_a_body_beyond_the_limit_is_refused_with_and_without_its_length(client: TestClient, trained: Make) -> None:
    path = f"/v1/models/{trained()}/predict"
    answer = client.post(path, content=b" " * 100_001)
    refused(answer, 413, "too_large", "body")
    assert answer.headers["connection"] == "close"

    def endless() -> Any:
        for _ in range(1000):
            yield b" " * 10_000

    refused(client.post(path, content=endless()), 413, "too_large", "body")


@pytest.mark.parametrize("media", ["text/xml", "multipart/form-data; boundary=x", "application/octet-stream"])
def test_a_body_that_is_not_json_is_an_unsupported_media_type(client: TestClient, trained: Make, media: str) -> None:
    answer = client.post(f"/v1/models/{trained()}/predict", content=b"{}", headers={"content-type": media})
    refused(answer, 415, "unsupported_media_type", "Content-Type")


def test_a_compressed_body_is_refused(client: TestClient, trained: Make) -> None:
    answer = client.post(f"/v1/models/{trained()}/predict", content=b"{}", headers={"content-encoding": "gzip"})
    refused(answer, 415, "unsupported_media_type", "Content-Encoding")


def test_unknown_routes_and_methods_are_problems(client: TestClient) -> None:
    refused(client.get("/v1/nothing"), 404, "route_not_found")
    refused(client.get("/v1/models/"), 404, "route_not_found")
    answer = client.put("/v1/models")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    answer = client.get("/v1/models/m/predict")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_a_page_of_another_site_cannot_change_anything(client: TestClient) -> None:
    spec = {"name": "m", "kind": "linear"}
    refused(client.post("/v1/models", json=spec, headers={"origin": "http://evil.example"}), 403, "foreign_origin")
    refused(client.post("/v1/models", json=spec, headers={"origin": "null"}), 403, "foreign_origin")
    for site in ("cross-site", "same-site"):
        refused(client.post("/v1/models", json=spec, headers={"sec-fetch-site": site}), 403, "foreign_origin")
    assert client.get("/v1/models", headers={"origin": "http://evil.example"}).json() == {"models": []}
    behind_a_proxy = {"origin": "https://models.example", "sec-fetch-site": "same-origin"}
    assert client.delete("/v1/models/m", headers=behind_a_proxy).status_code == 404
    assert client.post("/v1/models", json=spec, headers={"origin": "http://testserver"}).status_code == 201


def test_a_last_event_id_is_a_number(client: TestClient) -> None:
    refused(client.get("/v1/events", headers={"last-event-id": "x"}), 422, "invalid_input", "Last-Event-ID")
    refused(client.get("/v1/events?after=-1"), 422, "invalid_input", "Last-Event-ID")


def test_head_is_get_without_a_body(client: TestClient) -> None:
    answer = client.head("/health")
    assert (answer.status_code, answer.content) == (200, b"")
    answer = client.head("/v1/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_the_index_leads_to_the_docs(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert "<title>everloop API</title>" in answer.text


def test_while_draining_requests_are_answered_and_connections_close(
    client: TestClient, trained: Make, services: Services
) -> None:
    name = trained()
    assert "connection" not in client.post(f"/v1/models/{name}/predict", json={"features": [1.0]}).headers
    services.drain()
    answer = client.post(f"/v1/models/{name}/predict", json={"features": [1.0]})
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/health").json()["status"] == "draining"
    refused(client.get("/v1/events"), 503, "draining")


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [(Overloaded("full", retry_after=2.3), 503, "3"), (ModelFailed("NaN"), 500, None), (OSError("secret"), 500, None)],
)
def test_what_goes_wrong_inside_is_a_problem_too(
    client: TestClient,
    trained: Make,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    retry: str | None,
) -> None:
    name = trained()

    async def broken(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(services.predictor, "predict_async", broken)
    answer = client.post(f"/v1/models/{name}/predict", json={"features": [1.0]})
    code = error.code if isinstance(error, EverloopError) else "internal"
    problem = refused(answer, status, code)
    assert answer.headers.get("retry-after") == retry
    assert "secret" not in json.dumps(problem)


def test_concurrent_requests_share_batches_and_keep_their_own_answers(
    services: Services, client: TestClient, trained: Make
) -> None:
    name = trained(factor=2.0)

    async def ask() -> list[float]:
        transport = httpx.ASGITransport(create_app(services))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as many:
            answers = await asyncio.gather(
                *(many.post(f"/v1/models/{name}/predict", json={"features": [float(i)]}) for i in range(64))
            )
        return [a.json()["prediction"] for a in answers]

    assert asyncio.run(ask()) == pytest.approx([2.0 * i + 0.5 for i in range(64)], abs=1e-3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
KEYS = [
    "name",
    "kind",
    "parameters",
    "learning",
    "record",
    "version",
    "note",
    "features",
    "instances",
    "label",
    "examples",
]
KEYS += ["request_id", "index", "validation", "unit", "rollout"]
KEYS += ["strategy", "steps", "share", "seconds", "samples", "gates", "at_end", "revision", "weights", "shadow", "tags"]
KEYS += ["archived", "keep"]
WRITES = [o for o in OPERATIONS if o.method in ("POST", "PUT", "PATCH")]
SEGMENT = st.sampled_from(["m", "n", "%20", "..", "a%2Fb", "\N{SNOWMAN}", "x" * 200]) | st.text(max_size=8).filter(
    lambda s: "/" not in s and "?" not in s and "#" not in s
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    operation=st.sampled_from(WRITES),
    model=st.just("m") | SEGMENT,
    version=st.sampled_from(["1", "champion", "challenger", "m@1"]) | SEGMENT,
    body=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4) | JSON,
    raw=st.none() | st.binary(max_size=30),
)
def test_no_body_makes_the_server_fail(
    client: TestClient, operation: Any, model: str, version: str, body: Any, raw: bytes | None
) -> None:
    client.post("/v1/models", json={"name": "m", "kind": "linear"})
    content = raw if raw is not None else json.dumps(body).encode()
    path = operation.path.replace("{model}", model).replace("{version}", version).replace("{alias}", version)
    try:
        url = httpx.URL("http://testserver" + path)
    except httpx.InvalidURL:
        return
    media = "application/octet-stream" if operation.body is bytes else "application/json"
    answer = client.request(operation.method, url, content=content, headers={"content-type": media})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["status"] == answer.status_code


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    operation=st.sampled_from([o for o in OPERATIONS if o.method == "GET" and o.id != "events"]),
    model=SEGMENT,
    version=SEGMENT,
    query=st.dictionaries(
        st.sampled_from(["after", "limit", "latest", "model", "name", "live"]), st.text(max_size=20), max_size=3
    ),
    accept=st.text(st.characters(codec="ascii", exclude_characters="\r\n\0"), max_size=30),
)
def test_no_url_makes_the_server_fail(
    client: TestClient, operation: Any, model: str, version: str, query: dict[str, str], accept: str
) -> None:
    path = operation.path.replace("{model}", model).replace("{version}", version).replace("{alias}", version)
    try:
        url = httpx.URL("http://testserver" + path, params=query)
        answer = client.get(url, headers={"accept": accept}, follow_redirects=False)
    except (httpx.InvalidURL, httpx.LocalProtocolError):
        return
    assert answer.status_code < 500, answer.text

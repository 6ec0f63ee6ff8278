"""The document says what the server does: every route, every body, nothing else; and the page that shows it stands alone."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from starlette.routing import Route

from everloop.api.http.app import create_app, endpoint_of
from everloop.api.http.openapi import codes, document
from everloop.api.http.operations import OPERATIONS
from everloop.api.services import Services
from everloop.api.status import STATUSES

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def walk(node: Any) -> list[Any]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [node, *(found for child in children for found in walk(child))]


def test_every_route_is_documented_and_every_documented_route_exists(services: Services) -> None:
    app = create_app(services)
    served = {
        (method, route.path)
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    documented = {(method.upper(), path) for path, methods in document()["paths"].items() for method in methods}
    assert served == documented == {(o.method, o.path) for o in OPERATIONS}
    app.state.api.close()


def test_the_routes_of_the_design_are_there() -> None:
    there = {f"{o.method} {o.path}" for o in OPERATIONS}
    m = "/v1/models/{model}"
    assert {
        "POST /v1/models",
        "GET /v1/models",
        f"GET {m}",
        f"DELETE {m}",
        f"GET {m}/versions",
        f"GET {m}/versions/{{version}}",
        f"GET {m}/timeline",
        f"GET {m}/drift",
        f"POST {m}/promote",
        f"POST {m}/rollback",
        f"POST {m}/train",
        f"POST {m}/predict",
        f"POST {m}/feedback",
        "GET /v1/events",
        "GET /health",
        "GET /v2/health/live",
        "GET /v2/health/ready",
        "GET /metrics",
        "GET /docs",
        "GET /openapi.json",
    } <= there


def test_the_document_is_well_formed(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    assert found == json.loads(msgspec.json.encode(document()))
    assert re.fullmatch(r"3\.1\.\d", found["openapi"])
    assert set(found) == {"openapi", "info", "servers", "tags", "paths", "components"}
    schemas = found["components"]["schemas"]
    for node in walk(found):
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            prefix, _, name = node["$ref"].rpartition("/")
            assert prefix == "#/components/schemas"
            assert name in schemas
    tags = {tag["name"] for tag in found["tags"]}
    ids = []
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            assert method in ("get", "post", "put", "patch", "delete")
            assert set(operation["tags"]) <= tags
            ids.append(operation["operationId"])
            assert operation["summary"].endswith(".")
            in_path = [p["name"] for p in operation["parameters"] if p["in"] == "path"]
            assert in_path == re.findall(r"{(\w+)}", path)
            assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")
            assert operation["responses"]
            for status, response in operation["responses"].items():
                assert 200 <= int(status) < 600
                assert response["description"]
    assert len(ids) == len(set(ids))


def test_fields_carry_the_words_of_the_source() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["PredictionAnswer"]["properties"]["request_id"]["description"].startswith("What a label refers to")
    assert "ever" in schemas["ModelInfo"]["properties"]["labels"]["description"]
    assert schemas["Memory"]["properties"]["heapUsed"]["description"]
    assert schemas["ModelSpec"]["properties"]["name"]["maxLength"] == 128


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.id)
def test_an_operation_names_refusals_that_exist(operation: Any) -> None:
    assert callable(endpoint_of(operation))
    assert set(codes(operation)) <= set(STATUSES)
    if operation.example is not None:
        msgspec.convert(operation.example, operation.body)


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert re.findall(r"""(?:src|href)=["'](?:https?:)?//""", answer.text) == []
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    assert "connect-src 'self'" in policy


def test_the_script_of_the_page_is_valid_where_there_is_an_interpreter(client: TestClient) -> None:
    script = re.search(r"<script>(.*)</script>", client.get("/docs").text, re.DOTALL)
    assert script is not None
    text = script[1]
    for opening, closing in ("{}", "()", "[]"):
        assert text.count(opening) == text.count(closing)

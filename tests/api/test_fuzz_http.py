"""Whatever the OpenAPI document lets one send, and what it does not: the answer is one that it documents, and never a defect's.

Every operation is asked with values that fit its description and with ones that do not; half of the time of models that exist.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.api.test_showcase import Shown

from everloop.api.http.openapi import document
from everloop.api.services import Services

with warnings.catch_warnings():  # its own imports warn
    warnings.simplefilter("ignore")
    import requests
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

if TYPE_CHECKING:
    from starlette.testclient import TestClient

EXAMPLES = 6
"""Of each operation, of each kind."""
ENDLESS = {"events"}
"""Streams: nobody waits for their end."""
TUPLES = {"collect_artifacts"}
"""Answers with tuples: schemathesis checks them by a dialect of JSON Schema older than that of OpenAPI 3.1."""
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
DEFECTS = frozenset({500, 501, 502, 504})


@pytest.fixture
def operations() -> list[Any]:
    """Those that delete come last."""
    found = [each.ok() for each in schemathesis.openapi.from_dict(document()).get_all_operations()]
    found = [each for each in found if each.definition.raw["operationId"] not in ENDLESS]
    return sorted(found, key=lambda each: bool(each.method == "delete"))


def of_one_that_exists(case: Any, model: str, version: str) -> Any:
    case.path_parameters.update(
        {name: value for name, value in (("model", model), ("version", version)) if name in case.path_parameters}
    )
    return case


def cases(operation: Any, mode: GenerationMode) -> st.SearchStrategy[Any]:
    drawn = operation.as_strategy(generation_mode=mode)
    if not operation.path_parameters:
        return drawn  # type: ignore[no-any-return]
    versions = st.sampled_from(["1", "champion", "7"])
    return st.one_of(drawn, st.builds(of_one_that_exists, drawn, st.sampled_from(["m", "blank"]), versions))


def send(client: TestClient, case: Any) -> Any:
    asked = requests.Request(**case.as_transport_kwargs(base_url="http://testserver")).prepare()
    return client.request(
        asked.method or "", asked.url or "", headers=dict(asked.headers), content=asked.body, follow_redirects=False
    )


def ask(client: TestClient, operation: Any, mode: GenerationMode, defects: frozenset[int] = DEFECTS) -> int:
    """How often."""
    checks = CHECKS[: 2 if operation.definition.raw["operationId"] in TUPLES else 3]
    asked = 0

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
    @given(cases(operation, mode))
    def once(case: Any) -> None:
        nonlocal asked
        asked += 1
        response = send(client, case)
        assert response.status_code not in defects, f"{case.as_curl_command()}: {response.text}"
        case.validate_response(response, checks=checks)

    once()
    return asked


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fits", "does not fit"])
def test_every_answer_is_one_that_is_documented(
    services: Services, client: TestClient, trained: Any, operations: list[Any], mode: GenerationMode
) -> None:
    trained("m")
    services.registry.register("blank", "linear", task="regression", parameters={}, learning={})
    if mode is GenerationMode.NEGATIVE:
        operations = [each for each in operations if each.body or each.query or each.headers]
    asked = sum(ask(client, operation, mode) for operation in operations)
    assert asked > 2 * len(operations)
    assert client.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fits", "does not fit"])
def test_so_are_those_about_texts_images_and_users(
    services: Services, client: TestClient, operations: list[Any], mode: GenerationMode
) -> None:
    Shown(services)
    of_showcase = [each for each in operations if each.definition.raw["tags"] == ["showcase"] and each.body]
    assert len(of_showcase) == 4
    defects = DEFECTS - {504}  # a deadline that is drawn may be too short for any model
    assert sum(ask(client, operation, mode, defects) for operation in of_showcase) > 8

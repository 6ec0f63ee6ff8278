"""From an error to what goes out."""

from __future__ import annotations

import json

import pytest

from everloop.api.http.limits import Limits
from everloop.api.http.problems import problem
from everloop.api.status import STATUSES, retry_after, status_of
from everloop.core.errors import (
    Conflict,
    Draining,
    EverloopError,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    StoreUnavailable,
)

GRPC = {
    "UNAUTHENTICATED",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "INTERNAL",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
}


def tree(root: type[EverloopError] = EverloopError) -> list[type[EverloopError]]:
    return [root, *(leaf for branch in root.__subclasses__() for leaf in tree(branch))]


def test_no_error_is_missing() -> None:
    assert {error.code for error in tree()} == set(STATUSES)
    assert {status.grpc for status in STATUSES.values()} <= GRPC
    assert all(400 <= status.http < 600 and status.title for status in STATUSES.values())


@pytest.mark.parametrize("code", [code for code, status in STATUSES.items() if status.http == 503])
def test_every_503_says_when_to_come_back(code: str) -> None:
    error = next(each for each in tree() if each.code == code)("later")
    assert dict(problem(error).headers)["retry-after"].isdigit()


def test_the_errors_own_word_counts_more() -> None:
    assert retry_after(Overloaded("full")) == 1.0
    assert retry_after(Overloaded("full", retry_after=7.0)) == 7.0
    assert retry_after(StoreUnavailable("x", retry_after=0.0)) == 0.0
    assert dict(problem(Draining("x", retry_after=0.01)).headers)["retry-after"] == "1"
    assert retry_after(InvalidInput("x", retry_after=3.0)) is None


def test_an_error_of_nobodys_tree_tells_nothing() -> None:
    assert status_of(ValueError("x")).http == 500
    body = json.loads(problem(ValueError("a secret path")).body)
    assert body["code"] == "internal"
    assert "secret" not in body["detail"]


def test_a_problem_is_short_and_always_encodable() -> None:
    found = problem(ModelNotFound("\ud800" + "x" * 100_000, field="\udfff"))
    assert len(found.body) < 6000
    assert json.loads(found.body)["field"] == "\\udfff"
    assert json.loads(problem(Conflict("x")).body).get("field") is None


def test_limits_are_positive_whole_numbers() -> None:
    with pytest.raises(InvalidInput, match="max_rows: expected a whole number of at least 1, got 0"):
        Limits(max_rows=0)

"""Every error of the tree can be told over every protocol, and to a Python user in the way Python would."""

from __future__ import annotations

import pytest

from everloop.api import status
from everloop.core import errors
from everloop.core.errors import EverloopError


def tree(root: type[EverloopError] = EverloopError) -> list[type[EverloopError]]:
    return [root, *(leaf for branch in root.__subclasses__() for leaf in tree(branch))]


def test_every_code_is_mapped_and_none_twice() -> None:
    codes = [error.code for error in tree()]
    assert len(codes) == len(set(codes)), "two errors share a code"
    assert set(codes) == set(status.STATUSES)


@pytest.mark.parametrize("error", tree(), ids=lambda error: error.__name__)
def test_a_caller_is_told_of_their_fault_and_never_of_ours(error: type[EverloopError]) -> None:
    """`fit_failed` is the model's fault and still 422, `closed` the caller's and still 503: `api.status` says why."""
    http = status.STATUSES[error.code].http
    if error.code in ("fit_failed", "closed"):
        return
    assert (400 <= http < 500) == (error.fault == "caller")


@pytest.mark.parametrize("error", tree(), ids=lambda error: error.__name__)
def test_its_text_is_its_message(error: type[EverloopError]) -> None:
    assert str(error("what to do", field="label")) == "what to do"
    assert error.__doc__


def test_no_error_is_defined_elsewhere() -> None:
    assert {error.__module__ for error in tree()} == {errors.__name__}

"""What is recorded does not depend on how requests are put together: all at once or one by one, the same rows under the same numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.core.schema import Schema, unpack_rows
from everloop.policy.batching import sampled
from everloop.runtime.tensors import Answered
from everloop.serving.recording import RowRecording, TensorRecording

WIDTH = 2
RUNNER: Any = SimpleNamespace(model="m", version=1, schema=Schema.unnamed(WIDTH))


class Kept:
    """A recorder that keeps what it is given, by request."""

    audience = SimpleNamespace(watched=lambda _model: False)

    def __init__(self) -> None:
        self.records = 0
        self.requests: dict[int, list[tuple[list[float], float]]] = {}

    def batch(
        self, source: Any, numbers: tuple[int, int, int], encoded: tuple[Any, bytes], predictions: list[float]
    ) -> None:
        assert source == ("m", 1, "key")
        first, count, each = numbers
        rows = unpack_rows(*encoded, count * each)
        assert len(rows) == len(predictions) == count * each
        self.records += 1
        for i in range(count):
            assert first + i not in self.requests, "recorded twice"
            part = slice(i * each, (i + 1) * each)
            self.requests[first + i] = list(zip(rows[part], predictions[part], strict=True))


class Run:
    """Tensors that ran: one group a shape, in which every request's rows are."""

    def __init__(self, X: Any, groups: int) -> None:
        self.X, self.groups = X, [None] * groups

    def recorded(self, answers: Any, start: int, stop: int) -> Answered:
        return Answered(self.X[start:stop], answers[start:stop])


def rows_of(requests: int, each: int) -> tuple[Any, list[float]]:
    X = np.arange(requests * each * WIDTH, dtype=np.float64).reshape(-1, WIDTH)
    return X, X.sum(axis=1).tolist()


@settings(deadline=None)
@given(
    requests=st.integers(1, 12),
    count=st.integers(0, 4),
    share=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    first=st.integers(1, 10_000),
    groups=st.integers(1, 2),
    tensors=st.booleans(),
)
def test_together_or_one_by_one_the_same_is_recorded(
    requests: int, count: int, share: float, first: int, groups: int, tensors: bool
) -> None:
    each = count or 1
    X, answers = rows_of(requests, each)
    kept: Any = Kept()
    if tensors:
        run: Any = Run(X, groups)
        run.runner = RUNNER
        TensorRecording(kept, run, "key", share).put(first, count, run, answers, 0, len(X), [None] * requests)
    else:
        rows = X.tolist()
        payloads = [rows[i * each : (i + 1) * each] for i in range(requests)] if count else rows
        RowRecording(kept, RUNNER, "key", share).put(first, count, X, answers, 0, len(X), payloads)
    expected = {
        first + i: [(X[j].tolist(), answers[j]) for j in range(i * each, (i + 1) * each)]
        for i in range(requests)
        if sampled(first + i, share)
    }
    assert kept.requests == expected


@pytest.mark.parametrize("tensors", [False, True])
def test_requests_of_one_size_are_one_record(tensors: bool) -> None:
    X, answers = rows_of(5, 2)
    kept: Any = Kept()
    if tensors:
        run: Any = Run(X, 1)
        run.runner = RUNNER
        TensorRecording(kept, run, "key", 1.0).put(1, 2, run, answers, 0, 10, [None] * 5)
    else:
        RowRecording(kept, RUNNER, "key", 1.0).put(
            1, 2, X, answers, 0, 10, [X[i : i + 2].tolist() for i in range(0, 10, 2)]
        )
    assert (kept.records, sorted(kept.requests)) == (1, [1, 2, 3, 4, 5])

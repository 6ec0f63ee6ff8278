"""Batching without a server: who gets which rows back, in what form, and who is told what."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.core.errors import Closed, DeadlineExceeded, InvalidInput, Overloaded
from everloop.serving import BatchPredictor
from everloop.serving.frames import cut, form_of, joined

HOUR_MS = 3.6e6


class Predictor:
    """Answers by `answer`, and keeps how many rows each call had, and the threads that called."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer
        self.calls: list[int] = []
        self.threads: set[threading.Thread] = set()

    def predict(self, frame: Any) -> Any:
        self.calls.append(len(frame))
        self.threads.add(threading.current_thread())
        return self.answer(frame)


async def answers(predictor: Any, frames: list[Any], **options: Any) -> list[Any]:
    async with BatchPredictor(predictor, **options) as batched:
        return await asyncio.gather(*(batched.predict(frame) for frame in frames), return_exceptions=True)


def numbers(*values: float) -> list[list[float]]:
    return [[float(value), -float(value)] for value in values]


FORMS: dict[str, tuple[Callable[[list[list[float]]], Any], Callable[[Any], Any], Callable[[Any], list[Any]]]] = {
    "polars": (
        lambda rows: pl.DataFrame(rows, schema={"a": pl.Float64, "b": pl.Float64}, orient="row"),
        lambda frame: frame.select(total=pl.col("a") * 2),
        lambda found: found["total"].to_list(),
    ),
    "polars series": (
        lambda rows: pl.DataFrame(rows, schema={"a": pl.Float64, "b": pl.Float64}, orient="row"),
        lambda frame: frame["a"] * 2,
        lambda found: found.to_list(),
    ),
    "pandas": (
        lambda rows: pd.DataFrame(rows, columns=["a", "b"], dtype=float),
        lambda frame: (frame["a"] * 2).to_frame("total"),
        lambda found: found["total"].tolist(),
    ),
    "array": (
        lambda rows: np.array(rows).reshape(-1, 2),
        lambda X: X[:, 0] * 2,
        lambda found: found.tolist(),
    ),
    "list": (lambda rows: rows, lambda rows: [row[0] * 2 for row in rows], list),
    "columns": (
        lambda rows: np.array(rows).reshape(-1, 2),
        lambda X: {"total": X[:, 0] * 2, "both": (X[:, 0], X[:, 1])},
        lambda found: found["total"].tolist(),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_gets_its_own_rows_in_the_form_the_predictor_answers_in(form: str) -> None:
    make, answer, plain = FORMS[form]
    predictor = Predictor(answer)
    asked = [numbers(1), numbers(2, 3), numbers(), numbers(4, 5, 6)]
    found = asyncio.run(answers(predictor, [make(rows) for rows in asked], batch_size=7, window_ms=HOUR_MS))
    assert [plain(part) for part in found] == [[row[0] * 2 for row in rows] for rows in asked]
    assert all(type(part) is type(answer(make(numbers(1)))) for part in found)
    assert predictor.calls == [6], "together, and at once: with the empty one counted as a row the batch is full"


def test_a_frame_keeps_its_index_and_is_not_mixed_with_other_columns() -> None:
    predictor = Predictor(lambda frame: frame * 2)
    left = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    right = pd.DataFrame({"b": [1.5]}, index=["z"])
    found = asyncio.run(answers(predictor, [left, right, left], batch_size=5, window_ms=HOUR_MS))
    for part, expected in zip(found, (left, right, left), strict=True):
        pd.testing.assert_frame_equal(part, expected * 2)
    assert sorted(predictor.calls) == [1, 4]


def test_types_are_not_mixed_either() -> None:
    big = 2**60 + 1
    predictor = Predictor(lambda X: X[:, 0])
    found = asyncio.run(
        answers(predictor, [np.array([[big]]), np.array([[0.5]]), np.array([["x"]])], batch_size=3, window_ms=HOUR_MS)
    )
    assert [part.tolist() for part in found] == [[big], [0.5], ["x"]]


def test_more_rows_than_a_batch_are_run_in_slices_and_come_back_whole() -> None:
    predictor = Predictor(lambda X: X[:, 0])
    X = np.arange(20.0).reshape(10, 2)
    (found,) = asyncio.run(answers(predictor, [X], batch_size=4))
    assert found.tolist() == X[:, 0].tolist()
    assert predictor.calls == [4, 4, 2]


def test_a_lone_request_waits_for_the_window_only() -> None:
    predictor = Predictor(lambda X: X[:, 0])
    (found,) = asyncio.run(answers(predictor, [np.ones((1, 1))], batch_size=32, window_ms=1))
    assert found.tolist() == [1.0]


def test_nothing_runs_on_the_event_loop() -> None:
    predictor = Predictor(lambda X: X[:, 0])
    asyncio.run(answers(predictor, [np.ones((1, 1))] * 3, window_ms=0))
    assert threading.main_thread() not in predictor.threads


def test_a_coroutine_may_predict() -> None:
    class Later:
        async def predict(self, X: Any) -> Any:
            await asyncio.sleep(0)
            assert asyncio.get_running_loop() is self.loop
            return X[:, 0]

    later = Later()

    async def main() -> list[Any]:
        later.loop = asyncio.get_running_loop()  # type: ignore[attr-defined]
        return await answers(later, [np.full((1, 1), float(i)) for i in range(3)], window_ms=0)

    assert [part.tolist() for part in asyncio.run(main())] == [[0.0], [1.0], [2.0]]


def test_one_bad_request_fails_alone_with_the_predictors_own_error() -> None:
    def picky(X: Any) -> Any:
        if (X < 0).any():
            raise ArithmeticError("no negative numbers")
        return X[:, 0]

    frames = [np.array([[1.0]]), np.array([[2.0], [-1.0]]), np.array([[3.0]])]
    good, bad, fine = asyncio.run(answers(Predictor(picky), frames, batch_size=4, window_ms=HOUR_MS))
    assert (good.tolist(), fine.tolist()) == ([1.0], [3.0])
    assert isinstance(bad, ArithmeticError)
    assert "no negative numbers" in str(bad)


def test_an_answer_that_is_not_one_a_row_is_for_a_request_alone() -> None:
    predictor = Predictor(lambda X: float(X.sum()))
    found = asyncio.run(answers(predictor, [np.ones((2, 1)), np.ones((3, 1))], batch_size=5, window_ms=HOUR_MS))
    assert found == [2.0, 3.0]


@pytest.mark.parametrize("features", [{"a": [1]}, "abc", 3, np.float64(1.0), np.array(1.0), None])
def test_what_has_no_rows_is_refused(features: Any) -> None:
    (error,) = asyncio.run(answers(Predictor(lambda X: X), [features]))
    assert isinstance(error, InvalidInput)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"window_ms": -1}, "window_ms"),
        ({"window_ms": float("nan")}, "window_ms"),
        ({"max_queue": 0}, "max_queue"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        BatchPredictor(Predictor(lambda X: X), **options)
    assert caught.value.field == field
    with pytest.raises(InvalidInput, match="predict"):
        BatchPredictor(object())


def test_it_takes_requests_between_start_and_stop_and_may_be_started_again() -> None:
    batched = BatchPredictor(Predictor(lambda X: X[:, 0]), window_ms=HOUR_MS)

    async def main(value: float) -> None:
        with pytest.raises(Closed):
            await batched.predict(np.ones((1, 1)))
        await batched.start()
        await batched.start()
        waiting = asyncio.ensure_future(batched.predict(np.full((1, 1), value)))
        await asyncio.sleep(0)
        assert batched.get_stats()["pending_requests"] == 1
        await batched.stop()
        await batched.stop()
        assert (await waiting).tolist() == [value], "what waits is finished, without its window"
        with pytest.raises(Closed):
            await batched.predict(np.ones((1, 1)))

    asyncio.run(main(1.0))
    asyncio.run(main(2.0))
    assert batched.get_stats()["total_requests"] == 2


def test_what_happened_is_counted() -> None:
    async def main() -> dict[str, float]:
        async with BatchPredictor(Predictor(lambda X: X[:, 0]), batch_size=6, window_ms=HOUR_MS) as batched:
            assert batched.get_stats()["avg_batch_size"] == 0.0
            await asyncio.gather(*(batched.predict(np.ones((2, 1))) for _ in range(6)))
            return batched.get_stats()

    stats = asyncio.run(main())
    assert stats["avg_batch_time_ms"] > 0
    del stats["avg_batch_time_ms"]
    assert stats == {"total_requests": 6, "total_batches": 2, "avg_batch_size": 6.0, "pending_requests": 0}


def test_who_is_gone_or_too_late_does_not_run_and_a_full_queue_refuses() -> None:
    entered, go = threading.Event(), threading.Event()

    def slow(X: Any) -> Any:
        entered.set()
        assert go.wait(60)
        return X[:, 0]

    predictor = Predictor(slow)

    async def main() -> None:
        async with BatchPredictor(predictor, batch_size=2, window_ms=0, max_queue=3) as batched:
            first = asyncio.ensure_future(batched.predict(np.ones((1, 1))))
            assert await asyncio.to_thread(entered.wait, 60)
            gone, late = (
                asyncio.ensure_future(batched.predict(np.ones((1, 1)), timeout=timeout)) for timeout in (None, 0.05)
            )
            await asyncio.sleep(0)
            gone.cancel()
            with pytest.raises(DeadlineExceeded):
                await late
            with pytest.raises(DeadlineExceeded):
                await batched.predict(np.ones((1, 1)), timeout=-1.0)
            with pytest.raises(Overloaded):
                await batched.predict(np.ones((3, 1)))
            go.set()
            assert (await first).tolist() == [1.0]

    asyncio.run(main())
    assert predictor.calls == [1]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 12))
def test_any_requests_in_any_order_get_what_they_would_get_alone(sizes: list[int], batch_size: int) -> None:
    frames = [np.arange(i, i + size, dtype=float).reshape(size, 1) for i, size in enumerate(sizes)]
    predictor = Predictor(lambda X: X[:, 0] * 3)
    found = asyncio.run(answers(predictor, frames, batch_size=batch_size, window_ms=0))
    assert [part.tolist() for part in found] == [(frame[:, 0] * 3).tolist() for frame in frames]
    assert max(predictor.calls) <= batch_size


def test_what_nobody_knows_how_to_put_together_says_so() -> None:
    class Rows:
        def __len__(self) -> int:
            return 1

    assert form_of(Rows()) == form_of(Rows())
    with pytest.raises(TypeError, match="Rows"):
        joined([Rows(), Rows()])
    with pytest.raises(TypeError, match="one answer a row"):
        cut("abc", 3, 0, 1)
    with pytest.raises(TypeError, match="2 for 3"):
        cut([1, 2], 3, 0, 1)


def test_who_waits_no_longer_than_so_long_is_told_also_while_the_predictor_runs() -> None:
    go = threading.Event()

    def slow(X: Any) -> Any:
        assert go.wait(60)
        return X[:, 0]

    async def main() -> None:
        async with BatchPredictor(Predictor(slow), window_ms=0) as batched:
            try:
                with pytest.raises(DeadlineExceeded, match="no answer within"):
                    await batched.predict(np.ones((1, 1)), timeout=0.01)
            finally:
                go.set()
            assert (await batched.predict(np.ones((1, 1)), timeout=60)).tolist() == [1.0]

    asyncio.run(main())

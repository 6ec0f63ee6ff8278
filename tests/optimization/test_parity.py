"""What agrees with the original, what does not, and in which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.optimization.forms import Spoken, given_rows, sigmoid

from everloop.optimization.evidence import Evidence, gather
from everloop.optimization.parity import FLOAT16, FLOAT32, FLOAT64, Parity, judge, tolerances_of


def evidence(session: Any, *, labels: list[Any] | None = None, rows: int = 2_000, loss: float = 0.005) -> Evidence:
    return gather(
        session,
        given_rows(rows),
        labels,
        total=rows,
        drawn=500,
        seconds=1.0,
        calibrate=False,
        loss=loss,
        seed=0,
    )


def judged(original: Any, other: Any, *, exact: bool = True, **more: Any) -> Parity:
    return judge(evidence(original, **more), other, exact=exact)


def test_the_same_function_agrees() -> None:
    parity = judged(Spoken(sigmoid), Spoken(sigmoid))
    assert (parity.passed, parity.flips, parity.max_difference, parity.rows, parity.drawn) == (True, 0, 0.0, 2500, 500)
    assert parity.compared == "probabilities"
    assert parity.change is not None
    assert (parity.change.metric, parity.change.change) == ("agreement", 0.0)


def test_rounding_to_single_precision_is_explained_where_the_form_takes_it() -> None:
    def rounded(X: Any) -> Any:
        return sigmoid(X.astype(np.float32)).astype(np.float64)

    assert judged(Spoken(sigmoid), Spoken(rounded, dtype=np.float32)).passed
    refused = judged(Spoken(sigmoid), Spoken(rounded))
    assert not refused.passed
    assert "times what rounding explains" in refused.why


def test_a_flipped_label_is_refused_however_small_the_difference() -> None:
    def off(X: Any) -> Any:
        out = sigmoid(X)
        out[np.abs(out - 0.5).argmin()] = 0.5 - (out[np.abs(out - 0.5).argmin()] - 0.5)
        return out

    parity = judged(Spoken(sigmoid), Spoken(off, dtype=np.float32))
    assert (parity.passed, parity.flips) == (False, 1)
    assert parity.why == "1 of 2,500 labels are others"


def test_a_form_without_the_originals_probabilities_is_refused() -> None:
    parity = judged(Spoken(sigmoid), Spoken(sigmoid, scores=False))
    assert not parity.passed
    assert "probabilities" in parity.why
    assert judged(Spoken(sigmoid, scores=False), Spoken(sigmoid)).compared == "labels"


def test_values_of_a_regression_in_units_of_their_spread() -> None:
    def value(X: Any) -> Any:
        return 1e6 * X.sum(axis=1)

    same = judged(Spoken(value, regression=True), Spoken(lambda X: value(X) + 1e-3, regression=True))
    other = judged(Spoken(value, regression=True), Spoken(lambda X: value(X) + 10.0, regression=True))
    assert (same.passed, other.passed) == (True, False)
    assert other.change is not None
    assert (other.change.metric, other.change.change < 0) == ("deviation", True)


def test_what_is_not_finite_is_no_agreement_and_stays_json() -> None:
    parity = judged(Spoken(sigmoid), Spoken(lambda X: np.where(X[:, 0] > 2, np.nan, sigmoid(X))))
    assert not parity.passed
    assert np.isfinite(parity.max_difference)
    both = Spoken(lambda X: np.full(len(X), np.nan))
    assert judged(both, both).max_difference == 0.0


def test_a_form_that_rounds_is_judged_by_labels() -> None:
    rows = given_rows(2_000)
    labels = (sigmoid(np.array(rows)) > 0.5).astype(int).tolist()

    def worse(share: float) -> Spoken:
        def answer(X: Any) -> Any:
            out = sigmoid(X)
            wrong = np.random.default_rng(3).random(len(X)) < share
            return np.where(wrong, 1 - out, out)

        return Spoken(answer)

    little = judged(Spoken(sigmoid), worse(0.001), exact=False, labels=labels)
    assert little.passed
    assert little.flips > 0
    assert little.change is not None
    assert little.change.low < little.change.change < 0 < little.change.high + 0.01
    much = judged(Spoken(sigmoid), worse(0.05), exact=False, labels=labels)
    assert not much.passed
    assert "accuracy is worse by" in much.why


def test_no_accuracy_makes_up_for_answering_otherwise() -> None:
    labels = [1] + [2] * 1_999  # as good as no label can be won or lost
    parity = judged(
        Spoken(lambda X: np.full(len(X), 0.9)),
        Spoken(lambda X: np.where(np.arange(len(X)) % 10 == 1, 0.1, 0.9)),
        exact=False,
        labels=labels,
    )
    assert parity.change is not None
    assert (parity.change.before, parity.change.after, parity.change.flips) == (1 / 2_000, 1 / 2_000, 200)
    assert not parity.passed
    assert "200 of 2,000 labels are others than the original's; at most 5.00% may be" in parity.why
    none = judged(Spoken(sigmoid), Spoken(sigmoid), exact=False, labels=[2] * 2_000)
    assert none.why == "the original answers none of 2,000 labels rightly, so that nothing can be lost"


def test_too_few_examples_leave_too_much_possible() -> None:
    parity = judged(Spoken(sigmoid), Spoken(sigmoid), exact=False, rows=100, labels=[1] * 100)
    assert not parity.passed
    assert "100 examples leave a loss of accuracy of up to" in parity.why


def test_the_mean_error_of_a_regression() -> None:
    def value(X: Any) -> Any:
        return X.sum(axis=1)

    labels = (np.array(given_rows(2_000)).sum(axis=1) + np.random.default_rng(1).normal(size=2_000)).tolist()
    parity = judged(
        Spoken(value, regression=True),
        Spoken(lambda X: np.round(value(X), 2), regression=True),
        exact=False,
        labels=labels,
    )
    assert parity.passed
    assert parity.change is not None
    assert (parity.change.metric, abs(parity.change.change) < 0.005) == ("mae", True)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((np.float64, np.float64), FLOAT64),
        ((np.float64, np.float32), FLOAT32),
        ((np.float16, np.float32), FLOAT16),
        ((object, np.float64), FLOAT32),
    ],
)
def test_tolerances_are_those_of_the_less_precise(dtypes: tuple[Any, ...], expected: Any) -> None:
    assert tolerances_of(*dtypes) == expected

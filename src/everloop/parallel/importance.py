"""Which features of a workload matter for how well it spreads.

By *permutation*: how much worse a leave-one-out kernel regression of the target becomes when one feature's values are dealt out anew among
the runs (Breiman, Machine Learning 45, 2001), as shares that add up to 1. By *correlation*: the absolute rank correlation (Spearman) of
the feature with the target, in [0, 1]; it sees rising and falling relations only, and each feature alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from everloop.core.errors import InvalidInput
from everloop.parallel.features import NAMES
from everloop.parallel.samples import TrainingData

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method = Literal["permutation", "correlation"]
Target = Literal["speedup", "n_jobs", "chunksize"]
NEWEST = 1_000
"""Runs that are looked at: the cost grows with their square."""
_FEWEST = 10
_TIMES = 5


def feature_importance(
    samples: Sequence[TrainingData] | None = None,
    method: Method = "permutation",
    *,
    target: Target = "speedup",
    seed: int = 0,
) -> dict[str, float]:
    """Each of the twelve features, the most important first. `samples`: of this process's history if not given. A feature that was the
    same in every run has 0. Raises InvalidInput for an unknown method or fewer than ten runs."""
    if method not in ("permutation", "correlation"):
        raise InvalidInput(f"method: {method!r} is not one of permutation, correlation", field="method")
    if target not in ("speedup", "n_jobs", "chunksize"):
        raise InvalidInput(f"target: {target!r} is not one of speedup, n_jobs, chunksize", field="target")
    if samples is None:
        from everloop.parallel.history import load_ml_training_data

        samples = load_ml_training_data()
    if len(samples) < _FEWEST:
        raise InvalidInput(
            f"samples: at least {_FEWEST} recorded runs are needed, there are {len(samples)}", field="samples"
        )
    import numpy as np

    samples = samples[-NEWEST:]
    X = np.array([sample.features.to_vector() for sample in samples])
    y = np.log(np.array([getattr(sample, target) for sample in samples], dtype=float))
    scores = _by_permutation(X, y, seed) if method == "permutation" else _by_correlation(X, y)
    ranked = sorted(zip(NAMES, scores.tolist(), strict=True), key=lambda each: -each[1])
    return dict(ranked)


def _by_permutation(X: NDArray[Any], y: NDArray[Any], seed: int) -> NDArray[Any]:
    """X (n, 12), y (n,) -> (12,)."""
    import numpy as np

    spread = X.std(axis=0)
    varied = np.flatnonzero(spread > 1e-9)
    scores = np.zeros(X.shape[1])
    if not len(varied) or y.std() < 1e-9:
        return scores
    Z = X[:, varied] / spread[varied]
    squares = [(Z[:, None, at] - Z[None, :, at]) ** 2 for at in range(len(varied))]
    apart = sum(squares, np.zeros((len(y), len(y))))
    # As wide as a run's few nearest neighbours are away: what is near decides, in dense and in sparse histories.
    nearest = np.sort(apart + np.where(np.eye(len(y), dtype=bool), np.inf, 0.0), axis=1)
    width = max(float(np.median(nearest[:, min(4, len(y) - 2)])), 1e-6)

    def error(distances: NDArray[Any]) -> float:
        weights = np.exp(-distances / (2 * width)) + 1e-12
        np.fill_diagonal(weights, 0.0)
        return float(np.mean((weights @ y / weights.sum(axis=1) - y) ** 2))

    rng, base = np.random.default_rng(seed), error(apart)
    for at, column in enumerate(varied):
        others = apart - squares[at]
        rises = []
        for _ in range(_TIMES):
            dealt = Z[rng.permutation(len(y)), at]
            rises.append(error(others + (dealt[:, None] - Z[None, :, at]) ** 2) - base)
        scores[column] = max(0.0, float(np.mean(rises)))
    return scores / scores.sum() if scores.sum() > 0 else scores


def _by_correlation(X: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """X (n, 12), y (n,) -> (12,)."""
    import numpy as np
    from scipy.stats import rankdata

    ranks, target = rankdata(X, axis=0), rankdata(y)
    ranks, target = ranks - ranks.mean(axis=0), target - target.mean()
    scale = np.sqrt((ranks**2).sum(axis=0) * (target**2).sum())
    shares: NDArray[Any] = np.abs(np.divide(ranks.T @ target, scale, out=np.zeros(X.shape[1]), where=scale > 1e-9))
    return shares

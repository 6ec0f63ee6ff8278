"""Whether higher is better, by a metric's name."""

from __future__ import annotations

import pytest

from everloop.core.errors import InvalidInput
from everloop.registry.best import better_is_higher


@pytest.mark.parametrize(
    "metric", ["accuracy", "val_accuracy", "R2", "roc-auc", "test_macro_f1", "sharpe", "throughput_mb", "top5_accuracy"]
)
def test_higher(metric: str) -> None:
    assert better_is_higher(metric)


@pytest.mark.parametrize(
    "metric",
    ["mse", "val_rmse", "log_loss", "latency_ms", "p99_latency", "size_mb", "accuracy_loss", "test_error", "Brier"],
)
def test_lower(metric: str) -> None:
    assert not better_is_higher(metric)


@pytest.mark.parametrize("metric", ["magic", "", "x_y"])
def test_a_name_that_tells_nothing_is_asked_about(metric: str) -> None:
    with pytest.raises(InvalidInput, match="higher_is_better"):
        better_is_higher(metric)

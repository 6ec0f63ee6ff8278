from __future__ import annotations

import random

import pytest
from tests.parallel.recorded import history_in, run

from everloop.core.errors import InvalidInput
from everloop.parallel.features import NAMES
from everloop.parallel.history import set_history_folder
from everloop.parallel.importance import Method, feature_importance
from everloop.parallel.samples import TrainingData


@pytest.fixture
def samples() -> list[TrainingData]:
    """The speedup follows the item time; the number of items and the size of the results vary, and do not matter."""
    rng = random.Random(4)
    found = []
    for _ in range(150):
        item_time = 10 ** rng.uniform(-6, -1)
        speedup = 2.0 / (1 + 1e-4 / item_time) * rng.uniform(0.95, 1.05)
        features = {"pickle_size": rng.randrange(1, 1_000_000)}
        found.append(
            run(item_time=item_time, data_size=rng.randrange(100, 100_000), speedup=speedup, features=features)
        )
    return found


@pytest.mark.parametrize("method", ["permutation", "correlation"])
def test_the_feature_that_decides_comes_first(samples: list[TrainingData], method: Method) -> None:
    found = feature_importance(samples, method)
    assert set(found) == set(NAMES)
    ranked = list(found)
    assert ranked[0] == "estimated_item_time"
    assert found["estimated_item_time"] > 3 * found[ranked[1]]
    assert found["numa_nodes"] == found["l3_cache_size"] == 0, "what never varied says nothing"
    assert all(0 <= value <= 1 for value in found.values())


def test_permutation_gives_shares_and_the_same_every_time(samples: list[TrainingData]) -> None:
    found = feature_importance(samples)
    assert sum(found.values()) == pytest.approx(1)
    assert feature_importance(samples) == found


def test_permutation_sees_what_correlation_cannot() -> None:
    """Fast in the middle of the range only."""
    rng = random.Random(4)
    found = []
    for _ in range(200):
        exponent = rng.uniform(-6, 0)
        found.append(
            run(
                item_time=10**exponent,
                speedup=3.0 if abs(exponent + 3) < 1 else 1.0,
                data_size=rng.randrange(10, 9_999),
            )
        )
    assert next(iter(feature_importance(found))) == "estimated_item_time"
    assert feature_importance(found)["estimated_item_time"] > 0.8
    assert feature_importance(found, "correlation")["estimated_item_time"] < 0.3


def test_nothing_matters_where_nothing_varies() -> None:
    assert set(feature_importance([run()] * 20).values()) == {0.0}
    assert set(feature_importance([run()] * 20, "correlation").values()) == {0.0}


def test_it_reads_this_process_s_history(tmp_path: object, samples: list[TrainingData]) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    try:
        history = history_in(tmp_path)
        for sample in samples[:20]:
            history.record(sample)
        set_history_folder(tmp_path)
        assert set(feature_importance()) == set(NAMES)
    finally:
        set_history_folder(None)


def test_what_cannot_be_is_named(samples: list[TrainingData]) -> None:
    with pytest.raises(InvalidInput, match="method"):
        feature_importance(samples, "magic")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="target"):
        feature_importance(samples, target="colour")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="at least 10"):
        feature_importance(samples[:9])

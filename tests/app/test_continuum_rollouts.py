"""Rollouts and splits inside a program: the same as over HTTP, by methods."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import everloop
from everloop.core.errors import Conflict, InvalidInput, RolloutNotFound, VersionNotFound
from everloop.core.events import Event


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    from sklearn.linear_model import LinearRegression

    X = np.arange(10.0).reshape(-1, 1)
    return {
        name: Path(everloop.save_model(LinearRegression().fit(X, slope * X[:, 0]), tmp_path / f"{name}.skops"))
        for name, slope in (("two", 2), ("three", 3))
    }


@pytest.fixture
def models() -> Iterator[everloop.Continuum]:
    """A live version 1 (y = 2 x) and a version 2 (y = 3 x) that waits; of a kind that is open at once."""
    with everloop.Continuum(everloop.LearningConfig(min_samples=20, drift_detection=False)) as made:
        made.register_model("m", "linear")
        for slope in (2.0, 3.0):
            rows = [[float(x)] for x in range(200)]
            made.add_training_examples("m", rows, [slope * row[0] for row in rows])
            made.train_model("m")
            registry = made.engine.services.registry
            registry.rename("m", len(registry.versions("m")), f"v{len(registry.versions('m'))}.0")
        made.set_traffic("m", {1: 1.0})
        assert [(v.name, v.version) for v in made.versions("m")] == [("v1.0", 1), ("v2.0", 2)]
        yield made


def answers(models: everloop.Continuum, count: int = 60) -> set[int]:
    return {models.predict("m", [1.0]).model_version for _ in range(count)}


def test_a_version_is_added_promoted_and_rolled_back(files: dict[str, Path]) -> None:
    with everloop.Continuum() as models:
        assert models.add_version("m", files["two"], live=True, version_name="v1.0") == 1
        assert models.add_version("m", files["three"], version_name="v2.0", note="by hand") == 2
        assert models.add_version("m", files["three"]) == 2, "the same bytes are the version that is there"
        assert [(v.name, v.status, v.note) for v in models.versions("m")] == [
            ("v1.0", "live", "from two.skops"),
            ("v2.0", "staging", "by hand"),
        ]
        models.set_alias("m", "next", "v2.0")
        models.promote("m", "next")
        assert models.predict("m", [10.0]).prediction == pytest.approx(30.0)
        assert models.rollback("m") == 1
        assert answers(models) == {1}
        with pytest.raises(InvalidInput, match="there is no file"):
            models.add_version("m", files["two"].with_name("none.skops"))


def test_traffic_is_split_and_users_stay_where_they_are(models: everloop.Continuum) -> None:
    assert models.traffic("m") == {1: 1.0}
    models.set_traffic("m", {"champion": 0.8, "v2.0": 0.2})
    assert models.traffic("m") == {1: 0.8, 2: 0.2}
    before = {f"user {i}": models.predict("m", [1.0], f"user {i}").model_version for i in range(200)}
    assert set(before.values()) == {1, 2}
    models.set_traffic("m", {1: 0.5, 2: 0.5})
    after = {unit: models.predict("m", [1.0], unit).model_version for unit in before}
    assert all(after[unit] == 2 for unit, version in before.items() if version == 2), "growing moves nobody out"
    with pytest.raises(InvalidInput):
        models.set_traffic("m", {1: 0.5})
    assert models.rollback("m") == 1
    assert models.traffic("m") == {1: 1.0}


def test_a_canary_goes_its_way_by_itself(models: everloop.Continuum) -> None:
    ended = threading.Event()

    def on_event(event: Event) -> None:
        if event.kind == "rollout_ended":
            ended.set()

    models.engine.services.bus.subscribe(on_event)
    started = models.start_rollout(
        "m", "v2.0", steps="50%", seconds=0, samples=30, gates={"latency": False}, note="to see"
    )
    assert (started.state, started.share, started.by, started.note) == ("running", 0.5, "python", "to see")
    assert answers(models, 300) == {1, 2}
    assert ended.wait(30)
    told = models.rollout("m")
    assert (told.state, told.verdict) == ("promoted", "promote")
    assert told.evidence is not None
    assert told.evidence.challenger.requests > 30
    models.engine.settle("m", 2)
    assert answers(models) == {2}
    assert [(each.id, each.state) for each in models.rollouts("m")] == [(1, "promoted")]


def test_a_rollout_is_acted_on_by_hand(models: everloop.Continuum) -> None:
    with pytest.raises(RolloutNotFound):
        models.rollout("m")
    models.start_rollout("m", 2, seconds=3600)
    assert models.pause_rollout("m", "looking").state == "paused"
    assert models.resume_rollout("m").state == "running"
    assert models.stop_rollout("m").state == "inconclusive"
    models.start_rollout("m", 2, seconds=3600)
    assert models.promote_rollout("m", "good enough").state == "promoted"
    assert answers(models) == {2}
    models.start_rollout("m", 1, "ab", seconds=3600)
    assert models.roll_back_rollout("m").state == "rolled_back"
    assert answers(models) == {2}
    with pytest.raises(Conflict):
        models.pause_rollout("m")


def test_what_cannot_be_is_refused_in_words(models: everloop.Continuum) -> None:
    with pytest.raises(InvalidInput, match="did you mean 'samples'"):
        models.start_rollout("m", 2, sample=3)
    with pytest.raises(InvalidInput, match="did you mean 'canary'"):
        models.start_rollout("m", 2, "canry")
    with pytest.raises(VersionNotFound, match=r"did you mean 'v2\.0'"):
        models.start_rollout("m", "v2.1")

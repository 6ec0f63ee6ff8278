"""Where a version runs: Python code that takes long has a process of its own, and that process may end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest
from tests.serving.odd import Odd

from everloop.core.errors import ModelFailed
from everloop.core.schema import Schema, Target
from everloop.policy.batching import CostCurve
from everloop.serving import apart
from everloop.serving.apart import ApartSession, belongs_apart, misplaced
from everloop.stores.ports import Manifest, VersionRecord

LIGHT, HEAVY = CostCurve((1, 8), (0.001, 0.1)), CostCurve((1,), (0.2,))
SUMS = Manifest("sklearn", "regression", Schema.unnamed(2), Target("regression"))


class Elsewhere:
    """Tells the process that it runs in."""

    def predict(self, X: Any) -> Any:
        return np.full(len(X), float(os.getpid()))


class Ends:
    """Ends its process at a negative number."""

    def predict(self, X: Any) -> Any:
        if (X[:, 0] < 0).any():
            os._exit(3)
        return X.sum(axis=1)


cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["Elsewhere"]))


def published(kit: Any, model: Any) -> VersionRecord:
    kit.publish("m", [1.0, 1.0], live=False)
    record: VersionRecord = kit.registry.add_version("m", SUMS, cloudpickle.dumps(model), live=True)
    return record


@pytest.mark.parametrize(
    ("isolation", "runtime", "costs", "expected"),
    [
        ("auto", "sklearn", HEAVY, True),
        ("auto", "sklearn", LIGHT, False),
        ("auto", "onnx", HEAVY, False),
        ("thread", "river", HEAVY, False),
        ("process", "river", LIGHT, True),
        ("process", "linear", HEAVY, False),
    ],
)
def test_python_code_that_takes_long_belongs_apart(
    isolation: Any, runtime: str, costs: CostCurve, expected: bool
) -> None:
    assert belongs_apart(isolation, runtime, costs) is expected


def test_auto_leaves_a_version_where_it_was_found_to_belong() -> None:
    for is_apart in (True, False):
        assert not misplaced("auto", "sklearn", is_apart)
        assert misplaced("thread", "sklearn", is_apart) is is_apart
        assert misplaced("process", "sklearn", is_apart) is not is_apart
        assert not misplaced("process", "onnx", is_apart)


@pytest.fixture
def ends(kit: Any) -> Iterator[tuple[ApartSession, list[float]]]:
    now = [1000.0]
    session = ApartSession(published(kit, Ends()), kit.registry, [[1.0, 2.0]], clock=lambda: now[0])
    yield session, now
    session.close()


def test_a_process_that_ends_is_started_again_at_once_and_then_after_a_pause(
    ends: tuple[ApartSession, list[float]],
) -> None:
    session, now = ends
    good, bad = np.array([[1.0, 2.0]]), np.array([[-1.0, 2.0]])
    assert session.run(good).tolist() == [3.0]
    first = session.pid
    with pytest.raises(ModelFailed) as failed:
        session.run(bad)
    assert failed.value.how == "crash"
    assert session.run(good).tolist() == [3.0], "at once"
    assert session.pid != first
    with pytest.raises(ModelFailed):
        session.run(bad)
    with pytest.raises(ModelFailed, match="started again in a moment") as resting:
        session.run(good)
    assert resting.value.how == "crash"
    now[0] += apart.FIRST_PAUSE + 0.1
    assert session.run(good).tolist() == [3.0], "after the pause"


def test_a_model_moves_between_thread_and_process_while_it_serves(kit: Any) -> None:
    published(kit, Elsewhere())
    kit.reconciler.step()
    here = float(os.getpid())
    assert kit.predictor.predict("m", [1.0, 2.0]).prediction == here
    before = kit.table.current.lanes["m"]

    kit.registry.configure("m", {"isolation": "process"})
    kit.reconciler.step()
    lane = kit.table.current.lanes["m"]
    there = kit.predictor.predict("m", [1.0, 2.0]).prediction
    assert there != here
    assert lane.session.pid == there
    assert before.retired
    kit.reconciler.step()
    assert kit.table.current.lanes["m"] is lane, "it is where it belongs"

    kit.registry.configure("m", {"isolation": "thread"})
    kit.reconciler.step()
    assert kit.predictor.predict("m", [1.0, 2.0]).prediction == here
    kit.reconciler.stop()


def test_what_cannot_be_opened_apart_stays_on_its_thread_unless_a_process_was_asked_for(
    kit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = published(kit, Odd())
    here = object()

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(apart, "RemoteSession", refuse)
    assert apart.moved_apart(here, "auto", record, kit.registry, ()) is here  # type: ignore[arg-type,comparison-overlap]
    assert "no more processes" in caplog.text
    with pytest.raises(OSError, match="no more processes"):
        apart.moved_apart(here, "process", record, kit.registry, ())  # type: ignore[arg-type]

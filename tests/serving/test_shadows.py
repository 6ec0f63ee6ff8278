"""Shadows come and go as the registry wants, and nothing of them is left over."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from everloop.core.errors import ModelFailed
from everloop.policy.rollout import Gates
from everloop.registry.rollouts import Rollouts, plan_of


@pytest.fixture
def two(kit: Any) -> Any:
    """A model `m` with version 1 live, and versions 2 and 3 waiting."""
    for slope in (1.0, 2.0, 3.0):
        kit.publish("m", [slope], live=slope == 1.0)
    kit.reconciler.step()
    return kit


def versions(kit: Any) -> list[int]:
    return [shadow.version for shadow in kit.reconciler.shadows.all()]


def running() -> int:
    return sum(thread.name.startswith("everloop-shadow") for thread in threading.enumerate())


def test_one_is_there_while_the_registry_wants_it(two: Any) -> None:
    two.registry.set_traffic("m", {1: 1.0}, shadow=2)
    two.reconciler.step()
    assert versions(two) == [2]
    (first,) = two.reconciler.shadows.all()
    two.reconciler.step()
    assert two.reconciler.shadows.all() == [first], "it stays the same one"
    two.registry.set_traffic("m", {1: 1.0}, shadow=3)
    two.reconciler.step()
    assert versions(two) == [3]
    assert first.observed().state == "closed"
    assert running() == 1
    two.registry.set_traffic("m", {1: 1.0})
    two.reconciler.step()
    assert versions(two) == []
    assert running() == 0
    assert not two.recorder.audience.watched("m")


@pytest.mark.parametrize("how", ["promoted", "unregistered", "stopped"])
def test_it_goes_with_whatever_it_was_for(two: Any, how: str) -> None:
    two.registry.set_traffic("m", {1: 1.0}, shadow=2)
    two.reconciler.step()
    assert versions(two) == [2]
    if how == "promoted":
        two.registry.promote("m", 2)
    elif how == "unregistered":
        two.registry.unregister("m")
    else:
        two.reconciler.stop()
    two.reconciler.step() if how != "stopped" else None
    assert versions(two) == []
    assert running() == 0


def test_a_rollout_has_a_shadow_of_its_own_with_its_own_patience(two: Any) -> None:
    two.registry.set_traffic("m", {1: 1.0}, shadow=2)
    two.reconciler.step()
    (before,) = two.reconciler.shadows.all()
    two.registry.set_traffic("m", {1: 1.0})
    Rollouts(two.registry).start("m", 2, plan_of("shadow", gates=Gates(timeout=0.7)), by="test")
    two.reconciler.step()
    (shadow,) = two.reconciler.shadows.all()
    assert shadow is not before, "its counts begin with the rollout"
    assert shadow.rules.timeout == 0.7
    shadows = two.reconciler.shadows
    two.predictor.predict("m", [4.0])
    two.recorder.drain()
    seen = shadows.observed("m", 2)
    assert seen is not None
    assert (seen.version, seen.offered) == (2, 1)
    assert shadows.observed("m", 3) is None
    assert shadows.answers("m", 3, [[1.0]]) is None
    assert shadows.answers("other", 2, [[1.0]]) is None
    shadow.close()
    with pytest.raises(ModelFailed, match="is down"):
        shadows.answers("m", 2, [[1.0]])


def test_a_restart_in_the_middle_of_a_rollout_opens_it_again(two: Any) -> None:
    Rollouts(two.registry).start("m", 2, plan_of("shadow"), by="test")
    two.reconciler.step()
    two.reconciler.stop()
    assert running() == 0
    two.reconciler.step()
    assert versions(two) == [2]

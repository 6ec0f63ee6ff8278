"""What the background optimiser is told of a model by the rooms above."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from everloop.app.build import Engine, build_engine
from everloop.app.settings import EngineSettings
from everloop.app.surroundings import Surroundings
from everloop.core.errors import InvalidInput
from everloop.learning.config import LearningConfig
from everloop.optimization.config import OptimizeConfig


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = build_engine(EngineSettings(learning=LearningConfig(min_samples=20)))
    made.start(learning=False)
    yield made
    made.stop()


def around(engine: Engine, **config: Any) -> Surroundings:
    services, settings = engine.services, engine.settings
    return Surroundings(
        services.journal,
        services.table,
        services.clock,
        optimize=OptimizeConfig(**config),
        serving=settings.serving,
        learning=settings.learning,
    )


def test_a_model_says_more_than_the_server(engine: Engine) -> None:
    quiet = engine.register("quiet", "linear")
    bold = engine.register("bold", "linear", serving={"optimize": "int8"})
    never = engine.register("never", "linear", serving={"optimize": "off"})
    off, on, int8 = around(engine), around(engine, on_publish=True), around(engine, on_publish=True, int8=True)
    assert [each.mode(quiet) for each in (off, on, int8)] == ["off", "float", "int8"]
    assert [each.mode(bold) for each in (off, on, int8)] == ["int8"] * 3
    assert [each.mode(never) for each in (off, on, int8)] == ["off"] * 3


def test_a_form_goes_out_as_what_the_model_learns_does(engine: Engine) -> None:
    ways = around(engine)
    nobody_asks = ways.way(engine.register("a", "linear"))
    assert (nobody_asks.live, nobody_asks.plan) == (True, None)
    waits = ways.way(engine.register("b", "linear", learning={"auto_swap": False}))
    assert (waits.live, waits.plan) == (False, None)
    canary = ways.way(engine.register("c", "linear", rollout={"strategy": "canary", "steps": "10,50"}))
    assert not canary.live
    assert canary.plan is not None
    assert canary.plan.strategy == "canary"


def test_the_sizes_that_this_process_has_answered(engine: Engine) -> None:
    engine.register("m", "linear")
    engine.services.intake.accept_now("m", _line())
    engine.services.loop.train_now("m")
    engine.settle("m", 1)
    ways = around(engine)
    assert ways.sizes("nobody") == {}
    for _ in range(3):
        engine.services.predictor.predict("m", [1.0])
    assert ways.sizes("m") == {1: 3}


def _line() -> Any:
    from everloop.learning.intake import Feedback

    return [Feedback(2.0 * x, features=[float(x)]) for x in range(40)]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"min_examples": 5}, "min_examples"),
        ({"min_examples": 600, "max_examples": 500}, "min_examples"),
        ({"max_examples": 10**7}, "max_examples"),
        ({"settle_sec": -1.0}, "settle_sec"),
        ({"max_seconds": 0.0}, "max_seconds"),
    ],
)
def test_what_makes_no_sense_is_refused(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        OptimizeConfig(**config)
    assert refused.value.field == field

"""One attempt for real: in a process of its own, from a fitted estimator to a version that answers alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from everloop.app.build import build_engine
from everloop.app.settings import EngineSettings
from everloop.core.schema import Field, Schema, Target
from everloop.optimization.config import OptimizeConfig
from everloop.optimization.job import Job, Outcome, Running, make
from everloop.runtime.artifact import Trust
from everloop.stores.ports import Manifest

SCHEMA = Schema((Field("a", "number"),))
MANIFEST = Manifest("sklearn", "regression", SCHEMA, Target("regression", "number"))


def job(**more: Any) -> Job:
    given = {"rows": [[1.0]], "labels": None, "int8": False, "sizes": {}, "seconds": 60.0, "trust": Trust()} | more
    return Job.of(MANIFEST, b"no model", **given)


def test_whatever_goes_wrong_in_there_comes_back_in_words() -> None:
    outcome = msgspec.msgpack.decode(make(msgspec.msgpack.encode(job())), type=Outcome)
    assert outcome.manifest is None
    assert outcome.error


def test_an_attempt_that_is_killed_is_gone_on_return() -> None:
    ended = threading.Event()
    running = Running(job(), ended.set)
    running.kill()
    running.kill()
    assert ended.is_set()
    assert running.poll()
    assert running.outcome().manifest is None


def test_one_that_takes_too_long_is_given_up() -> None:
    ended = threading.Event()
    running = Running(job(seconds=1e-6), ended.set, niceness=0)
    assert ended.wait(60.0)
    assert running.poll()
    outcome = running.outcome()
    assert outcome.error or outcome.stopped


def test_a_fitted_estimator_becomes_a_faster_version_that_answers_alike() -> None:
    from sklearn.naive_bayes import GaussianNB  # whose answers nothing compiles by itself

    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    estimator = GaussianNB().fit(X, X[:, 0] > X[:, 1])
    config = OptimizeConfig(on_publish=True, min_examples=50, settle_sec=0.0, max_seconds=60.0)
    engine = build_engine(EngineSettings(optimize=config))
    services = engine.services

    def begin(job: Job, on_end: Callable[[], None]) -> Running:
        """At once: the machine that tests share is never idle."""
        return Running(msgspec.structs.replace(job, open_apart=False), on_end, niceness=0)

    services.optimizer._begin = begin
    published = threading.Event()
    services.bus.subscribe(lambda event: published.set() if event.kind in ("optimized", "not_optimized") else None)
    engine.start(learning=False)
    try:
        engine.register("m", estimator, rollout={"strategy": "immediate"})
        before = [services.predictor.predict("m", row.tolist()).prediction for row in X]
        services.recorder.drain()
        services.optimizer.ask("m")
        assert published.wait(120.0)
        timeline = services.registry.timeline("m")
        versions = services.registry.versions("m")
        assert [version.status for version in versions] == ["retired", "live"], [e.message for e in timeline]
        assert versions[1].manifest.runtime != "sklearn"
        engine.settle("m", 2)
        after = [services.predictor.predict("m", row.tolist()) for row in X]
        assert [answer.prediction for answer in after] == before
        assert {answer.model_version for answer in after} == {2}
    finally:
        engine.stop()

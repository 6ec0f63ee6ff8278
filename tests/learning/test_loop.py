"""The loop as a whole: what a user sees of learning, in simulated time, with real learners."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin

from everloop.core.clock import SystemClock
from everloop.core.errors import Conflict, InvalidInput, ModelNotFound, Overloaded
from everloop.learning.loop import LearningLoop


def test_the_seed_both_slopes_are_learned(any_room: Any, lines: Any) -> None:
    room = any_room
    room.register("m", "linear")
    room.feed("m", *lines(50, 1.0, seed=1))
    room.settle(3)
    assert room.live("m") == 1
    assert room.answer("m", [10.0]) == pytest.approx(10, abs=0.3)
    room.feed("m", *lines(50, 2.0, seed=2))
    room.settle(5)
    assert room.live("m") >= 2
    assert room.answer("m", [10.0]) == pytest.approx(20, abs=0.3)
    assert len(room.told("drift")) == 1


@pytest.mark.parametrize("seed", range(8))
def test_the_seed_label_by_label(room: Any, lines: Any, seed: int) -> None:
    """Labels that trickle in one by one, each learned at once, end at the same slopes."""
    room.register("m", "linear")
    for slope in (1.0, 2.0):
        for x, y in zip(*lines(50, slope, seed=10 * seed + int(slope)), strict=True):
            room.feed("m", [x], [y])
            room.settle()
        room.settle(5)
        assert room.answer("m", [10.0]) == pytest.approx(10 * slope, abs=0.4)


def test_drift_cuts_the_window_and_is_told(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    room.feed("m", *lines(500, 1.0, seed=1))
    room.settle(4)
    room.feed("m", *lines(60, -1.0, seed=2))
    room.settle(4)
    (alarm,) = room.told("drift")
    assert alarm.data["since"] == pytest.approx(60, abs=3)
    assert alarm.data["after"] > alarm.data["before"]
    published = room.told("published")[-1]
    lineage = room.registry.version("m", published.version).manifest.lineage
    assert lineage["reason"] in ("drift", "recovery")
    assert lineage["first_id"] >= 497, "nothing of the old concept was trained on"
    assert room.answer("m", [10.0]) == pytest.approx(-10, abs=0.5)
    assert room.loop.status("m").window <= 63


def test_the_held_out_rows_were_seen_by_neither(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    room.config.rule = "fresh"
    room.feed("m", *lines(100, 1.0, seed=1, noise=1.0))
    room.settle()
    room.feed("m", *lines(100, 1.0, seed=2, noise=1.0))
    room.settle(4)
    started = room.told("fit_started")
    assert len(started) == 2
    first = room.registry.version("m", 1).manifest.lineage
    assert first["last_id"] == 100
    assert started[1].data["held_out"] <= 50, "at most half of what the champion has not seen"


def test_a_challenger_that_is_no_better_does_not_serve(room: Any) -> None:
    """Labels become noise: nothing can be learned from them, and nothing worse is published."""
    rng = np.random.default_rng(5)
    room.config.drift_detection = False
    room.register("m", "linear")
    X = rng.normal(size=(300, 2))
    room.feed("m", X, X @ [3.0, -2.0] + rng.normal(0, 1.0, 300))
    room.settle()
    assert room.live("m") == 1
    for _ in range(4):
        X = rng.normal(size=(40, 2))
        room.feed("m", X, X @ [3.0, -2.0] + rng.normal(0, 1.0, 40))
        room.settle(4)
    assert room.live("m") == 1
    assert room.told("rejected")
    assert "not shown to be better" in room.told("rejected")[0].message
    status = room.loop.status("m")
    assert status.last_error == ""  # a verdict that says no is not a failure
    assert "not shown to be better" in status.last_verdict


def test_rounding_errors_are_no_reason_to_swap(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    for seed in range(30):
        room.feed("m", *lines(40, 3.0, seed=seed, noise=0.0))
        room.settle(4)
    assert len(room.registry.versions("m")) == 1


def test_fresh_publishes_what_is_about_as_good(room: Any, lines: Any) -> None:
    room.config.rule = "fresh"
    room.config.validation_threshold = 0.5
    room.register("m", "linear")
    room.feed("m", *lines(100, 1.0, seed=1))
    room.settle()
    room.feed("m", *lines(100, 1.0, seed=2))
    room.settle(4)
    assert room.live("m") == 2


def test_without_auto_swap_a_challenger_waits(room: Any, lines: Any) -> None:
    room.config.auto_swap = False
    room.register("m", "linear")
    room.feed("m", *lines(60, 1.0, seed=1))
    room.settle()
    assert room.live("m") == 1, "there is nobody to challenge yet"
    room.feed("m", *lines(60, 3.0, seed=2))
    room.settle(4)
    assert room.live("m") == 1
    assert any(v.status == "staging" for v in room.registry.versions("m"))


def test_of_challengers_that_are_no_better_than_the_one_that_waits_there_is_no_pile(room: Any, lines: Any) -> None:
    room.config.auto_swap = False
    room.register("m", "linear")
    room.feed("m", *lines(200, 1.0))
    room.settle(4)
    for seed in range(15):
        room.feed("m", *lines(40, 3.0, seed=seed + 1))
        room.settle(4)
    waiting = [version for version in room.registry.versions("m") if version.status == "staging"]
    assert room.live("m") == 1
    assert 1 <= len(waiting) <= 4
    room.registry.promote("m", waiting[-1].version)
    room.settle(4)
    assert room.answer("m", [10.0]) == pytest.approx(30.0, abs=0.5)


def test_joined_labels_judge_what_was_served(room: Any, lines: Any) -> None:
    """Quality counts for the version that answered; answers of an older version are no sign of drift of the new one."""
    room.register("m", "linear")
    room.feed("m", *lines(100, 1.0, seed=1))
    room.settle()
    X, _ = lines(200, 1.0, seed=3)
    ids = room.predict("m", X.tolist())
    room.label("m", ids[:50], 4.0 * X[:50, 0])
    room.settle(4)
    assert room.live("m") >= 2
    alarms = len(room.told("drift"))
    room.label("m", ids[50:], 4.0 * X[50:, 0])  # answered by version 1, labelled under version 2 or later
    room.settle(4)
    assert len(room.told("drift")) == alarms
    versions = room.loop.status("m").quality["versions"]
    assert versions["1"]["n"] == 200
    assert room.answer("m", [10.0]) == pytest.approx(40, abs=1.0)


def test_validation_examples_are_never_trained_on(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    X, y = lines(100, 1.0, seed=1)
    room.feed("m", X, y)
    room.feed("m", *lines(50, 100.0, seed=2), validation=True)
    room.settle(4)
    assert room.answer("m", [10.0]) == pytest.approx(10, abs=0.3)
    assert room.loop.status("m").window == 100
    assert room.loop.status("m").examples_learned == 150


def test_settings_changed_later_take_effect(room: Any, lines: Any) -> None:
    room.config.min_samples = 1000
    room.register("m", "linear")
    room.feed("m", *lines(60, 1.0))
    room.settle(2)
    assert room.live("m") is None
    room.config.min_samples = 50
    room.settle(2)
    assert room.live("m") == 1


def test_a_model_may_have_settings_of_its_own(room: Any, lines: Any) -> None:
    room.register("eager", "linear", learning={"min_samples": 10})
    room.register("patient", "linear", learning={"min_samples": 500})
    for name in ("eager", "patient"):
        room.feed(name, *lines(60, 1.0))
    room.settle()
    assert (room.live("eager"), room.live("patient")) == (1, None)


def test_train_now_publishes_and_says_what_it_thinks(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    with pytest.raises(InvalidInput, match="no labelled examples"):
        room.loop.train_now("m")
    room.feed("m", *lines(1, 1.0))
    with pytest.raises(InvalidInput, match="at least 2"):
        room.loop.train_now("m")
    room.feed("m", *lines(9, 1.0, seed=3))
    assert room.loop.train_now("m").version == 1
    again = room.loop.train_now("m")
    assert again.version == 2
    assert again.manifest.lineage["held_out_seen_by_parent"]
    assert "verdict" in again.manifest.lineage
    with pytest.raises(ModelNotFound, match="did you mean 'm'"):
        room.loop.train_now("mm")


def test_a_classifier_with_one_class_waits_for_a_second(room: Any) -> None:
    room.register("m", "logistic")
    rng = np.random.default_rng(0)
    room.feed("m", rng.normal(2, 1, (60, 1)), ["good"] * 60)
    room.settle(3)
    assert room.live("m") is None
    assert not room.told("fit_failed")
    X = rng.normal(0, 2, (100, 1))
    room.feed("m", X, ["good" if x > 0 else "bad" for x in X[:, 0]])
    room.settle(3)
    assert room.live("m") is not None
    assert room.answer("m", [-4.0]) == "bad"


def test_classification_drift_is_recovered_from(room: Any) -> None:
    rng = np.random.default_rng(0)
    room.register("m", "logistic")
    X = rng.normal(size=(400, 2))
    room.feed("m", X, (X[:, 0] > 0).astype(int))
    room.settle(4)
    X = rng.normal(size=(300, 2))
    for start in range(0, 300, 20):
        room.feed("m", X[start : start + 20], (X[start : start + 20, 1] < 0).astype(int))
        room.settle(1)
    assert room.told("drift")
    X = rng.normal(size=(200, 2))
    right = np.mean([room.answer("m", x.tolist()) == int(x[1] < 0) for x in X])
    assert right > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_an_incremental_learner_that_never_forgets_is_replaced(room: Any, seed: int) -> None:
    """After the change a fresh one is fitted, again and again if the first has too few rows to prove itself."""
    from sklearn.naive_bayes import GaussianNB

    rng = np.random.default_rng(seed)
    room.loop.attach("m", room.register("m", GaussianNB()))
    for flip in (False, True):
        X = rng.normal(size=(1500 if not flip else 600, 2))
        y = ((X[:, 0] + 0.3 * rng.normal(size=len(X)) > 0) ^ flip).astype(int)
        for start in range(0, len(X), 20):
            room.feed("m", X[start : start + 20], y[start : start + 20])
            room.settle(1)
    assert room.told("drift")
    live = room.registry.live("m")
    X = rng.normal(size=(500, 2))
    answers = room.registry.open_session(live).run(X)
    assert np.mean(answers == (X[:, 0] <= 0)) > 0.85
    assert room.loop.status("m").examples_learned == 2100
    assert len(room.registry.versions("m")) < 15


def test_snapshots_of_an_incremental_learner_are_judged_by_what_they_had_not_learned(room: Any) -> None:
    from river import linear_model

    rng = np.random.default_rng(0)
    room.loop.attach("m", room.register("m", linear_model.LinearRegression(intercept_lr=0.1)))
    for _ in range(20):
        X = rng.normal(size=(60, 2))
        room.feed("m", X, X @ [3.0, -2.0])
        room.settle(4)
    versions = room.registry.versions("m")
    assert len(versions) > 2
    assert len(room.told("fit_started")) == 1
    assert versions[-1].manifest.metrics["mae"] < versions[0].manifest.metrics["mae"]
    assert room.answer("m", [1.0, 1.0]) == pytest.approx(1.0, abs=0.05)


def test_a_model_without_a_learner_is_watched(room: Any, lines: Any) -> None:
    room.register("teacher", "linear")
    X, y = lines(100, 1.0, seed=1)
    room.feed("teacher", X, y)
    room.settle()
    taught = room.registry.live("teacher")
    manifest, payload = taught.manifest, room.registry.payload(taught)
    manifest = type(manifest)(manifest.runtime, manifest.task, manifest.schema, manifest.target)
    room.registry.register("file", "artifact", task="regression", schema=manifest.schema, target=manifest.target)
    room.registry.add_version("file", manifest, payload, live=True)
    room.feed("file", *lines(200, 1.0, seed=2))
    room.settle()
    room.feed("file", *lines(100, 2.0, seed=3))
    room.settle(5)
    status = room.loop.status("file")
    assert status.quality["n"] == 300
    assert len(room.told("drift", "file")) == 1
    assert not room.told("fit_started", "file")
    assert room.live("file") == 1
    assert room.loop.backlog("file") == 0
    with pytest.raises(InvalidInput, match="no learner"):
        room.loop.train_now("file")


def test_inputs_that_change_are_told_without_labels(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    room.feed("m", *lines(300, 1.0, seed=1))
    room.settle()
    same, _ = lines(1200, 1.0, seed=2)
    room.predict("m", same.tolist())
    room.settle(6)
    assert not room.told("input_drift")
    room.predict("m", (same + 6.0).tolist())
    room.settle(6)
    (event,) = room.told("input_drift")
    assert list(event.data["features"]) == ["x0"]
    assert room.loop.status("m").input_drift["drifted"]


def test_a_fitted_incremental_estimator_learns_on(room: Any, lines: Any) -> None:
    from sklearn.linear_model import SGDRegressor

    X, y = lines(2000, 1.0, seed=1)
    learner = room.register("m", SGDRegressor(random_state=0, eta0=0.005).fit(X, y))
    manifest, payload = learner.freeze()
    room.registry.add_version("m", manifest, payload, live=True)
    room.loop.attach("m", learner)
    before = room.answer("m", [10.0])
    room.feed("m", *lines(20, 1.0, seed=2))
    room.settle()
    seat = room.loop._seats["m"]
    assert seat.trainer.memory.apprentice.unpublished == 20
    assert not room.told("fit_started")
    assert room.answer("m", [10.0]) == before
    assert learner.predict([[10.0]]) == [pytest.approx(before)], "the learner that was given is not touched"


def test_one_models_trouble_is_its_own(room: Any, lines: Any) -> None:
    learner = room.register("bad", "linear")

    class Broken:
        kind, task, incremental, weight = learner.kind, learner.task, True, "light"

        def clone(self) -> Any:
            return self

        def fit(self, *_: Any) -> None: ...

        def predict(self, rows: Any) -> list[float]:
            return [0.0 for _ in rows]

        def learn(self, *_: Any) -> None:
            raise ZeroDivisionError("the learner's own bug")

        def freeze(self) -> Any:
            raise KeyError("another")

        def dump(self) -> bytes:
            return b""

        def restore(self, data: bytes) -> None: ...

    room.loop.attach("bad", Broken())
    room.register("good", "linear")
    for name in ("bad", "good"):
        room.feed(name, *lines(60, 1.0))
    room.settle(3)
    assert room.live("good") == 1
    assert room.live("bad") is None
    failed = room.told("fit_failed", "bad") + room.told("learner_failed", "bad")
    assert failed
    assert "bug" in failed[0].message or "another" in failed[0].message
    assert room.loop.alive


def test_a_failing_fit_is_told_backed_off_and_loses_nothing(room: Any, lines: Any) -> None:
    from sklearn.linear_model import LinearRegression

    class Moody(LinearRegression):  # type: ignore[misc]
        failures = 3

        def fit(self, X: Any, y: Any) -> Any:
            if Moody.failures:
                Moody.failures -= 1
                raise RuntimeError("not in the mood")
            return super().fit(X, y)

    room.config.min_samples = 60  # one window to try
    room.loop.attach("m", room.register("m", Moody()))
    room.feed("m", *lines(60, 1.0))
    room.settle()
    assert len(room.told("fit_failed")) == 1
    assert "not in the mood" in room.told("fit_failed")[0].message
    assert room.loop.status("m").failures == 1
    room.settle(20)
    assert len(room.told("fit_failed")) == 3
    assert room.live("m") == 1
    assert room.registry.version("m", 1).manifest.lineage["count"] == 60
    assert room.loop.status("m").failures == 0


def test_a_version_that_cannot_be_stored_is_tried_again(room: Any, lines: Any) -> None:
    from everloop.core.errors import StoreUnavailable

    room.register("m", "linear")
    original, failures = room.artifacts.put, iter(range(2))

    def full(payload: bytes) -> str:
        if next(failures, None) is not None:
            raise StoreUnavailable("the disk is full")
        return str(original(payload))

    room.artifacts.put = full
    room.feed("m", *lines(60, 1.0))
    room.settle(10)
    assert [event.data["error"] for event in room.told("fit_failed")] == ["the disk is full"] * 2
    assert room.live("m") == 1


def test_what_is_known_can_be_looked_at_after_the_stop(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    room.feed("m", *lines(60, 1.0, seed=1))
    room.settle()
    room.feed("m", *lines(20, 1.0, seed=2))
    room.settle()
    room.loop.stop()
    assert room.loop.status("m").quality["n"] == 20
    room.feed("m", *lines(20, 1.0, seed=3))
    assert room.loop.backlog("m") == 20
    room.settle()
    assert room.loop.status("m").quality["n"] == 40


def test_the_queue_is_bounded(room: Any, lines: Any) -> None:
    room.config.max_queue_size = 100
    room.register("m", "linear")
    room.loop.add("m")
    room.feed("m", *lines(100, 1.0))
    with pytest.raises(Overloaded) as refused:
        room.feed("m", *lines(1, 1.0))
    assert refused.value.retry_after
    room.settle()
    room.feed("m", *lines(1, 1.0))
    assert room.loop.backlog("m") == 1


def test_of_two_loops_over_one_journal_one_learns(any_room: Any, lines: Any) -> None:
    room = any_room
    other = room.again(owner="two")
    room.register("m", "linear")
    room.feed("m", *lines(60, 1.0, seed=1))
    room.settle()
    other.settle(2)
    assert room.live("m") == 1
    assert not other.events
    assert not other.loop.status("m").learns_here
    other.config.max_queue_size = 10
    with pytest.raises(Conflict, match="another process"):
        other.loop.train_now("m")

    room.loop.stop()  # saves, and gives the lease back
    other.feed("m", *lines(60, 2.0, seed=2))
    other.settle(4)
    assert other.live("m") == 2
    assert other.loop.status("m").examples_learned == 120
    other.loop.close()


def test_a_lease_that_ran_out_is_taken_over(room: Any, lines: Any) -> None:
    other = room.again(owner="two")
    room.register("m", "linear")
    room.feed("m", *lines(60, 1.0, seed=1))
    room.settle(2)  # then it is never heard of again
    room.feed("m", *lines(60, 2.0, seed=2))
    other.settle(30)
    assert other.live("m") == 2
    assert other.loop.status("m").examples_learned == 120
    # And should it wake up, it does not believe that it is still the one.
    assert not room.loop.step()
    assert not room.loop.status("m").learns_here
    other.loop.close()


def test_a_rollback_by_hand_is_respected(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    room.feed("m", *lines(60, 1.0, seed=1))
    room.settle()
    room.feed("m", *lines(60, 2.0, seed=2))
    room.settle(4)
    assert room.live("m") == 2
    room.registry.rollback("m")
    room.settle(4)
    assert room.live("m") == 1
    assert room.loop.status("m").drift["version"] == 1


def test_a_removed_model_is_not_learned_and_one_of_the_same_name_starts_anew(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    room.feed("m", *lines(60, 1.0))
    room.settle()
    room.loop.remove("m")
    room.feed("m", *lines(60, 1.0))
    room.settle(3)
    assert room.loop.status("m").examples_learned == 0
    room.registry.unregister("m")
    room.journal.forget_model("m")
    room.clock.advance(1)
    room.register("m", "linear")
    room.feed("m", [[1.0, 2.0]] * 40, np.arange(40.0))
    room.settle(2)
    assert room.loop.status("m").examples_learned == 40
    room.loop.remove("never heard of")


# -- the thread --------------------------------------------------------------------------------------------------------


def threaded(room: Any) -> LearningLoop:
    room.clock = SystemClock()
    import random

    loop = LearningLoop(
        room.registry, room.journal, room.config, room.bus, SystemClock(), owner="thread", trust=room.loop._workshop.trust,
        rng=random.Random(0),
    )  # fmt: skip
    room.intake._wake = loop.wake
    return loop


def test_it_learns_in_the_background_and_survives_who_started_it(room: Any, lines: Any) -> None:
    loop = threaded(room)
    published = threading.Event()
    room.bus.subscribe(lambda event: published.set() if event.kind == "published" else None)
    room.register("m", "linear")
    starter = threading.Thread(target=loop.start)
    starter.start()
    starter.join(10)
    loop.start()
    assert sum(thread.name == "everloop-learning" for thread in threading.enumerate()) == 1
    assert loop.running
    room.feed("m", *lines(60, 1.0))
    assert published.wait(20)
    loop.stop()
    loop.stop()
    assert not loop.running
    assert loop.alive
    checkpoint = room.journal.load_checkpoint("m")
    assert checkpoint is not None
    assert checkpoint.cursor == 60
    loop.start()
    assert loop.running
    loop.close()
    assert not any(thread.name == "everloop-learning" for thread in threading.enumerate())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_not_called_alive(room: Any) -> None:
    loop = threaded(room)

    def die() -> int:
        raise SystemExit

    room.registry.revision = die
    loop.start()
    thread = loop._thread._thread
    assert thread is not None
    thread.join(10)
    assert not loop.alive
    assert not loop.running
    del room.registry.revision
    loop.start()
    assert loop.alive
    loop.close()


def test_a_store_that_is_away_for_a_while_does_not_end_the_loop(room: Any, lines: Any) -> None:
    loop = threaded(room)
    failing, working = threading.Event(), threading.Event()
    original = room.registry.revision
    failures = iter(range(2))

    def flaky() -> int:
        if next(failures, None) is not None:
            failing.set()
            raise OSError("the disk is gone")
        working.set()
        return int(original())

    room.registry.revision = flaky
    loop.start()
    assert failing.wait(10)
    assert working.wait(20)
    assert loop.alive
    assert "disk" in loop.last_error
    loop.close()


class Elsewhere(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Answers with the id of the process that fitted it."""

    def fit(self, X: Any, y: Any) -> Elsewhere:
        self.n_features_in_ = X.shape[1]
        self.pid_ = float(os.getpid())
        return self

    def predict(self, X: Any) -> np.ndarray:
        return np.full(len(X), self.pid_)


def test_a_heavy_fit_runs_elsewhere_while_steps_go_on(lines: Any) -> None:
    from tests.learning.conftest import memory_room

    room = memory_room(inline=False)
    try:
        room.loop.attach("m", room.register("m", Elsewhere()))
        room.config.min_samples = 300
        room.feed("m", *lines(300, 1.0))
        room.loop.step()
        room.loop.step()
        assert room.loop.status("m").is_training
        room.feed("m", *lines(20, 1.0, seed=4))
        assert room.loop.step()
        room.settle()
        version = room.registry.live("m")
        assert version is not None
        assert version.manifest.lineage["where"] == "process"
        assert room.answer("m", [0.0]) != os.getpid()
        assert room.loop.status("m").examples_learned == 320
    finally:
        room.close()


def test_names_texts_and_missing_values_are_learned_from_and_watched(any_room: Any) -> None:
    from river import compose, linear_model, preprocessing

    from everloop.learning.intake import Feedback

    room = any_room
    rng = np.random.default_rng(0)
    model = compose.Pipeline(
        compose.TransformerUnion(
            compose.Pipeline(compose.SelectType(str), preprocessing.OneHotEncoder()),
            compose.SelectType(float),
        ),
        linear_model.LinearRegression(intercept_lr=0.1),
    )
    room.loop.attach("m", room.register("m", model))

    def examples(n: int, colours: tuple[str, ...]) -> list[Feedback]:
        made = []
        for _ in range(n):
            colour, size = str(rng.choice(colours)), float(rng.uniform(0, 1))
            missing = rng.uniform() < 0.2
            label = {"red": 1.0, "blue": -1.0}.get(colour, 0.0) + size
            made.append(Feedback(label, features={"colour": colour, "size": None if missing else size}))
        return made

    first = examples(300, ("red", "blue"))
    assert all(isinstance(outcome, int) for outcome in room.intake.accept_now("m", first).outcomes)
    room.settle(2)
    assert room.live("m") == 1, [event.message for event in room.events]
    assert room.answer("m", ["red", 0.5]) > room.answer("m", ["blue", 0.5]) + 1
    assert room.loop.status("m").window == 300
    room.intake.accept_now("m", examples(100, ("red", "blue")))
    room.settle(4)
    assert room.loop.status("m").quality["mae"] < 0.6
    # Another process takes over, with the rows from the journal.
    other = room.again(owner="one")
    other.settle(2)
    assert other.loop.status("m").examples_learned == 400
    assert not other.told("learner_failed")
    other.loop.close()

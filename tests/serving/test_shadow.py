"""Shadows: real models in real processes. Whatever they do, answers are right and soon, every row is counted, and nothing is left over."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.odd import Broken, Odd

from everloop.core.errors import InvalidInput, ModelFailed, Untrusted
from everloop.core.schema import Field, Schema, Target
from everloop.core.types import Label, PredictionRecord
from everloop.policy.shadowing import ShadowRules
from everloop.runtime.artifact import Trust
from everloop.serving.backlog import Backlog
from everloop.serving.recorder import Recorder
from everloop.serving.shadow import Shadow, open_shadow
from everloop.stores.ports import Manifest, VersionRecord

NUMBERS = Schema.unnamed(2)
PATIENT = ShadowRules(
    cpu_share=1.0,
    rows_per_second=1e6,
    max_age=1e6,
    batch_rows=4,
    timeout=30.0,
    memory_bytes=1 << 30,
    max_failures=3,
    niceness=0,  # so that a busy machine does not keep the tests waiting
)


class Stage:
    """A model `m` whose version 1 answers twice the first value, and shadows of it; its clock stands still."""

    def __init__(self, kit: Any) -> None:
        self.kit = kit
        self.shadows: list[Shadow] = []
        kit.publish("m", [2.0, 0.0])
        kit.reconciler.step()

    def add(self, model: Any) -> VersionRecord:
        manifest = Manifest("sklearn", "regression", NUMBERS, Target("regression"))
        return self.kit.registry.add_version("m", manifest, cloudpickle.dumps(model), live=False)

    def shadow(self, model: Any, rules: ShadowRules = PATIENT) -> Shadow:
        """One whose steps the test makes."""
        record = model if isinstance(model, VersionRecord) else self.add(model)
        registry = self.kit.registry
        shadow = Shadow(record, registry.get("m"), registry, self.kit.recorder, self.kit.bus, rules=rules)
        self.shadows.append(shadow)
        return shadow

    def ask(self, firsts: Sequence[float]) -> list[float]:
        """The answers to rows that begin so; the recorder has shown them."""
        answers = [self.kit.predictor.predict("m", [float(first), 1.0]).prediction for first in firsts]
        self.kit.recorder.drain()
        return answers

    def perform(self, shadow: Shadow, until: Callable[[], bool] = lambda: False) -> None:
        """Steps until there is nothing to do, time passing in between."""
        while not until() and (pause := shadow.step()) is not None:
            self.kit.clock.advance(max(pause, 1e-3))

    def recorded(self, shadow: Shadow) -> list[PredictionRecord]:
        return [record for _, record in self.kit.journal.predictions("m") if record.version == shadow.version]

    def told(self) -> list[str]:
        return [event.message for event in self.kit.events if event.kind == "shadow_failed"]


@pytest.fixture
def stage(kit: Any) -> Iterator[Stage]:
    stage = Stage(kit)
    yield stage
    for shadow in stage.shadows:
        shadow.close()


def balanced(shadow: Shadow) -> bool:
    seen = shadow.observed()
    return seen.offered == seen.skipped + seen.answered + seen.failures


def test_it_is_shown_what_was_answered_and_its_own_answers_are_recorded_and_never_returned(stage: Stage) -> None:
    kit = stage.kit
    shadow = stage.shadow(kit.publish("m", [2.0, 1.0], live=False))
    assert stage.ask([1, 2, 3, 400]) == [2.0, 4.0, 6.0, 800.0]
    stage.perform(shadow)
    seen = shadow.observed()
    assert (seen.offered, seen.answered, seen.agreed, seen.disagreed) == (4, 4, 1, 3)
    assert (seen.state, seen.starts, seen.task) == ("running", 1, "regression")
    assert seen.difference_sum == seen.distance_sum == 4.0
    assert seen.mean_difference == seen.largest == 1.0
    assert seen.median_difference == pytest.approx(1.0, rel=0.02)
    assert seen.batches >= 2, "the first batch is one row"
    assert sum(seen.row_seconds.values()) == 4
    assert sum(seen.batch_seconds.values()) == seen.batches
    assert (seen.batch_latency(0.5) or 0) > 0
    (own,) = stage.recorded(shadow)
    (original,) = [record for _, record in kit.journal.predictions("m") if record.version == 1]
    assert own.shadow
    assert own.predictions == [3.0, 5.0, 7.0, 801.0]
    assert (own.lane_key, own.first, own.count) == (f"{original.lane_key}~2", original.first, 4)
    assert own.features == b"", "the request's record has them"
    assert kit.predictor.predict("m", [1.0, 1.0]).model_version == 1


def test_a_label_that_names_what_a_shadow_made_finds_nothing(stage: Stage) -> None:
    kit = stage.kit
    shadow = stage.shadow(kit.publish("m", [3.0, 0.0], live=False))
    stage.ask([1])
    stage.perform(shadow)
    (own,) = stage.recorded(shadow)
    named = kit.journal.append_now([Label("m", 1.0, 0.0, request_id=f"{own.lane_key}-{own.first:x}")])
    assert not isinstance(named.outcomes[0], int)


@pytest.mark.parametrize(("how", "kind"), [("raises", "raised"), ("exits", "raised"), ("nan", "not_finite")])
def test_only_the_rows_on_which_it_fails_have_no_answer(stage: Stage, how: str, kind: str) -> None:
    shadow = stage.shadow(Odd(how))
    stage.ask([1, -2, 3, 4, 5, -6, 7])
    stage.perform(shadow)
    seen = shadow.observed()
    assert seen.failed == {kind: 2}
    assert (seen.answered, seen.agreed, seen.crashes, seen.starts) == (5, 5, 0, 1)
    assert seen.reason
    assert balanced(shadow)
    (own,) = stage.recorded(shadow)
    assert own.predictions == [2.0, None, 6.0, 8.0, 10.0, None, 14.0]
    assert stage.told() == []


@pytest.mark.parametrize("how", ["two_columns", "objects", "long_texts"])
def test_what_is_no_answer_has_the_wrong_shape(stage: Stage, how: str) -> None:
    record = stage.add(Odd(how)) if how == "two_columns" else classifier(stage, Odd(how))
    shadow = stage.shadow(record)
    offer(shadow, [-1.0] * 3)
    stage.perform(shadow)
    assert shadow.observed().failed == {"shape": 3}
    assert balanced(shadow)


def classifier(stage: Stage, model: Any) -> VersionRecord:
    """Of another task than version 1: as a record only."""
    target = Target("classification", "text")
    manifest = Manifest("sklearn", "classification", NUMBERS, target, ["no", "yes"])
    digest = stage.add(model).digest
    return VersionRecord("m", 7, digest, "staging", 0.0, manifest)


def offer(shadow: Shadow, firsts: Sequence[float], answers: Sequence[Any] | None = None, rows: int = 1) -> None:
    """As the recorder does."""
    X = np.array([[first, 1.0] for first in firsts])
    told = list(answers) if answers is not None else (2.0 * X[:, 0]).tolist()
    count = len(firsts) // rows
    shadow.offer(PredictionRecord("m", 1, "key", 1, count, rows, shadow._clock.now(), "f8", X.tobytes(), told))


def test_labels_agree_if_they_are_the_same(stage: Stage) -> None:
    record = classifier(stage, Labels())
    shadow = stage.shadow(record)
    offer(shadow, [1, -1, 1, -1, -1], ["yes", "yes", "no", "no", "no"])
    stage.perform(shadow)
    seen = shadow.observed()
    assert (seen.task, seen.answered, seen.agreed) == ("classification", 5, 3)
    assert seen.agreement == 0.6
    assert seen.mean_difference is None
    assert seen.differences == {}


class Labels:
    def predict(self, X: Any) -> Any:
        return np.where(X[:, 0] > 0, "yes", "no")


@pytest.mark.parametrize("how", ["dies", "segfault"])
def test_one_that_dies_is_started_again_and_the_rest_of_its_rows_are_shown(stage: Stage, how: str) -> None:
    shadow = stage.shadow(Odd(how))
    assert stage.ask([1, -2, 3, 4]) == [2.0, -4.0, 6.0, 8.0]
    stage.perform(shadow)
    seen = shadow.observed()
    assert (seen.crashes, seen.starts, seen.state) == (1, 2, "running")
    assert seen.failed.keys() == {"crash"}
    assert 1 <= seen.failed["crash"] <= 3, "those of its batch"
    assert seen.answered == 4 - seen.failed["crash"] == seen.agreed
    assert balanced(shadow)
    assert "killed by signal 11" in seen.reason or "exit status 3" in seen.reason
    assert stage.told() == []


@pytest.mark.parametrize("how", ["closes_its_pipes", "writes_garbage"])
def test_one_that_does_not_keep_to_what_was_agreed_is_ended(stage: Stage, how: str) -> None:
    """Garbage is refused, or its end is waited for, and does not come."""
    shadow = stage.shadow(Odd(how), dataclasses.replace(PATIENT, timeout=0.5))
    stage.ask([1])
    stage.perform(shadow)
    stage.ask([-1])
    stage.perform(shadow)
    seen = shadow.observed()
    assert (seen.crashes + seen.timeouts, seen.failures, seen.starts) == (1, 1, 2)
    assert seen.reason
    assert balanced(shadow)


@pytest.mark.parametrize("how", ["sleeps", "spins_with_the_gil", "ignores_signals"])
def test_one_that_hangs_is_killed_and_started_again(stage: Stage, how: str) -> None:
    shadow = stage.shadow(Odd(how), dataclasses.replace(PATIENT, timeout=0.3))
    stage.ask([1])
    stage.perform(shadow)
    first = shadow.pid
    stage.ask([-1, 2])
    stage.perform(shadow)
    seen = shadow.observed()
    assert (seen.timeouts, seen.crashes, seen.starts, seen.state) == (1, 0, 2, "running")
    assert seen.failed.keys() == {"timeout"}
    assert "it took longer than 0.3 s" in seen.reason
    assert first is not None
    assert not psutil.pid_exists(first)
    assert balanced(shadow)


def test_after_some_failures_in_a_row_it_stays_down_and_says_so_once(stage: Stage) -> None:
    kit = stage.kit
    shadow = stage.shadow(Odd("dies"))
    stage.ask([-1] * 40)
    before = kit.clock.monotonic()
    stage.perform(shadow)
    seen = shadow.observed()
    assert (seen.crashes, seen.starts, seen.state) == (3, 3, "down")
    assert kit.clock.monotonic() - before >= 0.5 + 1.0, "with growing pauses in between"
    (message,) = stage.told()
    assert message.startswith(
        "the shadow, version 2, is down after 3 failures in a row (its process ended with exit status 3"
    )
    assert shadow.failure is not None
    assert shadow.pid is None
    stage.ask([1, 2])
    assert shadow.step() is None
    assert shadow.observed().offered == seen.offered, "nobody shows it anything any more"
    shadow.close()
    assert balanced(shadow)
    assert shadow.observed().state == "closed"
    assert len(stage.told()) == 1


def test_memory_is_bounded(stage: Stage) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux bounds it")
    shadow = stage.shadow(Odd("takes_all_memory"))
    stage.ask([1, -1, 2])
    stage.perform(shadow)
    seen = shadow.observed()
    assert seen.failed == {"raised": 1}
    assert "MemoryError" in seen.reason
    assert (seen.answered, seen.crashes) == (2, 0)
    assert Path(f"/proc/{shadow.pid}/oom_score_adj").read_text() == "1000\n"


def test_what_it_prints_goes_nowhere(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    shadow = stage.shadow(Odd("prints"))
    stage.ask([-1])
    stage.perform(shadow)
    assert shadow.observed().agreed == 1
    shadow.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux's lowest class of priority")
def test_it_has_the_lowest_priority(stage: Stage) -> None:
    shadow = stage.shadow(Odd(), ShadowRules())
    stage.ask([1])
    stage.perform(shadow)
    pid = shadow.pid
    assert pid is not None
    assert psutil.Process(pid).nice() == 19
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE


def test_one_that_is_not_trusted_is_down_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    record = stage.add(Odd())
    monkeypatch.setattr(stage.kit.registry, "trust", Trust())
    shadow = stage.shadow(record)
    stage.perform(shadow)
    assert isinstance(shadow.failure, Untrusted)
    seen = shadow.observed()
    assert (seen.state, seen.starts) == ("down", 1)
    assert "is a pickle" in stage.told()[0]


def test_one_that_cannot_be_read_is_down_at_once(stage: Stage) -> None:
    shadow = stage.shadow(Broken())
    stage.perform(shadow)
    assert shadow.observed().state == "down"
    assert "the cupboard is bare" in stage.told()[0]


def test_one_whose_bytes_are_gone_is_down_at_once(stage: Stage) -> None:
    record = stage.add(Odd())
    stage.kit.registry._artifacts.delete(record.digest)
    shadow = stage.shadow(record)
    stage.perform(shadow)
    assert shadow.observed().state == "down"
    assert shadow.observed().starts == 1
    assert shadow.pid is None


def test_a_closed_one_leaves_no_process_and_no_thread_whatever_it_does(stage: Stage) -> None:
    kit = stage.kit
    record = stage.add(Odd("spins_with_the_gil"))
    shadow = open_shadow(record, kit.registry.get("m"), kit.registry, kit.recorder, kit.bus, rules=PATIENT)
    try:
        assert shadow.answers([[1.0, 1.0]]) == [2.0]
        pid = shadow.pid
        assert pid is not None
        stage.ask([-1])
        while shadow.waiting:  # it has been taken: it hangs now, or will in a moment
            threading.Event().wait(0.005)
    finally:
        shadow.close()
    assert not psutil.pid_exists(pid)
    assert not any(thread.name.startswith("everloop-shadow") for thread in threading.enumerate())
    assert shadow.observed().crashes == 0, "it was us who killed it"
    assert not kit.recorder.audience.watched("m")
    with pytest.raises(ModelFailed, match="is down: it was closed"):
        shadow.answers([[1.0, 1.0]])
    shadow.close()


def test_it_dies_with_its_parent_even_while_it_holds_the_gil(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("elsewhere it ends when its thread next gets the GIL")
    code = """
        import os, sys, threading, time
        from tests.serving.conftest import Kit
        from tests.serving.test_shadow import PATIENT, Stage
        from tests.serving.odd import Odd
        from everloop.serving.shadow import open_shadow
        kit = Kit()
        stage = Stage(kit)
        record = stage.add(Odd("spins_with_the_gil"))
        shadow = open_shadow(record, kit.registry.get("m"), kit.registry, kit.recorder, kit.bus, rules=PATIENT)
        shadow.answers([[1.0, 1.0]])
        stage.ask([-1])
        while shadow.waiting:
            time.sleep(0.005)
        print(shadow.pid, flush=True)
        time.sleep(60)
    """
    ran = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, cwd=Path.cwd())
    try:
        assert ran.stdout is not None
        child = psutil.Process(int(ran.stdout.readline()))
        ran.kill()
        ran.wait()
        child.wait(10)
    finally:
        ran.kill()
        ran.wait()
        assert ran.stdout is not None
        ran.stdout.close()


def test_questions_are_answered_a_row_each(stage: Stage) -> None:
    kit = stage.kit
    record = stage.add(Odd("raises"))
    shadow = open_shadow(record, kit.registry.get("m"), kit.registry, kit.recorder, kit.bus, rules=PATIENT)
    with contextlib.closing(shadow):
        found = shadow.answers([[float(first), 1.0] for first in [1, 2, -3, 4, 5, 6, 7, 8, 9]])
        assert [answer for answer in found if isinstance(answer, float)] == [
            2.0,
            4.0,
            8.0,
            10.0,
            12.0,
            14.0,
            16.0,
            18.0,
        ]
        assert isinstance(found[2], ModelFailed)
        assert found[2].how == "raised"
        assert "no negative numbers" in found[2].message
        assert shadow.answers([]) == []
        with pytest.raises(ModelFailed, match="cannot be asked this"):
            shadow.answers([["text", 1.0]])
        assert shadow.observed().shown == 0, "who asks shows nothing"


def test_whoever_could_not_wait_goes_on_from_there(stage: Stage) -> None:
    shadow = stage.shadow(Odd())
    rows = [[float(first), 1.0] for first in range(6)]
    for _ in range(2):
        with pytest.raises(ModelFailed, match=r"has not answered 6 rows within 0 s") as raised:
            shadow.answers(rows, time_limit=0.0)
        assert raised.value.how == "timeout"
    assert len(shadow._questions) == 1
    stage.perform(shadow)
    assert shadow.answers(rows, time_limit=0.0) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    with pytest.raises(ModelFailed):
        shadow.answers(rows, time_limit=0.0)
    with pytest.raises(ModelFailed):
        shadow.answers(rows[:1], time_limit=0.0)
    stage.perform(shadow)
    assert shadow.answers(rows[:1], time_limit=0.0) == [0.0]


def test_a_question_that_kills_it_is_told_so(stage: Stage) -> None:
    shadow = stage.shadow(Odd("dies"))
    with pytest.raises(ModelFailed):
        shadow.answers([[-1.0, 1.0]], time_limit=0.0)
    question = shadow._questions[0]
    stage.perform(shadow)
    assert isinstance(question.error, ModelFailed)
    assert question.error.how == "crash"
    assert "exit status 3" in question.error.message
    assert shadow.observed().crashes == 1


def test_rows_beyond_its_budget_are_skipped_and_counted(stage: Stage) -> None:
    rules = dataclasses.replace(PATIENT, rows_per_second=10.0, queue_rows=30, max_age=2.0)
    shadow = stage.shadow(Odd(), rules)
    stage.perform(shadow)
    for _ in range(5):
        offer(shadow, [1.0] * 10)
    assert shadow.waiting == 30
    stage.perform(shadow)
    seen = shadow.observed()
    assert seen.offered == 50
    assert 10 <= seen.answered <= 31, "ten at once, then ten a second, until what waits is too old"
    assert balanced(shadow)


def test_a_shadow_may_not_use_more_than_its_share_of_a_core(stage: Stage) -> None:
    """Its process tells what it used; the clock is the test's, so a second of it is a second of waiting."""
    shadow = stage.shadow(Odd(), dataclasses.replace(PATIENT, cpu_share=0.05))
    stage.perform(shadow)
    before, spent = stage.kit.clock.monotonic(), shadow.observed().spent_seconds
    for _ in range(20):
        offer(shadow, [1.0] * 100)
        stage.perform(shadow)
    used = shadow.observed().spent_seconds - spent
    passed = stage.kit.clock.monotonic() - before
    assert shadow.observed().answered == 2000
    assert used <= 0.05 * (passed + 1.0) + 0.05, "a purse's worth and one batch ahead"


def test_where_the_journal_has_no_room_it_pauses(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow = stage.shadow(Odd())
    stage.perform(shadow)
    monkeypatch.setattr(stage.kit.journal, "record", lambda record: False)
    offer(shadow, [1.0, 2.0])
    while not shadow.observed().unrecorded:
        pause = shadow.step() or 0.0
        stage.kit.clock.advance(max(pause, 1e-3))
    offer(shadow, [1.0])
    assert (shadow.step() or 0.0) > 0.5
    assert shadow.observed().unrecorded == 2


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_what_is_not_recorded_is_shown_all_the_same(kit: Any, share: float) -> None:
    kit.registry.register("m", "linear", task="regression", record=share, schema=NUMBERS, target=Target("regression"))
    stage = Stage(kit)
    try:
        stage.ask(range(50))
        shadow = stage.shadow(Odd())
        stage.ask(range(100))
        kit.predictor.predict_batch("m", [[1.0, 1.0], [2.0, 1.0]])
        kit.recorder.drain()
        stage.perform(shadow)
        shadow.close()
        stage.ask(range(50))
        seen = shadow.observed()
        assert (seen.offered, seen.agreed) == (102, 102)
        records = [record for _, record in kit.journal.predictions("m", limit=1000)]
        by_version = {
            version: {
                (r.lane_key.split("~")[0], r.first + i) for r in records if r.version == version for i in range(r.count)
            }
            for version in (1, 2)
        }
        assert by_version[2] <= by_version[1], "its answers are recorded where the requests are"
        asked = 201
        assert abs(len(by_version[1]) - share * asked) <= 3
    finally:
        for each in stage.shadows:
            each.close()


def test_batches_of_the_server_are_shown(kit: Any) -> None:
    import asyncio

    stage = Stage(kit)
    shadow = stage.shadow(Odd())

    async def ask() -> None:
        singles = [kit.predictor.predict_async("m", [float(i), 1.0]) for i in range(20)]
        several = kit.predictor.predict_batch_async("m", [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
        await asyncio.gather(*singles, several)

    asyncio.run(ask())
    kit.recorder.drain()
    stage.perform(shadow)
    seen = shadow.observed()
    shadow.close()
    assert (seen.offered, seen.agreed) == (23, 23)
    assert sorted((r.count, r.rows) for r in stage.recorded(shadow)) == [(1, 3), (20, 1)]


def test_rows_with_text_are_shown(kit: Any) -> None:
    schema = Schema((Field("a"), Field("b", "text", nullable=True)))
    recorder: Recorder = kit.recorder
    kit.registry.register("t", "artifact", task="regression", schema=schema, target=Target("regression"))
    manifest = Manifest("sklearn", "regression", schema, Target("regression"))
    record = kit.registry.add_version("t", manifest, cloudpickle.dumps(Texts()), live=False)
    shadow = Shadow(record, kit.registry.get("t"), kit.registry, recorder, kit.bus, rules=PATIENT)
    with contextlib.closing(shadow):
        from everloop.core.schema import pack_rows

        rows = [[1.0, "x"], [2.0, None], [3.0, "abc"], [4.0, ""], [5.0, "no"], [6.0, "yes"]]
        recorder.batch(("t", 9, "k"), (1, 6, 1), pack_rows(rows, schema), [2.0, 2.0, 6.0, 4.0, 7.0, 9.0])
        recorder.drain()
        while (pause := shadow.step()) is not None:
            kit.clock.advance(max(pause, 1e-3))
        seen = shadow.observed()
        assert (seen.answered, seen.agreed, seen.failed) == (6, 6, {})


class Texts:
    def predict(self, X: Any) -> Any:
        values = X.to_numpy() if hasattr(X, "to_numpy") else X
        return np.array([float(a) + len(b or "") for a, b in values])


def test_its_own_answers_are_not_compared_with_themselves(stage: Stage) -> None:
    shadow = stage.shadow(Odd())
    shadow.offer(PredictionRecord("m", shadow.version, "k", 1, 1, 1, 0.0, "f8", b"\0" * 16, [0.0]))
    assert shadow.observed().offered == 0


def test_rules_are_checked(stage: Stage) -> None:
    for wrong in ({"cpu_share": 0.0}, {"cpu_share": 1.5}, {"timeout": 0.0}, {"queue_rows": 0}, {"tolerance": -1.0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            stage.shadow(Odd(), ShadowRules(**wrong))


# -- the queue --

_ACTIONS = st.lists(st.one_of(st.integers(1, 50), st.none()), max_size=60)


@given(_ACTIONS, st.integers(1, 100), st.integers(1, 2000))
def test_the_backlog_is_bounded_keeps_the_order_and_counts_every_row(
    actions: list[int | None], rows: int, size: int
) -> None:
    backlog = Backlog(rows, size)
    inside: list[int] = []
    refused = 0
    for i, action in enumerate(actions):
        if action is None:
            taken = backlog.take()
            assert (None if taken is None else taken.first) == (inside.pop(0) if inside else None)
            continue
        record = PredictionRecord("m", 1, "k", i, action, 1, 0.0, "f8", b"\0" * 16 * action, [0.0] * action)
        room = not inside or (
            sum(len(actions_at(actions, j)) for j in inside) + action <= rows
            and sum(16 * len(actions_at(actions, j)) for j in inside) + 16 * action <= size
        )
        assert backlog.put(record) == room
        if room:
            inside.append(i)
        else:
            refused += action
    assert backlog.refused == refused
    assert len(backlog) == sum(len(actions_at(actions, j)) for j in inside)
    assert backlog.rows_in == backlog.rows_out + len(backlog)


def actions_at(actions: list[int | None], place: int) -> range:
    return range(actions[place] or 0)

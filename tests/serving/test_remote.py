"""A version in a process of its own: the same answers as in this one, and whatever it does to itself, the champion answers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.odd import Odd
from tests.serving.test_referral import WAYS, ask, ask_rows, drawn

from everloop.core.errors import ArtifactCorrupt, ModelFailed
from everloop.core.schema import Field, Schema, Target
from everloop.policy.batching import BatchRules
from everloop.policy.bins import latency_bin
from everloop.registry.rollouts import Rollouts, plan_of
from everloop.runtime.artifact import Trust
from everloop.runtime.river import RiverModel, RiverSession
from everloop.runtime.sklearn import SklearnSession
from everloop.serving import answering, batch, batcher, remote, remote_process
from everloop.serving.config import ServingConfig
from everloop.serving.lane import Lane
from everloop.serving.reconciler import Reconciler
from everloop.serving.remote import RemoteSession, Waits
from everloop.serving.remote_process import ANSWER, FAILED, pack_array, unpack_array
from everloop.serving.runner import Runner
from everloop.serving.trial import ProcessTrial
from everloop.stores.ports import Manifest, VersionRecord

NUMBERS = Schema.unnamed(2)
SUMS = Manifest("sklearn", "regression", NUMBERS, Target("regression"))


def record_of(manifest: Manifest) -> VersionRecord:
    return VersionRecord("m", 2, "0" * 64, "staging", 0.0, manifest)


def opened(model: Any, manifest: Manifest = SUMS) -> RemoteSession:
    session = RemoteSession(record_of(manifest), Trust(pickle=True))
    session.open(cloudpickle.dumps(model), [], 60.0)
    return session


class Nearby(RemoteSession):
    """All but the process."""

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._near = session
        self._record = record_of(manifest)
        self._lock, self._waits, self.seconds, self.error = threading.Lock(), Waits(), 60.0, None
        self.schema, self.target, self.classes, self.dtype = (
            manifest.schema,
            manifest.target,
            manifest.classes,
            session.dtype,
        )

    def _call(self, data: bytes, seconds: float = 0.0) -> bytes:
        return remote_process.answer(self._near, data)

    def close(self) -> None:
        return


# -- what travels --


@pytest.mark.parametrize(
    "array",
    [
        np.array([]),
        np.zeros((0, 3)),
        np.arange(6.0).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(6.0, dtype=">f4")[::2],
        np.array([True, False]),
        np.array([1, 2], np.uint8),
        np.array(["a", "žluť", ""]),
        np.array([""]),
        np.array([b"ab", b"c"]),
        np.array(["x", 1, 2.5, True, None, np.int64(7), np.str_("y"), np.float32(0.5)], object),
        np.array([["x", 1.5], ["", None]], object),
        np.zeros((0, 2), object),
        np.zeros((2, 3, 4)),
    ],
)
def test_arrays_arrive_as_they_were(array: Any) -> None:
    made = unpack_array(memoryview(pack_array(array, ANSWER))[1:])
    assert (made.dtype, made.shape) == (array.dtype, array.shape)
    expected = [v.item() if isinstance(v, np.generic) else v for v in array.ravel().tolist()]
    assert made.ravel().tolist() == expected
    assert [type(v) for v in made.ravel().tolist()] == [type(v) for v in expected]
    assert made.flags.writeable
    assert made.flags.aligned


@given(st.binary(max_size=200))
def test_garbage_is_no_array(data: bytes) -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError, TypeError, OverflowError)):
        unpack_array(memoryview(data))


@given(st.sampled_from(["O", "f8,f8", "<M8[s]", "|V8", "<f8"]), st.lists(st.integers(-2, 5), max_size=3))
def test_nor_is_what_does_not_fit_together(dtype: str, shape: list[int]) -> None:
    head = msgspec.msgpack.encode((dtype, shape))
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        unpack_array(memoryview(len(head).to_bytes(2, "little") + head + b"\x01" * 3))


def test_what_is_no_label_is_not_sent() -> None:
    with pytest.raises(TypeError, match="a object is no label"):
        pack_array(np.array([object()]), ANSWER)


# -- the same answers --

LABELS: dict[str, list[Any]] = {
    "text": ["no", "yes"],
    "integer": [3, 7],
    "boolean": [False, True],
}


def classifier(labels: Any) -> tuple[Any, Manifest]:
    from sklearn.tree import DecisionTreeClassifier

    from everloop.runtime.sklearn import manifest_of

    X = np.arange(8.0).reshape(4, 2)
    model = DecisionTreeClassifier().fit(X, labels)
    return SklearnSession(manifest_of(model), model), manifest_of(model)


def river(labels: list[Any]) -> tuple[Any, Manifest]:
    from river import linear_model

    model = linear_model.LogisticRegression()
    for x, y in ((-1.0, False), (1.0, True)) * 20:
        model.learn_one({"0": x, "1": x}, y)
    made = RiverModel(model, "classification", ("0", "1"), tuple(labels), labels[0])
    target = Target.infer("classification", labels[0])
    manifest = Manifest("river", "classification", Schema.of_names(["0", "1"]), target, labels)
    return RiverSession(manifest, made), manifest


CLASSIFIERS: dict[str, Callable[[], tuple[Any, Manifest]]] = {
    **{f"sklearn, {kind}": lambda two=two: classifier(np.array(two * 2)) for kind, two in LABELS.items()},
    "sklearn, objects": lambda: classifier(np.array(["no", "yes"] * 2, object)),
    "sklearn, whole numbers": lambda: classifier(np.array([1.0, 2.0] * 2)),
    **{f"sklearn, {dtype}": lambda dtype=dtype: classifier(np.array([1, 2, 1, 2], dtype)) for dtype in ("uint8", "int32")},
    **{f"river, {kind}": lambda two=two: river(two) for kind, two in LABELS.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_labels_keep_their_type_and_scores_their_values(name: str) -> None:
    here, manifest = CLASSIFIERS[name]()
    there = Nearby(here, manifest)
    X = np.array([[-5.0, -5.0], [0.0, 1.0], [2.0, 3.0], [60.0, 70.0]])
    expected = Runner(here, "m", 1, BatchRules()).run(X)
    found = Runner(there, "m", 2, BatchRules()).run(X)
    assert found == expected
    assert [type(label) for label in found] == [type(label) for label in expected]
    assert len(set(found)) == 2
    scores = here.scores(X)
    if scores is None:
        assert there.scores(X) is None
    else:
        np.testing.assert_array_equal(there.scores(X), scores)


def test_text_features_and_missing_values() -> None:
    class Notes:
        def predict(self, X: Any) -> Any:
            return np.array([f"{[type(v).__name__ for v in row]} {row[0]} {row[1]}" for row in np.asarray(X)])

    schema = Schema((Field("city", "category"), Field("size", "number", nullable=True)))
    manifest = Manifest("sklearn", "classification", schema, Target("classification", "text"), ["a"])
    here = SklearnSession(manifest, Notes())
    there = Nearby(here, manifest)
    X = schema.matrix(schema.rows([["Brno", 1.5], ["", None], ["x" * 100_000, float("nan")]]))
    assert there.run(X).tolist() == here.run(X).tolist()


def test_a_failure_tells_the_same_here_and_there() -> None:
    def told(how: str) -> list[tuple[str, str]]:
        model, found = Odd(how), []
        for session in (SklearnSession(SUMS, model), Nearby(SklearnSession(SUMS, model), SUMS)):
            with pytest.raises(ModelFailed) as caught:
                Runner(session, "m", 2, BatchRules()).many(np.array([[1.0, 0.0], [-1.0, 0.0]]))
            found.append((caught.value.how, caught.value.message))
        return found

    for how in ("raises", "nan", "two_columns"):
        here, there = told(how)
        assert here == there


@pytest.mark.parametrize("reply", [b"", b"?", ANSWER, ANSWER + b"\xff" * 50, FAILED, FAILED + b"\x93\x01\x02\x03"])
def test_what_nobody_can_read_is_a_crash(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Nearby(SklearnSession(SUMS, Odd()), SUMS)
    monkeypatch.setattr(session, "_call", lambda data, seconds: bytes(8) + reply)
    monkeypatch.setattr(session, "_caller", type("Gone", (), {"close": lambda self: None})(), raising=False)
    with pytest.raises(ModelFailed, match="nobody can read") as caught:
        session.run(np.zeros((1, 2)))
    assert caught.value.how == "crash"
    assert session.error is not None


# -- the way there --


@pytest.mark.parametrize("way", WAYS)
def test_the_way_to_the_process_is_not_weighed(kit: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait for the process takes an hour, of which the model took next to nothing."""
    manifest = msgspec.structs.replace(SUMS, schema=Schema.unnamed(1))
    arm = kit.play(challenger=Nearby(SklearnSession(manifest, Odd()), manifest))
    assert arm.lane.remote
    monkeypatch.setattr(remote, "perf_counter", lambda hours=count(): 3600.0 * next(hours))
    for _ in range(3):
        assert WAYS[way](arm).model_version == 2
    seen = kit.seen().challenger
    assert seen.latencies == {0: 3}
    assert seen.settled == {0: 3}


def test_nor_is_waiting_for_somebody_elses_way(kit: Any, plain_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run takes 10 s, 8 of them for the way. The second request comes after 1 s, and waits 9 for it; without a way it would
    have waited for 1."""
    now = [0.0]
    for module in (answering, batcher, batch):
        monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    entered, released = threading.Event(), threading.Event()
    runs, detours = iter([10.0, 2.0]), iter([8.0, 0.0])

    def run(X: Any) -> Any:
        until = now[0] + next(runs)
        entered.set()
        assert released.wait(60)
        now[0] = until
        return X[:, 0]

    session = plain_session(1, lambda X: X[:, 0])
    arm = kit.play(challenger=session)
    session.answers = run
    session.take_detour = lambda: next(detours)

    async def main() -> None:
        first = asyncio.ensure_future(ask(arm, [1.0]))
        await asyncio.to_thread(entered.wait, 60)
        now[0] = 1.0
        second = asyncio.ensure_future(ask(arm, [2.0]))
        await asyncio.sleep(0)
        released.set()
        await asyncio.gather(first, second)

    asyncio.run(main())
    assert kit.seen().challenger.latencies == {latency_bin(2.0): 1, latency_bin(3.0): 1}


# -- a process --


def test_large_matrices_go_there_and_come_back_from_many_threads() -> None:
    manifest = msgspec.structs.replace(SUMS, schema=Schema.unnamed(600))
    session = opened(Odd(), manifest)
    rng = np.random.default_rng(0)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        X = np.random.default_rng(seed).random((seed * 100 + 1, 600))
        for _ in range(5):
            if not np.array_equal(session.run(X), 2.0 * X[:, 0]):
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert session.scores(rng.random((2, 600))) is None
    pid = session.pid
    session.close()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)


@pytest.mark.parametrize("how", ["exits", "objects", "prints"])
def test_what_an_exception_can_tell_ends_nothing(how: str) -> None:
    session = opened(Odd(how))
    bad = np.array([[-1.0, 0.0]])
    if how == "prints":
        assert session.run(bad).tolist() == [-2.0]
    else:
        with pytest.raises(ModelFailed) as caught:
            session.run(bad)
        assert caught.value.how == "raised"
    assert session.run(-bad).tolist() == [2.0]
    session.close()


def test_one_that_is_asked_apart_from_requests_is_ended_where_it_hangs(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.publish("m", [1.0, 0.0])
    odd = kit.registry.add_version("m", SUMS, cloudpickle.dumps(Odd("sleeps")), live=False)
    session = remote.open_apart(odd, kit.registry)
    assert isinstance(session, RemoteSession)
    assert session.run(np.ones((1, 2))).tolist() == [2.0]
    session.seconds = 0.2
    for words in ("did not answer within 0.2 s", "did not answer within 0.2 s"):
        with pytest.raises(ModelFailed, match=words):
            session.run(-np.ones((1, 2)))
    session.close()
    assert not isinstance(remote.open_apart(kit.registry.version("m", 1), kit.registry), RemoteSession)
    damaged = kit.registry.add_version("m", SUMS, b"PK nothing", live=False)
    with pytest.raises(ArtifactCorrupt):
        remote.open_apart(damaged, kit.registry)


def test_it_dies_with_its_server() -> None:
    """Killed without a chance to clean up, while the model holds the interpreter of its process."""
    script = textwrap.dedent("""
        import sys, threading
        sys.path[:0] = sys.argv[1:]
        import numpy as np
        from tests.serving.odd import Odd
        from tests.serving.test_remote import opened
        session = opened(Odd("spins_with_the_gil"))
        print(session.pid, flush=True)
        session.run(-np.ones((1, 2)))
    """)
    server = subprocess.Popen([sys.executable, "-c", script, *sys.path], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        child = psutil.Process(int(server.stdout.readline()))
        server.kill()
        psutil.wait_procs([child], timeout=30)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


# -- a rollout --


class Play:
    """Version 1 (linear) answers x, version 2 (Python code) 2 x, unless x is negative."""

    def __init__(self, kit: Any) -> None:
        self.kit = kit
        trial = ProcessTrial(kit.registry)
        self.reconciler = Reconciler(
            kit.registry, kit.table, kit.recorder, kit.bus, kit.clock, trial=trial, config=ServingConfig()
        )
        kit.reconciler.stop()
        kit.reconciler = self.reconciler
        self.over = threading.Semaphore(0)
        assert self.reconciler._trials is not None
        self.reconciler._trials._on_done = self.over.release
        kit.publish("m", [1.0, 0.0])
        self.rollouts = Rollouts(kit.registry)

    def begin(self, model: Any, *, share: float = 0.5, timeout: float = 60.0) -> Any:
        manifest = Manifest("sklearn", "regression", NUMBERS, Target("regression"))
        version = self.kit.registry.add_version("m", manifest, cloudpickle.dumps(model), live=False).version
        plan = plan_of("canary", steps=[share], seconds=3600, gates={"timeout": timeout})
        self.rollouts.start("m", version, plan, by="test")
        self.reconciler.step()
        assert self.over.acquire(timeout=120)
        self.reconciler.step()
        return self.kit.arm(version)

    @property
    def lanes(self) -> dict[int, Lane]:
        return self.kit.table.current.versions("m")  # type: ignore[no-any-return]


@pytest.fixture
def play(kit: Any) -> Play:
    return Play(kit)


LETHAL = {
    "dies": ("crash", "exit status 3"),
    "segfault": ("crash", f"signal {int(signal.SIGSEGV)}"),
    "closes_its_pipes": ("crash", ""),
    "sleeps": ("timeout", "longer than 1 s"),
}


@pytest.mark.parametrize(("how", "way"), list(zip(LETHAL, WAYS, strict=True)))
def test_whatever_ends_it_the_champion_answers_and_nobody_is_routed_to_it(play: Play, how: str, way: str) -> None:
    kit = play.kit
    arm = play.begin(Odd(how), timeout=60.0 if LETHAL[how][0] == "crash" else 1.0)
    lane = arm.lane
    assert lane.remote
    child = psutil.Process(lane.session.pid)
    assert asyncio.run(ask(arm, [4.0, 0.0])).prediction == 8.0
    bad = [-7.0, 0.0]
    answer = {
        "one in process": lambda: drawn(arm)(bad),
        "several in process": lambda: arm.answer_rows([bad, bad]),
        "one on a loop": lambda: asyncio.run(ask(arm, bad)),
        "several on a loop": lambda: asyncio.run(ask_rows(arm, [bad, bad])),
    }[way]()
    assert answer.model_version == 1
    assert (answer.prediction if way.startswith("one") else answer.predictions[0]) == -7.0
    assert kit.table.current.splits["m"].weights == {1: 1.0}, "out of routing before anybody else asks"
    kind, words = LETHAL[how]
    seen = kit.seen()
    assert seen.challenger.kinds == seen.challenger.decisive == {kind: 1}
    assert words in seen.lost
    assert not seen.open
    (event,) = (event for event in kit.events if event.kind == "guard")
    assert event.data["how"] == kind
    play.reconciler.step()
    assert set(play.lanes) == {1}
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
    play.reconciler.step()
    assert set(play.lanes) == {1}, "it is not opened again"


def test_a_promotion_under_load_loses_no_request_and_tears_no_answer(play: Play) -> None:
    """Asked all the time from threads and on a loop while the challenger starts in its process, is given more, is promoted into this one,
    and its process goes."""
    kit = play.kit
    play.begin(Odd(), share=0.3)
    child = psutil.Process(play.lanes[2].session.pid)
    champion, remote = play.lanes[1], play.lanes[2]
    done = threading.Event()
    wrong: list[Any] = []
    counts = {1: 0, 2: 0}
    lock = threading.Lock()

    def check(x: float, answer: Any) -> None:
        if answer.prediction != x * answer.model_version:
            wrong.append((x, answer))
        with lock:
            counts[answer.model_version] += 1

    def threads() -> None:
        x = 0.0
        while not done.is_set():
            x += 1.0
            check(x, kit.predictor.predict("m", [x, 0.0]))

    async def loop() -> None:
        async def one(start: float) -> None:
            x = start
            while not done.is_set():
                x += 1.0
                check(x, await kit.predictor.predict_async("m", [x, 0.0], str(x)))

        await asyncio.gather(*(one(1000.0 * i) for i in range(8)))

    def on_loop() -> None:
        asyncio.run(loop())

    askers = [threading.Thread(target=call) for call in (threads, threads, on_loop)]
    for asker in askers:
        asker.start()
    until_more = [counts[2] + 200]
    while counts[2] < until_more[0] and not wrong:
        done.wait(0.01)
    kit.registry.promote("m", 2)
    play.reconciler.step()
    now = play.lanes[2]
    assert set(play.lanes) == {2}
    assert now is not remote
    assert not now.remote
    assert now.runner.guard is None
    assert remote.retired
    assert champion.retired
    more = counts[2] + 500
    while counts[2] < more and not wrong:
        done.wait(0.01)
    done.set()
    for asker in askers:
        asker.join()
    assert wrong == []
    assert [event.kind for event in kit.events if event.kind in {"guard", "open_failed"}] == []
    remote = champion = now = None  # type: ignore[assignment]
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
    (*_, event) = (event for event in kit.events if event.kind == "swapped")
    assert "it was ready in" in event.message


def test_new_weights_keep_the_process_and_the_end_closes_it(play: Play) -> None:
    arm = play.begin(Odd())
    lane = arm.lane
    version = lane.version
    play.rollouts.finish("m")
    play.kit.registry.set_traffic("m", {1: 0.2, 2: 0.8})
    play.reconciler.step()
    assert play.lanes[version] is lane, "by hand it stays where it is"
    assert lane.runner.guard is not None
    play.kit.registry.set_traffic("m", {1: 1.0})
    play.reconciler.step()
    assert set(play.lanes) == {1}
    assert lane.closed


def test_processes_that_died_say_nothing_about_what_runs_in_its_own(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(rollout: Any) -> str:
        raise AssertionError("asked")

    monkeypatch.setattr(play.reconciler.evidences, "deaths", never)
    assert play.begin(Odd()).lane.remote


def test_it_steps_back(play: Play) -> None:
    pid = play.begin(Odd()).lane.session.pid
    if sys.platform == "linux":
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)

"""The trial of a challenger in a process of its own: what crashes or hangs does it there."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any, ClassVar

import cloudpickle
import msgspec
import numpy as np
import pytest

from everloop.core.errors import ArtifactCorrupt, Closed, ModelFailed
from everloop.core.schema import Schema, Target
from everloop.runtime.artifact import Trust
from everloop.serving.trial import Passed, ProcessTrial, Trials
from everloop.stores.ports import Manifest, VersionRecord

ROWS = [[1.0, 2.0], [3.0, 4.0]]
RECORD = VersionRecord(
    "m", 2, "0" * 64, "staging", 0.0, Manifest("sklearn", "regression", Schema.unnamed(2), Target("regression"))
)


class Sums:
    def predict(self, X: Any) -> Any:
        return np.asarray(X, float).sum(axis=1)


class Crashes(Sums):
    """Loading it ends the process, as native code with a defect would."""

    def __setstate__(self, state: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}


class Hangs(Sums):
    def predict(self, X: Any) -> Any:
        return threading.Event().wait()


class Raises(Sums):
    def predict(self, X: Any) -> Any:
        raise ValueError("never these")


class _Payload:
    def __init__(self, payload: bytes, *, trust: bool = True) -> None:
        self._payload = payload
        self.trust = Trust(pickle=trust)

    def payload(self, record: VersionRecord) -> bytes:
        return self._payload


def pickled(model: Any) -> bytes:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        payload: bytes = cloudpickle.dumps(model)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    return payload


def put_on_trial(payload: bytes, *, seconds: float = 60.0, trust: bool = True, runtime: str = "sklearn") -> Any:
    manifest = msgspec.structs.replace(RECORD.manifest, runtime=runtime)
    record = msgspec.structs.replace(RECORD, manifest=manifest)
    return ProcessTrial(_Payload(payload, trust=trust), seconds)(record, ROWS)  # type: ignore[arg-type]


def test_python_code_stays_in_the_process_of_its_trial() -> None:
    session = put_on_trial(pickled(Sums()))
    assert session.run(np.array(ROWS)).tolist() == [3.0, 7.0]
    session.close()


def test_what_raises_on_rows_passes() -> None:
    session = put_on_trial(pickled(Raises()))
    with pytest.raises(ModelFailed, match="version 2 of model 'm' failed on this input: ValueError: never these"):
        session.run(np.array(ROWS))
    session.close()


def test_anything_else_comes_back_to_be_opened_here() -> None:
    from everloop.runtime.linear import LinearModel

    model = LinearModel(np.ones((1, 2)), np.zeros(1), np.zeros(2))
    assert put_on_trial(model.pack(), runtime="linear") is None


def test_a_crash_is_the_trials() -> None:
    with pytest.raises(ModelFailed, match="crashed in a trial") as caught:
        put_on_trial(pickled(Crashes()))
    assert caught.value.how == "crash"


def test_a_model_that_hangs_is_ended() -> None:
    with pytest.raises(ModelFailed, match="within 3 s") as caught:
        put_on_trial(pickled(Hangs()), seconds=3.0)
    assert caught.value.how == "timeout"


def test_one_is_made_at_a_time_and_nobody_waits_for_it() -> None:
    let, done = threading.Event(), threading.Event()

    class Fake:
        tried: ClassVar[list[int]] = []

        def __call__(self, record: VersionRecord, rows: Any) -> None:
            assert let.wait(60)
            self.tried.append(record.version)
            if len(self.tried) == 2:
                raise ArtifactCorrupt("damaged")

        def end(self) -> None:
            return

    trials = Trials(Fake(), done.set)
    assert not trials.passed(RECORD, [])
    assert not trials.passed(RECORD, [])
    let.set()
    assert done.wait(60)
    assert trials.passed(RECORD, []) == Passed(None)
    other = msgspec.structs.replace(RECORD, version=3)
    done.clear()
    assert not trials.passed(other, [])
    assert done.wait(60)
    with pytest.raises(ArtifactCorrupt):
        trials.passed(other, [])
    done.clear()
    assert not trials.passed(other, []), "tried again"
    assert done.wait(60)
    assert trials.passed(other, [])
    trials.close()


def test_a_session_is_given_away_once_and_closed_where_nobody_wants_it() -> None:
    over = threading.Semaphore(0)
    trial = ProcessTrial(_Payload(pickled(Sums())))  # type: ignore[arg-type]
    trials = Trials(trial, over.release)
    assert trials.passed(RECORD, ROWS) is None
    assert over.acquire(timeout=60)
    trials.keep([RECORD])
    passed = trials.passed(RECORD, ROWS)
    assert passed is not None
    assert passed.session is not None
    assert trials.passed(RECORD, ROWS) is None, "another one"
    assert over.acquire(timeout=60)
    trials.keep([])
    assert passed.session.run(np.array(ROWS)).tolist() == [3.0, 7.0]
    passed.session.close()
    assert trials.passed(RECORD, ROWS) is None
    assert over.acquire(timeout=60)
    trials.close()


def test_ending_it_ends_its_process() -> None:
    done = threading.Event()
    trial = ProcessTrial(_Payload(pickled(Hangs())))  # type: ignore[arg-type]
    trials = Trials(trial, done.set)
    assert not trials.passed(RECORD, ROWS)
    while trial._session is None:
        done.wait(0.01)
    trials.close()
    assert done.wait(60)
    with pytest.raises(Closed):
        trials.passed(RECORD, ROWS)
    with pytest.raises(Closed):
        trial(RECORD, ROWS)


def test_what_cannot_be_opened_says_why() -> None:
    with pytest.raises(ArtifactCorrupt, match="trust_pickle"):
        put_on_trial(pickled(Sums()), trust=False)
    with pytest.raises(ArtifactCorrupt):
        put_on_trial(pickled(Sums())[:30])

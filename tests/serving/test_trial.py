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
from everloop.serving.trial import ProcessTrial, Trials
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
    def __init__(self, payload: bytes) -> None:
        self._payload = payload

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


def put_on_trial(payload: bytes, *, seconds: float = 60.0, trust: bool = True) -> None:
    ProcessTrial(_Payload(payload), Trust(pickle=trust), seconds)(RECORD, ROWS)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [Sums, Raises])
def test_what_opens_passes_even_if_it_fails_on_rows(model: type[Sums]) -> None:
    put_on_trial(pickled(model()))


def test_a_crash_is_the_trials(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert trials.passed(RECORD, [])
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


def test_ending_it_ends_its_process() -> None:
    done = threading.Event()
    trial = ProcessTrial(_Payload(pickled(Hangs())), Trust(pickle=True))  # type: ignore[arg-type]
    trials = Trials(trial, done.set)
    assert not trials.passed(RECORD, ROWS)
    while trial._caller is None:
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

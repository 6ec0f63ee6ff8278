"""Fits in child processes: what comes back, and what happens when they do not."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest

from everloop.core.errors import FitFailed
from everloop.core.schema import Schema, Target
from everloop.learning.challenge import FitJob
from everloop.learning.fitting import Fitter, Fitting
from everloop.learning.learners.make import make_learner
from everloop.learning.window import Rows, Slice
from everloop.runtime.artifact import Trust

SCHEMA, TARGET = Schema.unnamed(1), Target("regression")


@pytest.fixture
def fitter() -> Iterator[Fitter]:
    fitter = Fitter(idle=3600.0, time_limit=30.0)
    yield fitter
    fitter.close()


def in_main(source: str, name: str) -> Any:
    """A class as a caller's script defines it: its module is `__main__`, which no other process can import."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(textwrap.dedent(source), space)
    return space[name]


def part(start: int, stop: int, slope: float = 2.0) -> Slice:
    x = np.arange(start, stop, dtype=np.float64)
    return Slice(np.arange(start, stop) + 1, Rows(x[:, None]), (slope * x).tolist(), np.zeros(stop - start, np.int64))


def job(estimator: Any, **more: Any) -> FitJob:
    learner = make_learner(estimator, trust=Trust(pickle=True))
    return FitJob(learner, SCHEMA, TARGET, part(0, 40), part(40, 50), None, [50], None, **more)


def submit(fitter: Fitter, work: FitJob) -> Fitting:
    return fitter.submit(lambda: work, heavy=True, wake=lambda: None, name="test")


PLAIN = """
    import os
    import numpy as np
    from sklearn.base import BaseEstimator, RegressorMixin

    class Mine(RegressorMixin, BaseEstimator):
        def __init__(self, act=None):
            self.act = act
        def fit(self, X, y):
            self.n_features_in_ = X.shape[1]
            if self.act is not None:
                eval(self.act, {"os": os, "np": np, "time": __import__("time")})
            self.pid_ = os.getpid()
            self.slope_ = float((X[:, 0] * y).sum() / (X[:, 0] ** 2).sum())
            return self
        def predict(self, X):
            return self.slope_ * np.asarray(X)[:, 0]
"""


def test_a_class_of_the_callers_main_is_fitted_elsewhere(fitter: Fitter) -> None:
    mine = in_main(PLAIN, "Mine")
    fitting = submit(fitter, job(mine()))
    assert fitting.wait(60)
    result, learner = fitting.result()
    assert result.where == "process"
    assert result.promote
    assert learner is None
    assert result.payload is not None
    assert cloudpickle.loads(cloudpickle.dumps(1)) == 1
    assert result.challenger == pytest.approx(0)
    assert (result.first_id, result.last_id, result.count) == (1, 50, 50)


def test_a_child_is_used_again_and_its_talk_is_not_ours(fitter: Fitter, capfd: pytest.CaptureFixture[str]) -> None:
    mine = in_main(PLAIN, "Mine")
    for _ in range(2):
        fitting = submit(fitter, job(mine(act="print('verbose=1')")))
        assert fitting.wait(60)
        fitting.result()
    assert len(fitter._children) == 1
    assert capfd.readouterr() == ("", "")
    child = psutil.Process(fitter._children[0].pid)
    assert child.nice() == 10
    fitter._idle = 0.0
    fitter.tidy()
    assert not child.is_running()


def test_a_fit_that_dies_or_raises_is_a_failed_fit(fitter: Fitter) -> None:
    mine = in_main(PLAIN, "Mine")
    for act, told in (
        ("os._exit(7)", "exit status 7"),
        ("os.kill(os.getpid(), 9)", "signal 9"),
        ("1 / 0", "ZeroDivisionError"),
        ("print('so long') or os._exit(3)", "so long"),
    ):
        fitting = submit(fitter, job(mine(act=act)))
        assert fitting.wait(60)
        with pytest.raises(FitFailed, match=told):
            fitting.result()
        fitting = submit(fitter, job(mine()))  # and the next one works
        assert fitting.wait(60)
        assert fitting.result()[0].promote


def test_a_fit_that_takes_too_long_is_stopped() -> None:
    fitter = Fitter(time_limit=0.5)
    mine = in_main(PLAIN, "Mine")
    fitting = submit(fitter, job(mine(act="time.sleep(1000)")))
    assert fitting.wait(30)
    with pytest.raises(FitFailed, match=r"longer than 0\.5 s"):
        fitting.result()
    fitter.close()


def test_a_fit_that_hangs_does_not_keep_others_from_theirs() -> None:
    mine = in_main(PLAIN, "Mine")
    fitter = Fitter(patience=0.2, time_limit=60.0)
    try:
        stuck = submit(fitter, job(mine(act="time.sleep(1000)")))
        after = submit(fitter, job(mine()))
        assert after.wait(30)
        assert after.result()[0].promote
        assert not stuck.done
    finally:
        fitter.close()


def test_a_fit_that_hangs_on_a_thread_is_given_up() -> None:
    entered, release = threading.Event(), threading.Event()

    def prepare() -> FitJob:
        entered.set()
        release.wait(30)
        return job("linear")

    fitter = Fitter(time_limit=-10.0)  # was up before it began
    try:
        fitting = fitter.submit(prepare, heavy=False, wake=lambda: None, name="test")
        assert entered.wait(10)
        fitter.tidy()
        with pytest.raises(FitFailed, match="given up"):
            fitting.result()
    finally:
        release.set()
        fitter.close()


def test_closing_ends_a_fit_at_work(fitter: Fitter) -> None:
    mine = in_main(PLAIN, "Mine")
    fitting = submit(fitter, job(mine(act="time.sleep(1000)")))
    assert not fitting.wait(0.2)
    fitter.close()
    assert fitting.wait(10)
    with pytest.raises(FitFailed):
        fitting.result()
    with pytest.raises(FitFailed, match="shutting down"):
        submit(fitter, job(mine())).result()


def test_what_cannot_be_pickled_is_fitted_here(fitter: Fitter) -> None:
    mine = in_main(PLAIN, "Mine")()
    work = job(mine)
    work.learner.lock = threading.Lock()  # type: ignore[attr-defined]
    fitting = submit(fitter, work)
    assert fitting.wait(60)
    assert fitting.result()[0].where == "thread"


def test_an_incremental_learner_comes_back_whole(fitter: Fitter) -> None:
    from sklearn.linear_model import SGDRegressor

    work = job(SGDRegressor(random_state=0))
    fitting = submit(fitter, work)
    assert fitting.wait(60)
    result, _ = fitting.result()
    assert result.state is not None
    back = work.learner.clone()
    back.restore(result.state)
    assert len(back.predict([[1.0], [2.0]])) == 2


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_child_does_not_outlive_its_parent(how: str, tmp_path: Path) -> None:
    """Also in the middle of a fit, and from a script without an `if __name__` guard, which must run only once."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys, time
            import numpy as np
            print("script runs", flush=True)
            {{plain}}
            from everloop.core.schema import Schema, Target
            from everloop.learning.challenge import FitJob
            from everloop.learning.fitting import Fitter
            from everloop.learning.learners.make import make_learner
            from everloop.learning.window import Rows, Slice
            from everloop.runtime.artifact import Trust
            x = np.arange(50.0)
            whole = Slice(np.arange(50) + 1, Rows(x[:, None]), x.tolist(), np.zeros(50, np.int64))
            fitter = Fitter()
            for act in (None, "print(os.getpid(), flush=True) or time.sleep(1000)"):
                learner = make_learner(Mine(act), trust=Trust(pickle=True))
                job = FitJob(learner, Schema.unnamed(1), Target("regression"), whole.part(0, 40), whole.part(40, 50), None, [50], None)
                fitting = fitter.submit(lambda: job, heavy=True, wake=lambda: None, name="x")
                if act is None:
                    fitting.wait()
                    fitting.result()
                    print(fitter._children[0].pid, flush=True)
            time.sleep(1.0)
            {"sys.exit()" if how == "exit" else "os.kill(os.getpid(), 9)"}
            """
        ).replace("{plain}", textwrap.dedent(PLAIN).strip())
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=90, check=False)
    runs, pid = done.stdout.split("\n")[:2]
    assert runs == "script runs", done.stderr
    assert done.stdout.count("script runs") == 1
    gone = threading.Event()
    for _ in range(100):
        if not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE:
            return
        gone.wait(0.1)
    os.kill(int(pid), 9)
    pytest.fail("the child outlived its parent")

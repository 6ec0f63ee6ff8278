"""Recovery: the learning loop that a server runs, on streams whose concept changes: is the accuracy back 1,000 examples later?

    python benchmarks/recovery.py [--seeds 10] [--quick]

`drift.py` simulates the decisions alone; here it is the real `LearningLoop` with registry, journal and intake, in memory, with
fits on the spot and simulated time: 100 examples a second, their labels at once. Streams and seeds are those of `drift.py`:
10,000 examples of the old concept, then the new one. Accuracy is that of the live version on examples 1,001 to 2,000
after the change, each asked before its label is known, against the same estimator fitted on the 1,000 before them, all of the
new concept. Versions are those published after the change: a recovery should not take dozens.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from drift import DRIFT_AT, STREAMS, stream
from everloop.core.events import Event, EventBus
from everloop.learning.config import LearningConfig
from everloop.learning.fitting import Fitter
from everloop.learning.intake import Feedback, Intake
from everloop.learning.learners.make import describe, make_learner
from everloop.learning.loop import LearningLoop
from everloop.registry.catalog import Registry
from everloop.runtime.artifact import Trust
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import MemoryArtifacts
from everloop.testing import ManualClock

PER_SECOND = 100.0
AT_ONCE = 20
"""Examples that come together: what a fifth of a second brings."""
FROM, UNTIL = DRIFT_AT + 1_000, DRIFT_AT + 2_000
TRUST = Trust(pickle=True)


@dataclass
class Run:
    right: np.ndarray
    """(n,) whether the live version answered each example rightly; False while there was none."""
    alarms: list[int]
    published: list[int]
    """After how many examples."""


def learn(X: np.ndarray, y: np.ndarray, model: Any, *, seed: int = 0) -> Run:
    """The stream (n, features), (n,) through the loop, with the default configuration."""
    clock, bus, config = ManualClock(), EventBus(), LearningConfig()
    journal = MemoryJournal(clock=clock)
    registry = Registry(MemoryCatalog(journal), MemoryArtifacts(), journal, bus, clock, TRUST)
    loop = LearningLoop(
        registry,
        journal,
        config,
        bus,
        clock,
        owner="benchmark",
        trust=TRUST,
        rng=random.Random(seed),
        fitter=Fitter(inline=True),
        cpu=lambda: 0.0,
    )
    intake = Intake(registry, journal, config, clock, backlog=loop.backlog, wake=loop.wake)
    learner = make_learner(model, trust=TRUST)
    kind, parameters, template = describe(learner)
    registry.register("m", kind, task=learner.task, parameters=parameters, template=template)
    loop.attach("m", learner)
    done = 0
    run = Run(np.zeros(len(X), bool), [], [])

    def note(event: Event) -> None:
        if event.kind == "drift":
            run.alarms.append(done)
        elif event.kind == "published":
            run.published.append(done)

    bus.subscribe(note)
    session, version = None, None
    try:
        for start in range(0, len(X), AT_ONCE):
            rows, labels = X[start : start + AT_ONCE], y[start : start + AT_ONCE]
            live = registry.live("m")
            if live is not None and live.version != version:
                session, version = registry.open_session(live), live.version
            if session is not None:
                answers = np.asarray(session.run(rows.astype(session.dtype)))
                run.right[start : start + len(rows)] = answers == labels
            examples = zip(rows.tolist(), labels.tolist(), strict=True)
            intake.accept_now("m", [Feedback(label, features=row) for row, label in examples])
            done += len(rows)
            clock.advance(len(rows) / PER_SECOND)
            loop.settle()
    finally:
        loop.close()
        journal.close()
    return run


def makers() -> dict[str, Callable[[], Any]]:
    from sklearn.naive_bayes import GaussianNB
    from sklearn.tree import DecisionTreeClassifier

    return {
        "naive Bayes": GaussianNB,
        "tree of depth 5": lambda: DecisionTreeClassifier(max_depth=5, random_state=0),
    }


def run(quick: bool = False, seeds: int = 10) -> list[dict[str, Any]]:
    """Rows for `make bench`: {what, bar, measured, ratio, pass, detail}."""
    found: list[dict[str, Any]] = []
    for name in STREAMS:
        data = [stream(name, seed) for seed in range(2 if quick else seeds)]
        for kind, make in makers().items():
            runs = [learn(X[:UNTIL], y[:UNTIL], make(), seed=seed) for seed, (X, y) in enumerate(data)]
            alone = [
                float(make().fit(X[DRIFT_AT:FROM], y[DRIFT_AT:FROM]).score(X[FROM:UNTIL], y[FROM:UNTIL]))
                for X, y in data
            ]
            ours = [float(run.right[FROM:UNTIL].mean()) for run in runs]
            before = statistics.mean(float(run.right[DRIFT_AT - 1_000 : DRIFT_AT].mean()) for run in runs)
            gap = 100 * (statistics.mean(alone) - statistics.mean(ours))
            versions = [sum(at > DRIFT_AT for at in run.published) for run in runs]
            early = sum(at <= DRIFT_AT for run in runs for at in run.alarms)
            found.append(
                {
                    "what": f"recovery of the real loop, {name}, {kind}: accuracy 1,001 to 2,000 examples after the drift",
                    "bar": "within 1 point of a model of the new concept alone",
                    "measured": f"{100 * statistics.mean(ours):.1f} % against {100 * statistics.mean(alone):.1f} %",
                    "ratio": None,
                    "pass": gap <= 1.0,
                    "detail": f"gap {gap:+.2f} points, {len(runs)} seeds; {100 * before:.1f} % before the drift; versions"
                    f" after it {min(versions)} to {max(versions)}, median {statistics.median(versions):g}; alarms before"
                    f" it {early}",
                }
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="2 seeds")
    arguments = parser.parse_args()
    rows = run(quick=arguments.quick, seeds=arguments.seeds)
    for row in rows:
        print(f"{'ok ' if row['pass'] else 'NO '} {row['what']}: {row['measured']} ({row['detail']})")
    return 0 if all(row["pass"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

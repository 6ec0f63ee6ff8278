"""The whole loop with traffic: a world that changes, a challenger that goes out by itself, and everybody answered by it at the end."""

from __future__ import annotations

import random
import time

from everloop import Continuum
from everloop.core.events import EventKind
from everloop.learning.config import LearningConfig

PATIENCE = 60.0


def test_a_recovery_from_drift_goes_out_by_a_canary() -> None:
    rng = random.Random(5)
    with Continuum(LearningConfig(min_samples=50, interval_sec=3600)) as models:
        models.register_model("line", "linear")
        rows = [[rng.uniform(0, 10)] for _ in range(100)]
        models.add_training_examples("line", rows, [2 * x + rng.gauss(0, 0.1) for [x] in rows])
        models.train_model("line")
        models.start_continuous_learning()

        def ask(slope: float) -> int:
            x = rng.uniform(0, 10)
            answer = models.predict("line", [x])
            models.feedback("line", answer.request_id, slope * x + rng.gauss(0, 0.1))
            return answer.model_version

        for _ in range(300):
            assert ask(2.0) == 1
        until = time.monotonic() + PATIENCE
        while all(rollout.state != "promoted" for rollout in models.rollouts("line")):
            assert time.monotonic() < until, [event.message for event in models.timeline("line")]
            ask(-3.0)
        [first, *_] = models.rollouts("line")
        events = models.timeline("line", limit=1000)

    assert (first.state, first.by, first.champion, first.challenger) == ("promoted", "learning", 1, 2)
    kinds = [event.kind for event in events]
    story: list[EventKind] = ["drift", "published", "rollout_started", "rollout_ended", "promoted"]
    at = [kinds.index(kind, kinds.index("drift")) for kind in story]
    assert at == sorted(at)

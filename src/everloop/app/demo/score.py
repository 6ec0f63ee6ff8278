"""What the demo knows of each model: what its player measured, what the server said, and what happened.

The feeding threads and the one that hears events write, the screen reads; every change is under the one lock of the `Score`.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEEP_LATENCIES = 4000
KEEP_EVENTS = 200
HOPELESS = 2
"""Failed fits in a row after which nobody waits for a first version any longer."""
TOLD = frozenset(
    {
        "drift",
        "input_drift",
        "fitted",
        "fit_failed",
        "rejected",
        "published",
        "swapped",
        "rolled_back",
        "rollout_advanced",
        "rollout_ended",
        "guard",
        "learner_failed",
    }
)
"""Kinds of events that are shown."""
IN_FLIGHT = 1.0
"""Seconds after the end of a rollout in which an answer may still be on its way."""


@dataclass
class ModelScore:
    """One model's numbers. `predicted` were answered, `cold` refused because nothing was learned yet."""

    name: str
    about: str
    played: int = 0
    predicted: int = 0
    cold: int = 0
    labels: int = 0
    waits: int = 0
    """Requests that the server put off (503) and that were sent again."""
    failed: int = 0
    last_failure: str = ""
    version: int | None = None
    """The one that serves, by the newest answer or by what the server said of the model."""
    answered_by: int | None = None
    swapped_to: int | None = None
    """By the newest event of a swap."""
    steps_back: list[tuple[float, int]] = field(default_factory=list)
    """Answers by an older version than the one before: when, and by which the one before was."""
    out: dict[int, float] = field(default_factory=dict)
    """Versions that shared the traffic with an older one, and until when."""
    drifts: int = 0
    fits: int = 0
    rejected: int = 0
    swaps: int = 0
    quality: dict[str, Any] = field(default_factory=dict)
    learner: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=KEEP_LATENCIES))
    """Seconds, of the newest answers, as the client saw them."""
    marks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=12))
    """(time, requests so far), one a refresh: what the rate is told from."""

    def percentile(self, share: float) -> float | None:
        """Seconds that this share of the newest answers stayed within."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def heard(self, event: Mapping[str, Any]) -> None:
        """What an event says of the versions that answer."""
        if event["kind"] == "swapped":
            self.swapped_to = event["version"]
        elif event["kind"] == "rollout_started":
            self.out[event["version"]] = math.inf
        elif event["kind"] == "rollout_ended":
            self.out[event["data"]["challenger"]] = event["at"]

    @property
    def went_back(self) -> int:
        """Answers by an older version than the one before, though the traffic was not shared; only a rollback may do that."""
        return sum(at > self.out.get(version, -math.inf) + IN_FLIGHT for at, version in self.steps_back)

    def rate(self) -> float:
        """Predictions per second over the last few refreshes."""
        if len(self.marks) < 2:
            return 0.0
        (before, was), (now, total) = self.marks[0], self.marks[-1]
        return (total - was) / (now - before) if now > before else 0.0

    def figures(self, *, recent: bool) -> tuple[str, float | None, float | None]:
        """(metric, the model's, the no-change baseline's); `recent` over the newest 1,000 labels instead of all."""
        quality = self.quality.get("window", {}) if recent else self.quality
        metric = "accuracy" if "accuracy" in quality else "mae"
        return metric, quality.get(metric), quality.get(f"baseline_{metric}")


class Score:
    """All models of one demo, and the newest events."""

    def __init__(self, models: Mapping[str, str]) -> None:
        self.lock = threading.Lock()
        self.models = {name: ModelScore(name, about) for name, about in models.items()}
        self.events: deque[dict[str, Any]] = deque(maxlen=KEEP_EVENTS)
        self.trouble: str = ""
        """Why the demo cannot go on; empty while it can."""

    def answered(self, name: str, seconds: float, version: int) -> None:
        with self.lock:
            model = self.models[name]
            model.predicted += 1
            model.latencies.append(seconds)
            if model.answered_by is not None and version < model.answered_by:
                model.steps_back.append((time.time(), model.answered_by))
            model.version = model.answered_by = version

    def count(self, name: str, what: str, by: int = 1) -> None:
        with self.lock:
            model = self.models[name]
            setattr(model, what, getattr(model, what) + by)

    def failure(self, name: str, reason: str) -> None:
        with self.lock:
            self.models[name].failed += 1
            self.models[name].last_failure = reason

    def finished(self, name: str) -> None:
        with self.lock:
            self.models[name].done = True

    def told(self, name: str, info: Mapping[str, Any]) -> None:
        """What the server says of a model."""
        with self.lock:
            model = self.models[name]
            model.quality, model.learner = info["quality"], info["learner"]
            model.version = info.get("serving_version") or model.version

    def mark(self, now: float) -> None:
        with self.lock:
            for model in self.models.values():
                model.marks.append((now, model.predicted))

    def happened(self, event: dict[str, Any]) -> bool:
        """Count an event; True if it is one to show."""
        counts = {"drift": "drifts", "fitted": "fits", "rejected": "rejected", "swapped": "swaps"}
        with self.lock:
            model = self.models.get(event["model"])
            if model is not None and event["kind"] in counts:
                what = counts[event["kind"]]
                setattr(model, what, getattr(model, what) + 1)
            if model is not None:
                model.heard(event)
            if event["kind"] not in TOLD:
                return False
            self.events.append(event)
            return True

    def heard_all_swaps(self) -> bool:
        """Whether the event of the swap to every model's version has come."""
        with self.lock:
            return all(model.swapped_to == model.version for model in self.models.values())

    def hopeless(self, name: str) -> bool:
        """Whether this model's fits keep failing before there is a first version."""
        with self.lock:
            return bool(self.models[name].learner.get("failures", 0) >= HOPELESS)

    def problems(self, *, whole: bool = True) -> list[str]:
        """Why this run is not a success: failed requests, versions that went back and, if the run was `whole`, models that
        learned nothing."""
        found = [self.trouble] if self.trouble else []
        with self.lock:
            for model in self.models.values():
                if model.failed:
                    found.append(f"{model.name}: {model.failed} requests failed, the last with: {model.last_failure}")
                if whole and model.predicted == 0:
                    why = model.learner.get("last_error")
                    found.append(
                        f"{model.name}: learned nothing from {model.labels} labels" + (f": {why}" if why else "")
                    )
                if model.went_back:
                    found.append(f"{model.name}: {model.went_back} answers came from an older version than one before")
        return found

"""Live quality, test-then-train: every labelled example first judges the answer that was served for it.

The measures are prequential (Gama, Sebastião, Rodrigues 2013, "On evaluating stream learning algorithms"): over everything, over
the newest 1,000 examples, and by version. Beside them stands the no-change baseline, which always answers the label before:
on autocorrelated streams it beats many a model that looks good (Bifet et al. 2013; kappa-temporal compares with it).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from everloop.core.types import Scalar, Task

WINDOW = 1000
_MOST_VERSIONS = 8


class _Tally:
    """Running sums of one stream of (label, answer)."""

    __slots__ = ("bad", "base", "base_n", "loss", "m2", "mean", "n", "square")

    def __init__(self) -> None:
        self.n = 0
        self.loss = 0.0
        """Sum of absolute errors, or number of wrong answers."""
        self.square = 0.0
        self.mean = 0.0
        self.m2 = 0.0
        self.base = 0.0
        """The no-change baseline's sum of losses, over `base_n` examples."""
        self.base_n = 0
        self.bad = 0
        """Answers that were not finite numbers; they count in no mean."""

    def dump(self) -> list[float]:
        return [self.n, self.loss, self.square, self.mean, self.m2, self.base, self.base_n, self.bad]

    @classmethod
    def load(cls, numbers: Sequence[float]) -> _Tally:
        tally = cls()
        tally.n, tally.base_n, tally.bad = int(numbers[0]), int(numbers[6]), int(numbers[7])
        tally.loss, tally.square, tally.mean, tally.m2, tally.base = numbers[1:6]
        return tally


class Quality:
    """Metrics of one model's served answers. Owned by one thread; `dump` and `load` are for checkpoints (JSON-able)."""

    def __init__(self, task: Task) -> None:
        self.task: Task = task
        self._all = _Tally()
        self._versions: dict[int, _Tally] = {}
        self._recent: deque[tuple[Scalar, Scalar, Scalar | None]] = deque(maxlen=WINDOW)
        self._last: Scalar | None = None

    @property
    def n(self) -> int:
        return self._all.n

    def update(self, label: Scalar, answer: Any, version: int) -> None:
        """One labelled example: what was right, what `version` had answered."""
        previous, self._last = self._last, label
        tally = self._versions.get(version)
        if tally is None:
            tally = self._versions[version] = _Tally()
            while len(self._versions) > _MOST_VERSIONS:
                del self._versions[min(self._versions)]
        good = _count(self._all, self.task, label, answer, previous)
        _count(tally, self.task, label, answer, previous)
        if good:
            self._recent.append((label, answer, previous))

    def report(self) -> dict[str, Any]:
        """For a status page: overall figures, `window` (the newest 1,000) and `versions`. A figure that is not defined yet is
        left out."""
        recent = _Tally()
        for label, answer, previous in list(self._recent):  # a status page may look while the learner writes
            _count(recent, self.task, label, answer, previous)
        return {
            **_figures(self._all, self.task),
            "window": _figures(recent, self.task),
            "versions": {str(version): _figures(t, self.task) for version, t in sorted(self._versions.copy().items())},
        }

    def dump(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "all": self._all.dump(),
            "versions": {str(version): tally.dump() for version, tally in self._versions.items()},
            "recent": [list(entry) for entry in self._recent],
            "last": self._last,
        }

    @classmethod
    def load(cls, data: dict[str, Any]) -> Quality:
        quality = cls(data["task"])
        quality._all = _Tally.load(data["all"])
        quality._versions = {int(version): _Tally.load(numbers) for version, numbers in data["versions"].items()}
        quality._recent.extend((label, answer, previous) for label, answer, previous in data["recent"])
        quality._last = data["last"]
        return quality


def _count(tally: _Tally, task: Task, label: Any, answer: Any, previous: Any) -> bool:
    if task == "classification":
        tally.n += 1
        tally.loss += answer != label
        if previous is not None:
            tally.base += previous != label
            tally.base_n += 1
        return True
    error = abs(label - answer) if isinstance(answer, (int, float)) else math.nan
    if not math.isfinite(error):
        tally.bad += 1
        return False
    tally.n += 1
    tally.loss += error
    tally.square += error * error
    delta = label - tally.mean
    tally.mean += delta / tally.n
    tally.m2 += delta * (label - tally.mean)
    if previous is not None:
        tally.base += abs(label - previous)
        tally.base_n += 1
    return True


def _figures(tally: _Tally, task: Task) -> dict[str, Any]:
    figures: dict[str, Any] = {"n": tally.n}
    if tally.bad:
        figures["unusable"] = tally.bad
    if not tally.n:
        return figures
    baseline = tally.base / tally.base_n if tally.base_n else None
    if task == "classification":
        accuracy = 1.0 - tally.loss / tally.n
        figures |= {"accuracy": accuracy, "correct": tally.n - int(tally.loss)}
        if baseline is not None:
            figures["baseline_accuracy"] = 1.0 - baseline
            if baseline > 0:
                figures["kappa_temporal"] = (accuracy - (1.0 - baseline)) / baseline
        return figures
    figures |= {"mae": tally.loss / tally.n, "rmse": math.sqrt(tally.square / tally.n)}
    if tally.m2 > 0:
        figures["r2"] = 1.0 - tally.square / tally.m2
    if baseline is not None:
        figures["baseline_mae"] = baseline
    return figures

"""The test in test-then-train: what was served, or what the champion would have served, against each label as it comes.

Live quality counts every answer for the version that gave it. The drift monitor sees one version only: answers of an older
one, whose labels come late, would look like a change of the world. It is primed, when a version is adopted, with that version's
losses on rows it was judged by, so that a change right after a swap is seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from everloop.core.schema import Target
from everloop.core.types import Example
from everloop.learning.champion import Champion
from everloop.learning.config import LearningConfig
from everloop.learning.learners.base import losses
from everloop.learning.quality import Quality, Scores
from everloop.learning.scorer import Scorer
from everloop.learning.window import Slice
from everloop.policy.drift.errors import HISTORY, DriftAlarm, ErrorDriftMonitor, loss_floor


@dataclass(frozen=True)
class Alarm:
    cut_id: int
    """The first example of the new concept."""
    since: int
    """How many tested examples belong to it."""
    before: float
    after: float
    detectors: tuple[str, ...]


class Examiner:
    """Tests one model's answers. Owned by its trainer."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.champion: Champion | None = None
        self.quality = Quality(target.task)
        self.scorer: Scorer | None = None
        """Whoever can ask versions for the probabilities behind their answers; None: their quality is without."""
        self.alarms = 0
        self._watching: ErrorDriftMonitor | None = None
        self._version = 0
        self._since = 0
        self._fed: deque[int] = deque(maxlen=2 * HISTORY)

    @property
    def _monitor(self) -> ErrorDriftMonitor:
        """Made at the first label: it imports a library that a server without labels does not need."""
        if self._watching is None:
            self._watching = ErrorDriftMonitor(self.target.task)
        return self._watching

    def adopt(self, champion: Champion | None, *, since: int, unseen: Sequence[float] = (), floor: float = 0.0) -> None:
        """From now on test this one. `unseen`: its losses on rows that it was not trained on."""
        before, self.champion = self.champion, champion
        if before is not None:
            before.close()
        version = champion.version if champion else 0
        if version == self._version:  # found again after a restart: its statistics go on
            return
        if champion is not None and champion.origin in {self._version, before.origin if before else None}:
            self._version = version  # another form of the same: so do its
            return
        self._version, self._since = version, since
        self._fed.clear()
        if unseen:
            self._monitor.prime(unseen, floor=floor)
        else:
            self._watching = None

    def test(self, examples: Sequence[Example], config: LearningConfig) -> tuple[list[Any], Alarm | None]:
        """Count these examples. Gives the champion's answer to each, None where it is not known, and an alarm."""
        answers: list[Any] = [None] * len(examples)
        champion = self.champion
        known = champion.last_id if champion is not None else 0  # what it was trained on is no test
        own = [i for i, example in enumerate(examples) if example.version is None and example.id > known]
        if champion is not None and own:
            rows = [examples[i].row for i in own]
            for i, answer in zip(own, champion.answers(rows), strict=True):
                answers[i] = answer
        serves = champion.version if champion is not None else None
        versions: list[int] = []
        given: list[Any] = []
        tested: list[int] = []
        fed: list[int] = []
        for i, example in enumerate(examples):
            version = example.version
            if version is None:
                if champion is None or example.id <= known:
                    continue
                version = champion.version
                given.append(answers[i])
            else:
                given.append(example.prediction)
                if version == serves:
                    answers[i] = example.prediction
            tested.append(i)
            versions.append(version)
            if version == serves:
                fed.append(i)
        self._judge([examples[i] for i in tested], given, versions)
        return answers, self._watch([examples[i] for i in fed], [answers[i] for i in fed], config)

    def _judge(self, examples: Sequence[Example], answers: Sequence[Any], versions: Sequence[int]) -> None:
        scores: dict[int, Scores] = {}
        if self.scorer is not None and self.target.task == "classification":
            for version in dict.fromkeys(versions):
                at = [i for i, other in enumerate(versions) if other == version]
                found = self.scorer.scores(version, [examples[i].row for i in at], self.champion)
                if found is not None:
                    scores[version] = replace(found, at=np.asarray(at, np.intp)[found.at])
        self.quality.update([example.label for example in examples], answers, versions, scores)

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = {"version": self._version or None, "alarms": self.alarms, "examples": 0}
        if (monitor := self._watching) is not None:
            report |= {"examples": monitor.examples, "mean_loss": monitor.mean, "warming_up": monitor.warming_up}
        return report

    def dump(self) -> tuple[dict[str, Any], dict[str, Any], int, int, int]:
        return self.quality.dump(), self._monitor.dump(), self._version, self._since, self.alarms

    def load(
        self, *, quality: dict[str, Any], drift: dict[str, Any], version: int, since: int, alarms: int, window: Slice
    ) -> None:
        """Raises what a damaged state raises (KeyError, ValueError)."""
        self.quality = Quality.load(quality)
        self._monitor.load(drift)
        self._version, self._since, self.alarms = version, since, alarms
        tested = (window.ids >= since) & ((window.versions == 0) | (window.versions == version))
        self._fed.extend(window.ids[tested].tolist())

    def _watch(self, examples: list[Example], answers: list[Any], config: LearningConfig) -> Alarm | None:
        if not examples or not config.drift_detection:
            return None
        self._monitor.threshold = config.drift_threshold
        self._fed.extend(example.id for example in examples)
        found: DriftAlarm | None = self._monitor.update(losses(self.target, [e.label for e in examples], answers))
        if found is None:
            return None
        self.alarms += 1
        since = min(found.offset, len(self._fed))
        return Alarm(self._fed[-since], since, found.before, found.after, found.detectors)


def floor_of(target: Target, window: Slice) -> float:
    """The rise of the error that nobody could care about, for these labels."""
    if target.task != "regression" or not len(window):
        return 0.0
    return loss_floor(np.asarray(window.labels, np.float64))

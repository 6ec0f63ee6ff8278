"""Live quality, test-then-train: every labelled example first judges the answer that was served for it.

The measures are prequential (Gama, Sebastião, Rodrigues 2013, "On evaluating stream learning algorithms"), for each version and over
all of them, since they were first seen and over the newest 1,000 labels, each beside the no-change baseline (`learning.tally`).

    update ──by version──> Tally (sums)  ─┐
                       └─> Recent (1,000) ─┴─ report: versions; merged, the model's

- What is over all versions is not counted a second time: sums are merged, and the newest 1,000 labels of all are among the newest
  1,000 of each.
- The versions that were labelled last are kept apart, `MOST_VERSIONS`; those before are merged into one. A version whose last label is
  `STALE` labels ago has no window: what it did then is not what it would do now.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.core.types import Scalar, Task
from everloop.learning.tally import SCORE_COLUMNS, WINDOW, Columns, Recent, Tally, window_figures
from everloop.policy.metrics import MOST_CLASSES
from everloop.policy.scores import curves_of, judge, probable

__all__ = ["FORMAT", "KNOWN", "MOST_VERSIONS", "STALE", "WINDOW", "Quality", "Scores", "in_words"]

FORMAT = 2
"""Of what `dump` gives; figures of another format are counted anew."""
MOST_VERSIONS = 8
STALE = 10 * WINDOW
_MOST_TOLD = 64
KNOWN = 50
"""Labels after which a version's quality is told on the timeline: an accuracy is then known to about 7 points."""


@dataclass(frozen=True)
class Scores:
    """Probabilities that a version gives to some of the examples of one update."""

    at: npt.NDArray[np.intp]
    """(n,) Which examples."""
    classes: Sequence[Any]
    values: npt.NDArray[np.float64]
    """(n, classes)"""


class _Version:
    __slots__ = ("classes", "recent", "tally")

    def __init__(self, task: Task) -> None:
        self.tally = Tally(task)
        self.recent = Recent()
        self.classes: tuple[Any, ...] = ()
        """Those that its scores are of; empty until there are any."""


class Quality:
    """Metrics of one model's served answers. Written by one thread, read by any; `dump` and `load` are for checkpoints."""

    def __init__(self, task: Task) -> None:
        self.task: Task = task
        self._lock = threading.Lock()
        self._versions: dict[int, _Version] = {}
        """The one that was labelled last comes last."""
        self._earlier = Tally(task)
        self._codes: dict[Scalar, int] = {}
        self._count = 0
        self._last: Scalar | None = None
        self._same = self._pairs = 0
        """Labels so far that were like the one before them, of how many."""
        self._told: list[int] = []
        """Versions whose quality has been told, the last ones."""
        self._report: tuple[int, dict[str, Any]] = (-1, {})

    @property
    def n(self) -> int:
        with self._lock:
            return self._earlier.n + sum(version.tally.n for version in self._versions.values())

    def update(
        self,
        labels: Sequence[Scalar],
        answers: Sequence[Any],
        versions: Sequence[int],
        scores: Mapping[int, Scores] | None = None,
    ) -> None:
        """Labelled examples in order: what was right, what was answered, by which version; its probabilities where it has some."""
        if not len(labels):
            return
        with self._lock:
            columns = self._columns(labels, answers)
            by = np.asarray(versions, np.int64)
            for number in dict.fromkeys(versions):
                rows = np.flatnonzero(by == number)
                part = {name: column[rows] for name, column in columns.items()}
                version = self._version(number)
                if self.task == "classification":
                    self._add_scores(part, rows, version, (scores or {}).get(number))
                version.tally.add(part, version.classes)
                version.recent.add(part)
            self._forget()

    def newly_known(self) -> list[tuple[int, dict[str, Any]]]:
        """Versions that have had `KNOWN` labels since this was last asked, each once, with their figures."""
        with self._lock:
            new = [n for n, v in sorted(self._versions.items()) if v.tally.n >= KNOWN and n not in self._told]
            self._told = [*self._told, *new][-_MOST_TOLD:]
            return [(number, self._versions[number].tally.figures()) for number in new]

    def figures(self, version: int) -> dict[str, Any]:
        """Of one version: overall figures, and `window`; empty for one that no label has judged lately."""
        found: dict[str, Any] = self.report()["versions"].get(str(version), {})
        return found

    def report(self) -> dict[str, Any]:
        """For a status page: overall figures, `window` (the newest 1,000) and `versions`, each with a window of its own. A figure that
        is not defined yet is left out. Shared with other readers: not to be changed."""
        with self._lock:
            count, report = self._report
            if count == self._count:
                return report
            count = self._count
            overall = Tally(self.task)
            overall.merge(self._earlier)
            seen = []
            for number, version in sorted(self._versions.items()):
                overall.merge(version.tally)
                seen.append((number, version.tally.figures(), version.recent, version.classes))
        parts = [(recent.columns, classes) for _, _, recent, classes in seen if recent.columns]
        report = {
            **overall.figures(),
            "window": window_figures(self.task, _newest(parts)),
            "versions": {
                str(number): figures
                | {"window": window_figures(self.task, [(recent.columns, classes)] if recent.columns else [])}
                for number, figures, recent, classes in seen
            },
        }
        with self._lock:
            if count >= self._report[0]:
                self._report = (count, report)
        return report

    def dump(self) -> dict[str, Any]:
        """What msgpack can hold."""
        with self._lock:
            return {
                "format": FORMAT,
                "task": self.task,
                "count": self._count,
                "last": self._last,
                "persistence": [self._same, self._pairs],
                "codes": list(self._codes),
                "told": self._told,
                "earlier": self._earlier.dump(),
                "versions": [
                    {
                        "version": number,
                        "classes": list(version.classes),
                        "tally": version.tally.dump(),
                        "recent": version.recent.dump(),
                    }
                    for number, version in self._versions.items()
                ],
            }

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Quality:
        """Of another format, nothing but the task is taken. Raises KeyError, ValueError and the like where it is damaged."""
        quality = cls(data["task"])
        if data.get("format") != FORMAT:
            return quality
        quality._count, quality._last = data["count"], data["last"]
        quality._same, quality._pairs = data["persistence"]
        quality._told = list(data["told"])
        quality._codes = {label: code for code, label in enumerate(data["codes"])}
        quality._earlier = Tally.load(quality.task, data["earlier"])
        for each in data["versions"]:
            version = quality._versions[each["version"]] = _Version(quality.task)
            version.classes = tuple(each["classes"])
            version.tally = Tally.load(quality.task, each["tally"])
            version.recent = Recent.load(each["recent"])
        return quality

    # -- holding the lock ----------------------------------------------------------------------------------------------

    def _columns(self, labels: Sequence[Scalar], answers: Sequence[Any]) -> Columns:
        before, n = self._last, len(labels)
        self._last = labels[-1]
        at = np.arange(self._count, self._count + n)
        self._count += n
        if self.task == "regression":
            label = np.array(labels, np.float64)
            previous = np.concatenate([[math.nan if before is None else float(before)], label[:-1]])
            answer = np.array([a if isinstance(a, (int, float)) else math.nan for a in answers], np.float64)
            return {"at": at, "label": label, "answer": answer, "previous": previous}
        coded = np.array([self._code(label) for label in labels], np.int32)
        previous = np.concatenate([[-1 if before is None else self._code(before)], coded[:-1]]).astype(np.int32)
        return {
            "at": at,
            "label": coded,
            "answer": np.array([self._code(answer) for answer in answers], np.int32),
            "previous": previous,
            "right": np.array([a == b for a, b in zip(labels, answers, strict=True)], np.bool_),
            **self._honest(coded, previous, first=before is None),
        }

    def _honest(self, coded: npt.NDArray[Any], previous: npt.NDArray[Any], *, first: bool) -> Columns:
        """The share of labels like the one before them, as it was known before each; Laplace's rule of succession."""
        same = ((coded == previous) & (coded >= 0)).astype(np.int64)
        pairs = self._pairs + np.arange(len(coded)) - first
        honest = (self._same + np.cumsum(same) - same + 1) / (pairs + 2)
        if first:
            honest[0] = 0.0
        self._same += int(same.sum())
        self._pairs += len(coded) - first
        return {"honest": honest, "others": np.full(len(coded), max(len(self._codes) - 1, 1), np.int32)}

    def _code(self, value: Any) -> int:
        code = self._codes.get(value)
        if code is None:
            # What is no class, such as the NaN that stands for a model that raised, is not equal to itself.
            if value is None or value != value or len(self._codes) >= MOST_CLASSES:
                return -1
            code = self._codes[value] = len(self._codes)
        return code

    def _add_scores(self, part: Columns, rows: npt.NDArray[Any], version: _Version, scores: Scores | None) -> None:
        n = len(rows)
        if scores is not None and not version.classes and len(scores.classes):
            version.classes = tuple(scores.classes)
        part |= {
            "scored": np.zeros(n, np.bool_),
            "place": np.full(n, -1, np.int32),
            "truth": np.zeros(n),
            "square": np.zeros(n),
            "top": np.zeros(n),
            "hit": np.zeros(n, np.bool_),
            "curves": np.zeros((n, curves_of(len(version.classes)))),
        }
        if scores is None or tuple(scores.classes) != version.classes:
            return
        good = probable(scores.values)
        where = np.searchsorted(rows, scores.at[good])
        codes = [self._codes.get(label, -2) for label in version.classes]
        places = {code: place for place, code in enumerate(codes)}
        place = np.array([places.get(code, -1) for code in part["label"][where].tolist()], np.int32)
        judged = judge(scores.values[good], place)
        part["scored"][where] = True
        for name in SCORE_COLUMNS:
            part[name][where] = getattr(judged, name)

    def _version(self, number: int) -> _Version:
        version = self._versions.pop(number, None) or _Version(self.task)
        self._versions[number] = version
        return version

    def _forget(self) -> None:
        while len(self._versions) > MOST_VERSIONS:
            oldest = next(iter(self._versions))
            self._earlier.merge(self._versions.pop(oldest).tally)
        for version in self._versions.values():
            if version.recent.columns and version.recent.last < self._count - STALE:
                version.recent = Recent()


def in_words(figures: Mapping[str, Any]) -> str:
    """For a person: `accuracy 83.1 % (no-change 71.0 %), AUC 0.912`; empty without figures."""
    told = []
    for name, word in (
        ("accuracy", "accuracy"),
        ("balanced_accuracy", "balanced"),
        ("log_loss", "log loss"),
        ("auc", "AUC"),
        ("mae", "MAE"),
        ("rmse", "RMSE"),
        ("r2", "R²"),
    ):
        if name in figures:
            text = _number(name, figures[name])
            if name in ("accuracy", "mae") and f"baseline_{name}" in figures:
                text += f" (no-change {_number(name, figures[f'baseline_{name}'])})"
            told.append(f"{word} {text}")
    return ", ".join(told)


def _number(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name.endswith("accuracy") else f"{value:.4g}"


def _newest(parts: Sequence[tuple[Columns, Sequence[Any]]]) -> list[tuple[Columns, Sequence[Any]]]:
    """Of the windows of several versions, the newest `WINDOW` examples of all."""
    if not parts:
        return []
    numbers = np.concatenate([columns["at"] for columns, _ in parts])
    if len(numbers) <= WINDOW:
        return list(parts)
    first = np.partition(numbers, len(numbers) - WINDOW)[len(numbers) - WINDOW]
    newest = [({name: column[columns["at"] >= first] for name, column in columns.items()}, c) for columns, c in parts]
    return [(columns, classes) for columns, classes in newest if len(columns["at"])]

"""What the traffic of this process says of a rollout: plain counts of two arms, cumulated since this process first saw it.

    split ─► Tally (an arm in a step) ─┐
    batcher ─► the same                ├─► Evidence (model, rollout) ─► Observed ─► this process' report (`evidences`)
    guard hits ─► wake                 ┘

Theory of operation.

- A request counts where it was *assigned*: to the tally of the arm and the step that routed it, however long it then takes. So a step
  that begins while requests of the one before are still in flight has an exact sample ratio.
- On the path of a prediction in process nothing locks: `answered` is the `next` of an `itertools.count`, `took` the append of a
  bounded deque. Whoever looks folds the deque into the histogram; of more than `RECENT` predictions between two looks the last ones count,
  which is a sample that does not depend on the arm.
- Over HTTP a latency is observed once a batch: the requests of a batch share one run, so they are not independent.
- The split is tested on what it drew independently: requests without a unit, and units, each once a step however often it asks
  (`units` of them at most are remembered, the first ones of the step). A request counts as drawn when it is assigned: were it when it is
  answered, a slow version would seem to get too few.
- What is invalid is nobody's failure and is not counted at all.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from everloop.core.errors import EverloopError, Failure, ModelFailed
from everloop.policy.bins import latency_bin
from everloop.serving.counters import value_of

RECENT = 8192
"""Latencies of predictions in process that wait to be looked at: a look once a second takes some milliseconds."""
UNITS = 65_536
"""Distinct units remembered by step: some 6 MB, and a sample ratio known to 0.2 percentage points."""
GUARDED = ("not_finite", "shape", "timeout", "crash")
"""Failures that the controller should look at right now."""
OVERLOADED = "overloaded"
"""The kind of a request that its arm had no room for: no failure of the model on an input."""

K = TypeVar("K")


class ArmSeen(msgspec.Struct):
    """One arm, cumulated. Steps count from 0, as in `policy.rollout`."""

    requests: int = 0
    """Answered or failed, over all steps."""
    failed: int = 0
    kinds: dict[str, int] = {}
    """Of the failed ones, by `core.errors.Failure`, and `overloaded`."""
    decisive: dict[str, int] = {}
    """Of the failed ones, those that the champion then answered."""
    latencies: dict[int, int] = {}
    """`policy.bins.latency_bin` -> batches over HTTP, predictions in process."""
    assigned: dict[int, int] = {}
    """Step -> requests that were given to this arm; those in flight are in it, and those whose client went away."""
    settled: dict[int, int] = {}
    """Step -> requests answered or failed."""
    alone: dict[int, int] = {}
    """Step -> requests without a unit: each was drawn for itself. Over the network those in flight are in it."""
    units: dict[int, int] = {}
    """Step -> distinct units."""

    def draws(self, step: int) -> int:
        """What the split drew independently in this step."""
        return self.alone.get(step, 0) + self.units.get(step, 0)


class Observed(msgspec.Struct):
    """What one process, or several (`merged`), have seen of a rollout."""

    champion: ArmSeen = msgspec.field(default_factory=ArmSeen)
    challenger: ArmSeen = msgspec.field(default_factory=ArmSeen)
    open: bool = False
    """Whether the challenger is open and routed to (merged: in every process)."""
    failure: str = ""
    """Why it cannot be opened here."""
    lost: str = ""
    """Why it was taken out of routing here: a run that hangs, or ended the process that it was in."""
    lost_how: Failure = "timeout"
    """Which of the two."""
    ended: bool = False
    """This process has let go of the challenger in good order. A report without it, of a process that is gone, tells of a crash."""

    def merged(self, other: Observed) -> Observed:
        """Both together. A unit asks at any process, so units are not added up: by step, those of the process that saw the most."""
        champion, challenger = _merge(self.champion, other.champion), _merge(self.challenger, other.challenger)
        for step in {*champion.units, *challenger.units}:
            best = max(
                (self, other), key=lambda seen: seen.champion.units.get(step, 0) + seen.challenger.units.get(step, 0)
            )
            champion.units[step] = best.champion.units.get(step, 0)
            challenger.units[step] = best.challenger.units.get(step, 0)
        return Observed(
            champion,
            challenger,
            open=self.open and other.open,
            failure=self.failure or other.failure,
            lost=self.lost or other.lost,
            lost_how=self.lost_how if self.lost else other.lost_how,
            ended=self.ended and other.ended,
        )


class Tally:
    """One arm in one step. Its methods may be called from any thread."""

    __slots__ = (
        "_answered",
        "_answered_named",
        "_assigned",
        "_decisive",
        "_drawn",
        "_kinds",
        "_latencies",
        "_lock",
        "_recent",
        "_settled",
        "_units",
        "answered",
        "answered_named",
        "assigned",
        "drawn",
        "known",
        "took",
        "wake",
    )

    def __init__(self, units: set[str] | None = None, wake: Callable[[], None] | None = None) -> None:
        """`units`: those of the step, of both arms; None remembers none."""
        self._answered = itertools.count()
        self.answered = self._answered.__next__
        """One prediction in process, without a unit, was answered …"""
        self._answered_named = itertools.count()
        self.answered_named = self._answered_named.__next__
        """… or with one …"""
        self._recent: deque[float] = deque(maxlen=RECENT)
        self.took = self._recent.append
        """… after so many seconds."""
        self.known = set() if units is None else units
        """Units of this step that have been counted, in either arm: they need not be shown to `unit` again."""
        self._assigned = itertools.count()
        self.assigned = self._assigned.__next__
        """One request was given to this arm's batcher."""
        self._drawn = itertools.count()
        self.drawn = self._drawn.__next__
        """One request without a unit was drawn for this arm, and `answered` will not tell."""
        self.wake = wake
        self._lock = threading.Lock()
        self._units: _Units | None = None if units is None else _Units(units)
        self._settled = 0
        self._kinds: Counter[str] = Counter()
        self._decisive: Counter[str] = Counter()
        self._latencies: Counter[int] = Counter()

    def unit(self, unit: str) -> None:
        """This unit was routed here."""
        if self._units is not None:
            self._units.add(unit)

    def settled(self, requests: int, seconds: float | None) -> None:
        """So many requests came back together after `seconds`; None if they were never tried."""
        with self._lock:
            self._settled += requests
            if seconds is not None:
                self._latencies[latency_bin(seconds)] += 1

    def failed(self, error: EverloopError) -> None:
        """One of the settled requests failed."""
        with self._lock:
            self._kinds[kind_of(error)] += 1

    def decisive(self, error: EverloopError) -> None:
        """… and the champion could answer the same input."""
        kind = kind_of(error)
        with self._lock:
            self._decisive[kind] += 1
        if self.wake is not None and kind in GUARDED:
            self.wake()

    def add_to(self, seen: ArmSeen, step: int) -> None:
        """For readers."""
        answered = value_of(self._answered)
        in_process = answered + value_of(self._answered_named)
        with self._lock:
            try:
                while True:
                    self._latencies[latency_bin(self._recent.popleft())] += 1
            except IndexError:
                pass
            settled, alone = self._settled + in_process, value_of(self._drawn) + answered
            assigned = max(settled, value_of(self._assigned) + in_process)
            for total, own in ((seen.kinds, self._kinds), (seen.decisive, self._decisive)):
                _add(total, own)
            _add(seen.latencies, self._latencies)
            failed = sum(self._kinds.values())
        seen.requests += settled
        seen.failed += failed
        units = 0 if self._units is None else self._units.count
        for by_step, number in (
            (seen.assigned, assigned),
            (seen.settled, settled),
            (seen.alone, alone),
            (seen.units, units),
        ):
            if number:
                by_step[step] = by_step.get(step, 0) + number


class _Units:
    """The distinct units of one arm; which are known is shared with the other one, so that both end at the same time."""

    __slots__ = ("_known", "_lock", "count")

    def __init__(self, known: set[str]) -> None:
        self._known = known
        self._lock = threading.Lock()
        self.count = 0

    def add(self, unit: str) -> None:
        known = self._known
        if unit in known or len(known) >= UNITS:
            return
        with self._lock:
            if unit not in known:
                known.add(unit)
                self.count += 1


class Evidence:
    """Of one rollout in this process. It outlives lanes, splits and steps."""

    def __init__(self, model: str, rollout: int, challenger: int, wake: Callable[[], None]) -> None:
        self.model = model
        self.rollout = rollout
        self.challenger = challenger
        self.open = False
        self.failure = ""
        self.lost = ""
        self.lost_how: Failure = "timeout"
        self.ended = False
        self._wake = wake
        self._lock = threading.Lock()
        self._steps: dict[int, tuple[Tally, Tally]] = {}

    def arms(self, step: int) -> tuple[Tally, Tally]:
        """(champion, challenger) in this step: the same ones each time."""
        with self._lock:
            found = self._steps.get(step)
            if found is None:
                units: set[str] = set()
                found = self._steps[step] = (Tally(units), Tally(units, self._wake))
            return found

    def observed(self) -> Observed:
        """Cumulated, never falling."""
        with self._lock:
            steps = dict(self._steps)
        seen = Observed(open=self.open, failure=self.failure, lost=self.lost, lost_how=self.lost_how, ended=self.ended)
        for step, (champion, challenger) in steps.items():
            champion.add_to(seen.champion, step)
            challenger.add_to(seen.challenger, step)
        return seen


def kind_of(error: EverloopError) -> str:
    return error.how if isinstance(error, ModelFailed) else OVERLOADED if error.code == "overloaded" else "raised"


def _merge(a: ArmSeen, b: ArmSeen) -> ArmSeen:
    def both(x: Mapping[K, int], y: Mapping[K, int]) -> dict[K, int]:
        total = dict(x)
        _add(total, y)
        return total

    return ArmSeen(
        a.requests + b.requests,
        a.failed + b.failed,
        both(a.kinds, b.kinds),
        both(a.decisive, b.decisive),
        both(a.latencies, b.latencies),
        both(a.assigned, b.assigned),
        both(a.settled, b.settled),
        both(a.alone, b.alone),
        both(a.units, b.units),
    )


def _add(total: dict[K, int], more: Mapping[K, int]) -> None:
    for key, number in more.items():
        total[key] = total.get(key, 0) + number

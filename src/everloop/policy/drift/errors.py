"""Has the error of the serving model risen? Drift of P(y given x), seen in the stream of its losses.

Theory of operation. Losses are brought into [0, 1]: a 0/1 loss is; an absolute error is divided by a cap taken, once,
from the reference losses (6 medians, or twice the 90th percentile if that is more) and cut at 1, so that one wild
outlier counts no more than a bad example. Four detectors read them:

- `adwin`, River's, with its defaults (A. Bifet and R. Gavalda, "Learning from time-changing data with adaptive
  windowing", SDM 2007); only a rise counts.
- `hddm_a` (I. Frías-Blanco et al., "Online and non-parametric drift detection methods based on Hoeffding's bounds",
  IEEE TKDE 27, 2015), one-sided: quick where few losses came before the change.
- `page_hinkley`: the cumulative sum of deviations above the running mean, less half the smallest effect of interest
  (E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954), with a bar in units of the variance.
- `scan`: is the mean of the newest w losses higher than that of all before, for w on a grid of ratio about 1.4? The
  evidence is the exponent of Chernoff's bound for means in [0, 1] (W. Hoeffding, JASA 58, 1963, theorem 1), two-sample
  form; for absolute errors Bernstein's exponent where it is larger.

Where neighbouring losses are alike, as in time series, n of them tell less than n: the evidence is multiplied by
(1 - r) / (1 + r), r being their correlation before the split.

No detector alone raises an alarm. It takes two of the four within the last 1,000 examples, *and* a split of the recent
losses that has both evidence and effect: a rise of at least `threshold`. A rise too slow for all is caught by
comparing blocks of 1,000 with the best block so far, twice in a row (`creep`).

Numbers: `benchmarks/drift.py`.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput
from everloop.core.types import Task
from everloop.policy.drift.detectors import HddmA, adaptive_windowing, bernstein, chernoff, divergences, loss_cap

WARM_UP = 30
"""Losses before anything can be told, where no reference was given."""
LEAST_REFERENCE = 5
"""Primed losses that will do as a reference, and the least on either side of a change point while scanning."""
HISTORY = 4_096
"""Losses kept, at least; a change point lies within them."""
VOTES_NEEDED = 2
VOTE_SPAN = 1_000
"""Examples after which a detector's vote is forgotten."""
EVIDENCE_TO_VOTE = 10.0
"""Of the scan: natural logarithm of one over the chance of such a split without a change, for the first 64 examples.
Later it takes 1.25 log(examples / 64) more, because the longer one looks, the more chance has to offer."""
_LOOKS = 1.25
EVIDENCE_TO_CONFIRM = 9.0
_PAGE_EVIDENCE = 8.0
_BLOCK = 1_000
_CREEP_BLOCKS = 2
_CREEP_DEVIATIONS = 5.0
_WINDOWS = tuple(sorted({round(5 * 2 ** (i / 2)) for i in range(20)}))
_EVERY_EXAMPLE = 64
"""So many examples after a reset are scanned one by one, at every split; later ones every 4, on the grid."""
_DEPENDENCE_WEIGHT = 50
"""Examples that what was known of the losses' dependence is worth, after an alarm or a new champion."""
_FORMAT = 1


@dataclass(frozen=True)
class DriftAlarm:
    offset: int
    """Estimated number of examples since the change, up to and with the last of the losses given to `update`: the
    newest `offset` examples belong to the new concept."""
    index: int
    """Which of the given losses raised it."""
    before: float
    """Mean loss before the change, as far as it is remembered."""
    after: float
    """Mean loss since."""
    detectors: tuple[str, ...]
    """Which agreed: of `adwin`, `hddm_a`, `page_hinkley`, `scan`; or `creep`."""


def loss_floor(labels: Sequence[float] | npt.NDArray[Any]) -> float:
    """A rise of the mean absolute error that nobody could care about: a millionth of the labels' standard deviation.
    Without it, a model that is exact would be told to drift when rounding errors do. For `prime`."""
    values = np.asarray(labels, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # a label of 1e308 is finite, its square is not
        deviation = float(np.std(values)) if len(values) else 0.0
    return 1e-6 * deviation if math.isfinite(deviation) else 0.0


class ErrorDriftMonitor:
    """Watches the losses of one champion, in the order in which the labels came.

    Order of calls: `prime` with the held-out losses of a fit when its version begins to serve (it forgets all else);
    `update` with each further loss; after an alarm, `policy.retraining` and `policy.windows` with `alarm.offset`. After
    an alarm the losses since the change are the new reference, so that the same change is told once, even if no
    challenger replaces the champion. Costs about 3 µs an example. Not thread-safe.
    """

    def __init__(self, task: Task, *, threshold: float = 0.1) -> None:
        """`threshold`: the smallest rise worth an alarm. Classification: of the error rate. Regression: of the mean
        absolute error, relatively. Raises InvalidInput unless it is in [0, 1]."""
        if not 0 <= threshold <= 1:
            raise InvalidInput(f"drift_threshold: expected between 0 and 1, got {threshold!r}", field="drift_threshold")
        self.task = task
        self.threshold = threshold
        self._cap: float | None = None
        self._floor = 0.0
        self._losses: list[float] = []
        self._sums: list[float] = []
        """Running sums of the scaled losses, `_sums[i]` over the first i of `_losses`; and of their squares."""
        self._squares: list[float] = []
        self._lagged: list[float] = []
        """The same of the products of neighbours."""
        self._dependence = 0.0
        """Correlation of neighbouring losses, as far as earlier champions showed it."""
        self._votes: dict[str, int] = {}
        self._best: tuple[float, float] | None = None
        """Mean and standard error of the best block so far."""
        self._forget()

    @property
    def examples(self) -> int:
        """Losses seen since the last reset, alarm or priming, those primed with included."""
        return self._count

    @property
    def mean(self) -> float | None:
        """Mean loss over those remembered; None before the first."""
        return float(np.mean(self._losses)) if self._losses else None

    @property
    def warming_up(self) -> bool:
        return self._cap is None

    def reset(self) -> None:
        """Forget everything, the reference too."""
        self._dependence = 0.0
        self._forget()

    def prime(self, losses: Sequence[float] | npt.NDArray[np.float64], *, floor: float = 0.0) -> None:
        """Start anew with these losses, shape (n,), as the reference: those of a new champion on rows that it was not
        trained on. From 5 on, a change can be told from the first examples; with fewer a warm-up of 30 comes first.
        `floor`: see `loss_floor`."""
        self._dependence = self._correlation(len(self._sums) - 1)
        self._forget()
        self._floor = floor
        self._restart([float(loss) for loss in losses])

    def update(self, losses: Sequence[float] | npt.NDArray[np.float64]) -> DriftAlarm | None:
        """Take further losses, shape (n,), oldest first. All are taken, whether or not there is an alarm; the last alarm
        is returned. A loss that is not finite (the model answered NaN) counts as the worst."""
        values = losses.tolist() if isinstance(losses, np.ndarray) else losses
        last = len(values) - 1
        found: DriftAlarm | None = None
        for index, loss in enumerate(values):
            detectors = self._take(loss)
            if detectors is not None:
                found = self._alarm(detectors, index, last)
        return found

    def dump(self) -> dict[str, Any]:
        """JSON-able state, a few kilobytes for classification, at most some 90 for regression."""
        return {
            "format": _FORMAT,
            "task": self.task,
            "cap": self._cap,
            "dependence": self._dependence,
            "floor": self._floor,
            "losses": base64.b85encode(zlib.compress(np.asarray(self._losses, "<f8").tobytes(), 1)).decode(),
            "count": self._count,
            "page": self._page,
            "votes": dict(self._votes),
            "best": self._best,
            "block": self._block,
            "creeping": self._creeping,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become what `dump` saw. Raises InvalidInput, and stays as it was, if that is not from such a monitor."""
        if state.get("format") != _FORMAT or state.get("task") != self.task:
            raise InvalidInput(f"not a saved drift monitor for {self.task}", field="drift")
        try:
            losses = np.frombuffer(zlib.decompress(base64.b85decode(state["losses"])), "<f8").tolist()
            cap = None if state["cap"] is None else float(state["cap"])
            dependence = float(state["dependence"])
            rest = (float(state["floor"]), int(state["count"]), float(state["page"]), int(state["block"]))
            votes = {str(name): int(at) for name, at in state["votes"].items()}
            best = None if state["best"] is None else (float(state["best"][0]), float(state["best"][1]))
            creeping = int(state["creeping"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, zlib.error) as error:
            raise InvalidInput(f"not a saved drift monitor for {self.task}: {error!r}", field="drift") from error
        self._forget()
        self._floor, count, page, block = rest
        self._cap, self._dependence = cap, dependence
        if cap is None:
            self._losses = losses
        else:
            for loss in losses:
                self._append(loss, cap)
        self._count, self._page, self._votes = count, page, votes
        self._best, self._block, self._creeping = best, block, creeping

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._cap = 1.0 if self.task == "classification" else None
        self._floor = 0.0
        self._losses, self._sums, self._squares, self._lagged = [], [0.0], [0.0], [0.0]
        self._count = 0
        self._adwin = adaptive_windowing()
        self._hddm = HddmA()
        self._page = 0.0
        self._votes = {}
        self._best = None
        self._block = 0
        """Examples in the block at hand."""
        self._creeping = 0

    def _restart(self, reference: list[float]) -> None:
        """Take the reference; the scale comes from it if there is enough."""
        if self.task == "regression":
            self._cap = loss_cap(reference, self._floor) if len(reference) >= LEAST_REFERENCE else None
        if self._cap is None:
            self._losses = [loss if math.isfinite(loss) else math.inf for loss in reference]
            self._count = len(reference)
            return
        for loss in reference[-HISTORY:]:
            self._append(loss, self._cap)
        self._votes = {}
        self._count = len(reference)

    def _append(self, loss: float, cap: float) -> None:
        """One loss into the history, and to the detectors that keep a state of their own."""
        scaled = loss / cap if 0.0 <= loss < cap else 1.0  # NaN fails both comparisons, and counts as the worst
        self._losses.append(loss if math.isfinite(loss) else cap)
        sums, lagged = self._sums, self._lagged
        lagged.append(lagged[-1] + scaled * (sums[-1] - sums[-2]) if len(sums) > 1 else 0.0)
        sums.append(sums[-1] + scaled)
        self._squares.append(self._squares[-1] + scaled * scaled)
        if self._hddm.update(scaled):
            self._votes["hddm_a"] = self._count
        if self._adwin.update(scaled) and self._adwin.get_total() > self._adwin.get_width() * self._mean_scaled():
            self._votes["adwin"] = self._count

    def _mean_scaled(self) -> float:
        return (self._sums[-1] - self._sums[0]) / (len(self._sums) - 1)

    def _take(self, loss: float) -> tuple[str, ...] | None:
        """One example; the detectors that agree, if they do."""
        cap = self._cap
        if cap is None:
            self._warm_up(loss)
            return None
        self._count = count = self._count + 1
        self._append(loss, cap)
        sums = self._sums
        kept = len(sums) - 1

        first = sums[0]
        mean = (sums[-1] - first) / kept
        variance = (self._squares[-1] - self._squares[0]) / kept - mean * mean
        effect = self._effect(mean)
        slack = max(effect / 2, 0.1 * math.sqrt(max(variance, 0.0)), 1e-9)
        self._page = page = max(0.0, self._page + (sums[-1] - sums[-2]) - mean - slack)
        if page > 1.0 and kept >= WARM_UP and page > _PAGE_EVIDENCE * (variance / (2 * slack) + 1 / 3):
            self._votes["page_hinkley"] = count

        agreed = None
        step = count & -count
        if kept < _EVERY_EXAMPLE:
            step = kept
        if step >= 4:
            agreed = self._scan(12 * step)
        self._block += 1
        if self._block == _BLOCK:
            self._block = 0
            if self._creep() and agreed is None:
                agreed = ("creep",)
        if kept >= 2 * HISTORY:
            del self._losses[:-HISTORY]
            for running in (self._sums, self._squares, self._lagged):
                del running[: -HISTORY - 1]
        return agreed

    def _warm_up(self, loss: float) -> None:
        self._losses.append(loss if math.isfinite(loss) else math.inf)
        self._count += 1
        if len(self._losses) >= WARM_UP:
            collected, self._losses = self._losses, []
            self._restart(collected)

    def _effect(self, before: float) -> float:
        """The smallest rise of the scaled mean that counts."""
        if self.task == "classification":
            return self.threshold
        assert self._cap is not None
        return max(self.threshold * before, self._floor / self._cap)

    def _scan(self, longest: int) -> tuple[str, ...] | None:
        """The best split into the newest w and all before, for the w up to `longest`. Long windows are looked at more
        rarely than short ones, in proportion, so that the cost an example stays flat."""
        sums = self._sums
        kept, last, first = len(sums) - 1, sums[-1], sums[0]
        relative = self.task == "regression"
        votes, count = self._votes, self._count
        looks = _LOOKS * math.log(max(count / _EVERY_EXAMPLE, 1.0))
        best = bar = EVIDENCE_TO_CONFIRM + looks
        for width in range(LEAST_REFERENCE, kept) if kept < _EVERY_EXAMPLE else _WINDOWS:
            older = kept - width
            if width > longest or older < LEAST_REFERENCE:
                break
            middle = sums[older]
            after = (last - middle) / width
            before = (middle - first) / older
            rise = after - before
            if rise <= 0 or rise < (self._effect(before) if relative else self.threshold):
                continue
            evidence = chernoff(after, width, before, older)
            if relative:
                squares = self._squares
                spread_after = (squares[-1] - squares[older]) / width - after * after
                spread_before = (squares[older] - squares[0]) / older - before * before
                evidence = max(evidence, bernstein(rise, spread_after, width, spread_before, older))
            if evidence > best:
                correlation = self._correlation(older)
                best = max(best, evidence * (1 - correlation) / (1 + correlation))
        if best <= bar:
            return None
        if best >= EVIDENCE_TO_VOTE + looks:
            votes["scan"] = count
        agreed = tuple(sorted(name for name, at in votes.items() if count - at < VOTE_SPAN))
        return agreed if len(agreed) >= VOTES_NEEDED else None

    def _correlation(self, older: int) -> float:
        """Of neighbouring losses among the oldest `older`, from 0 (independent, or not clearly dependent) towards 1."""
        own = 0.0
        if older > 1:
            sums = self._sums
            mean = (sums[older] - sums[0]) / older
            variance = (self._squares[older] - self._squares[0]) / older - mean * mean
            if variance > 1e-9:
                product = (self._lagged[older] - self._lagged[0]) / older
                own = (product - mean * mean) / variance - 1 / math.sqrt(older)
        own = min(max(own, 0.0), 0.95)
        return (_DEPENDENCE_WEIGHT * self._dependence + older * own) / (_DEPENDENCE_WEIGHT + older)

    def _creep(self) -> bool:
        """At the end of a block: whether it is the second in a row that is clearly worse than the best so far."""
        sums, squares = self._sums, self._squares
        mean = (sums[-1] - sums[-1 - _BLOCK]) / _BLOCK
        variance = max((squares[-1] - squares[-1 - _BLOCK]) / _BLOCK - mean * mean, 1 / _BLOCK)
        error = math.sqrt(variance / _BLOCK)
        if self._best is None or mean + 2 * error < self._best[0] + 2 * self._best[1]:
            self._best, self._creeping = (mean, error), 0
            return False
        best, best_error = self._best
        rise = mean - best
        worse = rise >= self._effect(best) and rise > _CREEP_DEVIATIONS * math.hypot(error, best_error)
        self._creeping = self._creeping + 1 if worse else 0
        return self._creeping >= _CREEP_BLOCKS

    def _alarm(self, detectors: tuple[str, ...], index: int, last: int) -> DriftAlarm:
        since = self._change_point()
        losses = self._losses
        before, after = losses[: len(losses) - since], losses[len(losses) - since :]
        alarm = DriftAlarm(
            offset=since + last - index,
            index=index,
            before=float(np.mean(before)),
            after=float(np.mean(after)),
            detectors=detectors,
        )
        floor, self._dependence = self._floor, self._correlation(len(before))
        self._forget()
        self._floor = floor
        self._restart(after)
        return alarm

    def _change_point(self) -> int:
        """Losses since the likeliest change: the split at which two means explain the losses best."""
        values = np.asarray(self._losses)
        if self.task == "regression":
            # Logarithms, in units of about a median: cut at 1, a large old loss would look like a new one, and one old row
            # among few new ones can bend a fit.
            assert self._cap is not None
            values = np.log1p(6 * values / self._cap)
        sums = np.cumsum(values)
        kept = len(values)
        older = np.arange(1, kept)
        newer = kept - older
        before = sums[:-1] / older
        after = (sums[-1] - sums[:-1]) / newer
        if self.task == "classification":
            pooled = sums[-1] / kept
            gain = newer * divergences(after, pooled) + older * divergences(before, pooled)
        else:
            gain = older * newer / kept * (after - before) ** 2
        return int(newer[np.argmax(np.where(after > before, gain, -1.0))])

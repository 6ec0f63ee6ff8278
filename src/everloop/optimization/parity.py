"""Whether a form answers as the original does, in numbers.

Two things are looked at (`evidence`). **Rows**, on which both are asked. A form that computes in floats (`exact`) must give the same labels to all of
them, and numbers that differ by no more than the dtype explains: `atol + rtol * |original|`, of probabilities where there are some, of
values for regression, `atol` being in units of their spread.

**Labelled examples**, which judge the forms that round on purpose (INT8, FP16): the metric may not be worse by more than `loss`, and the
95 % interval of its change (`policy.paired`) must not reach beyond twice that, so that nobody passes by having been shown little. Nor may
more than `FLIPS` times `loss` of the labels be others than the original's: being wrong elsewhere, as often, is another model. Where there
are no labels, the original's answers stand for them.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import numpy as np

from everloop.optimization.asking import Answers, ask
from everloop.optimization.evidence import Evidence
from everloop.policy.paired import mean_difference, share_difference
from everloop.runtime.session import Matrix, Session

_LARGEST = sys.float_info.max
FLIPS = 10
"""Times the loss that is allowed: the most labels, as a share, in which a form that rounds may differ from the original."""


class Tolerances(msgspec.Struct, frozen=True):
    """What an exact form may differ by."""

    rtol: float
    atol: float
    """In units of the spread of the original's numbers; of probabilities as it is."""


FLOAT64 = Tolerances(1e-9, 1e-9)
FLOAT32 = Tolerances(1e-4, 1e-5)
FLOAT16 = Tolerances(1e-2, 1e-2)


class Change(msgspec.Struct, frozen=True):
    """Of a metric: what it was and is, on the same rows, and the interval of its change."""

    metric: str
    """`accuracy` (of the labels), `agreement` (with the original, where there are no labels), `mae`, `deviation`."""
    rows: int
    before: float
    after: float
    change: float
    """Negative is worse: points of accuracy as a share; of errors as a share of the original's (of the spread, for `deviation`)."""
    low: float
    high: float
    flips: int = 0
    """Of these rows: labels that are others than the original's."""


class Parity(msgspec.Struct, frozen=True):
    rows: int
    """Asked, drawn ones included."""
    drawn: int
    compared: str
    """`probabilities`, `values` or `labels`: what the differences are of."""
    max_difference: float
    mean_difference: float
    worst: float
    """The greatest difference in units of what is allowed there: at most 1 agrees."""
    flips: int
    """Labels that are others; of regression none."""
    tolerances: Tolerances
    change: Change | None
    passed: bool = True
    why: str = ""
    """In one sentence."""


def judge(evidence: Evidence, session: Session, *, exact: bool) -> Parity:
    """Raises what the form raises: it then does not answer as the original does."""
    found = ask(session, evidence.rows)
    original = evidence.original
    tolerances = tolerances_of(evidence.dtype, session.dtype)
    flips = 0
    if original.labels is not None and found.labels is not None:
        flips = sum(a != b for a, b in zip(original.labels, found.labels, strict=True))
    compared, greatest, mean, worst = _differences(original, found, tolerances, flips)
    parity = Parity(
        rows=len(evidence.rows),
        drawn=evidence.data.drawn,
        compared=compared,
        max_difference=greatest,
        mean_difference=mean,
        worst=worst,
        flips=flips,
        tolerances=tolerances,
        change=_change(evidence, found),
    )
    refused = _lacks(original, found) or (_differ(parity) if exact else _loses(parity.change, evidence.loss))
    told = refused or (_alike(parity) if exact else _changed(parity))
    return msgspec.structs.replace(parity, passed=not refused, why=told)


def tolerances_of(*dtypes: Any) -> Tolerances:
    """Of two forms, by what they take: what the less precise one explains."""
    sizes = [np.dtype(dtype).itemsize for dtype in dtypes if np.dtype(dtype).kind == "f"]
    least = min(sizes, default=4) if len(sizes) == len(dtypes) else 4
    return {2: FLOAT16, 4: FLOAT32}.get(least, FLOAT64)


def _differences(
    original: Answers, found: Answers, tolerances: Tolerances, flips: int
) -> tuple[str, float, float, float]:
    a, b = original.numbers, found.numbers
    if a is None or b is None or a.shape != b.shape:
        n = max(1, len(original.labels or ()))
        return "labels", float(flips > 0), flips / n, _LARGEST if flips else 0.0
    with np.errstate(all="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        difference = np.where(same, 0.0, np.abs(a - b))
        spread = 1.0 if a.ndim == 2 else _spread(a)
        allowed = tolerances.atol * spread + tolerances.rtol * np.abs(a)
        shares = np.where(difference == 0, 0.0, difference / allowed)
    shares = np.where(np.isnan(shares), np.inf, shares)
    difference = np.where(np.isnan(difference), np.inf, difference)
    name = "probabilities" if a.ndim == 2 else "values"
    return name, _finite(difference.max(initial=0)), _finite(difference.mean()), _finite(shares.max(initial=0))


def _finite(value: Any) -> float:
    """JSON has no infinity."""
    return min(float(value), _LARGEST)


def _spread(values: Matrix) -> float:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 1.0
    return float(finite.std()) or float(np.abs(finite).max()) or 1.0


def _change(evidence: Evidence, found: Answers) -> Change | None:
    n, original = evidence.data.judged, evidence.original
    if n == 0:
        return None
    if original.labels is not None and found.labels is not None:
        truth = list(evidence.labels) if evidence.labels is not None else original.labels[:n]
        right = [a == t for a, t in zip(original.labels, truth, strict=False)]
        now = [b == t for b, t in zip(found.labels, truth, strict=False)]
        lost = sum(a and not b for a, b in zip(right, now, strict=True))
        won = sum(b and not a for a, b in zip(right, now, strict=True))
        low, high = share_difference(lost, won, n)
        metric = "accuracy" if evidence.labels is not None else "agreement"
        flips = sum(a != b for a, b in zip(original.labels[:n], found.labels[:n], strict=True))
        return Change(metric, n, sum(right) / n, sum(now) / n, (won - lost) / n, low, high, flips)
    if original.numbers is None or found.numbers is None:
        return None
    return _change_of_error(original.numbers[:n], found.numbers[:n], evidence)


def _change_of_error(a: Matrix, b: Matrix, evidence: Evidence) -> Change:
    n = len(a)
    metric = "deviation" if evidence.labels is None else "mae"
    truth = a if evidence.labels is None else np.array(evidence.labels, np.float64)
    before, after = np.abs(a - truth), np.abs(b - truth)
    if not np.isfinite(after).all():
        return Change(metric, n, float(before.mean()), _LARGEST, -_LARGEST, -_LARGEST, -_LARGEST)
    scale = _spread(a) if evidence.labels is None else float(before.mean()) or _spread(a)
    change = (before - after) / scale
    low, high = mean_difference(change, np.random.default_rng(evidence.data.seed))
    return Change(metric, n, float(before.mean()), float(after.mean()), float(change.mean()), low, high)


def _lacks(original: Answers, found: Answers) -> str:
    if original.numbers is None or (found.numbers is not None and found.numbers.shape == original.numbers.shape):
        return ""
    return "it does not give the probabilities that the original gives"


def _differ(parity: Parity) -> str:
    """Why a form that computes in floats does not answer alike; empty where it does."""
    if parity.flips:
        return f"{parity.flips:,} of {parity.rows:,} labels are others"
    if parity.worst > 1:
        return f"{parity.compared} differ by up to {parity.max_difference:.3g}, {parity.worst:.3g} times what rounding explains"
    return ""


def _loses(change: Change | None, loss: float) -> str:
    """Why a form that rounds on purpose may not take the original's place; empty where it may."""
    if change is None:
        return "there are no examples to judge it on"
    if change.metric == "accuracy" and not change.before:
        return f"the original answers none of {change.rows:,} labels rightly, so that nothing can be lost"
    if change.change < -loss:
        return f"{change.metric} is worse by {_points(-change.change)}; at most {_points(loss)} may be lost"
    if change.low < -2 * loss:
        return (
            f"{change.rows:,} examples leave a loss of {change.metric} of up to {_points(-change.low)} possible (95 % interval); more than "
            f"{_points(2 * loss)} may not be"
        )
    if change.flips > FLIPS * loss * change.rows:
        return f"{change.flips:,} of {change.rows:,} labels are others than the original's; at most {FLIPS * loss:.2%} may be, however many are right"
    return ""


def _alike(parity: Parity) -> str:
    return f"agrees on {parity.rows:,} rows, to {parity.max_difference:.2g}"


def _changed(parity: Parity) -> str:
    change = parity.change
    assert change is not None
    return (
        f"{change.metric} changes by {change.change * 100:+.2f} points ({change.low * 100:+.2f} to {change.high * 100:+.2f}) on "
        f"{change.rows:,} examples; {parity.flips:,} of {parity.rows:,} labels are others"
    )


def _points(share: float) -> str:
    return f"{share * 100:.2f} points"

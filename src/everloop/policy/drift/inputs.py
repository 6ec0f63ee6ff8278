"""Do the inputs still look like those the model was trained on? Drift of P(x), told without labels.

One test a feature: Kolmogorov and Smirnov's for numbers, chi-square for text, and Fisher's exact test for the share of
missing values; the worse of the two p-values, doubled, is the feature's. Holm's correction makes up for the number of
features (S. Holm, Scandinavian Journal of Statistics 6, 1979).

A server looks again and again, so a level of 1 % a look would ring within the day. Two things hold the chance of *any*
false alarm in the life of one reference to `alpha`: each look takes rows that no look before it has seen, and look
number i spends alpha / (i (i + 1)), which sums to alpha. A feature must also have changed by an amount that matters
(`least_effect`), or with enough rows every trifle would be significant.

It supposes that rows are drawn independently: where neighbouring rows are alike (time series), windows differ more than
chance allows, and that is reported as the drift that, locally, it is.

The distributions are computed here with NumPy, because importing `scipy.stats` costs a server 70 MB; the tests hold them
to SciPy's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput

Column = npt.NDArray[Any]

WINDOW = 500
"""Rows a look takes, where not said otherwise."""
LEAST_REFERENCE = 20
MOST_REFERENCE = 2_000
_MOST_CELLS = 2_000_000
_MOST_CATEGORIES = 30
_LEAST_EXPECTED = 5.0


class FeatureReport(msgspec.Struct, frozen=True):
    name: str
    statistic: float
    """How much it changed, 0 to 1: the greatest distance of the distribution functions for numbers, Cramér's V for
    text, or the change of the share of missing values where that is what changed."""
    p_value: float
    adjusted_p: float
    """Corrected for the number of features; compared with `InputDriftReport.level`."""
    drifted: bool


class InputDriftReport(msgspec.Struct, frozen=True):
    drifted: bool
    features: list[FeatureReport]
    """In schema order; empty before the first look."""
    reference_rows: int
    current_rows: int
    """Rows of the look that this reports; 0 before the first."""
    looks: int
    level: float
    """What this look was allowed to spend of `alpha`."""


class InputDriftMonitor:
    """Compares incoming rows with a reference, in disjoint windows.

    Order of calls: one monitor a fitted version, with the rows it was fitted on as `reference`; `observe` with rows as
    they come, labelled or not; `test` whenever convenient: it looks only when a whole new window has come, and
    otherwise repeats its last report. Not thread-safe. Keeps at most 2,000 reference rows (fewer of very wide ones), spread
    evenly, and one window.
    """

    def __init__(
        self,
        reference: npt.NDArray[Any],
        names: Sequence[str],
        *,
        alpha: float = 0.01,
        window: int = WINDOW,
        least_effect: float = 0.1,
    ) -> None:
        """`reference`: (n, k), floats (NaN for missing) or objects (None or NaN for missing). Raises InvalidInput for a
        wrong shape, or fewer than 20 rows."""
        reference = _matrix(reference, len(names), "reference")
        if len(reference) < LEAST_REFERENCE:
            raise InvalidInput(
                f"reference: expected at least {LEAST_REFERENCE} rows to compare with, got {len(reference)}",
                field="reference",
            )
        if not 0 < alpha < 1:
            raise InvalidInput(f"alpha: expected between 0 and 1, exclusive, got {alpha!r}", field="alpha")
        if window < LEAST_REFERENCE:
            raise InvalidInput(f"window: expected at least {LEAST_REFERENCE} rows, got {window}", field="window")
        self.names = tuple(names)
        self.alpha = alpha
        self.window = window
        self.least_effect = least_effect
        most = max(100, min(MOST_REFERENCE, _MOST_CELLS // max(len(names), 1)))
        if len(reference) > most:
            reference = reference[np.linspace(0, len(reference) - 1, most).round().astype(np.intp)]
        self._references = [_reference(reference[:, j]) for j in range(len(names))]
        self._rows = len(reference)
        self._pending: list[npt.NDArray[Any]] = []
        self._pending_rows = 0
        self._report = InputDriftReport(False, [], self._rows, 0, 0, 0.0)

    def observe(self, rows: npt.NDArray[Any]) -> None:
        """Take rows (n, k), oldest first; only the newest window is kept. Raises InvalidInput for a wrong shape."""
        rows = _matrix(rows, len(self.names), "rows")
        if not len(rows):
            return
        self._pending.append(rows[-self.window :].copy())
        self._pending_rows += len(self._pending[-1])
        while self._pending_rows - len(self._pending[0]) >= self.window:
            self._pending_rows -= len(self._pending.pop(0))

    @property
    def due(self) -> bool:
        """Whether `test` would look, rather than repeat."""
        return self._pending_rows >= self.window

    def test(self) -> InputDriftReport:
        """Look, if a whole window has come since the last look. About 0.1 ms a feature."""
        if not self.due:
            return self._report
        kind = object if any(part.dtype == object for part in self._pending) else np.float64
        current = np.concatenate([part.astype(kind, copy=False) for part in self._pending])[-self.window :]
        self._pending, self._pending_rows = [], 0
        looks = self._report.looks + 1
        level = self.alpha / (looks * (looks + 1))
        results = [ref.compare(current[:, j]) for j, ref in enumerate(self._references)]
        adjusted = holm([p for _, p in results])
        features = [
            FeatureReport(name, effect, p, corrected, corrected <= level and effect >= self.least_effect)
            for name, (effect, p), corrected in zip(self.names, results, adjusted, strict=True)
        ]
        drifted = any(feature.drifted for feature in features)
        self._report = InputDriftReport(drifted, features, self._rows, len(current), looks, level)
        return self._report


class _Numbers:
    def __init__(self, present: npt.NDArray[np.float64], missing: int) -> None:
        self.sorted = np.sort(present)
        self.missing = missing

    def compare(self, column: Column) -> tuple[float, float]:
        values = _floats(column)
        if values is None:
            return 1.0, 0.0  # text where numbers were: nothing is more different
        present = values[~np.isnan(values)]
        distance, p = ks_test(self.sorted, np.sort(present))
        return _with_missing(distance, p, (self.missing, len(self.sorted)), (len(values) - len(present), len(present)))


class _Categories:
    def __init__(self, present: list[str], missing: int) -> None:
        self.counts = Counter(present)
        self.total = len(present)
        self.missing = missing

    def compare(self, column: Column) -> tuple[float, float]:
        present = [str(value) for value in column if not _is_missing(value)]
        effect, p = chi_square_test(self.counts, Counter(present))
        return _with_missing(effect, p, (self.missing, self.total), (len(column) - len(present), len(present)))


def _reference(column: Column) -> _Numbers | _Categories:
    values = _floats(column)
    if values is not None:
        present = values[~np.isnan(values)]
        return _Numbers(present, len(values) - len(present))
    texts = [str(value) for value in column if not _is_missing(value)]
    return _Categories(texts, len(column) - len(texts))


def _with_missing(effect: float, p: float, reference: tuple[int, int], current: tuple[int, int]) -> tuple[float, float]:
    """The worse of two tests of one feature, by Bonferroni. The pairs are numbers of (missing, present) values."""
    if not reference[0] and not current[0]:
        return effect, p
    change = abs(current[0] / max(sum(current), 1) - reference[0] / max(sum(reference), 1))
    p_missing = fisher_test(*reference, *current)
    worse = (effect, p) if p <= p_missing else (change, p_missing)
    return worse[0], min(1.0, 2 * worse[1])


def ks_test(reference: npt.NDArray[np.float64], current: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Distance and two-sided asymptotic p-value for two *sorted* samples, with Stephens's correction for small ones
    (M. A. Stephens, JRSS B 32, 1970). With ties the p-value is too large rather than too small. No evidence (0, 1)
    if either is empty."""
    n, m = len(reference), len(current)
    if not n or not m:
        return 0.0, 1.0
    points = np.concatenate([reference, current])
    below = np.searchsorted(reference, points, side="right") / n
    distance = float(np.max(np.abs(below - np.searchsorted(current, points, side="right") / m)))
    root = math.sqrt(n * m / (n + m))
    return distance, _kolmogorov_tail((root + 0.12 + 0.11 / root) * distance)


def _kolmogorov_tail(x: float) -> float:
    if x < 0.2:
        return 1.0
    if x < 1.18:  # the other series, which converges fast here
        terms = sum(math.exp(-((2 * k - 1) ** 2) * math.pi**2 / (8 * x * x)) for k in range(1, 4))
        return 1 - math.sqrt(2 * math.pi) / x * terms
    return min(1.0, 2 * sum((-1.0) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 5)))


def chi_square_test(reference: Counter[str], current: Counter[str]) -> tuple[float, float]:
    """Cramér's V and p-value that two tallies come from one distribution. Categories too rare to tell (fewer than 5
    expected on the smaller side), or beyond the 30 most frequent, are taken together; so a column of unique texts is never
    called drifted for being new."""
    n, m = reference.total(), current.total()
    if not n or not m:
        return 0.0, 1.0
    both = reference + current
    least = _LEAST_EXPECTED * (n + m) / min(n, m)
    kept = [name for name, count in both.most_common(_MOST_CATEGORIES) if count >= least]
    table = [(reference[name], current[name]) for name in kept]
    rest = (n - sum(a for a, _ in table), m - sum(b for _, b in table))
    if sum(rest) >= least:
        table.append(rest)
    elif table:
        table[-1] = (table[-1][0] + rest[0], table[-1][1] + rest[1])
    if len(table) < 2:
        return 0.0, 1.0
    counts = np.asarray(table, np.float64)
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / counts.sum()
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    return math.sqrt(min(1.0, statistic / (n + m))), gamma_tail((len(table) - 1) / 2, statistic / 2)


def gamma_tail(a: float, x: float) -> float:
    """The regularised upper incomplete gamma function Q(a, x): P(chi-square with 2a degrees > 2x)."""
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:  # series of the lower function
        term = total = 1 / a
        k = a
        while abs(term) > 1e-16 * abs(total):
            k += 1
            term *= x / k
            total += term
        return max(0.0, 1 - scale * total)
    b = x + 1 - a  # Lentz's continued fraction
    c, d = 1e300, 1 / b
    value = d
    for i in range(1, 1000):
        step = i * (a - i)
        b += 2
        d = 1 / (step * d + b)
        c = b + step / c
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(1.0, scale * value)


def fisher_test(a: int, b: int, c: int, d: int) -> float:
    """Fisher's exact test of the table ((a, b), (c, d)): twice the smaller tail."""
    row, other, column = a + b, c + d, a + c
    low, high = max(0, column - other), min(row, column)
    if low == high:
        return 1.0
    logs = np.array(
        [
            -math.lgamma(k + 1)
            - math.lgamma(row - k + 1)
            - math.lgamma(column - k + 1)
            - math.lgamma(other - column + k + 1)
            for k in range(low, high + 1)
        ]
    )
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    at = a - low
    return float(min(1.0, 2 * min(weights[: at + 1].sum(), weights[at:].sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: comparing the results with a level holds the chance of any false one to it."""
    count = len(p_values)
    adjusted = [1.0] * count
    running = 0.0
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def _matrix(rows: Any, width: int, field: str) -> npt.NDArray[Any]:
    array = np.asarray(rows)
    if array.ndim != 2 or array.shape[1] != width:
        raise InvalidInput(f"{field}: expected shape (n, {width}), got {array.shape}", field=field)
    if array.dtype == object or array.dtype.kind in "USO":
        return array.astype(object, copy=False)
    return array.astype(np.float64, copy=False)


def _floats(column: Column) -> npt.NDArray[np.float64] | None:
    """The column as numbers, missing ones NaN; None if it holds text. Infinite values stay, as very large ones."""
    if column.dtype != object:
        return column.astype(np.float64, copy=False)
    if any(isinstance(value, str) for value in column):
        return None
    return np.array([math.nan if value is None else float(value) for value in column], np.float64)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)

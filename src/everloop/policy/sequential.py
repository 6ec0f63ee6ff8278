"""Sequential tests that may be looked at after every sample: e-values for two arms, the sample ratio, confidence sequences.

Theory of operation. An e-process is a statistic E >= 0 that, whenever one stops, has mean at most 1 if the null hypothesis is true.
By Ville's inequality P(E ever reaches 1/a) <= a, so a verdict at E >= 1/a errs with probability at most a however often one looks
(J. Ville, 1939; R. Johari, P. Koomen, L. Pekelis and D. Walsh, "Always valid inference", Operations Research 70, 2022;
A. Ramdas, P. Grünwald, V. Vovk and G. Shafer, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38, 2023).

Two arms, one event (a request fails, an answer is wrong, a latency exceeds a threshold). What arrives is cut into blocks that hold
both arms; in each, the evidence is the conditional likelihood ratio of Fisher's exact test: given the block's sizes and its number of
events K, the challenger's share S of them is hypergeometric if the arms do not differ, and tilted by exp(d S) if the log odds ratio is d:

    e_d = exp(d S) / E[exp(d S') | sizes, K],   S' hypergeometric

These are the block e-values of R. Turner, A. Ly and P. Grünwald ("Generic E-variables for exact sequential k-sample tests that allow
for optional stopping", Journal of Statistical Planning and Inference 230, 2024) in their conditional form (Y. Hao, P. Grünwald,
T. Lardy, L. Long and R. Adams, "E-values for k-sample tests with exponential families", Sankhya A 86, 2024; A. Wald, 1947, for pairs).
Conditioning leaves no base rate to guess, so nothing has to be learned first, the base rate may move from block to block, and for small
effects no power is lost. Blocks multiply, and `log_e[j]` sums their logarithms for each d of a grid. Mixtures over the grid are the tests:
over d > 0 "the challenger has more", over d < 0 "it has fewer"; relative to another d_i they give a confidence sequence for d.

What is assumed. For "more": within a block, sizes and past given, outcomes are independent, those of an arm have one probability, and the
challenger's is no higher than the champion's; or, without any distribution, units were given to arms at random and the version makes no
difference to them (then e is exactly a permutation test's). For "fewer" the other way round. Between blocks anything may change. Blocks are
closed by their sizes alone, never by outcomes.
Not covered: one unit counted many times (a user whose every request fails is one piece of news, not a hundred), and bursts that hit one
arm only. Dependence that both arms of a block share is harmless: it is conditioned away.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from everloop.policy.bins import Floats

_EFFECTS = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 2.8, 3.5, 4.5, 6.0)
DELTAS: Floats = np.array([*(-d for d in reversed(_EFFECTS)), 0.0, *_EFFECTS])
"""The log odds ratios on which bets are placed, shape (29,), ascending. Below 0.05 either way nothing is ever found, nor should it be:
5 % of failures against 5.25 %."""
EQUAL = len(_EFFECTS)
"""Where in `DELTAS` the arms are equal."""
_DIRECT = 64
"""Up to so many outcomes of a block are summed one by one."""
_NODES = np.arange(-32, 33, dtype=np.float64)


def _bets() -> tuple[Floats, Floats]:
    """Log weights (i, j): what is bet on d_j against d_i, for d_j above d_i and for d_j below it; each row sums to 1.

    The density of the distance is that of an exponential distribution: small effects are likelier than large ones, and every one within
    reach costs about two factors of e at most."""
    edges = np.concatenate([[-math.inf], (DELTAS[1:] + DELTAS[:-1]) / 2, [math.inf]])
    distance = DELTAS[None, :] - DELTAS[:, None]
    upper, lower = edges[None, 1:] - DELTAS[:, None], edges[None, :-1] - DELTAS[:, None]
    more = np.where(distance > 0, np.exp(-np.maximum(lower, 0) / _SCALE) - np.exp(-np.maximum(upper, 0) / _SCALE), 0.0)
    more[:-1] /= more[:-1].sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        logs = np.log(more)
    return logs, logs[::-1, ::-1].copy()


_SCALE = 0.5
_MORE, _FEWER = _bets()


def log_sum(values: Any) -> Any:
    """log(sum(exp(values))) along the last axis, without overflow. One of the values at least is finite."""
    top = values.max(axis=-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(values - top).sum(axis=-1))


def log_e(n_a: Any, n_b: Any, events: Any, events_b: Any) -> Floats:
    """Log e-values of blocks for each of `DELTAS`: `events` of its n_a + n_b outcomes, `events_b` of them in arm b. All arguments are
    whole numbers of shape (blocks,), or the same for all; the result is (blocks, 29).

    Exact to about ten digits. Where S' has few outcomes they are summed. Otherwise every h-th of them is, h about 3/4 of the tilted
    distribution's deviation, over 8 deviations either way and more: a sum over every h-th integer misses the whole sum over h by the
    characteristic function at 2 pi k / h (Poisson), and S', tilted or not, is distributed as a sum of independent indicators (V. A. Vatutin
    and V. G. Mikhailov, "Limit theorems for the number of empty cells", Theory of Probability 27, 1982), for which that is at most
    exp(-V (1 - cos t)).
    """
    a, b, k, s = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, np.float64)) for x in (n_a, n_b, events, events_b)))
    low, high = np.maximum(0.0, k - a), np.minimum(b, k)
    width = high - low
    few = width <= _DIRECT
    norms = np.empty((len(k), len(DELTAS)))
    if few.any():
        norms[few] = _summed(a[few], b[few], k[few], low[few], int(width[few].max()))
    if not few.all():
        many = ~few
        norms[many] = _stepped(a[many], b[many], k[many], low[many], high[many])
    gained: Floats = DELTAS * (s - low)[:, None] - norms
    return gained


def _summed(a: Floats, b: Floats, k: Floats, low: Floats, width: int) -> Floats:
    """log E[exp(d (S' - low))] for each block and each of `DELTAS`, outcome by outcome."""
    steps = np.arange(width + 1)
    s = low[:, None] + steps[:-1]
    k, ratios = k[:, None], np.empty((len(low), width + 1))
    ratios[:, 0] = 1.0
    # Past a block's last outcome a factor is 0 or below: as good as nothing, but its logarithm is a number.
    ratios[:, 1:] = np.maximum((k - s) * (b[:, None] - s) / ((s + 1) * (a[:, None] - k + s + 1)), 1e-300)
    weights = np.cumsum(np.log(ratios), axis=1)
    sums = log_sum(weights[:, None, :] + DELTAS[:, None] * steps)
    norms: Floats = sums - sums[:, EQUAL, None]
    return norms


def _stepped(a: Floats, b: Floats, k: Floats, low: Floats, high: Floats) -> Floats:
    """The same, by steps over the outcomes around each tilted distribution's mode."""
    from scipy.special import gammaln

    a, b, k, low, high = (x[:, None] for x in (a, b, k, low, high))
    odds = np.exp(DELTAS)
    # The mode solves (k - s)(b - s) odds = s (a - k + s).
    linear, product = odds * (k + b) + (a - k), odds * k * b
    mode = 2 * product / (linear + np.sqrt(np.maximum(linear**2 - 4 * (odds - 1) * product, 0.0)))
    mode = np.clip(np.rint(mode), low, high)
    inverse = 1 / (mode + 1) + 1 / (k - mode + 1) + 1 / (b - mode + 1) + 1 / (a - k + mode + 1)
    narrow = inverse > 1 / 16
    step = np.where(narrow, 1.0, np.floor(0.75 / np.sqrt(inverse)))
    s = mode[:, :, None] + step[:, :, None] * (_NODES if narrow.any() else _NODES[20:45])
    a, b, k, low, high = (x[:, :, None] for x in (a, b, k, low, high))
    inside = (s >= low) & (s <= high)
    s = np.clip(s, low, high)
    weights = -(gammaln(s + 1) + gammaln(k - s + 1) + gammaln(b - s + 1) + gammaln(a - k + s + 1))
    sums = log_sum(np.where(inside, weights + DELTAS[:, None] * (s - low), -np.inf)) + np.log(step)
    norms: Floats = sums - sums[:, EQUAL, None]
    return norms


def log_more(log_e: Any) -> Any:
    """Log e-value of "arm b has more of it", from `log_e` of shape (…, 29)."""
    return log_sum(np.asarray(log_e)[..., EQUAL + 1 :] + _MORE[EQUAL, EQUAL + 1 :])


def log_fewer(log_e: Any) -> Any:
    """Log e-value of "arm b has fewer of it"."""
    return log_sum(np.asarray(log_e)[..., :EQUAL] + _FEWER[EQUAL, :EQUAL])


def bounds(log_e: Any, level: float) -> tuple[float, float]:
    """A confidence sequence for the log odds ratio of arm b against a, from `log_e` of shape (29,): each end holds at all times
    together with probability 1 - level, if the odds ratio is the same in all blocks. The lower end is at least 0 exactly where
    `log_more` has reached log(1/level). Ends are infinite where there is no evidence yet.
    """
    values = np.asarray(log_e)
    differences = values[None, :] - values[:, None]
    needed = math.log(1 / level)
    above = np.flatnonzero(log_sum(differences[:-1] + _MORE[:-1]) >= needed)
    below = np.flatnonzero(log_sum(differences[1:] + _FEWER[1:]) >= needed)
    lower = float(DELTAS[above[-1]]) if len(above) else -math.inf
    upper = float(DELTAS[below[0] + 1]) if len(below) else math.inf
    return lower, upper


def block_closes(n_a: int, n_b: int, least_seen: int) -> bool:
    """Whether a block of n_a and n_b outcomes is full, where closed blocks have `least_seen` outcomes of the rarer arm.

    Both arms must be there. Blocks grow with the square root of what was seen: arms that take turns at random are uneven
    in a short block, which wastes up to a fifth of the information, while a long one delays a verdict."""
    return min(n_a, n_b) > math.isqrt(least_seen) // 2


class Odds(msgspec.Struct):
    """What is known of how much more often some events happen in arm b (the challenger) than in arm a: one row for each kind of event,
    all counted on the same outcomes (several thresholds of one latency, for instance). `add` changes it in place."""

    log_e: list[list[float]]
    """(events, 29): each closed block's `log_e`, summed."""
    closed: tuple[int, int] = (0, 0)
    """Outcomes in closed blocks, of a and b."""
    open: tuple[int, int] = (0, 0)
    open_a: list[int] = []
    open_b: list[int] = []
    """Outcomes of the open block, and how many of them were events of each kind."""

    @classmethod
    def begin(cls, kinds: int = 1) -> Odds:
        return cls([[0.0] * len(DELTAS) for _ in range(kinds)], open_a=[0] * kinds, open_b=[0] * kinds)

    def copy(self) -> Odds:
        """Independent of `self`."""
        return Odds([list(row) for row in self.log_e], self.closed, self.open, list(self.open_a), list(self.open_b))

    def add(self, n_a: int, events_a: list[int], n_b: int, events_b: list[int]) -> bool:
        """Take outcomes in; whether a block was closed, so that the evidence may have changed."""
        a, b = self.open[0] + n_a, self.open[1] + n_b
        for kind, (more_a, more_b) in enumerate(zip(events_a, events_b, strict=True)):
            self.open_a[kind] += more_a
            self.open_b[kind] += more_b
        if not block_closes(a, b, min(self.closed)):
            self.open = (a, b)
            return False
        events_in_b = np.array(self.open_b)
        self.log_e = (self.log_e + log_e(a, b, events_in_b + self.open_a, events_in_b)).tolist()
        self.closed = (self.closed[0] + a, self.closed[1] + b)
        self.open = (0, 0)
        self.open_a = [0] * len(self.open_a)
        self.open_b = [0] * len(self.open_b)
        return True

    def add_pairs(self, only_a: int, only_b: int) -> None:
        """Pairs of both arms' outcomes on the same unit in which the event happened in one arm only; the others say nothing.

        Each is a block of its own. If neither arm is worse it is a fair coin, whatever the units (Q. McNemar, 1947)."""
        pairs = only_a + only_b
        if pairs:
            gained = DELTAS * only_b - pairs * np.log1p(np.expm1(DELTAS) / 2)
            self.log_e[0] = (np.asarray(self.log_e[0]) + gained).tolist()

    def log_more(self, weights: Floats | None = None) -> float:
        """Of the hypothesis that the challenger has more of some kind: the mean over the kinds, which is an e-value as each of them is.
        `weights` sum to 1; equal ones if None."""
        return self._mean(log_more(self.log_e), weights)

    def log_fewer(self, weights: Floats | None = None) -> float:
        """The same of having fewer of some kind."""
        return self._mean(log_fewer(self.log_e), weights)

    def _mean(self, logs: Floats, weights: Floats | None) -> float:
        return float(log_sum(logs + (-math.log(len(logs)) if weights is None else np.log(weights))))

"""What the gates of a rollout say, in numbers and in words: `verdicts` of the findings.

    level of all gates ─┬─ errors     1/3   worse                    ─► roll back
                        ├─ latency    1/3   slower                   ─► roll back
                        └─ quality    1/3 ─┬─ 1/2   worse            ─► roll back
                                           └─ 1/2   better           ─► promote

The level is shared equally among the gates that are enabled: by the union bound a challenger that does not differ is then rolled back
or promoted with probability at most the level, over all gates and all looks. A gate decides once its e-value has ever reached
1 / its share of the level (Ville's inequality; sources and assumptions in `policy.sequential`). Errors and latency are guardrails:
being no worse on them is no reason to promote.

For regression, thresholds may say what the mean does not: a challenger with smaller typical and larger rare losses is worse and better at
once. So "better" also needs a lower mean, and "worse" does not count while the mean is shown to be lower. Both only make verdicts rarer.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from everloop.policy.bins import latency_bin, latency_middle, quantile_bins, total
from everloop.policy.findings import (
    Counts,
    Excesses,
    Findings,
    Moments,
    Quality,
    Rates,
    begin,
    decode,
    encode,
    observe,
)
from everloop.policy.intervals import Interval, difference_bounds, latency_bounds, mean_bounds
from everloop.policy.ratio import RatioVerdict, ratio_broken
from everloop.policy.rollout import Gates
from everloop.policy.sequential import bounds
from everloop.policy.wording import evidence, percent, seconds

__all__ = [
    "Counts",
    "Findings",
    "GateVerdict",
    "RatioVerdict",
    "begin",
    "decode",
    "encode",
    "latency_bin",
    "needed_of",
    "observe",
    "ratio_broken",
    "verdicts",
]

Gate = Literal["errors", "latency", "quality"]
Outcome = Literal["promote", "continue", "roll_back"]
_LARGEST = 700.0
"""Of log e-values that are told as numbers: a float's logarithm ends at 709."""


class GateVerdict(msgspec.Struct, frozen=True):
    """One gate. Numbers are None where there is nothing to tell yet."""

    gate: Gate
    verdict: Outcome
    e_value: float
    """Evidence for the verdict; for `continue` the larger of the two directions. At most e**700."""
    needed: float
    """1 / the level of one direction of this gate."""
    champion: float | None
    """Share that failed; 99th percentile in seconds; error rate, or mean loss."""
    challenger: float | None
    difference: float | None
    """Challenger minus champion."""
    interval: Interval | None
    """Of the difference, at all times; each end at 1 - 1 / `needed`. None also where an end is infinite."""
    n_champion: int
    n_challenger: int
    text: str
    """One sentence for a person."""


def needed_of(gates: Gates) -> dict[str, float]:
    """Gate -> the evidence that one direction of it needs."""
    enabled = [name for name in ("errors", "latency", "quality") if getattr(gates, name)]
    return {name: len(enabled) * (2 if name == "quality" else 1) / gates.level for name in enabled}


def verdicts(findings: Findings) -> list[GateVerdict]:
    """One for each gate that is enabled: errors, latency, quality."""
    told: list[GateVerdict] = []
    needed = needed_of(findings.gates)
    if findings.errors is not None:
        told.append(_errors(findings, findings.errors, needed["errors"]))
    if findings.latency is not None:
        told.append(_latency(findings, findings.latency, needed["latency"]))
    if findings.quality is not None:
        told.append(_quality(findings, findings.quality, needed["quality"]))
    return told


def _errors(findings: Findings, rates: Rates, needed: float) -> GateVerdict:
    if min(rates.n) == 0:
        return _nothing_yet("errors", needed, rates.n)
    peak = findings.peaks.get("errors", 0.0)
    worse = peak >= math.log(needed)
    champion, challenger = rates.events[0] / rates.n[0], rates.events[1] / rates.n[1]
    interval = difference_bounds(rates.n, rates.events, bounds(rates.odds.log_e[0], 1 / needed))
    text = (
        f"errors: {_name(findings)} fails {percent(challenger)} of {rates.n[1]:,} requests, "
        f"{_name(findings, champion=True)} {percent(champion)} of {rates.n[0]:,}; {_judged(peak, needed, worse and 'worse')}"
    )
    verdict: Outcome = "roll_back" if worse else "continue"
    return _told(
        "errors", verdict, peak, needed, figures=(champion, challenger), interval=interval, n=rates.n, text=text
    )


def _latency(findings: Findings, excesses: Excesses, needed: float) -> GateVerdict:
    n = total(excesses.champion), total(excesses.challenger)
    if min(n) == 0:
        return _nothing_yet("latency", needed, n)
    peak = findings.peaks.get("latency", 0.0)
    slower = peak >= math.log(needed)
    (typical_a, champion), (typical_b, challenger) = (
        [latency_middle(number) for number in quantile_bins(histogram, (0.5, 0.99))]
        for histogram in (excesses.champion, excesses.challenger)
    )
    (low_a, high_a), (low_b, high_b) = (
        latency_bounds(histogram, 0.99, 0.5 / needed) for histogram in (excesses.champion, excesses.challenger)
    )
    text = (
        f"latency: {_name(findings)} takes {seconds(typical_b)} (p50) and {seconds(challenger)} (p99) over {n[1]:,} answers, "
        f"{_name(findings, champion=True)} {seconds(typical_a)} and {seconds(champion)} over {n[0]:,}; "
        f"{_judged(peak, needed, slower and 'slower')}"
    )
    verdict: Outcome = "roll_back" if slower else "continue"
    interval = _finite((low_b - high_a, high_b - low_a))
    return _told("latency", verdict, peak, needed, figures=(champion, challenger), interval=interval, n=n, text=text)


def _quality(findings: Findings, quality: Quality, needed: float) -> GateVerdict:
    a, b = quality.champion, quality.challenger
    n = a.n + a.bad, b.n + b.bad
    if min(n) == 0:
        return _nothing_yet("quality", needed, n)
    champion, challenger = _mean(a), _mean(b)
    interval = _quality_interval(quality, needed)
    peaks = {way: findings.peaks.get(way, 0.0) for way in ("worse", "better")}
    found = {way: peak >= math.log(needed) for way, peak in peaks.items()}
    if findings.task == "regression":
        # A mean over answers that are no number is higher than any.
        lower = challenger is not None and (champion is None or challenger < champion)
        found["better"] = found["better"] and lower
        found["worse"] = found["worse"] and not (lower and interval is not None and interval[1] < 0)
    way = "worse" if found["worse"] else "better" if found["better"] else max(peaks, key=lambda name: peaks[name])
    verdict: Outcome = "roll_back" if found["worse"] else "promote" if found["better"] else "continue"
    words = _quality_words(findings, quality, champion, challenger, n)
    text = f"{words}; {_judged(peaks[way], needed, verdict != 'continue' and way, direction=way)}"
    return _told(
        "quality", verdict, peaks[way], needed, figures=(champion, challenger), interval=interval, n=n, text=text
    )


def _nothing_yet(gate: Gate, needed: float, n: tuple[int, int]) -> GateVerdict:
    text = f"{gate}: {'no labels' if gate == 'quality' else 'nothing'} to compare yet"
    return _told(gate, "continue", 0.0, needed, figures=(None, None), interval=None, n=n, text=text)


def _told(
    gate: Gate,
    verdict: Outcome,
    log_e: float,
    needed: float,
    *,
    figures: tuple[float | None, float | None],
    interval: Interval | None,
    n: tuple[int, int],
    text: str,
) -> GateVerdict:
    """`figures` and `n` of champion and challenger."""
    champion, challenger = figures
    difference = None if champion is None or challenger is None else challenger - champion
    e_value = math.exp(min(log_e, _LARGEST))
    return GateVerdict(gate, verdict, e_value, needed, champion, challenger, difference, interval, *n, text)


def _quality_interval(quality: Quality, needed: float) -> Interval | None:
    a, b = quality.champion, quality.challenger
    if quality.paired:
        d = quality.differences
        return _finite(mean_bounds(d.mean, d.squares / max(d.n, 1), d.n, 1 / needed)) if not d.bad else None
    if quality.wrong is not None:
        return difference_bounds(quality.wrong.n, quality.wrong.events, bounds(quality.wrong.odds.log_e[0], 1 / needed))
    if a.bad or b.bad or min(a.n, b.n) < 2:
        return None
    size = a.n * b.n / (a.n + b.n)
    spread = a.squares / a.n / a.n + b.squares / b.n / b.n
    return _finite(mean_bounds(b.mean - a.mean, spread * size, size, 1 / needed))


def _quality_words(
    findings: Findings, quality: Quality, champion: float | None, challenger: float | None, n: tuple[int, int]
) -> str:
    ours, theirs = _name(findings), _name(findings, champion=True)
    if findings.task == "classification":
        words = f"quality: {ours} is wrong on {percent(challenger)} of {n[1]:,} labels, {theirs} on {percent(champion)} of {n[0]:,}"
    else:
        words = (
            f"quality: {ours} loses {_loss(challenger)} a label over {n[1]:,}, {theirs} {_loss(champion)} over {n[0]:,}"
        )
    bad = quality.challenger.bad
    if bad:
        words += f", and {bad:,} answers were no number"
    if quality.paired:
        words += f"; they do equally well on {percent(quality.agreed / quality.paired)} of {quality.paired:,} examples that both answered"
    return words


def _judged(log_e: float, needed: float, found: str | bool, *, direction: str = "") -> str:
    of = f" of being {direction}" if direction and not found else ""
    return f"evidence{of} {evidence(log_e)} of {needed:,.0f} needed: {found or 'not decided'}"


def _name(findings: Findings, *, champion: bool = False) -> str:
    number = findings.champion if champion else findings.challenger
    if number is not None:
        return f"version {number}"
    return "the champion" if champion else "the challenger"


def _mean(moments: Moments) -> float | None:
    return moments.mean if moments.n and not moments.bad and math.isfinite(moments.mean) else None


def _finite(interval: Interval) -> Interval | None:
    return interval if all(math.isfinite(end) for end in interval) else None


def _loss(mean: float | None) -> str:
    return "no number" if mean is None else f"{mean:.4g}"

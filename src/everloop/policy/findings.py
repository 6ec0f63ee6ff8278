"""What a rollout's gates have seen so far: one value that takes in what arrives, and can be written down and gone on with.

Three gates, each a comparison of the challenger with the champion on what both met at the same time (`policy.sequential.Odds`):

errors    a request fails: one event.
latency   an answer takes longer than a threshold: an event for each of some thresholds, the quantiles of the champion's past answers.
          If the challenger is stochastically no slower, none of them is likelier; averaged, they are a sequential test of stochastic order
          (M. Lindon, C. Sanden and V. Shirikian, "Rapid regression detection in software deployments through sequential testing",
          KDD 2022, arXiv 2205.14762). The challenger's thresholds are `latency_tolerance` and `latency_slack` higher.
quality   classification: an answer is wrong. Regression: a loss exceeds a threshold, the quantiles of the champion's past losses; so heavy
          tails and the scale of the losses do not matter. A loss that is no number is worse than any. On pairs of losses on the
          same example (shadows): which of the two lost more.

Thresholds come from the past: they are fixed while a block is open, and taken again when the champion's sample has grown by a quarter.
The first observations only make thresholds. Blocks depend on sizes alone, so where a delta is cut matters only through them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec
import numpy as np

from everloop.core.types import Task
from everloop.policy.bins import Floats, added, bin_from, exceeding, latency_edge, loss_bins, quantile_bins, total
from everloop.policy.rollout import Gates, Plan
from everloop.policy.sequential import Odds

FORMAT = 1
"""Of `Findings` as bytes. One of another format is not continued but begun anew: the reports it was made of are still there."""
LATENCY_QUANTILES = (0.5, 0.9, 0.97, 0.98, 0.99)
LATENCY_WEIGHTS = np.array([1, 1, 2, 2, 2]) / 8
"""More on the tail: it has the least data, and a body that is slower shows soon anyway."""
LOSS_QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.97)
CALIBRATION = 20
"""The champion's observations that thresholds are first made of."""
GROWTH = 1.25


class Counts(msgspec.Struct, frozen=True):
    """Requests of one arm, and how many of them failed."""

    requests: int = 0
    failed: int = 0


class Rates(msgspec.Struct):
    """One event: how many outcomes each arm had and how many of them were events, (champion, challenger)."""

    odds: Odds
    n: tuple[int, int] = (0, 0)
    events: tuple[int, int] = (0, 0)

    def add(self, champion: tuple[int, int], challenger: tuple[int, int]) -> bool:
        """(outcomes, events) of each; whether there is new evidence."""
        self.n = (self.n[0] + champion[0], self.n[1] + challenger[0])
        self.events = (self.events[0] + champion[1], self.events[1] + challenger[1])
        return self.odds.add(champion[0], [champion[1]], challenger[0], [challenger[1]])


class Excesses(msgspec.Struct):
    """Values above thresholds: all values as histograms (champion, challenger), the thresholds in use, and the evidence."""

    odds: Odds
    champion: dict[int, int] = {}
    challenger: dict[int, int] = {}
    thresholds: list[int] = []
    """The first bin above each quantile; empty while the first values are collected."""
    made_of: int = 0
    """How many of the champion's values the thresholds were made of."""

    def add(
        self,
        champion: Mapping[int, int],
        challenger: Mapping[int, int],
        quantiles: Sequence[float],
        theirs: Sequence[int] | None = None,
    ) -> bool:
        """Whether there is new evidence. `theirs`: the challenger's thresholds where they differ."""
        closed = False
        if self.thresholds:
            closed = self.odds.add(
                total(champion),
                [exceeding(champion, first) for first in self.thresholds],
                total(challenger),
                [exceeding(challenger, first) for first in (theirs or self.thresholds)],
            )
        self.champion, self.challenger = added(self.champion, champion), added(self.challenger, challenger)
        seen = total(self.champion)
        if (closed or not self.thresholds) and seen >= max(CALIBRATION, self.made_of * GROWTH):
            self.thresholds = [number + 1 for number in quantile_bins(self.champion, quantiles)]
            self.made_of = seen
        return closed


class Moments(msgspec.Struct):
    """Mean and spread of the finite ones among some numbers."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations."""
    bad: int = 0
    """How many were not finite."""

    def add(self, values: Floats) -> None:
        """Shape (n,)."""
        finite = values[np.isfinite(values)]
        self.bad += len(values) - len(finite)
        if not len(finite):
            return
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(np.mean(finite))
            squares = float(np.sum((finite - mean) ** 2))
            n, step = self.n + len(finite), mean - self.mean
            # T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating formulae and a pairwise algorithm …", 1979.
            self.squares += squares + float(np.float64(step) ** 2) * self.n * len(finite) / n
        self.mean += step * len(finite) / n
        self.n = n


class Quality(msgspec.Struct):
    """Losses of labelled answers. `wrong` for classification, `excess` for regression."""

    wrong: Rates | None
    excess: Excesses | None
    champion: Moments
    challenger: Moments
    pairs: Odds
    differences: Moments
    """Challenger minus champion, of pairs."""
    agreed: int = 0
    """Pairs of equal loss."""
    paired: int = 0


class Findings(msgspec.Struct, frozen=True):
    """All of it. Made by `begin`, grown by `observe`, read by `policy.gates.verdicts`. None: that gate is not enabled."""

    task: Task
    gates: Gates
    champion: int | None
    challenger: int | None
    errors: Rates | None
    latency: Excesses | None
    quality: Quality | None
    peaks: dict[str, float]
    """Gate, and direction of quality, -> the highest log e-value there was. By Ville's inequality the highest one counts, so nothing
    is lost if nobody looked when it was reached."""
    format: int = FORMAT

    encoder: ClassVar[msgspec.msgpack.Encoder] = msgspec.msgpack.Encoder()


_decoder: msgspec.msgpack.Decoder[Findings] = msgspec.msgpack.Decoder(Findings)


class _Format(msgspec.Struct):
    format: int


def begin(plan: Plan, task: Task, *, champion: int | None = None, challenger: int | None = None) -> Findings:
    """Nothing seen yet. The versions are only for the words."""
    gates = plan.gates
    quality = None
    if gates.quality:
        classes = task == "classification"
        quality = Quality(
            Rates(Odds.begin()) if classes else None,
            None if classes else Excesses(Odds.begin(len(LOSS_QUANTILES))),
            Moments(),
            Moments(),
            Odds.begin(),
            Moments(),
        )
    return Findings(
        task,
        gates,
        champion,
        challenger,
        Rates(Odds.begin()) if gates.errors else None,
        Excesses(Odds.begin(len(LATENCY_QUANTILES))) if gates.latency else None,
        quality,
        {},
    )


def encode(findings: Findings) -> bytes:
    return Findings.encoder.encode(findings)


def decode(payload: bytes) -> Findings | None:
    """None for findings of another format: begin anew, and observe the cumulated reports as the first delta."""
    if msgspec.msgpack.decode(payload, type=_Format).format != FORMAT:
        return None
    return _decoder.decode(payload)


def observe(
    findings: Findings,
    *,
    errors: tuple[Counts, Counts] | None = None,
    latencies: tuple[Mapping[int, int], Mapping[int, int]] | None = None,
    losses: tuple[Sequence[float], Sequence[float]] | None = None,
    pairs: Sequence[tuple[float, float]] | None = None,
) -> Findings:
    """`findings` and what has come since, each as (champion, challenger); `findings` itself stays as it was.

    `latencies` are histograms by `latency_bin`, one value a batch that ran together. `losses` are of labelled answers, lower is better:
    0 or 1 for classification. `pairs` are losses of both on the same example; an example is either in `losses` or in `pairs`.
    What belongs to a gate that is not enabled is left out."""
    rates, latency, quality = findings.errors, findings.latency, findings.quality
    peaks = dict(findings.peaks)
    if rates is not None and errors is not None:
        rates = _copied_rates(rates)
        champion, challenger = errors
        if rates.add((champion.requests, champion.failed), (challenger.requests, challenger.failed)):
            _raise(peaks, "errors", rates.odds.log_more())
    if latency is not None and latencies is not None:
        latency = _copied_excesses(latency)
        if latency.add(*latencies, LATENCY_QUANTILES, tolerated(latency.thresholds, findings.gates)):
            _raise(peaks, "latency", latency.odds.log_more(LATENCY_WEIGHTS))
    if quality is not None and (losses is not None or pairs):
        quality = _copied_quality(quality)
        fresh = losses is not None and _add_losses(quality, *(np.asarray(arm, np.float64) for arm in losses))
        if pairs:
            _add_pairs(quality, np.asarray(pairs, np.float64))
        if fresh or pairs:
            worse, better = quality_evidence(quality)
            _raise(peaks, "worse", worse)
            _raise(peaks, "better", better)
    return msgspec.structs.replace(findings, errors=rates, latency=latency, quality=quality, peaks=peaks)


def tolerated(thresholds: Sequence[int], gates: Gates) -> list[int]:
    """The challenger's latency bins for the champion's `thresholds`; rounded up to a whole bin, in its favour."""
    return [bin_from(latency_edge(first) * (1 + gates.latency_tolerance) + gates.latency_slack) for first in thresholds]


def quality_evidence(quality: Quality) -> tuple[float, float]:
    """Log e-values of "worse" and "better". Labelled answers and pairs are different examples, so their e-values multiply."""
    apart = quality.wrong.odds if quality.wrong is not None else None
    if quality.excess is not None:
        apart = quality.excess.odds
    assert apart is not None
    if not quality.paired:
        return apart.log_more(), apart.log_fewer()
    return apart.log_more() + quality.pairs.log_more(), apart.log_fewer() + quality.pairs.log_fewer()


def _add_losses(quality: Quality, champion: Floats, challenger: Floats) -> bool:
    if quality.wrong is not None:
        champion, challenger = _wrong(champion), _wrong(challenger)
    quality.champion.add(champion)
    quality.challenger.add(challenger)
    if quality.wrong is not None:
        return quality.wrong.add((len(champion), int(champion.sum())), (len(challenger), int(challenger.sum())))
    assert quality.excess is not None
    return quality.excess.add(loss_bins(champion), loss_bins(challenger), LOSS_QUANTILES)


def _add_pairs(quality: Quality, pairs: Floats) -> None:
    """Shape (n, 2)."""
    if quality.wrong is not None:
        pairs = _wrong(pairs)
    quality.champion.add(pairs[:, 0])
    quality.challenger.add(pairs[:, 1])
    ranks = np.where(np.isfinite(pairs), pairs, np.inf)
    worse, better = int(np.sum(ranks[:, 1] > ranks[:, 0])), int(np.sum(ranks[:, 1] < ranks[:, 0]))
    with np.errstate(over="ignore", invalid="ignore"):
        quality.differences.add(pairs[:, 1] - pairs[:, 0])
    quality.pairs.add_pairs(better, worse)
    quality.paired += len(pairs)
    quality.agreed += len(pairs) - worse - better


def _wrong(losses: Floats) -> Floats:
    """0 or 1 each; what is no number is wrong."""
    return np.where(losses < 0.5, 0.0, 1.0)


def _raise(peaks: dict[str, float], name: str, log_e: float) -> None:
    if math.isfinite(log_e):
        peaks[name] = max(peaks.get(name, 0.0), log_e)


def _copied_rates(rates: Rates) -> Rates:
    return msgspec.structs.replace(rates, odds=rates.odds.copy())


def _copied_excesses(excesses: Excesses) -> Excesses:
    return msgspec.structs.replace(excesses, odds=excesses.odds.copy())


def _copied_quality(quality: Quality) -> Quality:
    return msgspec.structs.replace(
        quality,
        wrong=None if quality.wrong is None else _copied_rates(quality.wrong),
        excess=None if quality.excess is None else _copied_excesses(quality.excess),
        champion=msgspec.structs.replace(quality.champion),
        challenger=msgspec.structs.replace(quality.challenger),
        pairs=quality.pairs.copy(),
        differences=msgspec.structs.replace(quality.differences),
    )

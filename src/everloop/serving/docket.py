"""What the controller knows of one rollout, as it keeps it: the gates' state, and what of the reports and labels is in it already.

Reports are cumulated counts, so what is new in one is its difference from what was `taken` of the same source; labels are read after a
`cursor`. Both are saved together with the gates they went into, in one piece: a controller that dies between two saves, or loses its
lease, leaves a docket from which the next one goes on without counting anything twice.

Blue-green has no two arms at the same time. There the champion's requests before the switch are a `Reserve`, from which as many are
compared as the challenger answers after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from everloop.core.types import Example, Scalar, Task
from everloop.policy.findings import FORMAT
from everloop.policy.gates import Counts, Findings, GateVerdict, RatioVerdict, begin, observe, ratio_broken, verdicts
from everloop.policy.rollout import Decision, Rollout, Seen
from everloop.serving.comparison import Shown
from everloop.serving.evidence import ArmSeen, Observed

FRESH_SECONDS = 10.0
"""A process that has not reported for so long is gone: it is not waited for, and not believed about what it has open."""
MOST_HELD = 1_000
"""Labels on the champion's answers that are kept for the first one on the challenger's."""


class Sighting(msgspec.Struct):
    """What one process has to report."""

    observed: Observed = msgspec.field(default_factory=Observed)
    shown: Shown | None = None
    """Of a shadow."""

    @property
    def urgent(self) -> tuple[Any, ...]:
        """What cannot wait for the next report."""
        seen, shown = self.observed, self.shown
        rest = None if shown is None else (shown.state, shown.crashes, shown.timeouts)
        return seen.challenger.decisive, seen.open, seen.failure, seen.lost, seen.ended, rest

    def encode(self) -> bytes:
        return _encode(self)

    @staticmethod
    def decode(payload: bytes) -> Sighting:
        return _decode_sighting(payload)


class Reserve(msgspec.Struct):
    """The champion's requests before a blue-green switch, and how many of them were compared."""

    requests: int = 0
    failed: int = 0
    drawn: int = 0
    drawn_failed: int = 0

    def draw(self, requests: int) -> Counts:
        """At most so many of them, with their share of the failures."""
        drawn = min(self.drawn + requests, self.requests)
        failed = self.failed * drawn // self.requests if self.requests else 0
        counts = Counts(drawn - self.drawn, failed - self.drawn_failed)
        self.drawn, self.drawn_failed = drawn, failed
        return counts


class Docket(msgspec.Struct):
    """Of one rollout. `take` and `take_labels` change it; `payload` saves it."""

    task: Task
    gates: Findings
    cursor: int
    """The last example that was looked at."""
    taken: dict[str, Sighting] = {}
    """Source -> what of its report is in the gates."""
    labels: dict[int, int] = {}
    """Step -> labels that came in it on the challenger's answers."""
    held: list[float] = []
    """Losses of the champion that came before the first one of the challenger: with labels that arrive late they are of answers
    from before the rollout, but for the newest ones."""
    reserve: Reserve = msgspec.field(default_factory=Reserve)
    decision: Decision | None = None
    """The last one, for who asks why nothing happens."""
    seen: Seen = Seen()

    @classmethod
    def begin(cls, rollout: Rollout, task: Task, cursor: int) -> Docket:
        gates = begin(rollout.plan, task, champion=rollout.champion, challenger=rollout.challenger)
        return cls(task, gates, cursor)

    @classmethod
    def load(cls, payload: bytes | None) -> Docket | None:
        """None where there is none yet, or one of another release: it is begun anew then, from the cumulated reports."""
        try:
            docket = None if payload is None else _decode(payload)
        except msgspec.DecodeError:
            return None
        return docket if docket is not None and docket.gates.format == FORMAT else None

    def payload(self) -> bytes:
        return _encode(self)

    def take(self, rollout: Rollout, sightings: Mapping[str, Sighting]) -> None:
        """What is new in the reports goes to the gates."""
        for source, sighting in sightings.items():
            before = self.taken.get(source, _NOTHING)
            if sighting == before:
                continue
            errors = _requests_since(before.observed, sighting.observed)
            latencies: _Histograms | None = _latencies_since(before.observed, sighting.observed)
            if rollout.plan.strategy == "shadow":
                errors, latencies = _shown_news(before.shown, sighting.shown), None
            elif rollout.plan.strategy == "blue_green":
                self.reserve.requests += errors[0].requests
                self.reserve.failed += errors[0].failed
                errors, latencies = (self.reserve.draw(errors[1].requests), errors[1]), None
            if errors[0].requests or errors[1].requests:
                self.gates = observe(self.gates, errors=errors, latencies=latencies)
            self.taken[source] = sighting

    def take_labels(self, rollout: Rollout, examples: Sequence[Example]) -> None:
        """Each counts for the version that gave the answer, however late."""
        champion = self._losses(examples, rollout.champion)
        challenger = self._losses(examples, rollout.challenger)
        self._passed(examples)
        if not sum(self.labels.values()) and not challenger:
            self.held = [*self.held, *champion][-MOST_HELD:]
            return
        if self.held:
            # No more of them than belong to the challenger's first labels at the share that it has.
            share = min(max(rollout.share, 1e-3), 1 - 1e-3)
            many = math.ceil(len(challenger) * (1 - share) / share)
            champion, self.held = [*self.held[-many:], *champion], []
        self._labelled(rollout, len(challenger))
        if champion or challenger:
            self.gates = observe(self.gates, losses=(champion, challenger))

    def take_pairs(self, rollout: Rollout, examples: Sequence[Example], answers: Sequence[Any]) -> None:
        """Of a shadow: its `answers` to `comparable(rollout, examples)`, an exception where it failed."""
        self._passed(examples)
        asked = comparable(rollout, examples)
        pairs = [
            (loss_of(self.task, each.label, each.prediction), loss_of(self.task, each.label, answer))
            for each, answer in zip(asked, answers, strict=True)
        ]
        self._labelled(rollout, len(pairs))
        if pairs:
            self.gates = observe(self.gates, pairs=pairs)

    def _losses(self, examples: Sequence[Example], version: int | None) -> list[float]:
        if version is None:
            return []
        return [loss_of(self.task, each.label, each.prediction) for each in examples if _answered_by(each, version)]

    def _passed(self, examples: Sequence[Example]) -> None:
        if examples:
            self.cursor = max(self.cursor, examples[-1].id)

    def _labelled(self, rollout: Rollout, many: int) -> None:
        if many:
            self.labels[rollout.step] = self.labels.get(rollout.step, 0) + many

    def look(self, rollout: Rollout, sightings: Mapping[str, Sighting], fresh: Mapping[str, Sighting]) -> Seen:
        """For `policy.rollout.decide`. `fresh`: of processes that are there."""
        if rollout.plan.strategy == "shadow":
            return self._look_at_shadow(rollout, sightings, fresh)
        merged = Observed(open=True, ended=True)
        for sighting in sightings.values():
            merged = merged.merged(sighting.observed)
        decisive = dict(merged.challenger.decisive)
        if merged.lost:
            decisive.setdefault(merged.lost_how, 1)
        return Seen(
            samples=merged.challenger.settled.get(rollout.step, 0),
            labels=self.labels.get(rollout.step, 0),
            open=bool(fresh) and all(sighting.observed.open for sighting in fresh.values()),
            open_failure=next((s.observed.failure for s in fresh.values() if s.observed.failure), ""),
            decisive=decisive,
            broken_ratio=_broken(rollout, merged),
        )

    def _look_at_shadow(
        self, rollout: Rollout, sightings: Mapping[str, Sighting], fresh: Mapping[str, Sighting]
    ) -> Seen:
        shown = Shown()
        for sighting in sightings.values():
            if sighting.shown is not None:
                shown.add(sighting.shown)
        here = [sighting.shown for sighting in fresh.values() if sighting.shown is not None]
        decisive: dict[str, int] = {"timeout": shown.timeouts, "crash": shown.crashes}
        decisive |= {how: shown.failed[how] for how in ("not_finite", "shape") if how in shown.failed}
        return Seen(
            samples=shown.shown,
            labels=self.labels.get(rollout.step, 0),
            open=any(each.state == "running" for each in here),
            open_failure=next((each.reason for each in here if each.state == "down"), ""),
            decisive=decisive,
        )

    def verdicts(self) -> list[GateVerdict]:
        return verdicts(self.gates)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Docket).decode
_decode_sighting = msgspec.msgpack.Decoder(Sighting).decode
_NOTHING = Sighting()
_Histograms = tuple[dict[int, int], dict[int, int]]
"""Of champion and challenger."""


def comparable(rollout: Rollout, examples: Sequence[Example]) -> list[Example]:
    """Those that the champion has answered: what a shadow makes of them can be compared."""
    return [] if rollout.champion is None else [each for each in examples if _answered_by(each, rollout.champion)]


def loss_of(task: Task, label: Scalar, prediction: Any) -> float:
    """0 or 1 for a class, the absolute error for a number; the worst there is for an answer that is none."""
    if task == "classification":
        return float(prediction != label)
    if not isinstance(prediction, (int, float)):
        return math.inf
    error = abs(float(label) - float(prediction))
    return error if math.isfinite(error) else math.inf


def _answered_by(example: Example, version: int) -> bool:
    """Labels for validation are not for this, and those that name no prediction nobody has answered."""
    return example.version == version and example.prediction is not None and not example.validation


def _requests_since(before: Observed, now: Observed) -> tuple[Counts, Counts]:
    return _new(before.champion, now.champion), _new(before.challenger, now.challenger)


def _latencies_since(before: Observed, now: Observed) -> _Histograms:
    return (
        _grown(before.champion.latencies, now.champion.latencies),
        _grown(before.challenger.latencies, now.challenger.latencies),
    )


def _shown_news(before: Shown | None, now: Shown | None) -> tuple[Counts, Counts]:
    """A shadow is shown what the champion has answered: there the champion has not failed."""
    rows = (now.shown if now else 0) - (before.shown if before else 0)
    failed = (now.failures if now else 0) - (before.failures if before else 0)
    return Counts(max(0, rows), 0), Counts(max(0, rows), max(0, failed))


def split_of(rollout: Rollout, observed: Observed) -> RatioVerdict | None:
    """Whether the step at hand has the split that was asked for; None where one version answers everybody."""
    if not 0 < rollout.share < 1:
        return None
    return ratio_broken(observed.champion.draws(rollout.step), observed.challenger.draws(rollout.step), rollout.share)


def _broken(rollout: Rollout, merged: Observed) -> str:
    """Why the split is not the one that was asked for; empty where it is."""
    split = split_of(rollout, merged)
    return split.text if split is not None and split.broken else ""


def _new(before: ArmSeen, now: ArmSeen) -> Counts:
    return Counts(max(0, now.requests - before.requests), max(0, now.failed - before.failed))


def _grown(before: Mapping[int, int], now: Mapping[int, int]) -> dict[int, int]:
    return {place: count - before.get(place, 0) for place, count in now.items() if count > before.get(place, 0)}

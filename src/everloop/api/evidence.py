"""What a rollout has seen, put together for a reader from what all processes have reported and what the controller has kept.

Reports are at most some seconds behind, the controller's findings a second: enough for a person, and no controller is asked for it, who
may be in another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from everloop.api.rollout_wire import ArmInfo, RolloutEvidence, StepProgress
from everloop.api.services import Services
from everloop.policy.bins import latency_middle, quantile_bins
from everloop.policy.rollout import Rollout, Verdict

if TYPE_CHECKING:
    from everloop.serving.comparison import Shown
    from everloop.serving.docket import Docket
    from everloop.serving.evidence import ArmSeen

_VERDICTS: dict[str, Verdict] = {
    "running": "continue",
    "paused": "continue",
    "promoted": "promote",
    "rolled_back": "roll_back",
    "inconclusive": "inconclusive",
}


class Seen(NamedTuple):
    verdict: Verdict
    reason: str
    evidence: RolloutEvidence


def seen(services: Services, rollout: Rollout) -> Seen:
    """Reads the catalog."""
    from everloop.serving.comparison import Shown
    from everloop.serving.docket import Docket, Sighting, split_of
    from everloop.serving.evidence import Observed

    catalog = services.registry.catalog
    docket = Docket.load(catalog.findings(rollout.model, rollout.id))
    observed, shown = Observed(), Shown()
    for report in catalog.reports(rollout.model, rollout.id):
        sighting = Sighting.decode(report.payload)
        observed = observed.merged(sighting.observed)
        if sighting.shown is not None:
            shown.add(sighting.shown)
    shadow = rollout.plan.strategy == "shadow"
    verdict, reason = _verdict(rollout, docket)
    until = rollout.ended_at or rollout.paused_at or services.clock.now()
    progress = StepProgress(
        seconds=max(0.0, until - rollout.step_at),
        samples=shown.shown if shadow else observed.challenger.settled.get(rollout.step, 0),
        labels=0 if docket is None else docket.labels.get(rollout.step, 0),
    )
    if shadow:
        arms = _shown_arms(rollout, shown)
    else:
        arms = _arm(rollout.champion, observed.champion), _arm(rollout.challenger, observed.challenger)
    evidence = RolloutEvidence(
        progress,
        *arms,
        [] if docket is None else docket.verdicts(),
        _shadow(shown) if shadow else None,
        None if shadow else split_of(rollout, observed),
    )
    return Seen(verdict, reason, evidence)


def verdict_of(rollout: Rollout) -> Verdict:
    """By its state alone."""
    return _VERDICTS[rollout.state]


def _verdict(rollout: Rollout, docket: Docket | None) -> tuple[Verdict, str]:
    """What the controller thought last, unless the rollout has moved on since."""
    decision = None if docket is None else docket.decision
    if rollout.state != "running" or decision is None or decision.action is not None:
        return verdict_of(rollout), rollout.reason
    return decision.verdict, decision.reason


def _arm(version: int | None, arm: ArmSeen) -> ArmInfo:
    p50, p99 = _quantiles(arm.latencies)
    return ArmInfo(version, arm.requests, arm.failed, dict(arm.kinds), p50, p99)


def _shown_arms(rollout: Rollout, shown: Shown) -> tuple[ArmInfo, ArmInfo]:
    """A shadow is shown rows that the champion has answered. How long it takes is nobody's waiting time."""
    failures = {str(how): count for how, count in shown.failed.items()}
    return (
        ArmInfo(rollout.champion, shown.shown, 0, {}, None, None),
        ArmInfo(rollout.challenger, shown.shown, shown.failures, failures, None, None),
    )


def _quantiles(histogram: Mapping[int, int]) -> tuple[float | None, float | None]:
    if not histogram:
        return None, None
    p50, p99 = quantile_bins(histogram, (0.5, 0.99))
    return latency_middle(p50), latency_middle(p99)


def _shadow(shown: Shown) -> dict[str, Any]:
    return {
        "state": shown.state,
        "reason": shown.reason,
        "offered": shown.offered,
        "skipped": shown.skipped,
        "answered": shown.answered,
        "agreed": shown.agreed,
        "agreement": shown.agreement,
        "mean_difference": shown.mean_difference,
        "median_difference": shown.median_difference,
        "failed": dict(shown.failed),
        "timeouts": shown.timeouts,
        "crashes": shown.crashes,
    }

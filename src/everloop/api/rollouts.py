"""What can be done with a model's traffic and its rollouts, without a protocol. As in `api.verbs`, on a thread.

Each is idempotent as far as it can be: starting the rollout that is under way, pausing a paused one or promoting what this rollout
has promoted answers with what is there, so that a caller whose connection broke may simply ask again. With a `revision` it is
compare-and-set instead.
"""

from __future__ import annotations

from typing import Literal

from everloop.api.evidence import seen, verdict_of
from everloop.api.rollout_wire import (
    RolloutChange,
    RolloutInfo,
    RolloutList,
    RolloutSpec,
    TrafficInfo,
    TrafficSplit,
)
from everloop.api.services import Services
from everloop.api.verbs import find_model
from everloop.api.versions import number_of
from everloop.core.errors import RolloutNotFound
from everloop.policy.rollout import Plan, Rollout, State
from everloop.registry.rollouts import Rollouts, plan_of, summary
from everloop.registry.traffic import weights_of
from everloop.stores.ports import ModelRecord

Act = Literal["pause", "resume", "promote", "roll_back", "finish"]
_GOALS: dict[Act, State] = {
    "pause": "paused",
    "resume": "running",
    "promote": "promoted",
    "roll_back": "rolled_back",
    "finish": "inconclusive",
}


def start(services: Services, name: str, spec: RolloutSpec, *, by: str) -> tuple[RolloutInfo, bool]:
    """As `begin`, of a plan as it was written. Raises InvalidInput (the plan), too."""
    plan = plan_of(
        spec.strategy,
        steps=spec.steps,
        share=spec.share,
        seconds=spec.seconds,
        samples=spec.samples,
        labels=spec.labels,
        gates=spec.gates,
        at_end=spec.at_end,
        max_seconds=spec.max_seconds,
        promote_early=spec.promote_early,
    )
    return begin(services, name, spec.version, plan, note=spec.note, by=by)


def begin(
    services: Services, name: str, version: int | str, plan: Plan, *, note: str, by: str
) -> tuple[RolloutInfo, bool]:
    """The bool tells whether it is new. The challenger is tried in a process of its own first, which takes seconds: until then the
    champion answers. Raises VersionNotFound, Conflict, ArtifactCorrupt."""
    rollouts, number = Rollouts(services.registry), number_of(services, name, version)
    there = rollouts.get(name)
    if there is not None and there.active and (there.challenger, there.plan) == (number, plan):
        return rollout_info(services, there), False
    started = rollouts.start(name, number, plan, by=by, note=note)
    services.reconciler.step()
    return rollout_info(services, started), True


def change(services: Services, name: str, act: Act, asked: RolloutChange, *, by: str) -> RolloutInfo:
    """Do `act` to the newest rollout. Raises RolloutNotFound, Conflict."""
    there = _newest(services, name)
    if asked.revision is None and there.state == _GOALS[act]:
        return rollout_info(services, there)
    changed = Rollouts(services.registry).act(name, act, reason=asked.note, revision=asked.revision, by=by)
    services.reconciler.step()
    return rollout_info(services, changed)


def rollout(services: Services, name: str) -> RolloutInfo:
    """The newest. Raises RolloutNotFound."""
    return rollout_info(services, _newest(services, name))


def history(services: Services, name: str) -> RolloutList:
    find_model(services, name)
    return RolloutList(
        name, [rollout_info(services, each, whole=False) for each in Rollouts(services.registry).history(name)]
    )


def traffic(services: Services, name: str) -> TrafficInfo:
    return _traffic(find_model(services, name))


def set_traffic(services: Services, name: str, asked: TrafficSplit, *, by: str) -> TrafficInfo:
    """Answers once this process routes by it as far as versions are open. Raises VersionNotFound, InvalidInput, Conflict (a rollout is
    active)."""
    for ref in (*asked.weights, *([] if asked.shadow is None else [asked.shadow])):
        number_of(services, name, ref)
    made = services.registry.set_traffic(name, dict(asked.weights), shadow=asked.shadow, note=asked.note, by=by)
    services.reconciler.step()
    return _traffic(made)


def rollout_info(services: Services, found: Rollout, *, whole: bool = True) -> RolloutInfo:
    """`whole`: with what it has seen."""
    verdict, reason, evidence = seen(services, found) if whole else (verdict_of(found), found.reason, None)
    return RolloutInfo(
        model=found.model,
        id=found.id,
        state=found.state,
        champion=found.champion,
        challenger=found.challenger,
        summary=summary(found.plan),
        plan=found.plan,
        step=found.step,
        share=found.share,
        verdict=verdict,
        reason=reason,
        started_at=found.started_at,
        step_at=found.step_at,
        paused_at=found.paused_at,
        ended_at=found.ended_at,
        by=found.by,
        note=found.note,
        revision=found.revision,
        evidence=evidence,
    )


def _newest(services: Services, name: str) -> Rollout:
    find_model(services, name)
    found = Rollouts(services.registry).get(name)
    if found is None:
        raise RolloutNotFound(f"model {name!r} has had no rollout yet")
    return found


def _traffic(model: ModelRecord) -> TrafficInfo:
    weights = {str(number): weight for number, weight in weights_of(model).items()}
    return TrafficInfo(model.name, weights, model.live_version, model.shadow)

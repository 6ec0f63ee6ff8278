"""What a rollout's actions change of its model, each inside a transaction that somebody else has begun.

    action      rollout      allocation                shadow       challenger   live
    start       running      the first step's share    (shadow)     staging      champion
    advance     next step    the next share            same         same         same
    promote     promoted     none                      none         live         challenger
    roll back   rolled back  none                      none         rejected     champion
    finish      inconclusive none                      none         staging      champion

So whatever instant a process dies at, what serves and what the rollout says belong together. The registry's own verbs (promote,
rollback, archive …) ask here what an active rollout means for them: `ends_as` and `forbid`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from everloop.core.errors import Conflict
from everloop.core.events import EventKind
from everloop.core.wording import percent
from everloop.policy.rollout import Action, Cause, Plan, Rollout, after, where
from everloop.policy.routing import Allocation, allocate
from everloop.registry.changes import Change
from everloop.registry.plans import summary
from everloop.stores.shelving import make_live, set_status

_KINDS: dict[Action, EventKind] = {
    "advance": "rollout_advanced",
    "pause": "rollout_paused",
    "resume": "rollout_resumed",
    "promote": "rollout_ended",
    "roll_back": "rollout_ended",
    "finish": "rollout_ended",
}
_FINDINGS: dict[Cause, EventKind] = {"guard": "guard", "sample_ratio": "sample_ratio"}
"""What is told by an event of its own, before the one that says what became of the rollout."""


def start(change: Change, number: int, plan: Plan, *, by: str, note: str = "") -> Rollout:
    """Begin to roll `number` out. Raises VersionNotFound, and Conflict where there is nothing to roll out against, or where the
    traffic is already somebody else's business."""
    shelf, model = change.shelf, change.shelf.model
    challenger = shelf.version(number)
    forbid(change, f"version {number} cannot be rolled out")
    if challenger.collected:
        raise Conflict(
            f"version {number} of {model.name!r} has no artifact any more: it was collected", field="version"
        )
    if challenger.version == model.live_version:
        raise Conflict(f"version {number} of {model.name!r} is live already: everybody gets it", field="version")
    if model.live_version is None and plan.strategy != "immediate":
        raise Conflict(
            f"model {model.name!r} has no live version to compare version {number} with; promote it, or roll it out at once",
            field="strategy",
        )
    if model.allocation is not None:
        raise Conflict(
            f"the traffic of {model.name!r} is split by hand ({shares(model.allocation)}); give all of it to one version "
            "first, then roll out",
            field="name",
        )
    if plan.strategy == "shadow" and model.shadow not in (None, number):
        raise Conflict(
            f"version {model.shadow} of {model.name!r} is shown the traffic already; end that shadow first",
            field="version",
        )
    rollout = Rollout(
        model.name,
        shelf.next_rollout(),
        plan,
        model.live_version,
        number,
        "running",
        0,
        change.now,
        change.now,
        by=by,
        note=note,
        reason="started",
    )
    if challenger.status != "staging":
        set_status(shelf, number, "staging")
    rival = "" if rollout.champion is None else f" against version {rollout.champion}"
    change.log(
        "rollout_started",
        f"version {number} goes out{rival}: {summary(plan)}{because(note)}",
        version=number,
        data={**_facts(rollout), "strategy": plan.strategy, "plan": msgspec.to_builtins(plan), "by": by, "note": note},
    )
    if plan.strategy == "immediate":
        return _put(change, rollout, "promote", note or "everybody at once, as the plan says", cause="end", by=by)
    _serve(change, rollout)
    shelf.put_rollout(rollout)
    return rollout


def act(
    change: Change,
    action: Action,
    *,
    reason: str = "",
    revision: int | None = None,
    cause: Cause = "none",
    by: str = "",
    numbers: Mapping[str, Any] | None = None,
) -> Rollout:
    """Do `action` to the active rollout. `revision`: only if it is still the one that was seen. `numbers`: more for the event's
    data. Raises Conflict where there is none, where the table forbids it, and where somebody else has acted meanwhile."""
    rollout = change.shelf.rollout()
    if rollout is None:
        raise Conflict(f"model {change.shelf.model.name!r} has no rollout", field="name")
    if revision is not None and rollout.revision != revision:
        raise Conflict(
            f"rollout {rollout.id} of {rollout.model!r} has changed meanwhile (it is at revision {rollout.revision}, not "
            f"{revision}): look again, then decide",
            field="revision",
        )
    return _put(change, rollout, action, reason, cause=cause, by=by, **(numbers or {}))


def active(change: Change) -> Rollout | None:
    rollout = change.shelf.rollout()
    return rollout if rollout is not None and rollout.active else None


def ends_as(change: Change, number: int | None) -> Action | None:
    """What promoting `number` (None: going back) means for an active rollout: to promote or roll it back; None where there is
    none. Raises Conflict for a version that the rollout is not about."""
    rollout = active(change)
    if rollout is None:
        return None
    if number is None:
        return "roll_back"
    if number == rollout.challenger:
        return "promote"
    forbid(change, f"version {number} cannot be promoted")
    return None


def forbid(change: Change, doing: str) -> None:
    """Raises Conflict, with the way out, while a rollout is active."""
    rollout = active(change)
    if rollout is None:
        return
    raise Conflict(
        f"{doing} while rollout {rollout.id} of {rollout.model!r} (version {rollout.challenger}, "
        f"{rollout.plan.strategy.replace('_', '-')}, {where(rollout)}) is {rollout.state}: "
        "promote it, roll it back or stop it first",
        field="rollout",
    )


def supersede(change: Change, reason: str) -> Rollout | None:
    """End an active rollout without a verdict, because another version goes live past it."""
    return None if active(change) is None else act(change, "finish", reason=reason)


def shares(allocation: Allocation) -> str:
    """`version 1: 90 %, version 2: 10 %`"""
    return ", ".join(f"version {version}: {percent(share)}" for version, share in allocation.weights().items())


def because(note: str) -> str:
    return f": {note}" if note else ""


def _put(change: Change, before: Rollout, action: Action, reason: str, *, cause: Cause, **numbers: Any) -> Rollout:
    rollout = after(before, action, change.now, reason, cause)
    shelf = change.shelf
    previous = shelf.model.live_version
    if rollout.state == "promoted":
        make_live(shelf, rollout.challenger)
    _serve(change, rollout)
    if rollout.state == "rolled_back" and shelf.version(rollout.challenger).status != "live":
        set_status(shelf, rollout.challenger, "rejected")
    if not rollout.active:
        _remember(change, rollout)
    shelf.put_rollout(rollout)
    data = {**_facts(rollout), "cause": cause, "reason": reason, **numbers}
    if cause in _FINDINGS:
        change.log(_FINDINGS[cause], reason, version=rollout.challenger, data=data)
    change.log(_KINDS[action], _message(rollout, action, reason), version=_about(rollout), data=data)
    if rollout.state == "promoted":
        change.log(
            "promoted",
            f"version {rollout.challenger} is live" + ("" if previous is None else f" instead of {previous}"),
            version=rollout.challenger,
            data={"previous": previous, "rollout": rollout.id, "note": reason},
        )
    return rollout


def _serve(change: Change, rollout: Rollout) -> None:
    """Give the challenger its share of the buckets, or its copy of the traffic; or take it away."""
    shelf, model = change.shelf, change.shelf.model
    allocation, shadow = None, None if model.shadow == rollout.challenger else model.shadow
    if rollout.active and rollout.plan.strategy == "shadow":
        shadow = rollout.challenger
    elif rollout.share > 0:
        weights = {rollout.challenger: rollout.share}
        if rollout.share < 1 and rollout.champion is not None:
            weights[rollout.champion] = 1 - rollout.share
        allocation = allocate(weights, salt=model.name, before=model.allocation)
    if (allocation, shadow) != (model.allocation, model.shadow):
        shelf.put_model(msgspec.structs.replace(model, allocation=allocation, shadow=shadow))


def _remember(change: Change, rollout: Rollout) -> None:
    """How it went belongs to where a version comes from."""
    record = change.shelf.version(rollout.challenger)
    went = {"id": rollout.id, "strategy": rollout.plan.strategy, "state": rollout.state, "reason": rollout.reason}
    lineage = record.manifest.lineage | {"rollout": went}
    manifest = msgspec.structs.replace(record.manifest, lineage=lineage)
    change.shelf.put_version(msgspec.structs.replace(record, manifest=manifest))


def _facts(rollout: Rollout) -> dict[str, Any]:
    return {
        "rollout": rollout.id,
        "state": rollout.state,
        "step": rollout.step,
        "share": rollout.share,
        "champion": rollout.champion,
        "challenger": rollout.challenger,
        "revision": rollout.revision,
    }


def _about(rollout: Rollout) -> int | None:
    """The version that an event is about: who goes on serving where the challenger has left."""
    return rollout.champion if rollout.state in {"rolled_back", "inconclusive"} else rollout.challenger


def _message(rollout: Rollout, action: Action, reason: str) -> str:
    challenger, champion = f"version {rollout.challenger}", f"version {rollout.champion}"
    stays = f"{champion} answers everybody" if rollout.plan.strategy != "shadow" else f"{champion} goes on"
    told = {
        "advance": f"{challenger} now answers {percent(rollout.share)}",
        "pause": f"the rollout of {challenger} is paused in {where(rollout)}",
        "resume": f"the rollout of {challenger} goes on in {where(rollout)}",
        "promote": f"{challenger} is promoted",
        "roll_back": f"{challenger} is rolled back, {stays}",
        "finish": f"the rollout of {challenger} ends without a verdict, {stays}",
    }
    return f"{told[action]}{because(reason)}"

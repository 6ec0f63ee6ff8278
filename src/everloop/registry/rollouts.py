"""Rollouts, as people and the controller handle them: start one, look, and act on it.

Each action is one transaction (`registry.rolling` says what of). `revision` is compared and set: whoever decides on what it has seen
names the revision it has seen, and gets a Conflict where somebody else has acted meanwhile; None acts on what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from everloop.policy.rollout import Action, Cause, Plan, Rollout
from everloop.registry import rolling
from everloop.registry.plans import Policy, check, plan_of, policy_of, summary

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry

__all__ = ["Policy", "Rollouts", "plan_of", "policy_of", "summary"]


class Rollouts:
    """Safe from any thread; several, in several processes, may share one catalog.

    All raise ModelNotFound; the actions raise Conflict where there is no rollout, or none that this can be done to."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def start(self, name: str, version: int | str, plan: Plan, *, by: str, note: str = "") -> Rollout:
        """Roll `version` out. Its artifact is verified first, so that a damaged one cannot take over.

        Raises VersionNotFound, ArtifactCorrupt, InvalidInput (the plan), Conflict (another rollout is active, the version is live
        already, there is no champion, the traffic is split by hand)."""
        check(plan)
        number = self._registry.resolve(name, version)
        self._registry.verify(name, number)
        with self._registry.changes.on(name) as change:
            return rolling.start(change, number, plan, by=by, note=note)

    def get(self, name: str) -> Rollout | None:
        """The newest one, active or ended."""
        return self._registry.catalog.rollout(name)

    def active(self) -> Sequence[Rollout]:
        """Of all models, those that have not ended."""
        return self._registry.catalog.active_rollouts()

    def history(self, name: str) -> Sequence[Rollout]:
        """All, the oldest first."""
        return self._registry.catalog.rollouts(name)

    def pause(self, name: str, *, note: str = "", revision: int | None = None, by: str = "") -> Rollout:
        """Everybody stays where they are; nothing but the hard guards acts by itself until `resume`."""
        return self.act(name, "pause", reason=note or "paused by hand", revision=revision, by=by)

    def resume(self, name: str, *, note: str = "", revision: int | None = None, by: str = "") -> Rollout:
        """The step goes on; the pause does not count as its time."""
        return self.act(name, "resume", reason=note or "resumed by hand", revision=revision, by=by)

    def advance(self, name: str, *, note: str = "", revision: int | None = None, by: str = "") -> Rollout:
        """The next step now, whatever the one at hand still asks for."""
        return self.act(name, "advance", reason=note or "advanced by hand", revision=revision, by=by)

    def promote(self, name: str, *, note: str = "", revision: int | None = None, by: str = "") -> Rollout:
        """The challenger is live from now on, and the rollout over."""
        return self.act(name, "promote", reason=note or "promoted by hand", revision=revision, by=by)

    def roll_back(self, name: str, *, note: str = "", revision: int | None = None, by: str = "") -> Rollout:
        """The champion answers everybody again; the challenger is `rejected`."""
        return self.act(name, "roll_back", reason=note or "rolled back by hand", revision=revision, by=by)

    def finish(self, name: str, *, note: str = "", revision: int | None = None, by: str = "") -> Rollout:
        """The champion answers everybody again, without a verdict: the challenger waits as `staging`."""
        return self.act(name, "finish", reason=note or "finished by hand", revision=revision, by=by)

    def act(
        self,
        name: str,
        action: Action,
        *,
        reason: str = "",
        revision: int | None = None,
        cause: Cause = "none",
        by: str = "",
        numbers: Mapping[str, Any] | None = None,
    ) -> Rollout:
        """Any of the actions. `cause` and `numbers`: what the controller has decided it on, for the timeline."""
        if action == "promote":
            self._verify_challenger(name)
        with self._registry.changes.on(name) as change:
            return rolling.act(change, action, reason=reason, revision=revision, cause=cause, by=by, numbers=numbers)

    def _verify_challenger(self, name: str) -> None:
        rollout = self.get(name)
        if rollout is not None and rollout.active:
            self._registry.verify(name, rollout.challenger)

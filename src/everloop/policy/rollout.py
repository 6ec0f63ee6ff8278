"""A rollout: how a challenger comes to serve everybody, part of them or only a shadow, and how it leaves again.

One state machine for all strategies, written as a table (`TRANSITIONS`): a strategy is nothing but its steps. What moves the machine is
an action: of a person (pause, resume, promote, roll back, stop) or of the controller (advance, promote, roll back, finish), which
asks `decide` what the evidence says.

    strategy      steps                                              at their end
    immediate     none                                               promoted at once
    canary        1 % ─► 5 % ─► 25 % ─► …                            promoted, unless a gate found it worse
    ab            one fixed split, to its time or samples            the verdict: promote, roll back or inconclusive
    shadow        a copy of the traffic, share 0                     the verdict; nothing was ever answered by it
    blue_green    open and warm at 0 %, then 100 % at once, watched  promoted; until then the old lane stays open

Pure: `now` is an argument. Durable in the catalog (`stores.ports.Catalog`), so a restart goes on in mid-step; `revision` grows by one
with each change, and whoever acts names the revision it has seen, so two controllers cannot both act.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Strategy = Literal["immediate", "canary", "ab", "shadow", "blue_green"]
State = Literal["running", "paused", "promoted", "rolled_back", "inconclusive"]
Action = Literal["advance", "pause", "resume", "promote", "roll_back", "finish"]
AtEnd = Literal["promote", "roll_back", "hold"]
ENDED: tuple[State, ...] = ("promoted", "rolled_back", "inconclusive")

TRANSITIONS: dict[tuple[State, Action], State] = {
    ("running", "advance"): "running",
    ("running", "pause"): "paused",
    ("running", "promote"): "promoted",
    ("running", "roll_back"): "rolled_back",
    ("running", "finish"): "inconclusive",
    ("paused", "resume"): "running",
    ("paused", "promote"): "promoted",
    ("paused", "roll_back"): "rolled_back",
    ("paused", "finish"): "inconclusive",
}
"""(state, action) -> the state after it. What is not here cannot be done."""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stretch of a rollout."""

    share: float
    """Of the traffic that the challenger answers, 0 to 1."""
    seconds: float = 0.0
    """Least time in this step."""
    samples: int = 0
    """Least requests the challenger has answered (a shadow: was shown) in this step."""
    labels: int = 0
    """Least labels on the challenger's answers in this step."""


class Gates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is tested, how strictly, and what ends a rollout at once."""

    level: float = 0.05
    """Chance that a challenger which is no worse is rolled back, or one no better promoted for its quality, over all gates and looks
    together."""
    errors: bool = True
    latency: bool = True
    quality: bool = True
    latency_tolerance: float = 0.1
    """How much slower is still no fault, relatively …"""
    latency_slack: float = 0.001
    """… and in seconds on top of it: a challenger runs on a thread of its own, which costs a little."""
    failures: int = 1
    """Unusable answers (NaN, wrong shape), timeouts and crashes after which a guard rolls back at once, where the champion could
    answer the same input."""
    timeout: float = 5.0
    """Seconds after which a run of the challenger counts as hanging; the champion then answers in its place."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a rollout goes. `registry.rollouts` fills in what a strategy has by default, and validates."""

    strategy: Strategy
    steps: tuple[Step, ...] = ()
    gates: Gates = Gates()
    at_end: AtEnd = "promote"
    """What happens when all steps are through and no gate has decided: canary and blue-green promote, A/B and shadow hold."""
    max_seconds: float | None = None
    """After so long without having come to its end the rollout is inconclusive: the challenger leaves. None: 7 days."""
    promote_early: bool = True
    """Whether quality that is found better promotes before the last step."""


class Rollout(msgspec.Struct, frozen=True):
    """One rollout, as the catalog keeps it. Times are seconds since the epoch."""

    model: str
    id: int
    """1, 2, 3 … by model, never reused."""
    plan: Plan
    champion: int | None
    challenger: int
    state: State
    step: int
    """Index into `plan.steps`."""
    started_at: float
    step_at: float
    """When the step at hand began; moved on by the length of a pause."""
    revision: int = 1
    paused_at: float | None = None
    ended_at: float | None = None
    by: str = ""
    """Who started it: `learning`, `http`, `python`, `cli` …"""
    note: str = ""
    reason: str = ""
    """Why it stands where it stands, in words."""

    @property
    def active(self) -> bool:
        return self.state not in ENDED

    @property
    def share(self) -> float:
        """Of the traffic that the challenger should answer now."""
        return self.plan.steps[self.step].share if self.active and self.plan.steps else 0.0

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

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from everloop.core.errors import Conflict
from everloop.core.wording import counted, lasting, percent

if TYPE_CHECKING:
    from everloop.policy.gates import GateVerdict

Strategy = Literal["immediate", "canary", "ab", "shadow", "blue_green"]
State = Literal["running", "paused", "promoted", "rolled_back", "inconclusive"]
Action = Literal["advance", "pause", "resume", "promote", "roll_back", "finish"]
AtEnd = Literal["promote", "roll_back", "hold"]
Verdict = Literal["promote", "continue", "roll_back", "inconclusive"]
Cause = Literal["open", "guard", "sample_ratio", "gate", "step", "end", "time", "none"]
"""What a decision rests on."""
ENDED: tuple[State, ...] = ("promoted", "rolled_back", "inconclusive")
DEFAULT_MAX_SECONDS = 7 * 86_400.0
GUARDED: dict[str, str] = {
    "not_finite": "NaN or infinite answer",
    "shape": "answer of a wrong shape",
    "timeout": "timeout",
    "crash": "crash",
}
"""Ways to fail that no statistics are needed for: one such answer is a fault of the model, not of chance."""

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
    """After so long without having come to its end the rollout is inconclusive: the challenger leaves. None: 7 days, or
    twice what the steps ask for."""
    promote_early: bool = True
    """Whether quality that is found better promotes at the end of any step, not only of the last."""


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
    paused_seconds: float = 0.0
    """How long it has been paused in all; `max_seconds` does not count them."""
    ended_at: float | None = None
    by: str = ""
    """Who started it: `learning`, `http`, `python`, `cli` …"""
    note: str = ""
    reason: str = ""
    """Why it stands where it stands, in words."""
    cause: Cause = "none"
    """What brought it there, if it was the evidence; `none` for a person."""

    @property
    def active(self) -> bool:
        return self.state not in ENDED

    @property
    def share(self) -> float:
        """Of the traffic that the challenger should answer now."""
        return self.plan.steps[self.step].share if self.active and self.plan.steps else 0.0


class Seen(msgspec.Struct, frozen=True):
    """What has come of a rollout so far, over all processes; of the step at hand unless it says otherwise."""

    samples: int = 0
    """Requests that the challenger has answered or failed on (a shadow: was shown)."""
    labels: int = 0
    """Labels on its answers."""
    open: bool = True
    """Whether every process that serves has it open and warm."""
    open_failure: str = ""
    """Why a process cannot open it."""
    decisive: Mapping[str, int] = {}
    """Failure -> how often the challenger failed so where the champion could answer the same input; since the rollout began."""
    broken_ratio: str = ""
    """Why the split is not the one that was asked for, if so (`policy.gates.ratio_broken`)."""


class Decision(msgspec.Struct, frozen=True):
    """What to do now, and why. `verdict` is what a person asks for; `action` what the machine does about it."""

    action: Action | None
    verdict: Verdict
    reason: str
    """One sentence with its numbers."""
    cause: Cause


def decide(rollout: Rollout, seen: Seen, verdicts: Sequence[GateVerdict], now: float) -> Decision:
    """What the evidence says. The first that applies:

    1. a challenger that cannot be opened, or whose failures a guard does not allow: roll back, also while paused;
    2. paused or ended: nothing;
    3. a split that is not the one asked for: inconclusive, because whatever is compared on it is not comparable;
    4. a gate that found the challenger worse: roll back;
    5. the step's least time, requests and labels are there: promote what a gate found better, at once or (unless the plan allows it
       early) after the last step; else the next step, and after the last one `at_end`;
    6. no end within `max_seconds`: inconclusive.

    Better answers alone do not promote before their step is over: whether they also come in time and without errors, the
    guardrails need some requests to tell."""
    if not rollout.active:
        return Decision(None, _VERDICT_OF_STATE[rollout.state], rollout.reason, "none")
    if seen.open_failure:
        reason = f"version {rollout.challenger} cannot be opened: {seen.open_failure}"
        return Decision("roll_back", "roll_back", reason, "open")
    guarded = {how: count for how, count in seen.decisive.items() if how in GUARDED and count}
    if guarded and sum(guarded.values()) >= rollout.plan.gates.failures:
        return Decision("roll_back", "roll_back", _guard(rollout, guarded), "guard")
    if rollout.state == "paused":
        return Decision(None, "continue", f"paused in {where(rollout)}", "none")
    if seen.broken_ratio:
        return Decision("finish", "inconclusive", seen.broken_ratio, "sample_ratio")
    worse = [verdict for verdict in verdicts if verdict.verdict == "roll_back"]
    if worse:
        return Decision("roll_back", "roll_back", worse[0].text, "gate")
    better = [verdict for verdict in verdicts if verdict.verdict == "promote"]
    missing = _missing(rollout, seen, now)
    if not missing:
        return _step_done(rollout, seen, better, now)
    lasted = _running(rollout, now)
    if lasted >= most_seconds(rollout.plan):
        reason = f"no end after {lasting(lasted)}: still in {where(rollout)}: {missing}"
        return Decision("finish", "inconclusive", reason, "time")
    return Decision(None, "continue", f"{where(rollout)}: {missing}", "none")


def after(rollout: Rollout, action: Action, now: float, reason: str = "", cause: Cause = "none") -> Rollout:
    """The rollout once `action` is done. Raises Conflict, in words, where `TRANSITIONS` knows no such way, and for advancing
    beyond the last step."""
    state = TRANSITIONS.get((rollout.state, action))
    doing = _DOING[action]
    name = f"rollout {rollout.id} of {rollout.model!r}"
    if state is None:
        if not rollout.active:
            told = f": {rollout.reason}" if rollout.reason else ""
            raise Conflict(f"{name} has ended ({_STATES[rollout.state]}{told}); it cannot be {doing}", field="rollout")
        hint = "resume it first" if rollout.state == "paused" else "pause it first"
        raise Conflict(f"{name} is {_STATES[rollout.state]}; it cannot be {doing}: {hint}", field="rollout")
    changes: dict[str, Any] = {"state": state, "revision": rollout.revision + 1, "reason": reason, "cause": cause}
    if action == "advance":
        if rollout.step + 1 >= len(rollout.plan.steps):
            raise Conflict(f"{name} is in its last step: promote it, or roll it back", field="rollout")
        changes |= {"step": rollout.step + 1, "step_at": now}
    elif action == "pause":
        changes["paused_at"] = now
    elif action == "resume":
        assert rollout.paused_at is not None
        rested = max(0.0, now - rollout.paused_at)
        changes |= {
            "paused_at": None,
            "step_at": rollout.step_at + rested,
            "paused_seconds": rollout.paused_seconds + rested,
        }
    if state in ENDED:
        changes |= {"ended_at": now, "paused_at": None}
    return msgspec.structs.replace(rollout, **changes)


def most_seconds(plan: Plan) -> float:
    """After so long without an end, pauses aside, a rollout is inconclusive."""
    if plan.max_seconds is not None:
        return plan.max_seconds
    return max(DEFAULT_MAX_SECONDS, 2 * sum(step.seconds for step in plan.steps))


def where(rollout: Rollout) -> str:
    """`step 2 of 3 (5 %)`"""
    steps = rollout.plan.steps
    if not steps:
        return "its only step"
    share = "shadow" if rollout.plan.strategy == "shadow" else percent(steps[rollout.step].share)
    return f"step {rollout.step + 1} of {len(steps)} ({share})"


def _step_done(rollout: Rollout, seen: Seen, better: Sequence[GateVerdict], now: float) -> Decision:
    done = f"{where(rollout)} is through: {_had(rollout, seen, now)}"
    last = rollout.step + 1 >= len(rollout.plan.steps)
    if better and (last or rollout.plan.promote_early):
        return Decision("promote", "promote", better[0].text, "gate")
    if not last:
        return Decision("advance", "continue", f"{done}, and no gate found it worse", "step")
    at_end = rollout.plan.at_end
    if at_end == "promote":
        return Decision("promote", "promote", f"{done}, and no gate found it worse", "end")
    if at_end == "roll_back":
        return Decision("roll_back", "roll_back", f"{done}, and no gate found it better", "end")
    return Decision("finish", "inconclusive", f"{done}, and no gate found it better or worse", "end")


def _missing(rollout: Rollout, seen: Seen, now: float) -> str:
    """What the step still asks for, as `120 of 300 requests and 40 s of 5 min`; empty where there is enough."""
    if not rollout.plan.steps:
        return ""
    step = rollout.plan.steps[rollout.step]
    lasted = now - rollout.step_at
    missing: list[str] = []
    if not seen.open:
        missing.append(f"version {rollout.challenger} is not open everywhere yet")
    if seen.samples < step.samples:
        missing.append(f"{seen.samples:,} of {counted(step.samples, 'request')}")
    if seen.labels < step.labels:
        missing.append(f"{seen.labels:,} of {counted(step.labels, 'label')}")
    if lasted < step.seconds:
        missing.append(f"{lasting(max(0.0, lasted))} of {lasting(step.seconds)}")
    return " and ".join(missing)


def _had(rollout: Rollout, seen: Seen, now: float) -> str:
    had = [counted(seen.samples, "request")]
    if seen.labels or (rollout.plan.steps and rollout.plan.steps[rollout.step].labels):
        had.append(counted(seen.labels, "label"))
    return f"{' and '.join(had)} in {lasting(max(0.0, now - rollout.step_at))}"


def _guard(rollout: Rollout, guarded: Mapping[str, int]) -> str:
    told = " and ".join(counted(count, GUARDED[how]) for how, count in sorted(guarded.items()))
    limit = rollout.plan.gates.failures
    allowed = "the first is one too many" if limit == 1 else f"{limit:,} are too many"
    rival = f"version {rollout.champion}" if rollout.champion is not None else "the champion"
    return f"{told} of version {rollout.challenger} where {rival} could answer: {allowed}"


def _running(rollout: Rollout, now: float) -> float:
    """Seconds since it started, without its pauses."""
    return now - rollout.started_at - rollout.paused_seconds


_STATES: dict[State, str] = {
    "running": "running",
    "paused": "paused",
    "promoted": "promoted",
    "rolled_back": "rolled back",
    "inconclusive": "inconclusive",
}
_DOING: dict[Action, str] = {
    "advance": "advanced",
    "pause": "paused",
    "resume": "resumed",
    "promote": "promoted",
    "roll_back": "rolled back",
    "finish": "finished",
}
_VERDICT_OF_STATE: dict[State, Verdict] = {
    "running": "continue",
    "paused": "continue",
    "promoted": "promote",
    "rolled_back": "roll_back",
    "inconclusive": "inconclusive",
}

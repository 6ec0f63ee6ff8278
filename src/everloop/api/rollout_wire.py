"""The shapes of what is asked and answered about versions that share the traffic: splits, aliases, rollouts, exports.

As in `api.wire`, a field's docstring is what a reader of `/docs` sees.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from everloop.api.wire import Note, VersionRef, VersionText
from everloop.policy.gates import GateVerdict, RatioVerdict
from everloop.policy.rollout import AtEnd, Plan, State, Strategy, Verdict

Share = Annotated[float, Meta(ge=0, le=1)]
Tag = Annotated[str, Meta(max_length=1000)]


class VersionChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is said of a version; what is left out stays."""

    name: Annotated[str, Meta(max_length=128)] | None = None
    """Unique within the model; empty takes it away."""
    note: Note | None = None
    tags: Annotated[dict[str, Tag | None], Meta(max_length=100)] | None = None
    """Merged with what is there; null takes a tag away (as in RFC 7396)."""


class TrafficSplit(msgspec.Struct, forbid_unknown_fields=True):
    """Who shall answer whom."""

    weights: Annotated[dict[VersionText, Share], Meta(min_length=1, max_length=100)]
    """Share by version (number, name or alias); they sum to 1. A version that is not named gets nothing."""
    shadow: VersionRef | None = None
    """The version that is shown a copy of the traffic; null for none."""
    note: Note = ""


class TrafficInfo(msgspec.Struct):
    """Who should answer whom, by the registry."""

    model: str
    weights: dict[str, float]
    """Share by version number; they sum to 1. Empty while there is no version."""
    live_version: int | None
    """The champion: it gets what no other version has."""
    shadow: int | None


class AliasChoice(msgspec.Struct, forbid_unknown_fields=True):
    """What an alias shall stand for."""

    version: VersionRef


class Aliases(msgspec.Struct):
    model: str
    aliases: dict[str, int]
    """Name -> version, `champion` and `challenger` among them where they are."""


class RolloutSpec(msgspec.Struct, forbid_unknown_fields=True):
    """A rollout to start. What is left out is what the strategy has by default."""

    version: VersionRef
    """The challenger: its number, name or alias."""
    strategy: Annotated[str, Meta(max_length=32, extra_json_schema={"enum": list(get_args(Strategy))})] = "canary"
    steps: (
        Annotated[str, Meta(max_length=1000)]
        | Annotated[list[float | Annotated[str, Meta(max_length=32)] | dict[str, Any]], Meta(max_length=100)]
        | None
    ) = None
    """Of a canary: `"1%,5%,25%"`, `[0.01, 0.05]`, or objects like `{"share": 0.05, "seconds": 60, "samples": 500, "labels": 0}`."""
    share: float | Annotated[str, Meta(max_length=32)] | None = None
    """The challenger's, of an A/B test: `0.5`."""
    seconds: float | None = None
    """Least time of each step that does not say its own."""
    samples: int | None = None
    """Least requests of each step, answered by the challenger."""
    labels: int | None = None
    """Least labels of each step, on answers of the challenger."""
    gates: (
        Annotated[dict[str, Any], Meta(max_length=50, description="Fields of `Gates`: `level`, `errors` …")] | None
    ) = None
    at_end: Annotated[str, Meta(max_length=32, extra_json_schema={"enum": list(get_args(AtEnd))})] | None = None
    """What happens when all steps are through and no gate has decided."""
    max_seconds: float | None = None
    promote_early: bool | None = None
    note: Note = ""


class RolloutChange(msgspec.Struct, forbid_unknown_fields=True):
    """Why, and on what one has seen."""

    note: Note = ""
    revision: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    """Only if the rollout is still at this revision; otherwise 409, because somebody has acted meanwhile."""


class StepProgress(msgspec.Struct):
    """What the step at hand has had, beside the least of its plan."""

    seconds: float
    samples: int
    """Requests that the challenger has answered or failed on (a shadow: was shown)."""
    labels: int
    """Labels on its answers."""


class ArmInfo(msgspec.Struct):
    """What was seen of one of the two versions since the rollout began, over all processes."""

    version: int | None
    requests: int
    """Answered or failed."""
    failed: int
    failures: dict[str, int]
    """Of the failed ones, by how: `raised`, `not_finite`, `shape`, `timeout`, `crash`."""
    p50_seconds: float | None
    p99_seconds: float | None


class RolloutEvidence(msgspec.Struct):
    """What a rollout has seen."""

    step: StepProgress
    champion: ArmInfo
    challenger: ArmInfo
    gates: list[GateVerdict]
    """What each gate makes of it. They may be looked at after every request: the evidence holds whenever one looks."""
    shadow: dict[str, Any] | None
    """Of a shadow: how many of its answers agreed with those that were given, and how far apart the others were."""
    split: RatioVerdict | None
    """Whether each version gets the share of the units that it should in the step at hand; a broken split ends the rollout."""


class RolloutInfo(msgspec.Struct, kw_only=True):
    """One rollout. Times are seconds since the epoch."""

    model: str
    id: int
    """1, 2, 3 … by model, never reused."""
    state: State
    champion: int | None
    challenger: int
    summary: str
    """The plan in words: `canary 1 % → 5 % → 25 % → 100 %`."""
    plan: Plan
    step: int
    """Index into `plan.steps`."""
    share: float
    """Of the traffic that the challenger should answer now."""
    verdict: Verdict
    reason: str
    """Why it stands where it stands, with its numbers."""
    started_at: float
    step_at: float
    """When the step at hand began; moved on by the length of a pause."""
    paused_at: float | None
    ended_at: float | None
    by: str
    """Who started it: `http`, `cli`, `python`, `learning`."""
    note: str
    revision: int
    """Give it with a change to be sure that nobody has acted meanwhile."""
    evidence: RolloutEvidence | None
    """Null in the history."""


class RolloutList(msgspec.Struct):
    model: str
    rollouts: list[RolloutInfo]
    """The newest last."""


class CollectSpec(msgspec.Struct, forbid_unknown_fields=True):
    """What may go besides artifacts that nothing names (as a crash leaves them)."""

    archived: bool = False
    """Also those of archived versions; their records stay."""
    keep: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Of each model, spare the newest so many archived ones."""

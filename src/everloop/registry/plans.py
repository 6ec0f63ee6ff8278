"""Plans of rollouts: what a strategy has by default, how people may write it, and what is refused.

Shares may be written as shares (`0.05`), as percents (`5`, in a list where one number is above 1) or with the sign (`"5%"`);
a text of bare numbers is percents. What could be both is refused rather than guessed: `1` is one per cent or everybody.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args

import msgspec

from everloop.core.errors import InvalidInput
from everloop.core.wording import lasting, near_names, percent
from everloop.policy.rollout import AtEnd, Gates, Plan, Step, Strategy
from everloop.policy.routing import BUCKETS

CANARY = (0.01, 0.05, 0.25)
"""The shares of a canary that says none, before the promotion to 100 %."""
MINIMA: dict[Strategy, tuple[float, int]] = {
    "immediate": (0.0, 0),
    "canary": (300.0, 100),
    "ab": (86_400.0, 1_000),
    "shadow": (3_600.0, 1_000),
    "blue_green": (600.0, 0),
}
"""Least seconds and requests of each step that says none. Five minutes show a slow leak and a minute's pause of a collector; a day
is the shortest time in which people behave in all their ways."""
WARM_SECONDS = 30.0
"""Blue-green: how long the new version stands warm at 0 %, while the old one's errors are counted to compare with."""

Choice = Strategy | Literal["auto"]
"""What can be said of how the learning loop's versions go out."""
Shares = str | float | Sequence[Any]
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def plan_of(
    strategy: str,
    *,
    steps: Shares | None = None,
    share: float | str | None = None,
    seconds: float | None = None,
    samples: int | None = None,
    labels: int | None = None,
    gates: Gates | Mapping[str, Any] | None = None,
    at_end: str | None = None,
    max_seconds: float | None = None,
    promote_early: bool | None = None,
) -> Plan:
    """A whole, valid plan. `steps` of a canary: `"1,5,25,100"`, `[0.01, 0.05]`, `Step`s, or mappings of their fields; a last
    step of 100 % that asks for nothing is the promotion itself. `share`: the challenger's, of an A/B test. `seconds`, `samples`,
    `labels`: of each step that does not say its own. None: what the strategy has by default.

    Raises InvalidInput naming the field, as `steps[2].share`."""
    if strategy not in get_args(Strategy):
        near = near_names(str(strategy), get_args(Strategy), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(get_args(Strategy))}"
        raise InvalidInput(f"strategy: there is no {strategy!r}; {hint}", field="strategy")
    known: Strategy = strategy  # type: ignore[assignment]
    least_seconds, least_samples = MINIMA[known]
    base = Step(
        0.0,
        seconds=_number(least_seconds if seconds is None else seconds, "seconds"),
        samples=_whole(least_samples if samples is None else samples, "samples"),
        labels=_whole(0 if labels is None else labels, "labels"),
    )
    if share is not None and steps is not None:
        raise InvalidInput("share: say either share or steps", field="share")
    if share is not None and known != "ab":
        raise InvalidInput("share: only an A/B test has one share; a canary has steps", field="share")
    if steps is not None and known not in {"canary", "ab"}:
        raise InvalidInput(f"steps: {_article(known)} rollout has none of its own to choose", field="steps")
    ends: AtEnd = "promote" if known in {"immediate", "canary", "blue_green"} else "hold"
    if at_end is not None:
        if at_end not in get_args(AtEnd):
            raise InvalidInput(f"at_end: expected promote, roll_back or hold, got {at_end!r}", field="at_end")
        ends = at_end  # type: ignore[assignment]
    plan = Plan(
        known,
        _steps_of(known, steps if share is None else [share], base),
        _gates(gates),
        ends,
        None if max_seconds is None else _number(max_seconds, "max_seconds"),
        known not in {"ab", "shadow"} if promote_early is None else _flag(promote_early, "promote_early"),
    )
    check(plan)
    return plan


def check(plan: Plan) -> None:
    """Whether this plan can be carried out: for plans that were made by hand. Raises InvalidInput naming the field."""
    least = 1 / BUCKETS
    last = 0.0
    for i, step in enumerate(plan.steps):
        path = f"steps[{i}]"
        for field, value in (("seconds", step.seconds), ("samples", step.samples), ("labels", step.labels)):
            _number(value, f"{path}.{field}")
        if not math.isfinite(step.share) or not 0 <= step.share <= 1 or 0 < step.share < least:
            raise InvalidInput(
                f"{path}.share: expected a share of the traffic from {least:g} to 1, got {step.share!r}",
                field=f"{path}.share",
            )
        if plan.strategy == "canary" and step.share <= last:
            raise InvalidInput(
                f"{path}.share: each step of a canary is larger than the one before, got {percent(step.share)} after "
                f"{percent(last)}",
                field=f"{path}.share",
            )
        last = step.share
    shares = [step.share for step in plan.steps]
    wrong = {
        "immediate": "an immediate rollout has no steps" if shares else "",
        "canary": "" if shares and shares[0] < 1 else "a canary begins with a share below 100 %",
        "ab": "" if len(shares) == 1 and 0 < shares[0] < 1 else "an A/B test has one share, above 0 and below 1",
        "shadow": "" if shares == [0.0] else "a shadow has one step, of share 0",
        "blue_green": "" if shares == [0.0, 1.0] else "blue-green has two steps, of share 0 and 1",
    }[plan.strategy]
    if wrong:
        raise InvalidInput(f"steps: {wrong}", field="steps")
    _check_gates(plan.gates)
    asked = sum(step.seconds for step in plan.steps)
    if plan.max_seconds is not None and not asked < plan.max_seconds:
        raise InvalidInput(
            f"max_seconds: the steps alone ask for {lasting(asked)}, got {lasting(plan.max_seconds)}",
            field="max_seconds",
        )


def summary(plan: Plan) -> str:
    """`canary 1 % → 5 % → 25 % → 100 %`"""
    shares = [percent(step.share) for step in plan.steps]
    if plan.strategy == "canary":
        return f"canary {' → '.join([*shares, *([] if plan.steps[-1].share == 1 else ['100 %'])])}"
    words = {
        "immediate": "at once",
        "ab": f"A/B test with {''.join(shares)} for {lasting(sum(step.seconds for step in plan.steps))}",
        "shadow": f"shadow for {lasting(sum(step.seconds for step in plan.steps))}",
        "blue_green": "blue-green: everybody at once, the old version held ready",
    }
    return words[plan.strategy]


def _steps_of(strategy: Strategy, steps: Any, base: Step) -> tuple[Step, ...]:
    if strategy == "immediate":
        return ()
    if strategy == "shadow":
        return (base,)
    if strategy == "blue_green":
        return (Step(0.0, seconds=min(WARM_SECONDS, base.seconds)), msgspec.structs.replace(base, share=1.0))
    if steps is None:
        steps = CANARY if strategy == "canary" else [0.5]
    made = _written(steps, base)
    if strategy == "canary" and len(made) > 1 and made[-1] == msgspec.structs.replace(base, share=1.0):
        made = made[:-1]
    return tuple(made)


def _written(steps: Any, base: Step) -> list[Step]:
    if isinstance(steps, str):
        parts: list[Any] = [part.strip() for part in steps.replace("→", ",").split(",")]
    elif isinstance(steps, (int, float)):
        parts = [steps]
    elif isinstance(steps, Sequence):
        parts = list(steps)
    else:
        raise InvalidInput(f"steps: expected a list of shares, got {type(steps).__name__}", field="steps")
    text = isinstance(steps, str)
    bare = [_parsed(part, i) for i, part in enumerate(parts) if not isinstance(part, (Step, Mapping))]
    numbers = [number for number, signed in bare if not signed]
    if text and numbers and max(numbers) <= 1:
        raise InvalidInput(
            f"steps: {steps!r} could be shares or percents; write it with the sign, as 1%,5%", field="steps"
        )
    scale = 100.0 if text or any(number > 1 for number in numbers) else 1.0
    shares = iter(number / 100 if signed else number / scale for number, signed in bare)
    return [
        part
        if isinstance(part, Step)
        else _struct(Step, {**_own(base), **part}, f"steps[{i}]")
        if isinstance(part, Mapping)
        else msgspec.structs.replace(base, share=next(shares))
        for i, part in enumerate(parts)
    ]


def _own(base: Step) -> dict[str, Any]:
    """What a step written as a mapping takes from the plan's own minima; its share it says itself."""
    return {"seconds": base.seconds, "samples": base.samples, "labels": base.labels}


def _parsed(part: Any, i: int) -> tuple[float, bool]:
    """The number, and whether it was written with the sign of per cent."""
    text = part.strip() if isinstance(part, str) else ""
    try:
        if not isinstance(part, bool):
            return float(text.removesuffix("%") if text else part), text.endswith("%")
    except (TypeError, ValueError):  # told below, as for True
        text = ""
    raise InvalidInput(f"steps[{i}]: expected a share or a percentage, got {part!r}", field=f"steps[{i}]")


def _gates(given: Gates | Mapping[str, Any] | None) -> Gates:
    if given is None or isinstance(given, Gates):
        return given or Gates()
    if not isinstance(given, Mapping):
        raise InvalidInput(f"gates: expected a mapping of options, got {type(given).__name__}", field="gates")
    return _struct(Gates, given, "gates")


def _check_gates(gates: Gates) -> None:
    if not 0 < gates.level <= 0.5:
        raise InvalidInput(f"gates.level: expected above 0 and at most 0.5, got {gates.level!r}", field="gates.level")
    for field in ("latency_tolerance", "latency_slack"):
        _number(getattr(gates, field), f"gates.{field}")
    if gates.failures < 1:
        raise InvalidInput(f"gates.failures: expected at least 1, got {gates.failures!r}", field="gates.failures")
    if not 0 < gates.timeout < math.inf:
        raise InvalidInput(f"gates.timeout: expected seconds above 0, got {gates.timeout!r}", field="gates.timeout")


def _struct(kind: type[_Struct], given: Mapping[str, Any], path: str) -> _Struct:
    fields = kind.__struct_fields__
    for name in given:
        if name not in fields:
            near = near_names(str(name), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(fields)}"
            raise InvalidInput(f"{path}.{name}: unknown; {hint}", field=f"{path}.{name}")
    for name, value in given.items():
        try:
            msgspec.convert({**_required(kind), name: value}, kind)
        except msgspec.ValidationError as error:
            told = str(error).partition(" - at ")[0].replace("`", "")
            raise InvalidInput(f"{path}.{name}: {told[:1].lower()}{told[1:]}", field=f"{path}.{name}") from None
    missing = [name for name in _required(kind) if name not in given]
    if missing:
        raise InvalidInput(f"{path}.{missing[0]}: is missing", field=f"{path}.{missing[0]}")
    return msgspec.convert(dict(given), kind)


def _required(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A step must say its share; gates need say nothing."""
    return {"share": 0.5} if kind is Step else {}


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InvalidInput(f"{field}: expected a number of at least 0, got {value!r}", field=field)
    return float(value)


def _whole(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(f"{field}: expected a whole number of at least 0, got {value!r}", field=field)
    return value


def _flag(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{field}: expected true or false, got {value!r}", field=field)
    return value


def _article(strategy: Strategy) -> str:
    return {"immediate": "an immediate", "shadow": "a shadow", "blue_green": "a blue-green"}[strategy]


class Policy(msgspec.Struct, frozen=True):
    """How versions that the learning loop makes go out."""

    strategy: Choice
    options: dict[str, Any] = {}
    """Of `plan_of`; with `auto` only `gates`."""

    def plan(self) -> Plan:
        """Of a strategy that is not `auto`."""
        return plan_of(self.strategy, **self.options)


def policy_of(default: str, overrides: Mapping[str, Any]) -> Policy:
    """What holds for one model: `overrides` are `strategy` and options of `plan_of`, as a model was registered with them; without a
    strategy among them it is `default`. Raises InvalidInput naming the field, as `rollout.steps[2].share`."""
    options = dict(overrides)
    strategy = options.pop("strategy", default)
    try:
        _check_policy(strategy, options)
    except InvalidInput as error:
        raise InvalidInput(f"rollout.{error.message}", field=f"rollout.{error.field}") from None
    return Policy(strategy, options)


def _check_policy(strategy: Any, options: Mapping[str, Any]) -> None:
    if strategy == "auto":
        known, hint = ["gates"], "`auto` takes nothing but gates; name a strategy"
    else:
        known = list(inspect.signature(plan_of).parameters)
        hint = f"known are {', '.join(known)}"
    if unknown := [name for name in options if name not in known]:
        raise InvalidInput(f"{unknown[0]}: unknown; {hint}", field=unknown[0])
    plan_of("canary" if strategy == "auto" else strategy, **options)

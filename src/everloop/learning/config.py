"""What a user can say about learning. Mutable on purpose: a change made after construction takes effect at the next step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

from everloop.core.errors import InvalidInput
from everloop.core.wording import near_names
from everloop.policy.rollout import Strategy
from everloop.registry.plans import Choice

Rule = Literal["better", "fresh"]
_KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "True or False"),
    "Rule": (str, "'better' or 'fresh'"),
    "Choice": (str, "the name of a strategy"),
}


@dataclass
class LearningConfig:
    """When to fit, how to notice drift, and when a challenger may serve."""

    min_samples: int = 100
    """Labelled examples before the first fit, and new ones before each further one. A drift alarm fits at once."""
    interval_sec: float = 60
    """Least seconds between two fits that no drift alarm asked for. The first fit does not wait."""
    max_queue_size: int = 10000
    """Most acknowledged examples that the learner has not yet taken; beyond it new labels are refused (Overloaded)."""
    drift_detection: bool = True
    drift_threshold: float = 0.1
    """How much worse errors must have become for an alarm, 0 to 1: the rise of the error rate for classification, the
    relative rise of the absolute error for regression. Smaller alarms sooner on smaller changes."""
    auto_swap: bool = True
    """Whether a challenger that passed its gate goes out by itself; otherwise it waits as `staging` for `promote`."""
    rollout: Choice = "auto"
    """How it goes out: `auto` (a canary where there is traffic, at once where there is none), `immediate`, `canary`, `shadow`, `ab` or
    `blue_green`. A first version, and one that somebody asked for, goes out at once."""
    validation_threshold: float = 0.05
    """With the rule `fresh`: how much worse, relatively, a challenger may be on the held-out examples and still serve."""
    rule: Rule = "better"
    """`better`: publish only what beats the champion on held-out examples. `fresh`: also what is not worse by more than
    `validation_threshold`."""
    window: int = 10_000
    """Most recent examples that a refit sees."""
    holdout: float = 0.2
    """Share of the most recent examples kept back to judge a challenger, at most 2,000 of them."""

    @classmethod
    def default(cls) -> LearningConfig:
        return cls()

    @classmethod
    def frequent_updates(cls) -> LearningConfig:
        """Every 10 seconds, from 10 samples on."""
        return cls(min_samples=10, interval_sec=10)

    def validate(self) -> None:
        """Raises InvalidInput naming the field."""
        for name, kind, expected in _FIELDS:
            value = getattr(self, name)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise InvalidInput(f"{name}: expected {expected}, got {value!r}", field=name)
        checks: list[tuple[str, bool, str]] = [
            ("min_samples", self.min_samples >= 2, "at least 2"),
            ("interval_sec", self.interval_sec >= 0, "at least 0 seconds"),
            ("max_queue_size", self.max_queue_size >= 1, "at least 1"),
            ("drift_threshold", 0 <= self.drift_threshold <= 1, "between 0 and 1"),
            ("validation_threshold", self.validation_threshold >= 0, "at least 0"),
            ("rule", self.rule in ("better", "fresh"), "'better' or 'fresh'"),
            ("rollout", self.rollout in _ROLLOUTS, f"one of {', '.join(_ROLLOUTS)}"),
            ("window", self.window >= self.min_samples, "at least min_samples"),
            ("holdout", 0 < self.holdout < 1, "between 0 and 1, exclusive"),
        ]
        for name, good, expected in checks:
            if not good:
                raise InvalidInput(f"{name}: expected {expected}, got {getattr(self, name)!r}", field=name)


_ROLLOUTS = ("auto", *get_args(Strategy))
_FIELDS = [(field.name, *_KINDS[str(field.type)]) for field in fields(LearningConfig)]


@dataclass(frozen=True)
class ModelParameters:
    """Parameters of the built-in kinds `linear`, `ridge` and `logistic`, all trained by accelerated gradient descent in
    coordinates where the features are uncorrelated and of equal scale."""

    with_bias: bool = True
    """Whether there is an intercept."""
    learning_rate: float = 0.01
    """The step of the descent, in the scaled coordinates: in (0, 1]."""
    max_iterations: int = 1000
    """Most steps of one fit; it ends sooner once the gradient has vanished."""
    regularization: float | None = None
    """L2 strength as in scikit-learn's `Ridge(alpha=…)`. None: 0 for `linear`, 1.0 for `ridge` and `logistic`."""

    def validate(self) -> None:
        """Raises InvalidInput naming the field."""
        if not 0 < self.learning_rate <= 1:
            raise InvalidInput(
                f"learning_rate: expected above 0 and at most 1, got {self.learning_rate!r}", field="learning_rate"
            )
        if self.max_iterations < 1:
            raise InvalidInput(
                f"max_iterations: expected at least 1, got {self.max_iterations!r}", field="max_iterations"
            )
        if self.regularization is not None and self.regularization < 0:
            raise InvalidInput(
                f"regularization: expected at least 0, got {self.regularization!r}", field="regularization"
            )


def effective(config: LearningConfig, overrides: Mapping[str, Any]) -> LearningConfig:
    """What holds for one model now: the user's config as it stands, with what the model was registered with on top.

    Raises InvalidInput naming the field, as `learning.FIELD` where there are overrides."""
    if not overrides:
        config.validate()
        return config
    known = [field.name for field in fields(LearningConfig)]
    for name in overrides:
        if name not in known:
            near = near_names(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise InvalidInput(f"learning.{name}: unknown; {hint}", field=f"learning.{name}")
    config = replace(config, **overrides)
    try:
        config.validate()
    except InvalidInput as error:
        raise InvalidInput(f"learning.{error.message}", field=f"learning.{error.field}") from None
    return config

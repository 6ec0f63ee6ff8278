"""Finds the learner for whatever a user registers, and the record that finds it again after a restart."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from everloop.core.errors import InvalidInput, NotSupported
from everloop.learning.config import ModelParameters
from everloop.learning.learners.base import Learner
from everloop.runtime.artifact import Trust

Parameters = ModelParameters | Mapping[str, Any] | None

LINEAR_KINDS = ("linear", "ridge", "logistic")
KINDS = LINEAR_KINDS


def make_learner(model: Any, parameters: Parameters = None, *, trust: Trust) -> Learner:
    if isinstance(model, str):
        return _of_kind(model, parameters, trust)
    raise NotSupported(f"{type(model).__name__} is not a model")


def _of_kind(kind: str, parameters: Parameters, trust: Trust) -> Learner:  # noqa: ARG001
    if kind in LINEAR_KINDS:
        from everloop.learning.learners.linear import LinearLearner

        return LinearLearner(kind, _linear_parameters(parameters))  # type: ignore[arg-type]
    near = difflib.get_close_matches(kind, KINDS, n=3)
    raise NotSupported(f"there is no kind of model named {kind!r}; {near}")


def _linear_parameters(parameters: Parameters) -> ModelParameters:
    if parameters is None:
        return ModelParameters()
    if isinstance(parameters, ModelParameters):
        return parameters
    known = [field.name for field in fields(ModelParameters)]
    for name in parameters:
        if name not in known:
            raise InvalidInput(f"parameters.{name}: unknown; known are {', '.join(known)}", field=f"parameters.{name}")
    return ModelParameters(**parameters)


def describe(learner: Learner) -> tuple[str, dict[str, Any], bytes | None]:
    return learner.kind, asdict(learner.parameters), None  # type: ignore[attr-defined]

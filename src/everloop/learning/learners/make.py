"""Finds the learner for whatever a user registers, and the record that finds it again after a restart.

what is given                      kind         rebuilt from
"linear", "ridge", "logistic"      the same     parameters
"auto", "forest", "boosting"       the same     parameters
a scikit-learn estimator           estimator    template: the unfitted estimator, as a skops file where that is possible
one of boosted trees               estimator    template: its class and its parameters
an artifact that can learn on      its runtime  template: the artifact, as a file (`STARTED`)
a River model                      river        template: a pickle
a Learner                          learner      template: a pickle
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import import_module
from typing import Any

import msgspec

from everloop.core.errors import InvalidInput, NotSupported, Untrusted
from everloop.core.schema import plain
from everloop.core.wording import near_names
from everloop.learning.config import ModelParameters
from everloop.learning.learners.base import Learner
from everloop.runtime.artifact import Trust
from everloop.runtime.packaged import dump_artifact, read_artifact
from everloop.stores.ports import Manifest

Parameters = ModelParameters | Mapping[str, Any] | None

LINEAR_KINDS = ("linear", "ridge", "logistic")
FAMILY_KINDS = ("forest", "boosting")
KINDS = (*LINEAR_KINDS, "auto", *FAMILY_KINDS)
STARTED = {
    "text": "everloop.learning.learners.text",
    "factors": "everloop.learning.learners.factors",
}
"""Runtime -> the module of the learner that starts from an artifact of it and keeps what that knows. The module has
`start(manifest, payload) -> Learner`, whose learner answers and learns at once as the artifact does, and whose `kind` is the runtime's name;
its clones start from the same artifact at `fit`. It has `started_from() -> (Manifest, bytes)`: that artifact."""
_CONTRACT = ("clone", "fit", "learn", "predict", "freeze", "dump", "restore")


def make_learner(model: Any, parameters: Parameters = None, *, trust: Trust) -> Learner:
    """A learner of its own: the object that is given stays as it is.

    Raises NotSupported (unknown kind, an object that cannot learn or answers no single label or number), InvalidInput (parameters),
    Untrusted (only a pickle could hold it, and pickles are not trusted)."""
    if isinstance(model, str):
        return _of_kind(model, parameters, trust)
    if isinstance(model, type):
        raise NotSupported(f"{model.__name__} is a class: give an instance, {model.__name__}(…)", field="model")
    if parameters:
        raise InvalidInput(
            f"parameters are for the kinds {', '.join(KINDS)}; set those of a {type(model).__name__} on the object itself",
            field="parameters",
        )
    if all(callable(getattr(model, name, None)) for name in _CONTRACT):
        if not trust.pickle:
            raise Untrusted(
                f"a learner of your own ({type(model).__name__}) can only be kept as a pickle: pass trust_pickle=True (--trust-pickle) if "
                "you alone can write the data folder",
                field="model",
            )
        learner: Learner = model.clone()
        return learner
    from everloop.runtime.river import is_river

    if is_river(model):
        from everloop.learning.learners.river import RiverLearner

        return RiverLearner(model, trust=trust)
    from everloop.learning.learners.boosted import BoostedLearner, is_boosted

    if is_boosted(model):
        return BoostedLearner(model, trust=trust)
    if callable(getattr(model, "fit", None)):
        from everloop.learning.learners.sklearn import EstimatorLearner

        return EstimatorLearner(model, trust=trust)
    raise NotSupported(
        f"a {type(model).__name__} cannot be registered: give a kind ({', '.join(KINDS)}), a scikit-learn estimator or pipeline, a River "
        "model, a Learner, or the path of an ONNX or skops file",
        field="model",
    )


def already_fitted(model: Any) -> bool:
    """Whether what was registered can answer at once: a fitted scikit-learn estimator."""
    from everloop.runtime.river import is_river

    if isinstance(model, (str, type)) or is_river(model) or not hasattr(model, "get_params"):
        return False
    from everloop.runtime.inputs import is_fitted

    return is_fitted(model)


def describe(learner: Learner) -> tuple[str, dict[str, Any], bytes | None]:
    """What the registry keeps: kind, parameters (equal ones mean the same model), template. `from_record` is its inverse.

    Raises Untrusted where a template is needed that only a pickle could hold, and pickles are not trusted."""
    from everloop.learning.learners.auto import AutoLearner
    from everloop.learning.learners.boosted import BoostedLearner
    from everloop.learning.learners.families import FamilyLearner
    from everloop.learning.learners.linear import LinearLearner
    from everloop.learning.learners.river import RiverLearner
    from everloop.learning.learners.sklearn import EstimatorLearner, describe_object
    from everloop.runtime.sklearn import pickle_estimator

    if type(learner).__module__ == STARTED.get(learner.kind):
        return learner.kind, {}, dump_artifact(*learner.started_from())  # type: ignore[attr-defined]
    known = (LinearLearner, AutoLearner, FamilyLearner, EstimatorLearner, BoostedLearner, RiverLearner)
    if isinstance(learner, known):
        parameters, template = learner.describe()
        return learner.kind, parameters, template
    return "learner", {"learner": describe_object(learner)}, pickle_estimator(learner.clone())


def from_record(kind: str, parameters: Mapping[str, Any], template: bytes | None, *, trust: Trust) -> Learner | None:
    """The learner that `describe` told of; None for the kind `artifact`, which only answers.

    Raises Untrusted, NotSupported, InvalidInput."""
    if kind == "artifact":
        return None
    if kind not in ("estimator", "river", "learner", *STARTED):
        return _of_kind(kind, parameters, trust)
    if template is None:
        raise NotSupported(f"the record of a model of kind {kind!r} lacks its template")
    if kind in STARTED:
        return learner_of_artifact(*read_artifact(template), trust=trust)
    from everloop.learning.learners.boosted import load_template
    from everloop.runtime.sklearn import load_estimator, unpickle

    if kind == "estimator":
        boosted = load_template(template, trust)
        if boosted is not None:
            return boosted
        return make_learner(load_estimator(template, trust), trust=trust)
    return make_learner(unpickle(template, trust, "River" if kind == "river" else "registered"), trust=trust)


def learner_of_artifact(manifest: Manifest, payload: bytes, *, trust: Trust) -> Learner | None:
    """What learns on from an artifact (`STARTED`), or anew as what it was made with (a scikit-learn estimator); None for one that only
    answers. Raises Untrusted, ArtifactCorrupt."""
    if manifest.runtime in STARTED:
        made: Learner = import_module(STARTED[manifest.runtime]).start(manifest, payload)
        return made
    if manifest.runtime != "sklearn":
        return None
    from everloop.runtime.sklearn import load_estimator

    return make_learner(load_estimator(payload, trust), trust=trust)


def _of_kind(kind: str, parameters: Parameters, trust: Trust) -> Learner:
    if kind in LINEAR_KINDS:
        from everloop.learning.learners.linear import LinearLearner

        return LinearLearner(kind, _linear_parameters(parameters))  # type: ignore[arg-type]
    if kind not in KINDS:
        near = near_names(kind, KINDS, n=2)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(KINDS)}"
        raise NotSupported(f"there is no kind of model named {kind!r}; {hint}", field="kind")
    if isinstance(parameters, ModelParameters):
        raise InvalidInput(
            f"ModelParameters are for {', '.join(LINEAR_KINDS)}; give kind {kind!r} a mapping", field="parameters"
        )
    if kind == "auto":
        from everloop.learning.learners.auto import AutoLearner

        return AutoLearner(parameters, trust=trust)
    from everloop.learning.learners.families import FamilyLearner

    return FamilyLearner(kind, parameters, trust=trust)  # type: ignore[arg-type]


def _linear_parameters(parameters: Parameters) -> ModelParameters:
    given = asdict(parameters) if isinstance(parameters, ModelParameters) else dict(parameters or {})
    given = {name: plain(value) for name, value in given.items()}
    known = [field.name for field in fields(ModelParameters)]
    for name, value in given.items():
        if name not in known:
            near = near_names(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise InvalidInput(f"parameters.{name}: unknown; {hint}", field=f"parameters.{name}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(
                f"parameters.{name}: expected a finite number, got {value!r}", field=f"parameters.{name}"
            )
    try:
        made = msgspec.convert(given, ModelParameters)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"parameters: {error}", field="parameters") from error
    made.validate()
    return made

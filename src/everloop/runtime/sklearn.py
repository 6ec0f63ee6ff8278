"""scikit-learn estimators: kept as skops files (or, where pickle is trusted, as pickles), and the session that answers from one."""

from __future__ import annotations

import json
import logging
import sys
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everloop.core.errors import InvalidInput, ModelFailed, NotSupported, Untrusted
from everloop.core.schema import Schema, Target
from everloop.core.types import Task
from everloop.runtime.artifact import Trust, library_versions, threads_of
from everloop.runtime.inputs import input_form, is_fitted, schema_of, shape_rows, target_of, task_of
from everloop.runtime.session import Matrix, Session
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Types of scikit-learn's own that skops leaves to the reader. Trees index without bounds checks, so they are checked here
# (`runtime.trees`) before anything predicts with them, and search trees are built anew; the others hold plain numbers and options.
KNOWN_TYPES = (
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "numpy.dtype",
    "functools.partial",  # what it would call must be known itself
    "sklearn.utils.validation.check_array",
    "sklearn.utils._bunch.Bunch",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.model_selection._split.TimeSeriesSplit",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.Matern",
    "sklearn.gaussian_process.kernels.WhiteKernel",
)
_SIDE_NOTE = "everloop.json"
_BRIDGES = tuple(f"sklearn.externals.array_api_compat.{library}" for library in ("torch", "dask", "cupy"))
"""Modules of scikit-learn that import the library they are named for."""

log = logging.getLogger(__name__)


class SklearnSession:
    """Any fitted regressor, classifier or pipeline."""

    def __init__(self, manifest: Manifest, estimator: Any) -> None:
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = manifest.classes
        self.estimator = estimator
        self._form = input_form(estimator, manifest.schema)
        self.dtype: Any = np.float64 if manifest.schema.numeric else object
        self.scored = self.classes is not None and hasattr(estimator, "predict_proba")

    def run(self, X: Matrix) -> Matrix:
        answers = np.asarray(self.estimator.predict(shape_rows(self._form, self.schema, X)))
        if answers.ndim == 2 and answers.shape[1] == 1:
            answers = answers[:, 0]
        if answers.shape != (len(X),):
            error = ModelFailed(
                f"{type(self.estimator).__name__} answered an array of shape {answers.shape} to {len(X)} rows; one answer a row is "
                "what a model here gives"
            )
            error.how = "shape"
            raise error
        return answers.astype(np.float64, copy=False) if self.target.task == "regression" else answers

    def scores(self, X: Matrix) -> NDArray[np.float64] | None:
        if not self.scored:
            return None
        return np.asarray(self.estimator.predict_proba(shape_rows(self._form, self.schema, X)), np.float64)

    def close(self) -> None:
        """The estimator goes with the session."""


def load(manifest: Manifest, payload: bytes, trust: Trust) -> Session:
    """Linear models and small trees answer compiled (`runtime.compiled`), unless the manifest's option `compiled` says no: trees up to as
    many rows as that is quicker for, linear models always."""
    session = SklearnSession(manifest, with_threads(load_estimator(payload, trust), threads_of(manifest)))
    if manifest.options.get("compiled") is False:
        return session
    from everloop.runtime.by_size import BySizeSession
    from everloop.runtime.compiled import compile_estimator
    from everloop.runtime.linear import LinearModel, LinearSession
    from everloop.runtime.tree import TreeSession

    try:
        made, model = compile_estimator(manifest, session.estimator)
    except NotSupported as why:
        log.debug("answered by scikit-learn itself: %s", why.message)
        return session
    if isinstance(model, LinearModel):
        return LinearSession(made, model)
    compiled = TreeSession(made, model)
    return BySizeSession(manifest.schema, [1, compiled.best_below], [compiled, session])


def skops_io() -> Any:
    """`skops.io`. It walks through all of scikit-learn when it is imported, `_BRIDGES` too, and would so load whichever of those libraries
    is installed: of PyTorch, seconds and a hundred megabytes for nothing. Until it has passed, they are modules that cannot be had."""
    aside = [] if "skops.io" in sys.modules else [name for name in _BRIDGES if name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(aside))
    try:
        import skops.io
    finally:
        for name in aside:
            modules.pop(name, None)
    return skops.io


def load_estimator(payload: bytes, trust: Trust) -> Any:
    """A private copy. Raises Untrusted (a pickle, unknown types), ArtifactCorrupt (trees that point outside themselves)."""
    if not payload.startswith(b"PK"):
        return unpickle(payload, trust, "scikit-learn")
    from everloop.runtime.trees import check_trees

    skops = skops_io()
    unknown = skops.get_untrusted_types(data=payload)
    if not trust.pickle:
        _refuse([name for name in unknown if name not in KNOWN_TYPES and name not in trust.types])
    estimator = skops.loads(payload, trusted=unknown)
    check_trees(estimator)
    return estimator


def dump_estimator(estimator: Any, trust: Trust) -> bytes:
    """A skops file where that is possible, so that it can go to places that trust less; a pickle where it is not and pickles are trusted.

    Raises Untrusted where the estimator has parts that only a pickle could hold, or types that nobody allowed."""
    skops = skops_io()
    try:
        payload: bytes = skops.dumps(estimator)
        found = skops.get_untrusted_types(data=payload)
        _refuse_nameless(found)
        unknown = [name for name in found if name not in KNOWN_TYPES and name not in trust.types]
        trouble = f"it contains the types {', '.join(unknown)}" if unknown else ""
    except Exception as error:  # skops lets through whatever a part of the estimator raises
        payload, unknown, trouble = b"", [], f"{type(error).__name__}: {error}"
    if trouble and trust.pickle:
        return pickle_estimator(estimator)
    _refuse(unknown)
    if trouble:
        raise Untrusted(
            f"{type(estimator).__name__} cannot be kept in a safe format ({trouble}); pass trust_pickle=True (--trust-pickle) if you "
            "alone can write the data folder"
        )
    return payload


def dump_state(estimator: Any, trust: Trust) -> bytes:
    """For a checkpoint or another process of ours: the quickest way that is trusted."""
    return pickle_estimator(estimator) if trust.pickle else dump_estimator(estimator, trust)


def pickle_estimator(estimator: Any) -> bytes:
    """Classes of the caller's script go along by value, so that a process without that script can load them."""
    import cloudpickle

    pickled: bytes = cloudpickle.dumps(estimator)
    return pickled


def unpickle(payload: bytes, trust: Trust, what: str) -> Any:
    """A pickle, if that is trusted. Raises Untrusted."""
    if not trust.pickle:
        raise Untrusted(
            f"this {what} model is a pickle, and loading one runs whatever its writer put in: pass trust_pickle=True (--trust-pickle) "
            "if you know where it comes from"
        )
    import joblib

    return joblib.load(BytesIO(payload))  # reads plain pickles, too, and the arrays that it keeps beside them


def manifest_of(estimator: Any, feature_names: Sequence[str] | None = None) -> Manifest:
    """Of a fitted estimator. Raises NotSupported, InvalidInput."""
    task = supported_task(estimator)
    if not is_fitted(estimator):
        raise InvalidInput(f"{type(estimator).__name__} is not fitted yet: fit it first", field="model")
    target, classes = target_of(estimator, task)
    schema = schema_of(estimator, feature_names)
    input_form(estimator, schema)
    return Manifest(
        runtime="sklearn",
        task=task,
        schema=schema,
        target=target,
        classes=classes,
        libraries=library_versions("scikit-learn", "skops"),
    )


def supported_task(estimator: Any) -> Task:
    """Raises NotSupported for what is no regressor or classifier with `fit` and `predict`."""
    name = type(estimator).__name__
    if not hasattr(estimator, "predict"):
        raise NotSupported(f"{name} cannot predict: give a regressor, a classifier, or a pipeline that ends in one")
    task = task_of(estimator)
    if task is None:
        raise NotSupported(
            f"{name} says neither that it is a regressor nor a classifier: derive it from scikit-learn's RegressorMixin or ClassifierMixin"
        )
    return task


def read_file(payload: bytes, trust: Trust) -> Manifest:
    """The manifest of a skops file, or of a trusted pickle."""
    estimator = load_estimator(payload, trust)
    names: list[str] | None = None
    if not payload.startswith(b"PK"):
        return manifest_of(estimator)
    with zipfile.ZipFile(BytesIO(payload)) as archive:
        if _SIDE_NOTE in archive.namelist():
            names = json.loads(archive.read(_SIDE_NOTE)).get("feature_names")
    return manifest_of(estimator, names)


def save_model(model: Any, path: Path, feature_names: Sequence[str] | None) -> Path:
    """See `everloop.runtime.artifact.save_model`."""
    if not hasattr(model, "fit"):
        raise NotSupported(
            f"model: expected a fitted scikit-learn estimator, got {type(model).__name__}", field="model"
        )
    manifest_of(model, feature_names)
    skops = skops_io()
    if not path.suffix:
        path = path.with_suffix(".skops")
    try:
        payload: bytes = skops.dumps(model)
        _refuse_nameless(skops.get_untrusted_types(data=payload))
    except Exception as error:
        raise Untrusted(f"{type(model).__name__} cannot be kept in a safe format: {error}", field="model") from error
    if feature_names is not None:
        buffer = BytesIO(payload)
        with zipfile.ZipFile(buffer, "a") as archive:  # readers of skops files pass over members they do not know
            archive.writestr(_SIDE_NOTE, json.dumps({"feature_names": [str(name) for name in feature_names]}))
        payload = buffer.getvalue()
    path.write_bytes(payload)
    return path


def with_threads(estimator: Any, threads: int) -> Any:
    """`n_jobs` throughout, where it is said: starting a pool costs more than a prediction, and the server has threads of its own."""
    if hasattr(estimator, "get_params"):
        jobs = {
            name: threads
            for name, value in estimator.get_params(deep=True).items()
            if (name == "n_jobs" or name.endswith("__n_jobs")) and (value or 1) != threads
        }
        if jobs:
            estimator.set_params(**jobs)
    return estimator


def _refuse_nameless(types: list[str]) -> None:
    nameless = [name for name in types if "<" in name]
    if nameless:
        raise ValueError(
            f"{', '.join(nameless)} cannot be found by name when it is loaded: define it at the top of a module"
        )


def _refuse(unknown: list[str]) -> None:
    if unknown:
        raise Untrusted(
            f"the model contains types that are not known to be safe: {', '.join(unknown)}. If you trust them, allow each by its "
            f"full name: trust_types=[{', '.join(map(repr, unknown))}] (--trust-type {unknown[0]})"
        )

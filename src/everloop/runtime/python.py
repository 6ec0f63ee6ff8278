"""Models in Python, by import path: what their code says of them, and the session that asks them.

The contract of such a model, which is a class (constructed without arguments), an object or a function:

    predict(rows)        (n, features) -> n answers; a function is its own `predict`. `rows` is an array of its own: of float64 where all
                         features are numbers, of objects (float, str, None) otherwise. Called by one thread at a time.
    predict_proba(rows)  optional: (n, features) -> (n, classes), which needs `classes`
    features             the names; or a mapping of names to "number" or "text" ("number?" and "text?" may be missing); or how many there are
    classes, task        optional: the labels in the order of the probabilities; "regression" or "classification". Without either, an answer
                         that is text or a truth value makes a classifier
    example              optional: one row, by name or in order; may stand for `features`
    close()              optional

An artifact's payload is the module's source (`runtime.modules`) as JSON, and its manifest what the object said when it was packed; what
it says when it is loaded again must be the same.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from everloop.core.errors import ArtifactCorrupt, ModelFailed, NotSupported
from everloop.core.schema import Field, FieldKind, Schema, Target, plain
from everloop.core.structs import looked_into
from everloop.core.types import Task
from everloop.runtime.artifact import Trust, library_versions
from everloop.runtime.modules import Code, Running, read_code, run_code
from everloop.runtime.session import Matrix
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "everloop-python"
LAYOUT = 1
_KINDS: dict[str, tuple[FieldKind, bool]] = {
    "number": ("number", False),
    "text": ("text", False),
    "number?": ("number", True),
    "text?": ("text", True),
}


@looked_into
class _Payload(msgspec.Struct, frozen=True):
    format: str
    layout: int
    code: Code


class PythonSession:
    """Any object that keeps the contract above."""

    def __init__(self, manifest: Manifest, model: Any, running: Running | None = None) -> None:
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = manifest.classes
        self.dtype: Any = np.float64 if manifest.schema.numeric else object
        self._predict: Callable[[Matrix], Any] = getattr(model, "predict", model)
        self._proba: Callable[[Matrix], Any] | None = getattr(model, "predict_proba", None)
        self.scored = self._proba is not None and self.classes is not None
        self._name = getattr(model, "__name__", type(model).__name__)
        self._model, self._running = model, running
        self._turn = threading.Lock()

    def run(self, X: Matrix) -> Matrix:
        answers = self._ask(self._predict, X)
        out = np.asarray(answers)
        if out.ndim == 2 and out.shape[1] == 1:
            out = out[:, 0]
        if out.shape != (len(X),):
            raise _misshapen(f"{self._name} answered an array of shape {out.shape} to {len(X)} rows: one answer a row")
        return out.astype(np.float64, copy=False) if self.target.task == "regression" else out

    def scores(self, X: Matrix) -> NDArray[np.float64] | None:
        if self._proba is None or self.classes is None:
            return None
        out = np.asarray(self._ask(self._proba, X), np.float64)
        if out.shape != (len(X), len(self.classes)):
            wanted = f"{len(self.classes)} probabilities a row"
            raise _misshapen(f"{self._name} gave probabilities of shape {out.shape} for {len(X)} rows: {wanted}")
        return out

    def close(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            with self._turn:
                if callable(getattr(self._model, "close", None)):
                    self._model.close()
            running.close()

    def _ask(self, function: Callable[[Matrix], Any], X: Matrix) -> Any:
        with self._turn:
            return function(np.array(X))  # its own: whatever it does to its rows is not done to ours


def pack_entry(text: str, trust: Trust) -> tuple[Manifest, bytes]:
    """What `package.module:Model` or `path/to/file.py:Model` names. Raises InvalidInput, NotSupported (what it says of itself does not
    do), Untrusted, ModelFailed."""
    code = read_code(text)
    running = run_code(code, trust)
    session = None
    try:
        model = _made(code, running)
        manifest = describe(model, code.entry)
        session = PythonSession(manifest, model, running)
    finally:
        (session or running).close()
    return manifest, msgspec.json.encode(_Payload(FORMAT, LAYOUT, code))


def load(manifest: Manifest, payload: bytes, trust: Trust) -> PythonSession:
    """Raises ArtifactCorrupt, Untrusted, NotSupported (what it needs is not here), ModelFailed (its code raised)."""
    try:
        read = msgspec.json.decode(payload, type=_Payload)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactCorrupt(f"no Python model: {error}") from error
    if read.format != FORMAT or read.layout != LAYOUT:
        raise ArtifactCorrupt(f"no Python model of format {LAYOUT} but {read.format[:60]!r} {read.layout}")
    running = run_code(read.code, trust)
    try:
        model = _made(read.code, running)
        _check_said(manifest, describe(model, read.code.entry), read.code)
    except BaseException:
        running.close()
        raise
    return PythonSession(manifest, model, running)


def describe(model: Any, name: str) -> Manifest:
    """What it says of itself. Raises NotSupported, InvalidInput, ModelFailed (it failed on its example)."""
    predict = getattr(model, "predict", model)
    if not callable(predict):
        raise NotSupported(
            f"{name} is a {type(model).__name__} without `predict`: give it a method predict(rows) that takes (n, features) and answers n values, "
            "or name a function that does",
            field="model",
        )
    if inspect.iscoroutinefunction(predict) or inspect.isasyncgenfunction(predict):
        raise NotSupported(
            f"{name}: an asynchronous `predict` cannot be served: make it a plain function", field="model"
        )
    schema = _schema(model, name)
    classes = _classes(model, name)
    task = _task(model, name, schema, classes)
    if task == "regression":
        target = Target("regression")
    elif classes:
        target = Target.infer("classification", classes[0])
    else:
        target = Target.infer("classification", _answer(model, name, schema))
    return Manifest(
        "python", task, schema, target, classes=classes, libraries=library_versions("numpy"), lineage={"code": name}
    )


def _check_said(manifest: Manifest, said: Manifest, code: Code) -> None:
    if (said.schema, said.target, said.classes) != (manifest.schema, manifest.target, manifest.classes):
        raise ArtifactCorrupt(f"{code.entry} says something else of itself than its manifest does")


def _made(code: Code, running: Running) -> Any:
    """The object that answers. A class is constructed."""
    found = running.object
    if not inspect.isclass(found):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:  # whatever a user's class raises
        raise ModelFailed(
            f"{code.entry} cannot be constructed without arguments: {type(error).__name__}: {error}", field="model"
        ) from error


def _schema(model: Any, name: str) -> Schema:
    features, example = getattr(model, "features", None), getattr(model, "example", None)
    if features is None:
        if example is None:
            raise NotSupported(
                f"{name} does not say what it takes: give it `features` (names, a mapping of names to 'number' or 'text', or how many) "
                "or `example`, one row",
                field="model",
            )
        return Schema.infer([example])
    if isinstance(features, bool) or (isinstance(features, int) and features < 1):
        raise NotSupported(f"{name}.features: expected names or how many there are, got {features!r}", field="model")
    if isinstance(features, int):
        return Schema.unnamed(features)
    if isinstance(features, str) or not isinstance(features, Iterable):
        raise NotSupported(f"{name}.features: expected names or how many there are, got {features!r}", field="model")
    kinds = {str(each): "number" for each in features}
    if isinstance(features, Mapping):
        kinds = {str(each): str(kind) for each, kind in features.items()}
    for each, kind in kinds.items():
        if kind not in _KINDS:
            raise NotSupported(f"{name}.features[{each!r}]: expected {', '.join(_KINDS)}, got {kind!r}", field="model")
    if not kinds:
        raise NotSupported(f"{name}.features: a model takes one feature at least", field="model")
    return Schema(tuple(Field(each, *_KINDS[kind]) for each, kind in kinds.items()), named=True)


def _classes(model: Any, name: str) -> list[Any] | None:
    said = getattr(model, "classes", None)
    if said is None:
        return None
    labels = [plain(label) for label in said]
    if not labels:
        raise NotSupported(f"{name}.classes: there are none", field="model")
    target = Target.infer("classification", labels[0])
    return [target.check(label) for label in labels]


def _task(model: Any, name: str, schema: Schema, classes: list[Any] | None) -> Task:
    said = getattr(model, "task", None)
    if said not in (None, "regression", "classification"):
        raise NotSupported(f"{name}.task: expected 'regression' or 'classification', got {said!r}", field="model")
    if hasattr(model, "predict_proba") and not classes:
        raise NotSupported(f"{name} has predict_proba: it needs `classes`, their labels in order", field="model")
    if said is None:
        labels = classes is not None or isinstance(_answer(model, name, schema), (str, bool))
        return "classification" if labels else "regression"
    if said == "regression" and classes:
        raise NotSupported(f"{name} says that it does regression, and has classes", field="model")
    return "regression" if said == "regression" else "classification"


def _answer(model: Any, name: str, schema: Schema) -> Any:
    """Of the example, or of a row without meaning."""
    example = getattr(model, "example", None)
    row = ["" if field.kind == "text" else 0.0 for field in schema.fields] if example is None else schema.row(example)
    try:
        out = np.asarray(getattr(model, "predict", model)(schema.matrix([row])))
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        hint = "; give it `task`, or an `example` row that it can answer" if example is None else ""
        raise ModelFailed(f"{name} failed on one row: {type(error).__name__}: {error}{hint}", field="model") from error
    if out.size != 1:
        raise NotSupported(f"{name} answered an array of shape {out.shape} to one row: one answer a row", field="model")
    return plain(out.reshape(-1)[0])


def _misshapen(message: str) -> ModelFailed:
    error = ModelFailed(message)
    error.how = "shape"
    return error

"""Pipelines: models with steps before them and something said about their answers after, from a small file that anybody can read.

    [inputs]                                   # what a caller gives: "number" or "text"; with `?`, it may be missing
    amount = "number"
    age = "number?"
    city = "text"

    [[steps]]                                  # in this order; see `pipeline_steps`
    impute = { age = 40 }
    [[steps]]
    one_hot = { city = ["Ulm", "Bonn"] }

    [[models]]                                 # one, or an ensemble
    model = "forest.skops"                     # whatever can be served; files are looked for beside this one
    weight = 2
    [[models]]
    model = "boosted.onnx"

    [answer]
    combine = "mean"                           # of values or of probabilities, weighted; or "vote": the label that most give
    threshold = 0.3                            # two classes: the second one from this probability on
    labels = ["ok", "fraud"]                   # instead of the models' own
    clip = [0, 100]                            # of a number

A model whose features have names gets the columns of these names, any other all columns in their order. The artifact holds the plan and
the models themselves, so that a version does not change with the files that it was made from.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import ArtifactCorrupt, EverloopError, InvalidInput, NotSupported
from everloop.core.schema import Field, FieldKind, Schema, Target, plain
from everloop.core.structs import looked_into
from everloop.core.types import Task
from everloop.runtime.artifact import Trust
from everloop.runtime.members import Artifact, close_all, libraries_of, open_members, pack_members, unpack_members
from everloop.runtime.pipeline_steps import Apply, Column, Columns, Fields, Step, ready
from everloop.runtime.session import Matrix, Session
from everloop.stores.ports import Manifest

Floats = npt.NDArray[np.float64]

_KINDS: dict[str, tuple[FieldKind, bool]] = {
    "number": ("number", False),
    "text": ("text", False),
    "number?": ("number", True),
    "text?": ("text", True),
}


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    model: str | int
    """A source in a file, the place of a member in an artifact."""
    weight: float = 1.0


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    combine: Literal["mean", "vote"] = "mean"
    threshold: float | None = None
    labels: list[Any] | None = None
    clip: tuple[float, float] | None = None


@looked_into
class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    inputs: dict[str, str]
    models: list[Member]
    steps: list[Step] = []
    answer: Answer = Answer()

    @property
    def sources(self) -> list[str | int]:
        """What names a model, in the order in which they are kept: those that the steps append first."""
        appended = [source for step in self.steps for source in (step.append or {}).values()]
        return appended + [member.model for member in self.models]


class PipelineSession:
    """A plan and its open members, in the order of `Plan.sources`. Raises InvalidInput where they do not fit together."""

    def __init__(self, plan: Plan, sessions: Sequence[Session]) -> None:
        self.schema = _schema(plan.inputs)
        self.dtype: Any = np.float64 if self.schema.numeric else object
        self._all = list(sessions)
        self._given = iter(self._all)
        fields: Fields = {field.name: field for field in self.schema.fields}
        self._steps: list[Apply] = []
        for step in plan.steps:
            fields, apply = ready(step, fields, self._appending)
            self._steps.append(apply)
        models = [next(self._given) for _ in plan.models]
        self._views = [_view(model, fields) for model in models]
        self._weights = _weights(plan.models)
        self._models, self._answer = models, plan.answer
        self.task, self._own = _common(models)
        self.classes, self.target = _answers(self._own, models[0].target, plan.answer)
        scored = all(getattr(model, "scored", True) for model in models)
        self._by_scores = self._own is not None and plan.answer.combine == "mean" and scored
        if self._own is not None and plan.answer.combine == "mean" and not scored and len(models) > 1:
            raise InvalidInput("answer.combine: not all models give probabilities; let them vote", field="answer")
        if plan.answer.threshold is not None and not (self._by_scores or plan.answer.combine == "vote"):
            raise InvalidInput("answer.threshold: the model gives no probabilities", field="answer")
        self.scored = self._own is not None and (self._by_scores or plan.answer.combine == "vote")
        self._labels = np.empty(len(self.classes or ()), object)
        self._labels[:] = self.classes or ()

    def run(self, X: Matrix) -> Matrix:
        columns = self._columns(X)
        if self._own is None:
            values = self._mean([np.asarray(answer, np.float64) for answer in self._asked(columns)])
            return values if self._answer.clip is None else np.clip(values, *self._answer.clip)
        if self._answer.threshold is not None:
            best = (self._shares(columns)[:, 1] >= self._answer.threshold).astype(np.intp)
        elif len(self._models) == 1:
            best = _places(self._asked(columns)[0], self._own)
        else:
            best = self._shares(columns).argmax(axis=1)
        labels: Matrix = self._labels[best]
        return labels

    def scores(self, X: Matrix) -> Floats | None:
        return self._shares(self._columns(X)) if self.scored else None

    def close(self) -> None:
        close_all(self._all)

    def _columns(self, X: Matrix) -> Columns:
        columns: Columns = {}
        for i, field in enumerate(self.schema.fields):
            column = X[:, i]
            columns[field.name] = column.astype(np.float64) if field.kind == "number" else column
        for apply in self._steps:
            columns = apply(columns)
        return columns

    def _asked(self, columns: Columns) -> list[Matrix]:
        return [model.run(view(columns)) for model, view in zip(self._models, self._views, strict=True)]

    def _shares(self, columns: Columns) -> Floats:
        """(n, classes): the mean of the probabilities, or of the votes."""
        assert self._own is not None
        each: list[Floats] = []
        if self._by_scores:
            for model, view in zip(self._models, self._views, strict=True):
                scores = model.scores(view(columns))
                assert scores is not None
                each.append(np.asarray(scores, np.float64))
        else:
            each = [np.eye(len(self._own))[_places(answers, self._own)] for answers in self._asked(columns)]
        return self._mean(each)

    def _mean(self, each: Sequence[Floats]) -> Floats:
        """In the order of the models, so that equal rows get equal answers."""
        total = each[0] * self._weights[0]
        for weight, values in zip(self._weights[1:], each[1:], strict=True):
            total = total + values * weight
        return total

    def _appending(self, name: str, _: str | int, fields: Fields) -> tuple[Field, Callable[[Columns], Column]]:
        model = next(self._given)
        view = _view(model, fields)
        if model.target.task == "regression":
            return Field(name), lambda columns: np.asarray(model.run(view(columns)), np.float64)
        if len(model.classes or ()) != 2 or not getattr(model, "scored", True):
            raise InvalidInput(
                f"steps: {name} is appended by a regression, or by a classifier of two classes that gives probabilities",
                field="steps",
            )

        def second(columns: Columns) -> Column:
            scores = model.scores(view(columns))
            assert scores is not None
            return np.asarray(scores, np.float64)[:, 1]

        return Field(name), second


def read_path(path: Path, trust: Trust) -> Artifact:
    """The file and what it names, as one artifact. Raises InvalidInput (naming the table), and as opening the models does."""
    plan = _plan(path.read_bytes())
    folder = path.parent.resolve()
    members = [_member(str(source), folder, trust) for source in plan.sources]
    count = iter(range(len(members)))
    steps = [
        step if step.append is None else Step(append={name: next(count) for name in step.append}) for step in plan.steps
    ]
    models = [Member(next(count), member.weight) for member in plan.models]
    return _packed(Plan(plan.inputs, models, steps, plan.answer), members, trust)


def read_file(payload: bytes, trust: Trust) -> Manifest:  # noqa: ARG001  as every runtime
    """Of bytes without a path: what it names cannot be found."""
    raise NotSupported(
        "a pipeline names other files: give its path, or an artifact file (everloop.runtime.packaged) of it"
    )


def load(manifest: Manifest, payload: bytes, trust: Trust) -> PipelineSession:
    raw, members = unpack_members(payload)
    sessions = open_members(members, trust, manifest)
    try:
        session = _opened(raw, sessions)
        _check_told(session, manifest)
    except BaseException:
        close_all(sessions)
        raise
    return session


def _opened(raw: dict[str, Any], sessions: Sequence[Session]) -> PipelineSession:
    """Raises ArtifactCorrupt."""
    try:
        plan = msgspec.convert(raw, Plan)
        if plan.sources == list(range(len(sessions))):
            return PipelineSession(plan, sessions)
    except (msgspec.ValidationError, InvalidInput) as error:
        raise ArtifactCorrupt(f"a pipeline whose plan does not hold: {error}") from error
    raise ArtifactCorrupt("a pipeline whose plan names other models than it holds")


def _check_told(session: PipelineSession, manifest: Manifest) -> None:
    answers = (session.schema, session.task, session.target, session.classes)
    if answers != (manifest.schema, manifest.task, manifest.target, manifest.classes):
        raise ArtifactCorrupt("a pipeline that takes or answers something else than its manifest tells")


def _packed(plan: Plan, members: Sequence[Artifact], trust: Trust) -> Artifact:
    sessions = open_members(members, trust)
    try:
        session = PipelineSession(plan, sessions)
    finally:
        close_all(sessions)
    manifest = Manifest(
        runtime="pipeline",
        task=session.task,
        schema=session.schema,
        target=session.target,
        classes=session.classes,
        libraries=libraries_of(members),
        options={"runtimes": [inside.runtime for inside, _ in members], "steps": [step.kind for step in plan.steps]},
    )
    return manifest, pack_members(msgspec.to_builtins(plan), members)


def _plan(payload: bytes) -> Plan:
    try:
        plan = msgspec.convert(tomllib.loads(payload.decode()), Plan)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"this pipeline is no TOML: {error}", field="path") from error
    except msgspec.ValidationError as error:
        raise InvalidInput(f"this pipeline does not hold: {error}", field="path") from error
    if not all(isinstance(source, str) for source in plan.sources):
        raise InvalidInput("models: a model is named by a path or an import path", field="models")
    return plan


def _member(text: str, folder: Path, trust: Trust) -> Artifact:
    """Unlike on a command line, naming code here does not allow it: whoever wrote the file need not be who serves it."""
    from everloop.runtime.modules import check_allowed, entry_of, names_code
    from everloop.runtime.source import beside, read_source

    if names_code(text):
        check_allowed(entry_of(text), trust)
    try:
        return read_source(beside(text, folder), trust=trust)
    except EverloopError as error:
        raise type(error)(f"the model {text!r}: {error.message}", field="models") from error


def _schema(inputs: dict[str, str]) -> Schema:
    fields = []
    for name, said in inputs.items():
        if said not in _KINDS:
            raise InvalidInput(f"inputs.{name}: expected one of {', '.join(_KINDS)}, got {said!r:.40}", field="inputs")
        kind, nullable = _KINDS[said]
        fields.append(Field(name, kind, nullable))
    if not fields:
        raise InvalidInput("inputs: a pipeline takes at least one", field="inputs")
    return Schema(tuple(fields), named=True)


def _view(model: Session, fields: Fields) -> Callable[[Columns], Matrix]:
    """The columns as the model takes them. Raises InvalidInput where they do not fit."""
    wanted = model.schema.fields
    if model.schema.named and set(model.schema.names) <= set(fields):
        names = list(model.schema.names)
    elif not model.schema.named and len(wanted) == len(fields):
        names = list(fields)
    else:
        told = ", ".join(model.schema.names[:8]) if model.schema.named else f"{len(wanted)} without names"
        raise InvalidInput(
            f"models: there are the columns {', '.join(list(fields)[:8])}, wanted are {told}", field="models"
        )
    for name, want in zip(names, wanted, strict=True):
        if fields[name].kind != want.kind:
            raise InvalidInput(f"models: {name} is a {fields[name].kind}, wanted is a {want.kind}", field="models")
        if fields[name].nullable and not want.nullable:
            raise InvalidInput(
                f"models: {name} may be missing, which the model does not take: impute it", field="models"
            )
    if model.schema.numeric:
        return lambda columns: np.stack([columns[name] for name in names], axis=1).astype(model.dtype, copy=False)
    return lambda columns: _mixed([columns[name] for name in names])


def _mixed(columns: Sequence[Column]) -> Matrix:
    out = np.empty((len(columns[0]), len(columns)), object)
    for i, column in enumerate(columns):
        out[:, i] = [None if x != x else x for x in column.tolist()]
    return out


def _weights(models: Sequence[Member]) -> list[float]:
    if not models:
        raise InvalidInput("models: a pipeline has at least one", field="models")
    weights = [float(member.weight) for member in models]
    total = sum(weights)
    if not all(0.0 <= weight < float("inf") for weight in weights) or not 0.0 < total < float("inf"):
        raise InvalidInput("models: weights are numbers from 0 on, and not all 0", field="models")
    return [weight / total for weight in weights]


def _common(models: Sequence[Session]) -> tuple[Task, list[Any] | None]:
    """What all of them answer: the task, and the classes of a classification."""
    first = models[0]
    if first.target.task == "tensors":
        raise InvalidInput("models: one that is asked by tensors takes no columns", field="models")
    if any((model.target.task, model.classes) != (first.target.task, first.classes) for model in models):
        raise InvalidInput(
            "models: they answer different things, or name their classes in another order", field="models"
        )
    if first.target.task == "classification" and not first.classes:
        raise InvalidInput(
            "models: a classifier that does not tell its classes cannot be part of a pipeline", field="models"
        )
    return first.target.task, list(first.classes) if first.classes is not None else None


def _answers(own: list[Any] | None, target: Target, answer: Answer) -> tuple[list[Any] | None, Target]:
    """The classes and the target after `[answer]`."""
    if own is None:
        if answer.labels is not None or answer.threshold is not None or answer.combine == "vote":
            raise InvalidInput("answer: labels, threshold and votes are for classifiers", field="answer")
        if answer.clip is not None and not answer.clip[0] <= answer.clip[1]:
            raise InvalidInput(f"answer.clip: expected a range, got {list(answer.clip)}", field="answer")
        return None, target
    if answer.clip is not None:
        raise InvalidInput("answer.clip: only a number can be clipped", field="answer")
    if answer.threshold is not None and (len(own) != 2 or not 0.0 <= answer.threshold <= 1.0):
        raise InvalidInput("answer.threshold: a share from 0 to 1, for two classes", field="answer")
    if answer.labels is None:
        return own, target
    labels = [plain(label) for label in answer.labels]
    if len(labels) != len(own) or len({repr(label) for label in labels}) != len(own):
        raise InvalidInput(f"answer.labels: expected {len(own)} different ones, for {own[:6]}", field="answer")
    found = Target.infer("classification", labels[0])
    return [found.check(label) for label in labels], found


def _places(answers: Matrix, classes: list[Any]) -> npt.NDArray[np.intp]:
    places = {label: place for place, label in enumerate(classes)}
    return np.array([places[plain(answer)] for answer in answers.tolist()], np.intp)

"""The way of a label in: checked against the model's schema and target, then into the journal, then acknowledged.

The first labelled examples of a model fix its schema. Nothing here waits, except `accept_now`, whose purpose that is. Each label
stands for itself: one that is refused does not spoil its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import msgspec

from everloop.core.clock import Clock
from everloop.core.errors import EverloopError, InvalidInput, ModelNotFound, Overloaded, PredictionNotFound
from everloop.core.schema import Schema, Target, plain
from everloop.core.types import Features, Label, Row, Scalar, Task, parse_request_id
from everloop.learning.config import LearningConfig, effective
from everloop.registry.catalog import Registry
from everloop.runtime.formats import FORMATS
from everloop.stores.ports import AppendDone, Appended, Journal, ModelRecord

_RETRY_AFTER = 1.0
_FRESH = 1.0
"""Seconds for which a model's record is believed without asking; changes made in this process are known at once."""
_INFER_FROM = 1000


class Feedback(msgspec.Struct, frozen=True):
    """What a caller says of one example: the label, and either the prediction it belongs to or the features themselves."""

    label: Any
    request_id: str | None = None
    index: int = 0
    """Which row of a prediction request of several."""
    features: Any = None
    validation: bool = False
    """Keep it for judging candidates; never train on it."""


class Rules(NamedTuple):
    """What holds for the examples of one model beside its schema and its target."""

    example: Callable[[Row | None, Scalar, str], None] | None
    """Of its runtime (`runtime.formats`)."""
    classes: frozenset[Scalar] | None
    """All that it can ever answer, where it learns none."""

    def check(self, label: Label, at: str) -> None:
        """Raises InvalidInput."""
        if self.classes is not None and label.label not in self.classes:
            known = sorted(map(str, self.classes))
            raise InvalidInput(
                f"label: {label.label!r:.60} is no class of {label.model!r}, which learns no new ones; there are "
                f"{', '.join(known[:8])}{', …' if len(known) > 8 else ''}",
                field="label",
            )
        if self.example is not None:
            self.example(label.row, label.label, at)


class Intake:
    """Safe from any thread."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        config: LearningConfig,
        clock: Clock,
        *,
        before_join: Callable[[], None] = lambda: None,
        backlog: Callable[[str], int] = lambda _model: 0,
        wake: Callable[[str], None] = lambda _model: None,
    ) -> None:
        """`before_join` is called before labels that refer to predictions are appended: whoever records predictions hands over
        what it still holds. `backlog`: how many acknowledged examples of a model its learner has not taken. `wake` is called
        after labels were committed."""
        self._registry = registry
        self._journal = journal
        self._config = config
        self._clock = clock
        self._before_join = before_join
        self._backlog = backlog
        self._wake = wake
        self._records: dict[str, ModelRecord] = {}
        self._rules: dict[str, Rules] = {}
        self._fresh_until = 0.0
        registry.subscribe_changes(self._forget)

    def accept(
        self,
        model: str,
        items: Sequence[Feedback],
        done: AppendDone,
        *,
        idempotency_key: str = "",
        body: str = "",
    ) -> None:
        """Queue labels; `done` gets one outcome an item, in order, after the commit, on the journal's thread (or at once on this
        one, if every item was refused).

        Raises at once, with nothing accepted: ModelNotFound, InvalidInput (no items; or a single item that is wrong),
        Overloaded (the learner is `max_queue_size` examples behind, or the journal's queue is full), Closed."""
        labels, refused = self._labels(model, items)
        if not labels:
            done(Appended(list(refused.values())))
            return
        wake = self._wake

        def committed(outcome: Appended | EverloopError) -> None:
            if isinstance(outcome, Appended):
                wake(model)
                if refused:
                    outcome = _merged(outcome, refused, len(items))
            done(outcome)

        self._journal.append(labels, committed, idempotency_key=idempotency_key, body=body)

    def accept_now(
        self, model: str, items: Sequence[Feedback], *, idempotency_key: str = "", body: str = ""
    ) -> Appended:
        """`accept`, and wait for the commit. Raises what the commit raised, too."""
        labels, refused = self._labels(model, items)
        if not labels:
            return Appended(list(refused.values()))
        outcome = self._journal.append_now(labels, idempotency_key=idempotency_key, body=body)
        self._wake(model)
        return _merged(outcome, refused, len(items)) if refused else outcome

    def _labels(self, model: str, items: Sequence[Feedback]) -> tuple[list[Label], dict[int, EverloopError]]:
        if not items:
            raise InvalidInput("examples: expected at least one label, got none", field="examples")
        record = self._record(model)
        self._check_backlog(record)
        if record.schema is None or record.target is None:
            record = self._settle(record, items)
        now, single = self._clock.now(), len(items) == 1
        labels: list[Label] = []
        refused: dict[int, EverloopError] = {}
        joins = False
        rules = self._rules_of(record)
        for i, item in enumerate(items):
            at = "features" if single else f"examples[{i}].features"
            try:
                label = _label(record, item, now, at)
                rules.check(label, at)
                labels.append(label)
            except EverloopError as error:
                if single:
                    raise
                refused[i] = error
                continue
            joins = joins or item.request_id is not None
        if joins:
            self._before_join()
        return labels, refused

    def _record(self, model: str) -> ModelRecord:
        now = self._clock.monotonic()
        if now >= self._fresh_until:  # another process may have unregistered a model, or registered it anew
            self._forget()
            self._fresh_until = now + _FRESH
        record = self._records.get(model)
        if record is None or record.schema is None or record.target is None:
            record = self._registry.get(model)
            self._records[model] = record
        return record

    def _forget(self) -> None:
        self._records.clear()
        self._rules.clear()

    def _rules_of(self, record: ModelRecord) -> Rules:
        rules = self._rules.get(record.name)
        if rules is None:
            rules = self._rules[record.name] = _rules(self._registry, record)
        return rules

    def _check_backlog(self, record: ModelRecord) -> None:
        limit = (effective(self._config, record.learning) if record.learning else self._config).max_queue_size
        behind = self._backlog(record.name)
        if behind >= limit:
            raise Overloaded(
                f"the learner of {record.name!r} is {behind} examples behind (max_queue_size is {limit}): try again later",
                field="max_queue_size",
                retry_after=_RETRY_AFTER,
            )

    def _settle(self, record: ModelRecord, items: Sequence[Feedback]) -> ModelRecord:
        """The first labels of a model tell what it takes and gives."""
        own = [item.features for item in items[:_INFER_FROM] if item.request_id is None and item.features is not None]
        schema = record.schema
        if schema is None:
            if not own:
                return record  # labels of predictions of a model that has made none: the journal will say so
            schema = _infer(own)
        task = record.task or _task_of([item.label for item in items[:_INFER_FROM]])
        target = record.target or Target.infer(task, items[0].label)
        record = self._registry.fix_schema(record.name, schema, target)
        self._records[record.name] = record
        return record


def _label(record: ModelRecord, item: Feedback, now: float, at: str) -> Label:
    label = item.label if record.target is None else record.target.check(item.label)
    if item.request_id is not None:
        if item.features is not None:
            raise InvalidInput(
                "request_id: give either request_id (the recorded features are taken) or features, not both",
                field="request_id",
            )
        try:
            parse_request_id(item.request_id)
        except ValueError:
            raise PredictionNotFound(
                f"request_id: {item.request_id!r} is not an id that a prediction has carried", field="request_id"
            ) from None
        if item.index < 0:
            raise InvalidInput(f"index: expected at least 0, got {item.index}", field="index")
        return Label(record.name, label, now, item.request_id, item.index, validation=item.validation)
    if item.features is None:
        raise InvalidInput("features: give either request_id or features with a label", field="features")
    if record.schema is None:
        raise ModelNotFound(f"model {record.name!r} was unregistered meanwhile")
    return Label(record.name, label, now, row=record.schema.row(item.features, at), validation=item.validation)


def _rules(registry: Registry, record: ModelRecord) -> Rules:
    runtime, classes = record.kind, None
    if record.kind == "artifact":
        versions = registry.versions(record.name)
        live = next((each for each in versions if each.version == record.live_version), None)
        runtime = "" if live is None else live.manifest.runtime
        if versions and all(each.manifest.classes for each in versions):
            classes = frozenset(label for each in versions for label in each.manifest.classes or ())
    if runtime not in FORMATS:
        return Rules(None, classes)
    return Rules(getattr(import_module(FORMATS[runtime].module), "check_example", None), classes)


def _infer(examples: Sequence[Features]) -> Schema:
    """From the examples that can be read at all; what is wrong with the others is told one by one later."""
    try:
        return Schema.infer(examples)
    except InvalidInput:
        for example in examples:
            try:
                return Schema.infer([example])
            except InvalidInput:
                continue
        raise


def _task_of(labels: Sequence[Any]) -> Task:
    """For a model that was registered without a task: strings, booleans and whole numbers are classes, numbers with a
    fraction (or written as one: 1.0) are values."""
    for label in labels:
        if isinstance(plain(label), float):
            return "regression"
    return "classification"


def _merged(outcome: Appended, refused: dict[int, EverloopError], count: int) -> Appended:
    rest = iter(outcome.outcomes)
    return Appended([refused[i] if i in refused else next(rest) for i in range(count)], outcome.duplicate)

"""One row or several of a caller in this process, straight through the model: numbered, recorded, answered.

`Direct` validates by the schema and says what is wrong. `fastest` is the closure for a compiled session, where there is one: what is
unusual (another type, a wrong length, a failing or unsound answer) goes to `Direct`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from everloop.core.errors import EverloopError
from everloop.core.schema import pack_rows
from everloop.core.types import Features, Prediction, PredictionBatch, Row
from everloop.policy.batching import sampled
from everloop.runtime.session import RowFunction
from everloop.serving.counters import Counters
from everloop.serving.recorder import Channel, encode_matrix
from everloop.serving.runner import Runner

UNUSUAL = (TypeError, ValueError, ArithmeticError)
"""What plain arithmetic raises on features that are not plain numbers."""


class Direct:
    """Answers with full validation; the hot path falls back on it."""

    __slots__ = ("channel", "row_function", "runner", "tally")

    def __init__(self, runner: Runner, channel: Channel) -> None:
        self.runner = runner
        self.channel = channel
        self.tally = Counters()
        compile_row = getattr(runner.session, "compile_row", None)
        self.row_function: RowFunction | None = None if compile_row is None else compile_row()

    def __call__(self, features: Features) -> Prediction:
        runner, channel = self.runner, self.channel
        row = runner.schema.row(features)
        prediction = self._compiled(row) if self.row_function is not None else None
        if prediction is None:
            try:
                prediction = runner.one(row)
            except EverloopError:
                self.tally.failed += 1
                raise
        number = next(channel.numbers)
        if sampled(number, channel.passed):
            channel.record(number, 1, pack_rows([row], runner.schema), [prediction])
        return Prediction(prediction, runner.version, channel.key, number)

    def _compiled(self, row: Row) -> Any:
        """A mapping, tuple or array, now a checked list, is still a small model's row. None: let the session decide."""
        assert self.row_function is not None
        try:
            y = self.row_function(row)
        except (TypeError, ValueError, ArithmeticError):
            return None
        return None if self.runner.regression and (type(y) is not float or y - y != 0.0) else y

    def many(self, rows: list[Row]) -> PredictionBatch:
        runner, channel = self.runner, self.channel
        X = runner.matrix(rows)
        try:
            predictions = runner.many(X)
        except EverloopError:
            self.tally.failed += 1
            raise
        number = next(channel.numbers)
        if sampled(number, channel.passed):
            channel.record(number, len(rows), encode_matrix(X, rows, runner.schema), predictions[:])
        return PredictionBatch(predictions, runner.version, channel.key, number)


def fastest(direct: Direct) -> Callable[[Features], Prediction]:
    """The closure for a compiled session; `direct` itself for any other."""
    row, session = direct.row_function, direct.runner.session
    if row is None:
        return direct
    width = len(session.schema.fields)
    share = direct.channel.share
    if session.target.task == "regression":
        return _regression(row, width, direct) if share >= 1.0 else _sampled_regression(row, width, direct)
    kinds = {type(label) for label in session.classes or ()}
    if len(kinds) != 1:
        return direct
    return _classification(row, width, kinds.pop(), direct)


def _regression(row: RowFunction, width: int, direct: Direct) -> Callable[[Features], Prediction]:
    """Everything recorded: the default, and the path that is measured against a bare dot product.

    What computes with floats to a finite float is a number here; an object that only behaves so is answered, not recorded."""
    channel = direct.channel
    version, key, ring, append = direct.runner.version, channel.key, channel.ring, channel.ring.append
    entry, number_of = channel.entry, channel.numbers.__next__

    def answer(features: Features) -> Prediction:
        if type(features) is list and len(features) == width:
            try:
                y = row(features)
                if type(y) is float and y - y == 0.0:
                    number = number_of()
                    append(entry(channel, number, y, *features))
                    if ring.asleep:
                        channel.wake()
                    return Prediction(y, version, key, number)
            except UNUSUAL:
                return direct(features)
        return direct(features)

    return answer


def _sampled_regression(row: RowFunction, width: int, direct: Direct) -> Callable[[Features], Prediction]:
    channel = direct.channel
    version, key, ring, append = direct.runner.version, channel.key, channel.ring, channel.ring.append
    entry, number_of = channel.entry, channel.numbers.__next__

    def answer(features: Features) -> Prediction:
        if type(features) is list and len(features) == width:
            try:
                y = row(features)
                if type(y) is float and y - y == 0.0:
                    number = number_of()
                    if (passed := channel.passed) and sampled(number, passed):
                        append(entry(channel, number, y, *features))
                        if ring.asleep:
                            channel.wake()
                    return Prediction(y, version, key, number)
            except UNUSUAL:
                return direct(features)
        return direct(features)

    return answer


def _classification(row: RowFunction, width: int, kind: type, direct: Direct) -> Callable[[Features], Prediction]:
    channel = direct.channel
    version, key, ring, append = direct.runner.version, channel.key, channel.ring, channel.ring.append
    entry, number_of = channel.entry, channel.numbers.__next__
    places = {label: place for place, label in enumerate(channel.labels or ())}

    def answer(features: Features) -> Prediction:
        if type(features) is list and len(features) == width:
            try:
                y = row(features)
                if type(y) is kind:
                    number = number_of()
                    if (passed := channel.passed) and sampled(number, passed):
                        append(entry(channel, number, places[y], *features))
                        if ring.asleep:
                            channel.wake()
                    return Prediction(y, version, key, number)
            except UNUSUAL:
                return direct(features)
        return direct(features)

    return answer

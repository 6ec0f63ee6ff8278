"""One loaded model and what makes its answers trustworthy: checked input in, checked plain Python values out.

A `Runner` knows nothing of requests. The lane's in-process answers and its batchers share one; it closes its session when the
last of them is gone, and not before, so a swap never pulls a session from under a call that is still running.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from everloop.core.errors import EverloopError, Failure, ModelFailed
from everloop.core.schema import Schema, pack_rows
from everloop.core.types import Row
from everloop.policy.batching import BatchRules, slices
from everloop.runtime.session import Session, plain_answers
from everloop.serving.work import Work, told

if TYPE_CHECKING:
    from everloop.serving.guard import Guard

Matrix = npt.NDArray[Any]
ROW_BYTES, VALUE_BYTES = 128, 32
"""What a row of plain values takes in memory: a list and a ticket's places, and for each value a number and its place."""
GONE = ("crash", "timeout")
"""How a session fails that will answer nothing any more: the process that it ran in has ended."""


class Runner:
    __slots__ = ("__weakref__", "_numeric", "guard", "model", "regression", "rules", "schema", "session", "version")

    def __init__(self, session: Session, model: str, version: int, rules: BatchRules) -> None:
        self.session = session
        self.schema: Schema = session.schema
        self.model = model
        self.version = version
        self.rules = rules
        self.guard: Guard | None = None
        """While its version is not the champion. The reconciler's."""
        self.regression = session.target.task == "regression"
        self._numeric = self.schema.numeric and np.dtype(session.dtype).kind == "f"
        weakref.finalize(self, session.close).atexit = False

    def matrix(self, rows: Sequence[Row]) -> Matrix:
        """Checked rows as the session wants them: (n, fields)."""
        if self._numeric:
            return np.array(rows, self.session.dtype)
        return self.schema.matrix(rows, self.session.dtype if self.schema.numeric else None)

    def run(self, X: Matrix) -> list[Any]:
        """(n, fields) -> n plain predictions, not yet checked for NaN. Raises ModelFailed.

        More rows than a batch may have are run in slices, so that memory stays bounded."""
        n = len(X)
        if n <= self.rules.max_rows:
            return self._run(X)
        values: list[Any] = []
        for start, stop in slices(n, self.rules):
            values += self._run(X[start:stop])
        return values

    def _run(self, X: Matrix) -> list[Any]:
        try:
            with np.errstate(all="ignore"):  # what overflowed is told by its answer, not by a warning
                Y = self.session.run(X)
            if Y.shape == (len(X),):
                return plain_answers(Y, regression=self.regression)
            shape: object = Y.shape
        except EverloopError as error:
            if self.guard is not None and isinstance(error, ModelFailed) and error.how in GONE:
                self.guard.lose(self, error)
            raise
        except Exception as error:
            raise self.failed(f"{type(error).__name__}: {error}") from error
        raise self.failed(f"it answered shape {shape} for {len(X)} rows", "shape")

    def take_detour(self) -> float:
        """Seconds that runs of this thread have waited for another process, beyond what the model took, since it was last asked."""
        take = getattr(self.session, "take_detour", None)
        return 0.0 if take is None else take()

    def sound(self, values: list[Any]) -> bool:
        """Whether all of these predictions can be answered: regression must be finite."""
        if not self.regression:
            return True
        total = sum(values)
        return total - total == 0.0 or all(y - y == 0.0 for y in values)  # a sum may overflow where no value does

    def unsound(self, value: Any) -> ModelFailed | None:
        """The error for one prediction that cannot be answered."""
        if self.regression and value - value != 0.0:
            return self.failed(f"it answered {value!r}, not a finite number", "not_finite")
        return None

    # -- as a `serving.work.Work` of rows --

    @property
    def varies(self) -> bool:
        return getattr(self.session, "varies", False)

    def gather(self, payloads: Sequence[Any], counts: Sequence[int] | None) -> Matrix:
        if counts is None:
            return self.matrix(payloads)
        rows: list[Row] = []
        for payload, count in zip(payloads, counts, strict=True):
            if count:
                rows += payload
            else:
                rows.append(payload)
        return self.matrix(rows)

    def part(self, answers: list[Any], start: int, stop: int) -> list[Any]:
        return answers[start:stop]

    def weight(self, payload: Any, count: int) -> int:  # noqa: ARG002  as `Work`
        return (count or 1) * (ROW_BYTES + VALUE_BYTES * len(self.schema.fields))

    def blame(self, payload: Any, count: int) -> EverloopError | None:
        try:
            if count:
                self.many(self.matrix(payload))
            else:
                self.one(payload)
        except EverloopError as error:
            return told(self, error)
        return None

    def adopt(self, payload: Any, count: int, other: Work) -> Any:
        if isinstance(other, Runner) and other.schema == self.schema:
            return payload
        return self.schema.rows(payload) if count else self.schema.rows([payload])[0]

    def key(self, payload: Any, count: int) -> bytes | None:
        return pack_rows(payload if count else [payload], self.schema)[1]

    # -- one request --

    def one(self, row: Row) -> Any:
        """One checked row -> its prediction. Raises ModelFailed."""
        (value,) = self.run(self.matrix([row]))
        error = self.unsound(value)
        if error is not None:
            raise error
        return value

    def many(self, X: Matrix) -> list[Any]:
        """All rows of one request. Raises ModelFailed naming the first instance that failed."""
        try:
            values = self.run(X)
        except ModelFailed as raised:
            if len(X) > 1 and raised.how not in GONE:
                self._blame(X)
            raise
        if not self.sound(values):
            for i, value in enumerate(values):
                error = self.unsound(value)
                if error is not None:
                    raise of_instance(i, error)
        return values

    def _blame(self, X: Matrix) -> None:
        """Find one row that fails on its own, by halves, and raise its error with its index. Returns if none does."""
        low, high = 0, len(X)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self.run(X[low:middle])
                low = middle
            except ModelFailed:
                high = middle
        try:
            self.run(X[low:high])
        except ModelFailed as error:
            raise of_instance(low, error) from error

    def failed(self, what: str, how: Failure = "raised") -> ModelFailed:
        return failure(self.model, self.version, what, how)


def failure(model: str, version: int, what: str, how: Failure) -> ModelFailed:
    """What a version could not answer, and why."""
    if len(what) > 300:
        what = what[:299] + "…"
    failed = ModelFailed(f"version {version} of model {model!r} failed on this input: {what}")
    failed.how = how
    return failed


def of_instance(i: int, error: ModelFailed) -> ModelFailed:
    named = ModelFailed(f"instances[{i}]: {error.message}", field=f"instances[{i}]")
    named.how = error.how
    return named

"""Frames as a batcher runs them: a predictor that a program brought, for requests of any number of rows.

Requests run together if their frames have the same columns of the same types, so nobody's answer depends on whom it ran with. An answer
that is not one a row is given to a request that ran alone as it is.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from everloop.core.errors import EverloopError, Failure, ModelFailed
from everloop.policy.batching import BatchRules, slices
from everloop.serving.frames import cut, form_of, joined, rows_of
from everloop.serving.guard import Guard
from everloop.serving.runner import failure
from everloop.serving.work import Work


class _Group(NamedTuple):
    frame: Any
    rows: int
    requests: int


class Gathered(NamedTuple):
    groups: list[_Group]
    places: dict[int, tuple[int, int, int]]
    """First row of a request in the batch, as it is counted there -> its group, and its rows there."""


class Answered(NamedTuple):
    asked: Gathered
    found: list[Any]
    """One a group."""


class FrameWork:
    """A `serving.work.Work`. `predict` is called on the batcher's thread; what it has to await runs on `loop`."""

    varies = True

    def __init__(
        self, name: str, predict: Callable[[Any], Any], rules: BatchRules, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.model = name
        self.version = 1
        self.rules = rules
        self.guard: Guard | None = None
        self._predict = predict
        self._loop = loop

    def gather(self, payloads: Sequence[Any], counts: Sequence[int] | None) -> Gathered:
        members: dict[Any, list[Any]] = {}
        sizes: dict[Any, int] = {}
        places: dict[int, tuple[Any, int, int]] = {}
        start = 0
        for frame, count in zip(payloads, counts or [1] * len(payloads), strict=True):
            form, rows = form_of(frame), rows_of(frame)
            first = sizes.get(form, 0)
            members.setdefault(form, []).append(frame)
            places[start] = (form, first, first + rows)
            sizes[form] = first + rows
            start += count
        order = {form: place for place, form in enumerate(members)}
        try:
            groups = [_Group(joined(frames), sizes[form], len(frames)) for form, frames in members.items()]
        except Exception as error:
            raise self.failed(f"{type(error).__name__}: {error}") from error
        return Gathered(groups, {at: (order[form], first, last) for at, (form, first, last) in places.items()})

    def run(self, inputs: Gathered) -> Answered:
        try:
            return Answered(inputs, [self._group(group) for group in inputs.groups])
        except EverloopError:
            raise
        except Exception as error:
            raise self.failed(f"{type(error).__name__}: {error}") from error

    def _group(self, group: _Group) -> Any:
        if group.rows <= self.rules.max_rows:
            found = self._one(group.frame)
        else:
            parts = slices(group.rows, self.rules)
            found = joined([self._one(cut(group.frame, group.rows, start, stop)) for start, stop in parts])
        if group.requests > 1:
            cut(found, group.rows, 0, 0)  # whether there is one a row
        return found

    def _one(self, frame: Any) -> Any:
        found = self._predict(frame)
        if inspect.isawaitable(found):
            return asyncio.run_coroutine_threadsafe(_awaited(found), self._loop).result()
        return found

    def sound(self, answers: Answered) -> bool:  # noqa: ARG002  what a program's own predictor answers is its own affair
        return True

    def part(self, answers: Answered, start: int, stop: int) -> Any:  # noqa: ARG002  frames tell their own rows
        group, first, last = answers.asked.places[start]
        found = answers.found[group]
        asked = answers.asked.groups[group]
        return found if asked.requests == 1 else cut(found, asked.rows, first, last)

    def failed(self, what: str, how: Failure = "raised") -> ModelFailed:
        return failure(self.model, self.version, what, how)

    def weight(self, payload: Any, count: int) -> int:  # noqa: ARG002  not counted: its queue is bounded by rows
        return 0

    def blame(self, payload: Any, count: int) -> EverloopError | None:
        try:
            self.run(self.gather([payload], [count]))
        except EverloopError as error:
            return error
        return None

    def adopt(self, payload: Any, count: int, other: Work) -> Any:  # noqa: ARG002  there is one version
        return payload

    def take_detour(self) -> float:
        return 0.0

    def key(self, payload: Any, count: int) -> bytes | None:  # noqa: ARG002  nothing is known of the predictor
        return None


async def _awaited(found: Any) -> Any:
    return await found

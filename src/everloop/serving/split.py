"""A split: one model, several versions live, and who is answered by which.

    no unit: a random bucket ─┐
    unit: policy.routing ─────┴─► seats[bucket] ─► Arm ─► its lane ─► the answer
                                                   │ the version fails
                                                   └─► the champion's lane ─► the answer, which names the champion

The table has one for each model with more than one version open; other models do not pay for it. A split is built for one
allocation and one step, and thrown away with the next change: what is in flight keeps the arms it was given. (Shadows are no part of
it: they see what is recorded, `serving.audience`.)

Theory of operation. `answer` is the hot path in process: one random number, one index into 10,000 prepared seats, two looks at the
clock, two appends, and no lock, because a seat holds the bound methods that it needs. `withdraw` is the one change: it puts the
champion into every seat of a version that hangs, by one slice assignment, which CPython does in one step. Whoever had drawn the
seat before is answered by the champion after the guard's timeout; nobody draws it after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import random
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from everloop.core.errors import EverloopError, InvalidInput, ModelFailed
from everloop.core.types import Features, Prediction, PredictionBatch
from everloop.policy.routing import BUCKETS, Allocation, buckets_of
from everloop.serving.evidence import Tally

if TYPE_CHECKING:
    from everloop.serving.lane import Lane
    from everloop.serving.runner import Runner

LONGEST_UNIT = 256
"""Characters of a unit."""

T = TypeVar("T")


class Arm:
    """One version's part of a split, for requests with a unit or for those without."""

    __slots__ = ("alone", "answer", "champion", "lane", "tally")

    def __init__(self, lane: Lane, champion: Lane | None, tally: Tally, *, alone: bool = True) -> None:
        self.lane = lane
        self.champion = champion
        """Who answers where this version fails; None: this is the champion, and its failures are its callers'."""
        self.tally = tally
        self.alone = alone
        """Its requests have no unit: each was drawn for itself."""
        self.answer: Callable[[Features], Prediction] = (
            lane.own if champion is None or lane.compiled else lane.answer_guarded
        )
        """Asks the model itself, in process: how long that takes is what a rollout weighs."""

    def assign(self) -> None:
        """A request was given to its lane's batcher, which will tell when it is settled."""
        self.tally.assigned()
        if self.alone:
            self.tally.drawn()

    def answer_rows(self, rows: Any) -> PredictionBatch:
        """All rows by one version: this one, or the champion. Raises InvalidInput; ModelFailed where neither of them can answer,
        naming the instance."""
        lane = self.lane
        checked = lane.checked(rows)
        start = perf_counter()
        try:
            batch = lane.answer_checked(checked)
        except EverloopError as error:
            return self._refer(error, start, lambda champion: champion.answer_rows(checked))
        self._settled(perf_counter() - start - lane.runner.take_detour())
        return batch

    def instead(self, error: EverloopError, features: Features, start: float) -> Prediction:
        """The champion's answer to a row on which this version failed. Raises `error` where there is none."""
        return self._refer(error, start, lambda champion: champion.answer(features))

    def _refer(self, error: EverloopError, start: float, ask: Callable[[Lane], T]) -> T:
        if not isinstance(error, ModelFailed):
            raise error  # invalid input: nobody's failure
        self._settled(perf_counter() - start - self.lane.runner.take_detour())
        self.tally.failed(error)
        if self.champion is None:
            raise error
        try:
            answer = ask(self.champion)
        except EverloopError:
            raise error from None
        self.tally.decisive(error)
        self.lane.count_referred()
        return answer

    def _settled(self, seconds: float) -> None:
        if self.alone:
            self.tally.drawn()
        self.tally.settled(1, seconds)

    def __repr__(self) -> str:
        return f"<Arm {self.lane.name}@{self.lane.version}>"


_Seat = tuple[Callable[[Features], Prediction], Callable[[float], None], Callable[[], int], Arm]
"""Answer, took, answered, arm: what the hot path needs, unpacked at once."""


class Split:
    """Safe from any thread."""

    __slots__ = ("_bucket", "_named", "_seats", "allocation", "answer", "answer_named", "by_version", "champion")

    def __init__(
        self,
        champion: Lane,
        others: Sequence[Lane] = (),
        allocation: Allocation | None = None,
        *,
        tallies: Mapping[int, Tally] | None = None,
    ) -> None:
        """`tallies`: version -> where its part is counted, if anybody wants to know. Buckets of a version that is not among the lanes
        are the champion's."""
        self.champion = champion
        self.allocation = allocation
        self.by_version: dict[int, Lane] = {lane.version: lane for lane in (champion, *others)}
        """Everything that is open here: also what owns no bucket."""
        counted = tallies or {}
        seats = {champion.version: _seats(champion, None, counted.get(champion.version))}
        for lane in others:
            if lane.lost is None:
                seats[lane.version] = _seats(lane, champion, counted.get(lane.version))
        everybody = seats[champion.version]
        owners = [champion.version] * BUCKETS if allocation is None else allocation.owners()
        pairs = [seats.get(version, everybody) for version in owners]
        self._seats: list[_Seat] = [alone for alone, _ in pairs]
        self._named: list[_Seat] = [named for _, named in pairs]
        """The same for requests with a unit."""
        self._bucket = buckets_of(champion.name if allocation is None else allocation.salt)
        self.answer: Callable[[Features], Prediction] = _answering(self._seats)
        """One row of a caller in this process who has no unit. Raises InvalidInput, ModelFailed."""
        self.answer_named: Callable[[Features, str], Prediction] = _answering_named(self._named, self._bucket)
        """One row of one who has."""

    def route(self, unit: str | None = None) -> Arm:
        """Who answers the next request, of this unit. Raises InvalidInput."""
        if unit is None:
            return self._seats[int(random() * BUCKETS)][3]  # noqa: S311  nobody is kept out by it
        arm = self._named[self._bucket(checked_unit(unit))][3]
        arm.tally.unit(unit)
        return arm

    def choose(self, unit: str | None = None) -> Lane:
        """The lane that `route` leads to, for whoever only wants to know: nothing is counted. Raises InvalidInput."""
        bucket = int(random() * BUCKETS) if unit is None else self._bucket(checked_unit(unit))  # noqa: S311  as above
        return self._seats[bucket][3].lane

    def withdraw(self, version: int) -> None:
        """Nobody is routed to this version any more. What the champion answers from now on is not counted: it is not the split
        that was asked for."""
        gone = (version, self.champion.version)
        for seats, uncounted in zip((self._seats, self._named), _seats(self.champion, None, None), strict=True):
            seats[:] = [uncounted if seat[3].lane.version in gone else seat for seat in seats]

    @property
    def weights(self) -> dict[int, float]:
        """Version -> its share of what is routed now."""
        counts: dict[int, int] = {}
        for seat in self._seats:
            counts[seat[3].lane.version] = counts.get(seat[3].lane.version, 0) + 1
        return {version: count / BUCKETS for version, count in sorted(counts.items())}

    def __repr__(self) -> str:
        return f"<Split {self.champion.name} {self.weights}>"


def checked_unit(unit: Any) -> str:
    """Raises InvalidInput naming `unit`."""
    if type(unit) is str and 0 < len(unit) <= LONGEST_UNIT:
        return unit
    got = f"{len(unit)} characters" if isinstance(unit, str) else type(unit).__name__
    raise InvalidInput(f"unit: expected a text of 1 to {LONGEST_UNIT} characters, got {got}", field="unit")


def _seats(lane: Lane, champion: Lane | None, tally: Tally | None) -> tuple[_Seat, _Seat]:
    """For requests without a unit, and with one."""
    tally = tally or Tally()
    alone, named = Arm(lane, champion, tally), Arm(lane, champion, tally, alone=False)
    took = partial(_took_apart, tally.took, lane.runner) if lane.remote else tally.took
    return (alone.answer, took, tally.answered, alone), (named.answer, took, tally.answered_named, named)


def _took_apart(took: Callable[[float], None], runner: Runner, seconds: float) -> None:
    """What the way to another process takes is not weighed."""
    took(seconds - runner.take_detour())


def _answering(seats: list[_Seat]) -> Callable[[Features], Prediction]:
    clock, draw = perf_counter, random

    def answer(features: Features) -> Prediction:
        one, took, answered, arm = seats[int(draw() * BUCKETS)]
        start = clock()
        try:
            prediction = one(features)
        except EverloopError as error:
            return arm.instead(error, features, start)
        took(clock() - start)
        answered()
        return prediction

    return answer


def _answering_named(seats: list[_Seat], bucket: Callable[[str], int]) -> Callable[[Features, str], Prediction]:
    clock = perf_counter

    def answer(features: Features, unit: str) -> Prediction:
        if type(unit) is not str or not 0 < len(unit) <= LONGEST_UNIT:
            checked_unit(unit)
        one, took, answered, arm = seats[bucket(unit)]
        if unit not in arm.tally.known:
            arm.tally.unit(unit)
        start = clock()
        try:
            prediction = one(features)
        except EverloopError as error:
            return arm.instead(error, features, start)
        took(clock() - start)
        answered()
        return prediction

    return answer

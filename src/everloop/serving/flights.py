"""Single flight: what a batcher asks before a request waits. Answers that are remembered are given at once, and who asks what somebody
is already waiting for waits for the same answer.

    submit ─► remembered? ─► somebody asks it now? ─► second level, if there is one ─► the batcher's queue ─► a run
                   │                  │                          │                                              │
                   └──────────────────┴──── a number of its own, a record, the answer ◄──────────────────────────┘

Rules.

1. Of the requests for one input, one waits in the queue: a `Flight`, which is a ticket like any other. It stays there as long as any
   of them is still wanted.
2. A flight lands with this version's own answer: it is remembered, and everybody gets it. However else it ends (the model failed, its
   deadline passed, the champion answered in its place), only the first of them is told; the others ask for themselves, without the cache.
3. A hit is no evidence of how fast a version is: its arm counts it without a time.
4. As the batcher, all of it belongs to one event loop's thread. The second level answers from its own thread, by `call_soon_threadsafe`.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from everloop.core.errors import EverloopError
from everloop.serving.tensor_work import TensorAnswers, TensorWork
from everloop.serving.tickets import Ticket

if TYPE_CHECKING:
    from everloop.serving.answers import Answers
    from everloop.serving.batcher import Batcher
    from everloop.serving.cache import VersionCache
    from everloop.serving.split import Arm

MOST = 4096
"""Requests that wait for one flight. Beyond it they ask for themselves, which the queue's own bounds may refuse."""


@dataclass(slots=True)
class Asked:
    """One request."""

    ticket: Ticket
    payload: Any
    count: int
    arm: Arm | None
    deadline: float | None
    came: float


class Flights:
    """Of one batcher, by one part of the cache."""

    __slots__ = ("_batcher", "_by_key", "_cache")

    def __init__(self, batcher: Batcher, cache: VersionCache) -> None:
        self._batcher = batcher
        self._cache = cache
        self._by_key: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def submit(self, asked: Asked) -> None:
        """As `Batcher.enter`, for a request that may be answered otherwise. Raises as it does."""
        batcher, cache = self._batcher, self._cache
        key = batcher.work.key(asked.payload, asked.count)
        if key is None:
            _enter(batcher, asked)
            return
        known = cache.get(key)
        if known is not None:
            next(cache.counts.hits)
            self.answer(asked, known)
            return
        flight = self._by_key.get(key)
        if flight is not None and flight.join(asked):
            return
        flight = self._by_key[key] = Flight(self, key, asked)
        if not cache.shares:
            flight.take_off()
            return
        loop = batcher.loop

        def found(known: Answers | None) -> None:
            try:
                loop.call_soon_threadsafe(flight.looked_up, known)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        cache.fetch_shared(key, None if isinstance(batcher.work, TensorWork) else asked.count or 1, found)

    def answer(self, asked: Asked, known: Answers) -> None:
        """By what is known."""
        batcher, payload, count = self._batcher, asked.payload, asked.count
        inputs = batcher.work.gather([payload], [count] if count else None)
        answers = list(known) if isinstance(known, tuple) else TensorAnswers(inputs, [dict(known)])
        if asked.arm is not None:
            asked.arm.tally.settled(1, None)
        batcher.answer_now(asked.ticket, payload, count, inputs, answers, asked.came)

    def leave(self, flight: Flight) -> None:
        """Nobody joins it any more."""
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]

    @property
    def batcher(self) -> Batcher:
        return self._batcher

    @property
    def cache(self) -> VersionCache:
        return self._cache


class Flight:
    """A ticket for all who asked the same."""

    __slots__ = ("_flights", "_others", "first", "key")

    def __init__(self, flights: Flights, key: bytes, first: Asked) -> None:
        self._flights = flights
        self.key = key
        self.first = first
        self._others: list[Asked] = []

    @property
    def caller(self) -> Any:
        """Whose share of the queue it takes."""
        return getattr(self.first.ticket, "caller", None)

    @property
    def disconnected(self) -> bool:
        """Whether nobody of them needs the answer. Whoever asks drops it then, so nobody may join it afterwards."""
        if self.first.ticket.disconnected and all(asked.ticket.disconnected for asked in self._others):
            self._flights.leave(self)
            return True
        return False

    def join(self, asked: Asked) -> bool:
        """False where it is too full."""
        if len(self._others) >= MOST:
            return False
        self._others.append(asked)
        return True

    def looked_up(self, known: Answers | None) -> None:
        """What the second level has."""
        if known is not None:
            next(self._flights.cache.counts.shared)
            self._flights.answer(self.first, known)
            self._land(known)
        elif self.disconnected:
            self._flights.batcher.counters.abandoned += 1 + len(self._others)
        else:
            try:
                self.take_off()
            except EverloopError as error:
                self.fail(error)

    def take_off(self) -> None:
        """Into the queue. Raises as `Batcher.enter`."""
        try:
            _enter(self._flights.batcher, self.first, self)
        except EverloopError:
            if not self._others:
                self._flights.leave(self)
            raise

    def deliver(self, prediction: Any, batcher: Batcher, number: int) -> None:
        self._arrive(batcher, (prediction,))
        try:
            self.first.ticket.deliver(prediction, batcher, number)
        finally:
            self._settle_others(batcher, (prediction,))

    def deliver_rows(self, predictions: Any, batcher: Batcher, number: int) -> None:
        known = tuple(predictions) if isinstance(predictions, list) else predictions
        self._arrive(batcher, known)
        try:
            self.first.ticket.deliver_rows(predictions, batcher, number)
        finally:
            self._settle_others(batcher, known)

    def fail(self, error: EverloopError) -> None:
        self._flights.leave(self)
        try:
            self.first.ticket.fail(error)
        finally:
            self._ask_for_themselves()

    def _arrive(self, batcher: Batcher, known: Answers) -> None:
        """The first of them is being answered, by whichever batcher."""
        self._flights.leave(self)
        next(self._flights.cache.counts.misses)
        if batcher is self._flights.batcher:
            self._flights.cache.put(self.key, known)

    def _settle_others(self, batcher: Batcher, known: Answers) -> None:
        if batcher is self._flights.batcher:
            self._land(known)
        else:
            self._ask_for_themselves()

    def _land(self, known: Answers) -> None:
        """The others are answered by the same. What the batcher says of its run is still so for those who come after."""
        self._flights.leave(self)
        batcher, others = self._flights.batcher, self._others
        if others:
            ran, self._others = batcher.ran, []
            for asked in others:
                next(self._flights.cache.counts.joined)
                self._flights.answer(asked, known)
            batcher.ran = ran

    def _ask_for_themselves(self) -> None:
        others, self._others = self._others, []
        for asked in others:
            if not asked.ticket.disconnected:
                next(self._flights.cache.counts.misses)
                _enter_or_fail(self._flights.batcher, asked)


def asked(ticket: Ticket, payload: Any, count: int, arm: Arm | None, deadline: float | None) -> Asked:
    """A request that comes now."""
    return Asked(ticket, payload, count, arm, deadline, perf_counter())


def _enter(batcher: Batcher, asked: Asked, ticket: Ticket | None = None) -> None:
    """`ticket`: who waits for it, where not the one who asked."""
    batcher.enter(ticket or asked.ticket, asked.payload, asked.count, asked.arm, asked.deadline)


def _enter_or_fail(batcher: Batcher, asked: Asked) -> None:
    try:
        _enter(batcher, asked)
    except EverloopError as error:
        asked.ticket.fail(error)

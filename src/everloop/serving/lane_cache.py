"""In process: a lane's own answers, or what they were when somebody asked the same before.

    a list of numbers ──► its bytes ──► remembered here? ──► a number, one append for the recorder, the result
    anything else, or not remembered ──► checked row ──► remembered? second level? somebody asking it now? ──► the lane's own answer

Theory of operation. The first line is the hot path and takes no lock. What is not a plain list of numbers is checked by the schema
first, so both lines have the same key. A thread that asks what another one is asking waits for that one (single flight); if that fails,
it asks for itself, because an error is nobody else's answer.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from everloop.core.schema import Encoding, pack_rows
from everloop.core.types import Features, Prediction, PredictionBatch, Row
from everloop.policy.batching import sampled

if TYPE_CHECKING:
    from everloop.serving.cache import VersionCache
    from everloop.serving.recorder import Channel

UNPACKABLE = (struct.error, TypeError, ValueError, ArithmeticError)
"""What packing raises on features that are not plain numbers."""


class _Flight:
    """Somebody asks the model; others wait for the answer."""

    __slots__ = ("answers", "under_way")

    def __init__(self) -> None:
        self.answers: tuple[Any, ...] | None = None
        self.under_way = threading.Lock()
        """Held until it has landed."""
        self.under_way.acquire()


class LaneCache:
    def __init__(
        self,
        cache: VersionCache,
        channel: Channel,
        answer: Callable[[Features], Prediction],
        answer_rows: Callable[[list[Row]], PredictionBatch],
    ) -> None:
        """`answer` and `answer_rows` ask the model, number and record."""
        self._cache = cache
        self._channel = channel
        self._schema = channel.schema
        self._ask = answer
        self._ask_rows = answer_rows
        self._lock = threading.Lock()
        self._flights: dict[bytes, _Flight] = {}
        self.answer: Callable[[Features], Prediction] = self._quick() if self._schema.numeric else self._answer
        """One example in, its prediction out. Raises as the lane."""

    def answer_rows(self, rows: list[Row]) -> PredictionBatch:
        """One request of several checked rows: remembered as a whole. Raises as the lane."""
        encoded = pack_rows(rows, self._schema)
        asked: list[PredictionBatch] = []

        def ask() -> tuple[Any, ...]:
            asked.append(self._ask_rows(rows))
            return tuple(asked[0].predictions)

        answers = self._known(encoded[1]) or self._alone(encoded[1], len(rows), ask)
        if asked:
            return asked[0]
        channel = self._channel
        return PredictionBatch(list(answers), channel.version, channel.key, self._record(len(rows), encoded, answers))

    def _answer(self, features: Features) -> Prediction:
        """Any features at all."""
        row = self._schema.row(features)
        return self._answer_row(row, pack_rows([row], self._schema))

    def _answer_row(
        self,
        row: Row,
        encoded: tuple[Encoding, bytes],
        give: Callable[[Features, Any], Prediction] | None = None,
    ) -> Prediction:
        """`give`: a quicker way to number and record it."""
        asked: list[Prediction] = []

        def ask() -> tuple[Any, ...]:
            asked.append(self._ask(row))
            return (asked[0].prediction,)

        answers = self._known(encoded[1]) or self._alone(encoded[1], 1, ask)
        if asked:
            return asked[0]
        if give is not None:
            return give(row, answers[0])
        channel = self._channel
        return Prediction(answers[0], channel.version, channel.key, self._record(1, encoded, answers))

    def _record(self, count: int, encoded: tuple[Encoding, bytes], answers: tuple[Any, ...]) -> int:
        """The number of a request that the model was not asked."""
        channel = self._channel
        number = next(channel.numbers)
        if sampled(number, channel.passed):
            channel.record(number, count, encoded, list(answers))
        return number

    def _known(self, key: bytes) -> tuple[Any, ...] | None:
        answers = self._cache.get(key)
        if answers is None:
            return None
        next(self._cache.counts.hits)
        return answers  # type: ignore[return-value]  # of rows, and of as many as the key has

    def _alone(self, key: bytes, count: int, ask: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        """What is not remembered here, asked by one thread at a time."""
        counts = self._cache.counts
        with self._lock:
            flight = self._flights.get(key)
            first = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
        if not first:
            with flight.under_way:
                answers = flight.answers
            if answers is not None:
                next(counts.joined)
                return answers
            next(counts.misses)
            return ask()
        try:
            found = self._cache.get_shared(key, count)
            if isinstance(found, tuple):
                next(counts.shared)
                flight.answers = found
            else:
                next(counts.misses)
                flight.answers = ask()
                self._cache.put(key, flight.answers)
            return flight.answers
        finally:
            with self._lock:
                del self._flights[key]
            flight.under_way.release()

    def _quick(self) -> Callable[[Features], Prediction]:
        """The closure for rows of numbers. What it remembers has been checked before, so it checks nothing."""
        cache, channel, schema, slow, slow_row = (
            self._cache,
            self._channel,
            self._schema,
            self._answer,
            self._answer_row,
        )
        width = len(schema.fields)
        pack, find, now, prefix = struct.Struct(f"<{width}d").pack, cache.find, cache.now, cache.prefix
        version, key, number_of, hit = (
            channel.version,
            channel.key,
            channel.numbers.__next__,
            cache.counts.hits.__next__,
        )
        entry, ring, append = channel.entry, channel.ring, channel.ring.append
        places = None if channel.labels is None else {label: place for place, label in enumerate(channel.labels)}

        def answer(features: Features) -> Prediction:
            if type(features) is not list or len(features) != width:
                return slow(features)
            try:
                packed = pack(*features)
            except UNPACKABLE:
                return slow(features)
            answers = find(prefix + packed, now())
            if answers is None:
                row = schema.row(features)
                return slow(row) if None in row else slow_row(row, ("f8", packed), give)
            hit()
            return give(features, answers[0])

        def give(features: Features, y: Any) -> Prediction:
            number = number_of()
            if (passed := channel.passed) >= 1.0 or sampled(number, passed):
                place = y if places is None else places.get(y)
                if place is None:  # a class that the model did not name
                    channel.record(number, 1, pack_rows([list(features)], schema), [y])
                else:
                    append(entry(channel, number, place, *features))
                    if ring.asleep:
                        channel.wake()
            return Prediction(y, version, key, number)

        return answer

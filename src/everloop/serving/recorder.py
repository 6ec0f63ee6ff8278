"""The recorder: predictions on their way into the journal, without anybody waiting for it.

Two ways in.

- The server's batcher has whole batches and hands each over as one `PredictionRecord` (`batch`), which waits in the `Outbox`
  for those that follow it.
- A caller in this process answers one row in under a microsecond. It appends number, answer and values, in a struct that the
  garbage collector never looks at, to its model's `Ring`, a bounded deque; a thread that lives only while there is something
  to do turns runs of consecutive numbers into records.

Rules. Nobody ever waits: what does not fit is dropped, oldest first in a ring, newest first elsewhere, and counted. The
thread gives the interpreter back after every thousand rows, so that whoever predicts is held up for well under a millisecond.
`drain` empties all of it: the intake calls it before it joins a label, so that a label given right after its prediction finds it.
"""

from __future__ import annotations

import functools
import itertools
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.clock import Clock
from everloop.core.schema import Encoding, Schema, pack_rows
from everloop.core.types import PredictionRecord, Row
from everloop.serving.audience import Audience
from everloop.serving.counters import value_of
from everloop.serving.outbox import Outbox
from everloop.stores.ports import Journal

CHUNK_ROWS = 1024
"""Rows that one turn of the thread takes: at 30 features about half a millisecond."""
CHANNEL_BYTES = 32 << 20
"""Most that waits in one ring, within the bounds on rows below."""
CHANNEL_ROWS = (256, 65_536)
PAUSE = 0.025
"""Seconds between two turns of the thread while predictions come in."""
UNPACKABLE = (struct.error, TypeError, ArithmeticError)
LINGER = 2.0
"""Seconds without predictions after which the thread ends."""


class Ring:
    """What waits of one model in this process: one bounded deque that all its lanes of the same width share.

    Shared, because a fresh deque for each version would have to fill before it stops growing, and the page faults of its growth
    were what a swap cost its neighbours: the 99.9th percentile of a prediction doubled."""

    __slots__ = ("__weakref__", "append", "asleep", "buffer", "seen")

    def __init__(self, width: int) -> None:
        least, most = CHANNEL_ROWS
        each = 64 + 32 * width  # the struct, and a float object a value
        self.buffer: deque[Any] = deque(maxlen=max(least, min(most, CHANNEL_BYTES // each)))
        self.append = self.buffer.append
        self.asleep = True
        self.seen: dict[Channel, None] = {}
        """Those that may have appended since it last fell asleep."""


class Channel:
    """One lane's in-process predictions of plain numbers that are not yet in the journal.

    From any thread: `ring.append(entry(channel, number, answer, *row))`, where the answer of a classifier is the place of its label
    in `labels`. Whoever appends then looks at `ring.asleep` and calls `wake` if it is set; the thread first sets `asleep` and then
    looks at the deque again. So no entry is left behind, and nobody takes a lock.

    An entry is a struct that the collector does not track: a quarter of the time of packing the row into bytes (which the thread
    does later), and unlike tuples or lists it never sets off a collection."""

    __slots__ = (
        "__weakref__",
        "elsewhere",
        "entry",
        "key",
        "labels",
        "layout",
        "lost",
        "model",
        "numbers",
        "passed",
        "recorded",
        "recorder",
        "ring",
        "schema",
        "share",
        "version",
    )

    def __init__(
        self, recorder: Recorder, model: str, version: int, *, schema: Schema, share: float, labels: list[Any] | None
    ) -> None:
        width = len(schema.fields)
        self.recorder = recorder
        self.model = model
        self.version = version
        self.key = recorder.new_key()
        self.schema = schema
        self.share = share
        """Which share of its numbers is recorded."""
        self.passed = share
        """Which share is handed over: whoever appends asks `policy.batching.sampled`. The audience turns it."""
        self.labels = labels
        self.numbers = itertools.count(1)
        self.elsewhere = itertools.count()
        """How many numbers were recorded as batches."""
        self.entry = _entry(width)
        self.layout = np.dtype([("number", "<i8"), ("answer", "<f8"), ("row", "<f8", (width,))])
        self.ring = recorder.ring(model, width)
        self.recorded = 0
        self.lost = 0

    def wake(self) -> None:
        self.ring.seen[self] = None
        self.recorder.wake(self.ring)

    def record(self, number: int, count: int, encoded: tuple[Encoding, bytes], predictions: list[Any]) -> None:
        """A request whose rows are not plain numbers, or are several."""
        next(self.elsewhere)
        self.recorder.batch((self.model, self.version, self.key), (number, 1, count), encoded, predictions)

    @property
    def issued(self) -> int:
        """How many numbers were given out."""
        return value_of(self.numbers) - 1

    @property
    def missing(self) -> int:
        """How many of them have not been recorded; with an empty buffer, they never will be."""
        return max(0, self.issued - value_of(self.elsewhere) - self.recorded)


class Recorder:
    def __init__(self, journal: Journal, clock: Clock) -> None:
        self.journal = journal
        self.clock = clock
        self._prefix = secrets.token_hex(5)
        self._ordinals = itertools.count()
        self._lock = threading.Lock()
        """Held while entries are on their way from a channel to the journal."""
        self._state = threading.Lock()
        """Guards `_awake` and `_thread`."""
        self._awake: dict[Ring, None] = {}
        self._rings: WeakValueDictionary[tuple[str, int], Ring] = WeakValueDictionary()
        self.audience = Audience()
        """Who is shown what is recorded."""
        self._outbox = Outbox()
        self._outbox_asleep = True
        self._thread: threading.Thread | None = None
        self._stirred = threading.Event()
        self._closed = False
        self._pushed_out = 0
        self.failure: BaseException | None = None
        """What the journal raised at the last record (closed, disk full), if it did; predictions go on."""

    @property
    def dropped(self) -> int:
        """Requests that were not recorded because a buffer was full (of channels: as counted when they last fell asleep).
        What the journal's own queue refused is in its `stats`."""
        return self._pushed_out + self._outbox.dropped

    def new_key(self) -> str:
        """The first half of request ids: random for this process, then the ordinal of the lane or its batcher."""
        return f"{self._prefix}{next(self._ordinals):x}"

    def channel(
        self, model: str, version: int, schema: Schema, share: float, labels: list[Any] | None = None
    ) -> Channel:
        channel = Channel(self, model, version, schema=schema, share=share, labels=labels)
        self.audience.admit(channel)
        return channel

    def ring(self, model: str, width: int) -> Ring:
        """The one that this model's lanes of that width share, for as long as one of them is there."""
        with self._state:
            ring = self._rings.get((model, width))
            if ring is None:
                ring = self._rings[model, width] = Ring(width)
            return ring

    # -- whole batches, from the server --

    def batch(
        self,
        source: tuple[str, int, str],
        numbers: tuple[int, int, int],
        encoded: tuple[Encoding, bytes],
        predictions: list[Any],
    ) -> None:
        """`numbers` is (first, count, rows): `count` requests of `rows` rows each. `source` is (model, version, key).

        Keeps `predictions`: hand over a list that nobody changes."""
        model, version, key = source
        first, count, rows = numbers
        encoding, features = encoded
        self._outbox.put(
            PredictionRecord(model, version, key, first, count, rows, self.clock.now(), encoding, features, predictions)
        )
        if self._outbox_asleep:  # looked at after the append, as with channels
            self._outbox_asleep = False
            self._stir()

    def _put(self, record: PredictionRecord) -> None:
        try:
            for recorded in self.audience.show(record):
                self.journal.record(recorded)
        except Exception as error:  # a broken journal is told by /health; answers must go on
            self.failure = error
        else:
            self.failure = None

    # -- single rows, in process --

    def wake(self, ring: Ring) -> None:
        with self._state:
            ring.asleep = False
            self._awake[ring] = None
        self._stir()

    def _stir(self) -> None:
        with self._state:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="everloop-recorder", daemon=True)
                self._thread.start()
        self._stirred.set()

    def drain(self) -> None:
        """Everything answered before this call is in the journal's queue when it returns."""
        while self._turn():
            pass

    def start(self) -> None:
        """Allow the thread; it begins with the first prediction."""
        with self._state:
            self._closed = False

    def stop(self) -> None:
        """Drain, and let the thread end. Predictions made later wait for the next `drain`. Safe to call twice."""
        with self._state:
            self._closed = True
            thread, self._thread = self._thread, None
        self._stirred.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)
        self.drain()

    def _work(self) -> None:
        """The thread: chunks with pauses between them, then longer pauses, then the end."""
        quiet_since = time.monotonic()
        while not self._closed:
            self._stirred.clear()
            most = self._turn()
            if most:
                quiet_since = time.monotonic()
                # Zero gives the interpreter to whoever waits for it; getting it back is the throttle.
                time.sleep(0.0 if most == CHUNK_ROWS else PAUSE)
            elif self._settle():
                if time.monotonic() - quiet_since > LINGER and self._end():
                    return
                self._stirred.wait(LINGER)
            else:
                time.sleep(PAUSE)

    def _end(self) -> bool:
        with self._state:
            if self._awake or not self._outbox_asleep or self._closed:
                return False
            self._thread = None
            return True

    def _settle(self) -> bool:
        """Put what is empty to sleep; True if all sleep now."""
        with self._state:
            self._outbox_asleep = True
            if self._outbox:
                self._outbox_asleep = False
            for ring in list(self._awake):
                ring.asleep = True
                if ring.buffer:
                    ring.asleep = False
                    continue
                del self._awake[ring]
                for channel in list(ring.seen):
                    del ring.seen[channel]
                    if channel.share >= 1.0:
                        lost = max(channel.lost, channel.missing)
                        self._pushed_out += lost - channel.lost
                        channel.lost = lost
            return not self._awake and self._outbox_asleep

    def _turn(self) -> int:
        """The outbox, and one chunk of every awake channel; how many entries the fullest had, up to a chunk."""
        # Also where the outbox looks empty: another thread may have taken its records and not yet put them.
        with self._lock:
            records = self._outbox.take()
            most = min(len(records), CHUNK_ROWS - 1)
            for record in records:
                self._put(record)
        with self._state:
            rings = list(self._awake)
        for ring in rings:
            with self._lock:
                entries = _take(ring.buffer, CHUNK_ROWS)
                most = max(most, len(entries))
                # Where several versions are live their entries alternate; each has consecutive numbers all the same.
                channels = set(map(_channel_of, entries))
                for channel in channels:
                    ring.seen[channel] = None
                    own = entries if len(channels) == 1 else [entry for entry in entries if entry.channel is channel]
                    self._store(channel, own)
        return most

    def _store(self, channel: Channel, entries: list[Any]) -> None:
        at = self.clock.now()
        data = np.frombuffer(_packed(entries, channel.layout), channel.layout)
        if not len(data):
            return
        steps = np.diff(data["number"])
        if (steps < 0).any():
            data = data[np.argsort(data["number"])]
            steps = np.diff(data["number"])
        for run in np.split(data, np.flatnonzero(steps != 1) + 1):
            answers: list[Any] = run["answer"].tolist()
            if channel.labels is not None:
                answers = [channel.labels[int(place)] for place in answers]
            first, features = int(run["number"][0]), run["row"].tobytes()
            self._put(
                PredictionRecord(
                    channel.model, channel.version, channel.key, first, len(run), 1, at, "f8", features, answers
                )
            )
        channel.recorded += len(data)


def encode_matrix(X: npt.NDArray[Any], rows: Sequence[Row], schema: Schema) -> tuple[Encoding, bytes]:
    """What a batch ran on, as the journal keeps it: the array's own bytes where it is numbers."""
    if X.dtype == np.float32:
        return "f4", X.astype("<f4", copy=False).tobytes()
    if X.dtype == np.float64:
        return "f8", X.astype("<f8", copy=False).tobytes()
    return pack_rows(rows, schema)


_channel_of = attrgetter("channel")


@functools.cache
def _entry(width: int) -> Callable[..., Any]:
    """The class of a ring's entries: channel, number, answer, `width` values."""
    fields = ["channel", "number", "answer", *(f"x{i}" for i in range(width))]
    return msgspec.defstruct("Entry", fields, gc=False)


def _packed(entries: list[Any], layout: np.dtype[Any]) -> bytes:
    pack, values = struct.Struct(f"<qd{layout['row'].shape[0]}d").pack, msgspec.structs.astuple
    try:
        return b"".join([pack(*values(entry)[1:]) for entry in entries])
    except UNPACKABLE:
        # Somebody's number that computes with floats, but is none. Only such rows are lost.
        return b"".join(itertools.chain.from_iterable(_try_packing(pack, values(entry)[1:]) for entry in entries))


def _try_packing(pack: Callable[..., bytes], values: tuple[Any, ...]) -> tuple[bytes, ...]:
    try:
        return (pack(*values),)
    except UNPACKABLE:
        return ()


def _take(buffer: deque[Any], most: int) -> list[Any]:
    entries: list[Any] = []
    pop = buffer.popleft
    try:
        for _ in range(most):
            entries.append(pop())  # noqa: PERF401  the deque may be emptied by its bound at any time
    except IndexError:
        return entries
    return entries

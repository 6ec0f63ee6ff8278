"""Processes: workers of our own, each with two pipes, so that one of them can die at any instruction and nothing else does.

    submit ──> parcels waiting ──> a seat's queue ══pipe══> worker       the first of a queue runs, those behind it were sent ahead
    collect <── Done <───────────── frames <════════pipe═══ worker

Chunks are sent ahead only while they are short: a worker should not wait for us, nor a chunk for a slow one before it while another
worker has nothing to do. What was sent ahead to a worker that then took long comes back not begun; so does what waited at one that
died, whose running chunk is lost. Either way the engine sends it again.
"""

from __future__ import annotations

import math
import selectors
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from everloop.core.errors import NotPicklable, WorkerDied
from everloop.parallel import payload
from everloop.parallel.executors import frames
from everloop.parallel.executors.frames import Frame
from everloop.parallel.executors.handle import Worker, last_words
from everloop.parallel.executors.pacing import Pace
from everloop.parallel.executors.packing import Spoiled, unpack
from everloop.parallel.pool import PoolManager
from everloop.parallel.work import Chunk, Done, ExecutorKind

_PER_BYTE = 1e-9
"""Seconds that a byte takes to be pickled, sent and unpickled, about."""
_HELD, _SHORT = 16, 1 << 12
"""So many chunks, of so many bytes at most, are written at once: waking a worker costs more than a short chunk itself."""
_LOOK = 1.0
"""Seconds after which a silent worker is looked at: a process it has forked may keep its pipe open after its death."""
_STILLBORN = 3
"""Workers that may die one after the other before one has started."""


@dataclass
class Startup:
    """Measured, of the newest worker; None until it was."""

    spawn_seconds: float | None = None
    """From the start of a process until it can be spoken to."""
    load_seconds: float | None = None
    """The function's unpickling there, with the imports that it needs."""


class _Parcel:
    __slots__ = ("chunk", "items", "separate", "size")

    def __init__(self, chunk: Chunk, items: payload.Packed, separate: bool = False) -> None:
        self.chunk = chunk
        self.items: payload.Packed | None = items
        """None once it is sent."""
        body, parts = items
        self.size = len(body) + (sum(part.nbytes for part in parts) if parts else 0)
        self.separate = separate


class _Seat:
    """A leased worker and what it has been given."""

    __slots__ = ("beat", "gone", "held", "queue", "ready", "worker", "writing")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.queue: deque[_Parcel] = deque()
        self.ready = worker.spawn_seconds is not None
        self.writing = False
        self.gone = False
        self.held = 0
        """Short chunks that its outbox keeps until we wait for results: it has others to run meanwhile."""
        self.beat: tuple[float, int] | None = None
        """When the item that runs began (monotonic), and its index in its chunk; only of chunks with a timeout."""


class ProcessExecutor:
    kind: ExecutorKind = "process"

    def __init__(
        self,
        func: Callable[[Any], Any],
        workers: int,
        pool: PoolManager,
        *,
        blas_threads: int,
        owns_pool: bool = False,
        grace: float = 1.0,
    ) -> None:
        """`grace`: seconds that an item may overstay its timeout, for it to end by itself. Raises NotPicklable."""
        self._func = func
        self._function = payload.dump_function(func)
        self._by_value = False
        self._pool = pool
        self._owns_pool = owns_pool
        self._blas_threads = blas_threads
        self._grace = grace
        self._selector = selectors.DefaultSelector()
        self._seats: list[_Seat] = []
        self._waiting: deque[_Parcel] = deque()
        self._running = 0
        self._pace = Pace()
        self._torn = False
        """An exception (Ctrl-C, mostly) has left a call half done: what the pipes hold is not known."""
        self._stillborn = 0
        self._looked = time.monotonic()
        self._limited = False
        """Some chunk has had a timeout."""
        self._closed = False
        self.startup = Startup()
        leased = pool.lease(workers, blas_threads)
        try:
            for worker in leased:
                self._seat(worker)
        except BaseException:
            self._torn = True
            self._seats += [_Seat(worker) for worker in leased[len(self._seats) :]]
            self.close(kill=True)
            raise
        self.workers = len(self._seats)

    @property
    def room(self) -> int:
        return max(0, self._pace.depth * len(self._seats) - self._running)

    @property
    def running(self) -> int:
        return self._running

    def submit(self, chunk: Chunk) -> None:
        parcel = _Parcel(chunk, payload.dump_items(chunk.items, chunk.first))
        self._limited = self._limited or chunk.timeout is not None
        self._torn = True
        self._running += 1
        self._waiting.append(parcel)
        self._hand_out()
        self._torn = False

    def collect(self, timeout: float | None = None) -> list[Done]:
        until = math.inf if timeout is None else time.monotonic() + timeout
        done: list[Done] = []
        self._torn = True
        while self._running and not done:
            self._send_held()
            for key, events in self._selector.select(self._patience(until)):
                seat: _Seat = key.data
                if seat.gone:
                    continue
                if events & selectors.EVENT_WRITE:
                    self._write(seat)
                else:
                    self._read(seat, done)
            now = time.monotonic()
            self._look_at_silent_ones(now, done)
            self._hand_out()
            if now >= until:
                break
        self._torn = False
        return done

    def close(self, *, kill: bool = False) -> None:  # noqa: ARG002 - who is busy is ended in any case
        if self._closed:
            return
        self._closed = True
        self._selector.close()
        ended = []
        for seat in self._seats:
            worker = seat.worker
            busy = self._torn or seat.queue or worker.outbox or worker.reader.midway
            if busy or not worker.ours or not worker.forget():
                worker.kill()  # nobody wants what it works on
                ended.append(worker)
            else:
                self._pool.give_back(worker)
        for worker in ended:
            self._pool.remove(worker)
            worker.reap(5.0)
        self._seats.clear()
        self._waiting.clear()
        self._running = 0
        if self._owns_pool:
            self._pool.shutdown()

    # --- to the workers ---

    def _seat(self, worker: Worker) -> None:
        seat = _Seat(worker)
        self._seats.append(seat)
        self._selector.register(worker.inbox, selectors.EVENT_READ, seat)
        worker.open(self._function, blas_threads=self._blas_threads, code=self._code() if worker.opened else "")
        self._watch_outbox(seat)

    def _code(self) -> str:
        """Empty where the function travels with its code."""
        if self._by_value or b"cloudpickle" in self._function[0]:
            return ""
        from everloop.parallel.identity import func_hash

        return func_hash(self._func)

    def _hand_out(self) -> None:
        """Each waiting parcel to the worker with the least to do, while there is one with too little."""
        while self._waiting:
            best, least = None, self._pace.depth
            for seat in self._seats:
                if len(seat.queue) < least and seat.ready and not seat.writing:
                    best, least = seat, len(seat.queue)
            if best is None:
                return
            self._send(best, self._waiting.popleft())

    def _send(self, seat: _Seat, parcel: _Parcel) -> None:
        chunk, items = parcel.chunk, parcel.items
        assert items is not None
        seat.queue.append(parcel)
        parcel.items = None
        flags = frames.SEPARATE if parcel.separate else 0
        timeout = chunk.timeout or 0.0
        if len(seat.queue) > 1 and seat.held < _HELD and parcel.size < _SHORT:
            seat.worker.hold(chunk.number, items, chunk.slice, timeout, flags=flags)
            seat.held += 1
            return
        seat.held = 0
        seat.worker.send(chunk.number, items, chunk.slice, timeout, flags=flags)  # its death shows in collect
        if seat.worker.outbox:
            self._watch_outbox(seat)

    def _send_held(self) -> None:
        for seat in self._seats:
            if seat.held:
                seat.held = 0
                seat.worker.outbox.flush()
                self._watch_outbox(seat)

    def _watch_outbox(self, seat: _Seat) -> None:
        wanted = bool(seat.worker.outbox)
        if wanted and not seat.writing:
            self._selector.register(seat.worker.outlet, selectors.EVENT_WRITE, seat)
        elif seat.writing and not wanted:
            self._selector.unregister(seat.worker.outlet)
        seat.writing = wanted

    def _write(self, seat: _Seat) -> None:
        if not seat.worker.outbox.flush():  # it is dead, which its inbox tells
            self._selector.unregister(seat.worker.outlet)
            seat.writing = False
        else:
            self._watch_outbox(seat)

    # --- from the workers ---

    def _read(self, seat: _Seat, done: list[Done]) -> None:
        reader = seat.worker.reader
        while reader.fill():
            while (frame := reader.next()) is not None:
                self._take(seat, frame, done)
            if not reader.midway:
                return
        if reader.ended:
            self._bury(seat, done)

    def _take(self, seat: _Seat, frame: Frame, done: list[Done]) -> None:
        if frame.kind == frames.RESULT:
            parcel = seat.queue.popleft()
            seat.beat = None
            self._running -= 1
            done.append(self._done(seat, parcel, frame))
        elif frame.kind == frames.BEAT:
            seat.beat = frame.numbers[0], frame.count
        elif frame.kind == frames.BACK:
            self._running -= 1
            done.append(Done(seat.queue.popleft().chunk, [], 0, worker=seat.worker.pid))
        elif frame.kind == frames.UNREADABLE:
            self._send_separately(seat.queue.popleft())
        elif frame.kind == frames.HELLO:
            seat.ready = True
            self._stillborn = 0
            seat.worker.spawn_seconds = self.startup.spawn_seconds = frame.numbers[0] - seat.worker.begun
            self._pool.started(seat.worker)
        elif frame.kind == frames.LOADED and frame.number == seat.worker.opened:
            if frame.flags & frames.BROKEN:
                self._open_by_value(str(frame.payload, "utf-8"))
            else:
                self.startup.load_seconds = frame.numbers[0]

    def _done(self, seat: _Seat, parcel: _Parcel, frame: Frame) -> Done:
        chunk, (seconds, squares, cpu_seconds) = parcel.chunk, frame.numbers
        self._pace.note(seconds + (parcel.size + frame.size) * _PER_BYTE)
        try:
            values, failures = unpack(chunk, frame.count, frame.flags, frame.payload, frame.parts)
        except Spoiled:
            return Done(chunk, [], 0, worker=seat.worker.pid, spoiled=True)
        return Done(
            chunk,
            values,
            frame.count,
            seconds,
            squares,
            cpu_seconds,
            parcel.size,
            frame.size,
            seat.worker.pid,
            failures,
        )

    def _send_separately(self, parcel: _Parcel) -> None:
        """One of its items cannot be unpickled there. Nothing has run."""
        chunk = parcel.chunk
        singles, _ = payload.dump_each(chunk.items, from_main=True)
        self._waiting.appendleft(_Parcel(chunk, (singles, []), separate=True))

    def _open_by_value(self, why: str) -> None:
        """The function's module cannot be imported there (it was made at run time), or is another one there (it was reloaded here)."""
        if not self._by_value:
            self._by_value = True
            try:
                self._function = payload.dump_function(self._func, by_value=True)
            except NotPicklable as error:
                raise NotPicklable(f"the function cannot be loaded in a worker process: {why}; and {error}") from error
            for seat in self._seats:
                seat.worker.open(self._function, blas_threads=self._blas_threads)
                self._watch_outbox(seat)
        else:
            raise NotPicklable(
                f"the function cannot be loaded in a worker process: {why}; executor='thread' loads nothing"
            )

    # --- deaths ---

    def _patience(self, until: float) -> float:
        earliest = min(map(self._overdue, self._seats), default=math.inf) if self._limited else math.inf
        return max(0.0, min(_LOOK, min(until, earliest) - time.monotonic()))

    def _overdue(self, seat: _Seat) -> float:
        if seat.beat is None:
            return math.inf
        return seat.beat[0] + (seat.queue[0].chunk.timeout or math.inf) + self._grace

    def _look_at_silent_ones(self, now: float, done: list[Done]) -> None:
        if self._limited:
            for seat in [seat for seat in self._seats if now > self._overdue(seat)]:
                self._bury(seat, done, late=True)
        if now - self._looked > _LOOK:
            self._looked = now
            for seat in [seat for seat in self._seats if not seat.worker.alive]:
                self._read(seat, done)  # its last words
                if not seat.gone:
                    self._bury(seat, done)

    def _bury(self, seat: _Seat, done: list[Done], *, late: bool = False) -> None:
        worker = seat.worker
        self._seats.remove(seat)
        seat.gone = True
        self._selector.unregister(worker.inbox)
        if seat.writing:
            self._selector.unregister(worker.outlet)
        self._pool.remove(worker)
        pid = worker.pid
        worker.kill()  # what it has started does not stay
        status = last_words(worker.reap(5.0))
        self._running -= len(seat.queue)
        for place, parcel in enumerate(seat.queue):
            lost = Done(parcel.chunk, [], 0, worker=pid)
            if place == 0:  # the others had not begun
                lost.late = late
                lost.lost = (
                    f"item {parcel.chunk.first + seat.beat[1]} outstayed its timeout" if late and seat.beat else status
                )
            done.append(lost)
        seat.queue.clear()
        if not seat.ready:
            self._stillborn += 1
        if self._stillborn >= _STILLBORN:
            raise WorkerDied(f"worker processes die while they start ({status}); what they said is on stderr")
        self._replace()

    def _replace(self) -> None:
        try:
            leased = self._pool.lease(1, self._blas_threads)
        except OSError:  # no more processes to be had: fewer will do
            if not self._seats:
                raise
            return
        for worker in leased:
            self._seat(worker)

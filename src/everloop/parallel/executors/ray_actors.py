"""Ray: one actor for each worker, wherever in the cluster Ray places it. For work that more machines than this one share.

A call costs up to a millisecond, so this is never chosen for work that is here. An actor runs its chunks one after the other, hence the
first that it owes is the one that was lost with it. Where Ray does not run yet, a local one is started, without dashboard and without
telling anybody; it stays until the program ends or calls `ray.shutdown()`.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

from everloop.core.errors import MissingExtra, NotPicklable, WorkerDied
from everloop.parallel import nesting, payload
from everloop.parallel.executors.frames import SEPARATE
from everloop.parallel.executors.pacing import Pace
from everloop.parallel.executors.packing import Alarm, Spoiled, Unreadable, run_packed, unpack
from everloop.parallel.work import Chunk, Done, ExecutorKind

_GRACE = 5.0
"""Seconds that a chunk may take beyond all its items' timeouts before its actor is killed."""
_STILLBORN = 3
_TOO_SLOW = "timed out during startup"
"""Part of what Ray says after half a minute in which one of its processes has not come up: tried once more."""


class _Actor:
    """What runs at the other end. Its answers are bytes, which Ray passes on as they are."""

    def load(self, function: bytes, depth: int) -> tuple[float, str]:
        """Seconds, and why it could not be loaded."""
        from everloop.core.errors import explain

        nesting.enter(depth, whole_process=True)
        self._alarm = Alarm()
        begun = time.perf_counter()
        try:
            self._func = payload.load(function)
        except BaseException as error:
            return 0.0, explain(error)
        return time.perf_counter() - begun, ""

    def run(self, items: bytes, flags: int, slice_seconds: float, timeout: float) -> bytes:
        """b"" where some item cannot be unpickled."""
        func = self._alarm.limit(self._func, timeout) if timeout > 0 else self._func
        try:
            tally, flags, body, parts = run_packed(func, items, [], flags=flags, slice_seconds=slice_seconds)
        except Unreadable:
            return b""
        buffers = [bytearray(part) for part in parts]  # arrays over them can be written to, over bytes they cannot
        answer = (len(tally.values), tally.seconds, tally.squares, tally.cpu_seconds, flags, body, buffers)
        return payload.dump_one(answer, from_main=False)


class _Sent:
    __slots__ = ("chunk", "flags", "size")

    def __init__(self, chunk: Chunk, flags: int, size: int) -> None:
        self.chunk = chunk
        self.flags = flags
        self.size = size


class _Seat:
    def __init__(self, actor: Any, loading: Any, ordinal: int) -> None:
        self.actor = actor
        self.loading = loading
        """The reference to what `load` answers; None once it has."""
        self.ordinal = ordinal
        self.queue: deque[tuple[Any, _Sent]] = deque()
        """References to the answers that it owes, in the order in which they will come."""
        self.since = time.monotonic()
        """When it can have begun the first of them, at the latest."""


class RayExecutor:
    kind: ExecutorKind = "ray"

    def __init__(self, func: Callable[[Any], Any], workers: int, *, grace: float = _GRACE) -> None:
        """Fewer workers than asked for where the cluster has fewer CPUs. Raises NotPicklable, MissingExtra."""
        ray = _imported()
        self._func = func
        self._by_value = False
        self._grace = grace
        body, parts = payload.dump_function(func)
        self._function = payload.dump_one(func, from_main=True) if parts else body
        self._ray = ray
        _start(ray, workers)
        self.workers = max(1, min(workers, int(ray.cluster_resources().get("CPU", 1))))
        self._class = ray.remote(num_cpus=1, max_restarts=0)(_Actor)
        self._pace = Pace()
        self._waiting: deque[tuple[_Sent, bytes]] = deque()
        self._running = 0
        self._ordinal = 0
        self._stillborn = 0
        self._closed = False
        self._seats: list[_Seat] = []
        self._shared = ray.put(self._function)
        for _ in range(self.workers):
            self._start_one()

    @property
    def room(self) -> int:
        return max(0, self._pace.depth * self.workers - self._running)

    @property
    def running(self) -> int:
        return self._running

    def submit(self, chunk: Chunk) -> None:
        items, parts = payload.dump_items(chunk.items, chunk.first)
        if parts:
            items = payload.dump_one(chunk.items, from_main=True)
        self._running += 1
        self._waiting.append((_Sent(chunk, 0, len(items)), items))
        self._hand_out()

    def collect(self, timeout: float | None = None) -> list[Done]:
        until = math.inf if timeout is None else time.monotonic() + timeout
        done: list[Done] = []
        while self._running and not done:
            now = time.monotonic()
            overdue = min((self._overdue(seat) for seat in self._seats), default=math.inf)
            owed = [seat.loading or seat.queue[0][0] for seat in self._seats if seat.loading or seat.queue]
            nap = max(0.0, min(until, overdue) - now)
            ready, _ = self._ray.wait(owed, timeout=nap if nap < math.inf else None)
            for seat in list(self._seats) if ready else ():
                self._gather(seat, done)
            now = time.monotonic()
            for seat in [seat for seat in self._seats if now > self._overdue(seat)]:
                self._bury(seat, done, "killed: an item outstayed its timeout", late=True)
            self._hand_out()
            if now >= until:
                break
        return done

    def close(self, *, kill: bool = False) -> None:  # noqa: ARG002 - an actor ends either way
        if self._closed:
            return
        self._closed = True
        for seat in self._seats:
            # Ray ends an actor that nobody holds once it is up. One that is killed as it comes up may leave its CPU taken for good (2.60).
            if seat.loading is None:
                self._ray.kill(seat.actor, no_restart=True)
        self._seats.clear()
        self._waiting.clear()
        self._running = 0

    def _start_one(self) -> None:
        self._ordinal += 1
        actor = self._class.remote()
        self._seats.append(_Seat(actor, actor.load.remote(self._shared, nesting.depth() + 1), self._ordinal))

    def _hand_out(self) -> None:
        while self._waiting:
            free = [seat for seat in self._seats if seat.loading is None and len(seat.queue) < self._pace.depth]
            if not free:
                return
            seat = min(free, key=lambda each: len(each.queue))
            sent, items = self._waiting.popleft()
            if not seat.queue:
                seat.since = time.monotonic()
            chunk = sent.chunk
            reference = seat.actor.run.remote(items, sent.flags, chunk.slice, chunk.timeout or 0.0)
            seat.queue.append((reference, sent))

    def _gather(self, seat: _Seat, done: list[Done]) -> None:
        """What has come of it."""
        try:
            if seat.loading is not None:
                if not self._here(seat.loading):
                    return
                _, why = self._ray.get(seat.loading)
                seat.loading = None
                self._stillborn = 0
                if why:
                    self._load_by_value(why)
            while seat.queue and self._here(seat.queue[0][0]):
                answer = self._ray.get(seat.queue[0][0])
                _, sent = seat.queue.popleft()
                seat.since = time.monotonic()
                self._take(seat, sent, answer, done)
        except self._ray.exceptions.RayError as error:  # the actor's process or its machine is gone
            self._bury(seat, done, str(error).strip().partition("\n")[0])

    def _here(self, reference: Any) -> bool:
        ready, _ = self._ray.wait([reference], timeout=0)
        return bool(ready)

    def _take(self, seat: _Seat, sent: _Sent, answer: bytes, done: list[Done]) -> None:
        chunk = sent.chunk
        if not answer:
            singles, _ = payload.dump_each(chunk.items, from_main=True)
            self._waiting.appendleft((_Sent(chunk, SEPARATE, len(singles)), singles))
            return
        self._running -= 1
        count, seconds, squares, cpu_seconds, flags, body, parts = payload.load(answer)
        try:
            values, failures = unpack(chunk, count, flags, body, parts)
        except Spoiled:
            done.append(Done(chunk, [], 0, worker=seat.ordinal, spoiled=True))
            return
        self._pace.note(seconds)
        done.append(
            Done(
                chunk,
                values,
                count,
                seconds,
                squares,
                cpu_seconds,
                sent.size,
                len(answer),
                worker=seat.ordinal,
                failures=failures,
            )
        )

    def _load_by_value(self, why: str) -> None:
        """The function's module cannot be imported there."""
        failed = f"the function cannot be loaded in a Ray worker: {why}"
        if self._by_value:
            raise NotPicklable(failed)
        self._by_value = True
        try:
            self._function = payload.dump_function(self._func, by_value=True)[0]
        except NotPicklable as error:
            raise NotPicklable(f"{failed}; and {error}") from error
        self._shared = self._ray.put(self._function)
        for seat in self._seats:
            seat.loading = seat.actor.load.remote(self._shared, nesting.depth() + 1)

    def _overdue(self, seat: _Seat) -> float:
        if not seat.queue or (chunk := seat.queue[0][1].chunk).timeout is None:
            return math.inf
        longest = min(len(chunk.items) * chunk.timeout, chunk.slice + chunk.timeout)
        return seat.since + longest + self._grace

    def _bury(self, seat: _Seat, done: list[Done], why: str, *, late: bool = False) -> None:
        self._ray.kill(seat.actor, no_restart=True)
        self._seats.remove(seat)
        self._running -= len(seat.queue)
        for place, (_, sent) in enumerate(seat.queue):
            lost = why if place == 0 else None
            done.append(Done(sent.chunk, [], 0, worker=seat.ordinal, lost=lost, late=late and place == 0))
        self._stillborn += seat.loading is not None
        if self._stillborn >= _STILLBORN:
            raise WorkerDied(f"Ray's workers die while they start: {why}")
        self._start_one()


_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # What Ray will do by itself, and warns of until then.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # One machine, on its loopback address: Ray's way on macOS and Windows, hence the name, and all that a local one needs anywhere.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""For the Ray that we start; what the user has set counts for more, and so does a Ray that runs. Some of it is read at the import."""


def _imported() -> Any:
    import sys

    if "ray" not in sys.modules:
        _settle()
    try:
        import ray
    except ImportError as error:
        raise MissingExtra.of("ray", "executor='ray'") from error
    return ray


def _settle() -> None:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def _start(ray: Any, workers: int) -> None:
    if ray.is_initialized():
        return
    from everloop.parallel.machine import here

    _settle()

    def start() -> None:
        ray.init(
            address="local",
            num_cpus=max(workers, here().cores),
            include_dashboard=False,
            configure_logging=False,
            _node_ip_address="127.0.0.1",
        )

    try:
        start()
    except Exception as error:  # Ray has no class of its own for it
        if _TOO_SLOW not in str(error):
            raise
    else:
        return
    _clear_away()
    start()


def _clear_away() -> None:
    """What Ray leaves running where it gives up."""
    import psutil

    left = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("/ray/" in part for part in each.cmdline()):
                each.kill()
                left.append(each)
    psutil.wait_procs(left, timeout=_GRACE)
    with warnings.catch_warnings():  # it never asks how they ended
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()

"""The door of one batcher's queue, and the memory that all queues of a process share. What is decided is `policy.admission`'s.

    Hall (one a process)   bytes that wait, of all lanes together
      └ Admission (one a batcher)   rows that wait, by caller

Nobody is counted as long as there is room: a batcher asks only beyond its `easy` number of waiting rows, where the next batch is full
already, or where a request brings a deadline. The callers of those that wait are looked at when one is first asked about, and followed
until the queue is empty.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from everloop.core.errors import DeadlineExceeded, EverloopError, Overloaded
from everloop.policy import admission
from everloop.policy.admission import Curve, Ground, Limits, Refused

if TYPE_CHECKING:
    from everloop.serving.config import ServingConfig

MOST_BYTES = 512 << 20
RECENT_SECONDS = 5.0
"""How long after its last refusal a lane is said to be overloaded."""


class Hall:
    """What waits in all queues of one process, in bytes of decoded input. Safe from any thread."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        self.used = 0
        self._lock = threading.Lock()

    def change(self, difference: int) -> None:
        with self._lock:
            self.used += difference

    def room(self, held: int, size: int) -> bool:
        """Whether a queue that holds `held` may take `size` more: as much as is free, and no more than its share. An empty hall has
        room for anything."""
        free = self.most - self.used
        return self.used <= 0 or (size <= free and admission.within_share(held, free - size))


class Admission:
    """Used by its batcher's thread; what it has counted is read from any."""

    def __init__(self, model: str, limits: Limits, hall: Hall) -> None:
        self.limits = limits
        self.grounds: dict[Ground, int] = {}
        """Requests turned away, by why."""
        self.last: float | None = None
        """When that was last for want of room (`time.perf_counter`)."""
        self._model = model
        self._hall = hall
        self._bytes = 0
        """In the hall, of this queue."""
        self._held: dict[Hashable, int] | None = None
        """Rows that wait, by caller; None as long as nobody asked."""

    def easy(self, size: int, left: float, curve: Curve) -> int:
        """Waiting rows below which a single row is accepted, whoever brings it, behind a run that takes `left` seconds or one of `size`
        rows: as far as the next batch reaches, or a half of it, a quarter …"""
        left, room = max(left, curve.likely(size)), size
        while room:
            last = room - 1
            if admission.refuse(self.limits, curve, size=size, left=left, waiting=last, rows=1, held=last) is None:
                return room
            room //= 2
        return 0

    def check(
        self,
        caller: Hashable,
        rows: int,
        weight: int,
        *,
        size: int,
        left: float,
        waiting: int,
        curve: Curve,
        time_left: float | None,
        tickets: Sequence[Any],
        counts: Sequence[int] | None,
    ) -> EverloopError | None:
        """Why a request of `rows` rows and `weight` bytes may not join those that wait (`tickets`, of so many rows each: 0, or `counts` None, for single
        ones); None: it may, and is counted. The rest as `policy.admission.refuse`."""
        held = self._held
        if held is None:
            held = self._held = {}
            for i, ticket in enumerate(tickets):
                who = getattr(ticket, "caller", None)
                held[who] = held.get(who, 0) + ((counts and counts[i]) or 1)
        own = held.get(caller, 0)
        refused = admission.refuse(
            self.limits,
            curve,
            size=size,
            left=left,
            waiting=waiting,
            rows=rows,
            held=own if caller is not None else 0,
            time_left=time_left,
        )
        if refused is None and not self._hall.room(self._bytes, weight):
            wait = admission.predicted_wait(left, waiting, size, curve)
            refused = Refused("memory", wait, max(admission.LEAST_RETRY, wait))
        if refused is not None:
            return self.turn_away(refused, rows)
        held[caller] = own + rows
        self._keep(self._bytes + weight)
        return None

    def turn_away(self, refused: Refused, rows: int) -> EverloopError:
        """Counted, and in words."""
        self.count(refused.ground)
        what = "this request was" if rows == 1 else f"the {rows} rows of this request were"
        if refused.ground == "deadline":
            return DeadlineExceeded(
                f"model {self._model!r} takes longer for this request than its deadline leaves; {what} not run"
            )
        why = {
            "queue": f"is overloaded: others would hold an answer up by some {refused.wait * 1e3:.0f} ms",
            "share": "is overloaded, and this caller has its share of those who wait",
            "memory": f"has no room for more: all models together hold {self._hall.used >> 20} MiB that wait",
        }[refused.ground]
        return Overloaded(f"model {self._model!r} {why}; {what} not accepted", retry_after=refused.retry_after)

    def count(self, ground: Ground) -> None:
        """One more was turned away."""
        self.grounds[ground] = self.grounds.get(ground, 0) + 1
        if ground != "deadline":
            self.last = perf_counter()

    def left(self, tickets: Sequence[Any], counts: Sequence[int] | None, waiting: int) -> None:
        """These have left the queue, in which `waiting` rows remain."""
        held = self._held
        if held is not None:
            if not waiting:
                self._held = None
            else:
                for i, ticket in enumerate(tickets):
                    who = getattr(ticket, "caller", None)
                    rest = held.get(who, 0) - ((counts and counts[i]) or 1)
                    if rest > 0:
                        held[who] = rest
                    else:
                        held.pop(who, None)
        if self._bytes:
            gone = sum((counts and counts[i]) or 1 for i in range(len(tickets)))
            self._keep(self._bytes * waiting // (waiting + gone) if waiting else 0)

    def _keep(self, size: int) -> None:
        self._hall.change(size - self._bytes)
        self._bytes = size


def limits_of(config: ServingConfig) -> Limits:
    """What a model's settings say of waiting."""
    wait, target = config.max_wait_ms, config.target_latency_ms
    return Limits(
        max_wait=wait / 1e3 if wait else None,
        target=target / 1e3 if target else None,
    )

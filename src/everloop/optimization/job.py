"""One attempt, in a process of its own: what goes there, what comes back, and the thread that waits for it.

Bytes go in and bytes come out, both msgpack: the process opens the model, which may run somebody's code, and nothing that comes back is run
or unpickled here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from everloop.core.errors import EverloopError, explain
from everloop.core.types import Row, Scalar
from everloop.runtime.artifact import Trust
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from everloop.optimization.figures import Figures
    from everloop.parallel.executors.calling import Caller

NICENESS = 15
"""A thirtieth of a core that somebody else wants, too (sched(7)): answers hardly notice, and on a server that is always busy, which needs it
most, it still comes to an end."""
_WAITING = 10.0
"""How many times its processor time an attempt may take on a busy machine."""
LEAST_GAIN = 1.1
"""How many times as fast a form has to answer all that is asked to be worth a version: less than that, another measurement may not find."""
LEAST_ANYWHERE = 0.95
"""… and at each of the sizes that are asked."""
_ALONE = {1: 1}
"""What is asked where nobody has counted: row by row."""
_COMPARING = 60.0
"""Most seconds that measuring and comparing take, of all of an attempt."""
_COMMON = 0.05
"""Share of the rows that came in batches of some size, from which on that size is measured."""


class Job(msgspec.Struct, frozen=True):
    manifest: Manifest
    payload: bytes
    rows: list[Row]
    labels: list[Scalar] | None
    int8: bool
    sizes: list[int]
    """Rows of the batches that the server sees, besides those that are always measured."""
    asked: dict[int, int]
    """Rows of a batch -> how many such batches it has seen."""
    seconds: float
    trust: Trust
    open_apart: bool = True
    """Whether each form is opened in one more process, for its memory and the seconds it takes."""

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        payload: bytes,
        *,
        rows: Sequence[Row],
        labels: Sequence[Scalar] | None,
        int8: bool,
        sizes: Mapping[int, int],
        seconds: float,
        trust: Trust,
    ) -> Job:
        """`sizes`: rows of a batch -> how many of them there were; nothing: nobody has counted."""
        return cls(
            manifest,
            payload,
            list(rows),
            None if labels is None else list(labels),
            int8,
            common(sizes),
            dict(sizes),
            seconds,
            trust,
        )


class Outcome(msgspec.Struct, frozen=True):
    """What came of an attempt. Without a manifest and an error, the original is the best form there is."""

    manifest: Manifest | None = None
    payload: bytes = b""
    why: str = ""
    """What was chosen, and what for; or why nothing was."""
    error: str = ""
    """What kept it from coming to an end."""
    stopped: str = ""
    """Why nobody waited for its end: it may be made again."""
    told: dict[str, Any] = {}
    """For the timeline: what was chosen, how much faster it is, and what was dropped."""


def common(sizes: Mapping[int, int]) -> list[int]:
    """Sizes of batches that a good part of the rows came in."""
    rows = {size: size * count for size, count in sizes.items() if count > 0}
    total = sum(rows.values())
    return sorted(size for size, count in rows.items() if count >= _COMMON * total)


def make(data: bytes) -> bytes:
    """In the process: msgpack of a `Job` -> msgpack of an `Outcome`."""
    try:
        outcome = _made(msgspec.msgpack.decode(data, type=Job))
    except (Exception, SystemExit) as error:  # a model may well call sys.exit
        outcome = Outcome(error=explain(error))
    return msgspec.msgpack.encode(outcome)


def _made(job: Job) -> Outcome:
    from everloop.optimization.variants import SIZES, Wishes, optimise

    report = optimise(
        job.manifest,
        job.payload,
        job.rows,
        job.labels,
        wishes=Wishes(
            int8=job.int8,
            sizes=tuple(sorted({*SIZES, *job.sizes})),
            max_seconds=min(_COMPARING, job.seconds / 4),
            open_apart=job.open_apart,
        ),
        trust=job.trust,
    )
    figures, chosen = report.figures, report.chosen
    speedups = {str(size): round(gain, 3) for size, gain in zip(figures.sizes, figures.gains, strict=True)}
    told = {
        "chosen": chosen.name,
        "speedups": speedups,
        "bytes": {"before": len(job.payload), "after": len(chosen.payload)},
        "dropped": {form.name: form.why or form.fate for form in figures.forms if form.fate not in {"chosen", "kept"}},
    }
    if not report.changed:
        return Outcome(why=report.why, told=told)
    if why := _too_little(figures, job.asked):
        return Outcome(why=f"{why}: {report.why}", told=told)
    return Outcome(chosen.manifest, chosen.payload, report.why, told=told)


def _too_little(figures: Figures, asked: Mapping[int, int]) -> str:
    """Why what was chosen is not worth a version to those who ask; empty if it is."""
    seen = {size: asked[size] for size in figures.sizes if asked.get(size)} or _ALONE
    gains = dict(zip(figures.sizes, figures.gains, strict=True))
    slower = [size for size in seen if gains.get(size, 1.0) < LEAST_ANYWHERE]
    if slower:
        return f"the best that there is is slower for who asks {slower[0]:,} row{'s' * (slower[0] != 1)} at once"
    gain = figures.gain(seen)
    return (
        ""
        if gain >= LEAST_GAIN
        else f"the best that there is gains too little on what is asked ({gain:.2f} times as fast)"
    )


class Running:
    """An attempt under way. Safe from any thread."""

    def __init__(self, job: Job, on_end: Callable[[], None], *, niceness: int = NICENESS) -> None:
        """`on_end` is called once, on the thread that waits for it."""
        self._niceness = niceness
        self._limit = job.seconds
        self._lock = threading.Lock()
        self._caller: Caller | None = None
        self._killed = False
        self._outcome: Outcome | None = None
        self._begun = time.monotonic()
        self._ended = threading.Event()
        data = msgspec.msgpack.encode(job)
        self._thread = threading.Thread(target=self._run, args=(data, on_end), name="everloop-optimize", daemon=True)
        self._thread.start()

    def poll(self) -> bool:
        """Whether it has ended; one that has waited too long for a core is ended now."""
        if time.monotonic() - self._begun > _WAITING * self._limit:
            self.kill()
        return self._ended.is_set()

    def outcome(self) -> Outcome:
        """Waits for it."""
        self._ended.wait()
        assert self._outcome is not None
        return self._outcome

    def kill(self) -> None:
        """At once, with whatever processes it has started; returns when it is gone."""
        with self._lock:
            self._killed = True
            if self._caller is not None:
                self._caller.kill()
        self._thread.join()

    def _run(self, data: bytes, on_end: Callable[[], None]) -> None:
        try:
            outcome = self._call(data)
        except EverloopError as error:  # its process died, or took too long
            outcome = Outcome(error=error.message)
        except Exception as error:  # no process can be started, or what it said is nothing of ours
            outcome = Outcome(error=explain(error))
        self._outcome = outcome
        self._ended.set()
        on_end()

    def _call(self, data: bytes) -> Outcome:
        from everloop.parallel.executors.calling import Caller

        with self._lock:
            if self._killed:
                return Outcome(stopped="nobody waits for it any more")
            caller = self._caller = Caller(make, niceness=self._niceness)
        try:
            return msgspec.msgpack.decode(caller.call(data, self._limit, own_time=True), type=Outcome)
        finally:
            caller.close()

"""One run: items in, results out, whatever executor does the work.

The loop is on the caller's thread. A turn of it sends out what there is room for, waits for something to come back, and settles that. A
stream is turned by its consumer's `next()`: nothing runs ahead, and nothing is read, that nobody waits for.

    feed ──chunk──> executor ──done──> settlement ──segment──> waiting ──> the caller
      └── backlog <── rests, retries, what was lost ──┘

What holds at every moment: each item that was read is in exactly one of four places (with the executor, in the backlog, waiting to be
handed out, handed out), and those not yet handed out are at most the buffer's size. So no item is lost where a worker is, and none comes
twice.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any
from weakref import ReferenceType, ref

from everloop.core.clock import Clock, SystemClock
from everloop.core.errors import Closed, ItemFailed, NotPicklable
from everloop.parallel.backpressure import CHECK_EVERY, Gate
from everloop.parallel.buffer import Buffer
from everloop.parallel.chunking import Chunking
from everloop.parallel.executors.base import Executor
from everloop.parallel.failures import Failures
from everloop.parallel.feeding import Feed
from everloop.parallel.hooks import ChunkDone, Ended, ExecutionHooks, Started
from everloop.parallel.options import RunOptions
from everloop.parallel.ordering import AsTheyCome, InOrder, Segment, Waiting
from everloop.parallel.plan import Plan
from everloop.parallel.progress import Ticker, bar_for
from everloop.parallel.replanning import Doubts
from everloop.parallel.report import RunReport
from everloop.parallel.retrying import Backlog
from everloop.parallel.settling import Settlement
from everloop.parallel.source import Source
from everloop.parallel.telemetry import Announcer
from everloop.parallel.work import Chunk, Done

PUMP_EVERY = 0.0005
"""Seconds between two looks at the workers while results are being handed out."""
LINGER = 0.01
"""Seconds that a stream's input is read at a time: what is there by then sets out, and results that are ready are handed out."""
LONG_PAUSE = 0.001
"""Seconds: a consumer that is away for longer would let workers wait, so they are sent chunks ahead."""

Replan = Callable[[RunReport, int | None], Plan | None]


class Run:
    """Carries out `plan` once: by `results()` or by iteration, then it is over.

    `items` is what comes after `done`, the chunks that a dry run has already worked off (from index 0 on); `total` counts both. `replan`
    is asked for another plan where reality differs (see `replanning`); its None lets things be.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        items: Iterable[Any] | Source,
        plan: Plan,
        options: RunOptions,
        *,
        total: int | None = None,
        done: Sequence[Done] = (),
        hooks: Sequence[ExecutionHooks] = (),
        open_executor: Callable[[Plan], Executor],
        replan: Replan | None = None,
        clock: Clock | None = None,
        memory_in_use: Callable[[], float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.report = RunReport(plan)
        self.label = options.label or getattr(func, "__qualname__", type(func).__qualname__)
        self._func = func
        self._items = items
        self._plan = plan
        self._options = options
        self._total = total
        self._sampled = done
        self._open_executor = open_executor
        self._replan = replan
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._rng = rng
        self._memory_in_use = memory_in_use
        self._announcer = Announcer(hooks)
        self._chunking = Chunking(plan, plan.item_seconds)
        self._doubts = Doubts(plan)
        self._gate: Gate | None = None
        self._ticker: Ticker | None = None
        self._resources = ExitStack()
        self._executor: Executor | None = None
        self._next_plan: Plan | None = None
        self._stream: ReferenceType[Generator[Any, None, None]] | None = None
        """Held by who iterates, not by us: a stream that nobody holds any more ends at once."""
        self._begun = False
        self._eager = False
        self._reading_since = 0.0
        self._slow_input = False
        """The last chunk took so long to read that it is better to look what is ready before the next."""
        self._in_flight = 0
        self._turned = 0.0
        self._last_pause = 0.0
        self._away = 0.0

    def results(self) -> list[Any]:
        """Every result, in the order of the items. An item that fails for good with `on_error="raise"` ends it at once."""
        self._eager = True
        results: list[Any] = []
        with closing(self._segments()) as segments:
            for segment in segments:
                results += segment
        return results

    def __iter__(self) -> Iterator[Any]:
        """Results as they are asked for. In order, an item's exception comes in its place, after the results before it."""
        stream = self._stream() if self._stream is not None else None
        if stream is None:
            stream = _each(self._segments())
            self._stream = ref(stream)
        return stream

    def close(self) -> None:
        """End a stream before its time: its workers are freed. Idempotent."""
        stream = self._stream() if self._stream is not None else None
        if stream is not None:
            stream.close()

    def _segments(self) -> Generator[list[Any], None, None]:
        if self._begun:
            raise Closed("a run is carried out once: make another one")
        self._begun = True
        problem: BaseException | None = None
        self._started = self._clock.monotonic()
        try:
            self._start()
            yield from self._loop()
        except BaseException as error:
            problem = error
            raise
        finally:
            self._finish(problem)

    def _loop(self) -> Iterator[list[Any]]:
        while True:
            while (segment := self._waiting.pop()) is not None:
                yield from self._hand_out(segment)
            fault = self._settlement.fault
            if fault is not None and (self._eager or self._waiting.reached(fault.index)):
                raise _raisable(fault.error)
            if self._feed.exhausted and not self._in_flight:
                break
            self._turn()
        if self._source.error is not None:
            raise self._source.error

    def _start(self) -> None:
        options, report, clock = self._options, self.report, self._clock
        self._source = self._items if isinstance(self._items, Source) else Source(self._items)
        if self._total is None and self._source.left is not None:
            self._total = self._source.left + sum(done.count for done in self._sampled)
        self._backlog = Backlog()
        self._waiting: Waiting = InOrder() if self._eager or self._plan.ordered else AsTheyCome()
        self._buffer = Buffer(self._plan, report, self._waiting)
        failures = Failures(options, report, clock, announcer=self._announcer, label=self.label, rng=self._rng)
        self._resources.callback(failures.close)
        checkpoint = None
        if options.checkpoint is not None:
            from everloop.parallel.checkpoint import Checkpoint

            checkpoint = Checkpoint.open(options.checkpoint, self._func, clock, options.checkpoint_interval)
            self._resources.enter_context(checkpoint)
        self._settlement = Settlement(
            options,
            report,
            clock,
            source=self._source,
            backlog=self._backlog,
            buffer=self._buffer,
            waiting=self._waiting,
            failures=failures,
            checkpoint=checkpoint,
        )
        self._feed = Feed(
            options,
            source=self._source,
            backlog=self._backlog,
            buffer=self._buffer,
            settlement=self._settlement,
            total=self._total,
            enough=None if self._eager else self._read_long_enough,
        )
        if self._source.left is not None:  # the end can be told from the beginning
            self._settlement.input_ended(self._source.left + sum(done.count for done in self._sampled))
        if options.memory_threshold is not None:
            self._gate = Gate(options.memory_threshold, self._memory_in_use or _memory_in_use())
        bar = bar_for(options.progress)
        if bar is not None:
            self._announcer.add(bar)
        if self._announcer.listens("on_progress"):
            self._ticker = Ticker(self.label, self._total, self._started)
        if self._announcer:
            self._announcer.tell("on_start", Started(self.label, self._total, self._plan))
        for done in self._sampled:
            self._buffer.took(len(done.chunk.items))
            report.sampled += done.count
            report.sampled_seconds += done.seconds
            self._take_in(done)

    def _hand_out(self, segment: Segment) -> Iterator[list[Any]]:
        left = self._clock.monotonic()
        yield segment.values
        now = self._clock.monotonic()
        self._last_pause = now - left
        self._away += self._last_pause
        self._buffer.handed_out(segment.span)
        if not self._eager and now - self._turned >= PUMP_EVERY:
            self._turn(wait=False)

    def _turn(self, *, wait: bool = True) -> None:
        """Send out what there is room for, take in what is back."""
        if self._next_plan is None:
            if wait or not self._slow_input:  # nobody shall wait for input while results are ready
                self._submit()
        elif not self._in_flight:
            self._change_plan(self._next_plan)
            self._submit()
        patience = self._patience() if wait and not self._slow_input else 0.0
        if not self._in_flight or self._executor is None:
            if patience:
                self._clock.wait(threading.Event(), patience)
        elif wait or self._executor.kind != "serial":  # serial work is done in `collect`: not while results are there
            for done in self._executor.collect(patience):
                self._in_flight -= 1
                self._take_in(done)
            self._reconsider()
        self._turned = self._clock.monotonic()
        if self._ticker is not None:
            self._tell_progress(self._ticker)

    def _patience(self) -> float | None:
        """Seconds until something has to be done even if nothing comes back; None for ever."""
        waits = []
        now, due = self._clock.monotonic(), self._backlog.due()
        if due is not None and due > now:  # what is due already waits for room
            waits.append(due - now)
        if self._gate is not None and self._gate.shut:
            waits.append(CHECK_EVERY)
        if not waits and not self._in_flight:
            return 0.0
        if self._ticker is not None:
            waits.append(self._ticker.every)
        return min(waits, default=None)

    def _submit(self) -> None:
        self._slow_input = False
        room = self._room()
        while room > 0:
            now = self._reading_since = self._clock.monotonic()
            most = None if self._gate is None else self._gate.allows(now, self._in_flight)
            chunk = self._feed.next_chunk(self._chunking, now, self._in_flight, most) if most != 0 else None
            if chunk is None:
                return
            self._send(chunk)
            room -= 1
            if room and not self._eager and self._read_long_enough():
                self._slow_input = True
                return

    def _read_long_enough(self) -> bool:
        return self._clock.monotonic() - self._reading_since >= LINGER

    def _room(self) -> int:
        """Chunks that may be sent now."""
        executor = self._executor
        if executor is None:
            return self._plan.n_jobs
        depth = self._chunking.depth(self._feed.remaining)
        if self._last_pause >= LONG_PAUSE:
            room = max(depth, 2) * executor.workers - self._in_flight
        else:
            room = min(executor.room, depth * executor.workers - self._in_flight)
        return room if self._in_flight else max(1, room)

    def _send(self, chunk: Chunk) -> None:
        if self._executor is None:
            self._executor = self._open_executor(self._with_workers_for(chunk))
        try:
            self._executor.submit(chunk)
        except NotPicklable as error:
            self._settlement.cannot_travel(chunk, error)
        else:
            self._in_flight += 1

    def _with_workers_for(self, chunk: Chunk) -> Plan:
        """The plan, with no more workers than there are items, those of the first chunk included."""
        plan, left = self._plan, self._feed.remaining
        most = math.inf if left is None else left + len(chunk.items)
        return plan if plan.n_jobs <= most else replace(plan, n_jobs=int(most))

    def _take_in(self, done: Done) -> None:
        self._settlement.take_in(done)
        if done.lost is None:
            self._chunking.observe(done.count, done.seconds)
            if self._executor is not None:  # else the dry run's, which is no chunk
                self.report.largest_chunk = max(self.report.largest_chunk, done.count)
        if self._announcer:
            failures = len(done.failures)
            event = ChunkDone(self.label, done.chunk.first, done.count, done.seconds, done.worker, failures, done.lost)
            self._announcer.tell("on_chunk", event)

    def _reconsider(self) -> None:
        """Ask for another plan where this one rests on what turned out wrong."""
        if self._replan is None or self._next_plan is not None or self._settlement.fault is not None:
            return
        report, remaining = self._measured(), self._feed.remaining
        if remaining == 0 or not self._doubts.arise(report.recent_item_seconds, report.item_seconds, remaining):
            return
        plan = self._replan(report, remaining)
        if plan is None:
            return
        plan = replace(  # what the caller was promised holds
            plan,
            ordered=self._plan.ordered,
            buffer_size=plan.buffer_size or self._plan.buffer_size,
            buffer_bytes=plan.buffer_bytes or self._plan.buffer_bytes,
        )
        report.replanned += 1
        if (plan.executor, plan.n_jobs) == (self._plan.executor, self._plan.n_jobs):
            self._follow(plan)
        else:
            self._next_plan = plan  # as soon as what is in flight is back

    def _change_plan(self, plan: Plan) -> None:
        self._next_plan = None
        if self._executor is not None:
            self._executor.close()
            self._executor = None
        self._follow(plan)

    def _follow(self, plan: Plan) -> None:
        self._plan = self.report.plan = plan
        self._chunking = Chunking(plan, self._chunking.item_seconds)
        self._doubts = Doubts(plan, self.report.item_seconds)
        self._buffer.follow(plan)

    def _measured(self) -> RunReport:
        """The report as of now."""
        report, now = self.report, self._clock.monotonic()
        work = report.item_seconds - report.sampled_seconds
        # Workers go on while a consumer is away. Its time does not count, but no run is faster than its workers.
        report.wall_seconds = max(now - self._started - self._away, work / max(1, self._plan.n_jobs))
        report.recent_item_seconds = self._chunking.item_seconds
        if self._gate is not None:
            report.paused_seconds = self._gate.paused_seconds(now)
        return report

    def _tell_progress(self, ticker: Ticker, *, last: bool = False) -> None:
        done = self.report.items + self.report.resumed
        paused = self._gate is not None and self._gate.shut
        event = ticker.tick(done, self._clock.monotonic(), paused=paused, last=last)
        if event is not None:
            self._announcer.tell("on_progress", event)

    def _finish(self, problem: BaseException | None) -> None:
        """Free the workers, end those that are running something, close files, tell the end."""
        with self._resources:
            if self._executor is not None:
                self._executor.close(kill=problem is not None)
        self._measured()
        if self._ticker is not None:
            self._tell_progress(self._ticker, last=True)
        if self._announcer:
            error = None if isinstance(problem, GeneratorExit) else problem
            self._announcer.tell("on_end", Ended(self.label, self.report, error))


def _each(segments: Generator[list[Any], None, None]) -> Generator[Any, None, None]:
    with closing(segments):
        for segment in segments:
            yield from segment


def _raisable(error: BaseException) -> BaseException:
    """StopIteration cannot leave a generator, and would silently end the loop around a stream."""
    if not isinstance(error, StopIteration):
        return error
    told = ItemFailed("the item raised StopIteration, which would end the loop that the results are for")
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    told.__cause__ = error
    return told


def _memory_in_use() -> Callable[[], float]:
    from everloop.parallel.machine import memory_in_use

    return memory_in_use

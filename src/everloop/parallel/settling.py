"""What becomes of everything that comes back: results are kept and placed where they wait to be handed out, failed items are tried
again or given up, what was lost with its worker or handed back goes to the backlog. Each item ends in exactly one of these."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from everloop.core.clock import Clock
from everloop.core.errors import ItemTimeout, WorkerDied
from everloop.parallel.buffer import Buffer
from everloop.parallel.failures import Failures
from everloop.parallel.options import RunOptions
from everloop.parallel.ordering import Segment, Waiting
from everloop.parallel.report import RunReport
from everloop.parallel.retrying import Backlog, Piece, after_death, another_try, one_by_one, rest_of
from everloop.parallel.source import Source
from everloop.parallel.work import Chunk, Done, ItemFailure

if TYPE_CHECKING:
    from everloop.parallel.checkpoint import Checkpoint


class Settlement:
    def __init__(
        self,
        options: RunOptions,
        report: RunReport,
        clock: Clock,
        *,
        source: Source,
        backlog: Backlog,
        buffer: Buffer,
        waiting: Waiting,
        failures: Failures,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.fault: ItemFailure | None = None
        """The item that ends the run: of those that do, the one with the lowest index."""
        self._innocent = 0
        self._options = options
        self._report = report
        self._source = source
        self._backlog = backlog
        self._buffer = buffer
        self._waiting = waiting
        self._failures = failures
        self._clock = clock
        self._checkpoint = checkpoint

    def take_in(self, done: Done) -> None:
        chunk, count = done.chunk, done.count
        if done.lost is not None:
            self._lost(chunk, done.lost, late=done.late)
            return
        if done.spoiled:
            for piece in one_by_one(chunk):  # only the one that is to blame shall fail
                self._backlog.add(piece)
            return
        size = self._measure(done)
        if (
            chunk.deaths and count == len(chunk.items) == 1
        ):  # it ran, and nobody died: not what was handed back untouched
            self._innocent += chunk.deaths
        if count < len(chunk.items):
            self._backlog.add(rest_of(chunk, count))
        if done.failures:
            self._sort_out(done, size)
        else:
            items = chunk.items if count == len(chunk.items) else chunk.items[:count]
            self._deliver(chunk.first, items, done.values, {}, size)

    def cannot_travel(self, chunk: Chunk, error: BaseException) -> None:
        """It could not be sent: of several items, only the one that is to blame shall fail."""
        if len(chunk.items) == 1:
            self._fail_alone(chunk, error)
            return
        for piece in one_by_one(chunk):
            self._backlog.add(piece)

    def input_ended(self, count: int) -> None:
        """There are `count` items in all. Raises CheckpointMismatch where the checkpoint was made from more."""
        if self._checkpoint is not None and self.fault is None:
            self._checkpoint.must_end_by(count)

    def kept(self, first: int, count: int) -> tuple[bool, int]:
        """How many of the `count` items from `first` on may be taken together, and whether the checkpoint has these."""
        return self._checkpoint.kept(first, count) if self._checkpoint is not None else (False, count)

    def resume(self, first: int, count: int, items: list[Any]) -> None:
        """Take over what the checkpoint has. Raises CheckpointMismatch if these are not the items it was made from."""
        assert self._checkpoint is not None
        values, failed = self._checkpoint.load(first, count, items)
        self._report.resumed += count
        if self._options.on_error != "raise":
            self._place(first, values, failed, 0)
            return
        for index in failed:  # skipped by an earlier run; before it ends this one it is tried again
            self._backlog.add(Piece(index, [items[index - first]], attempt=1, deaths=0))
        for start, end in _between((index - first for index in failed), count):
            self._place(first + start, values[start:end], {}, 0)

    def _measure(self, done: Done) -> int:
        """Into the report. Gives the bytes that the results take, where somebody counts them."""
        report = self._report
        report.items += done.count
        report.item_seconds += done.seconds
        report.squares += done.squares
        report.cpu_seconds += done.cpu_seconds
        report.bytes_in += done.bytes_in
        report.bytes_out += done.bytes_out
        report.chunks += 1
        if not self._buffer.counts_bytes or not done.values:
            return 0
        size = done.bytes_out or len(done.values) * _size_of(done.values[0])
        self._buffer.measured(len(done.values), max(size, done.bytes_in))  # items on their way there take memory, too
        return size

    def _lost(self, chunk: Chunk, how: str, *, late: bool) -> None:
        self._report.deaths += 1
        if late and len(chunk.items) == 1:
            self._fail_alone(
                chunk, ItemTimeout(f"the item took longer than {chunk.timeout} s; its worker had to be ended")
            )
            return
        pieces = one_by_one(chunk) if late else after_death(self._options, chunk, self._innocent)
        for piece in pieces:
            # Once may be chance. After that, and where an item's honour is at stake, whatever kills workers gets time to pass.
            times = piece.deaths if len(piece) == 1 else piece.deaths - 1
            if times > 0:
                self._backlog.add_later(self._clock.monotonic() + self._failures.pause(times), piece)
            else:
                self._backlog.add(piece)
        if not pieces:
            deaths = chunk.deaths + 1
            died = WorkerDied(f"{deaths} worker{'s' * (deaths != 1)} died with this item alone; the last one was {how}")
            died.how = how
            self._fail_alone(chunk, died)

    def _fail_alone(self, chunk: Chunk, error: BaseException) -> None:
        """The single item of a chunk failed, and no worker is there to say so."""
        self._report.items += 1
        self._sort_out(Done(chunk, [None], 1, failures=[ItemFailure(0, error)]), 0)

    def _sort_out(self, done: Done, size: int) -> None:
        """Some items failed. What lies between those that are tried again is delivered together."""
        chunk = done.chunk
        holes: list[int] = []
        failed: dict[int, ItemFailure] = {}
        for failure in done.failures:
            local, known = failure.index, _completed(failure, chunk)
            if self._ends_here(known, chunk):
                failed[known.index] = known
            else:
                holes.append(local)
        for start, end in _between(holes, done.count):
            first, last = chunk.first + start, chunk.first + end
            here = {index: known for index, known in failed.items() if first <= index < last}
            self._deliver(
                first, chunk.items[start:end], done.values[start:end], here, size * (end - start) // done.count
            )

    def _ends_here(self, failure: ItemFailure, chunk: Chunk) -> bool:
        """Whether the failure is this item's outcome; else it is tried again, or it ends the run."""
        wait = self._failures.wait_for_retry(failure)
        if wait is not None:
            self._backlog.add_later(self._clock.monotonic() + wait, another_try(chunk, failure.index))
            return False
        if self._options.on_error != "raise":
            return True
        if self.fault is None or failure.index < self.fault.index:
            self.fault = failure
            self._source.stop()
            self._backlog.drop_from(failure.index)
        return False

    def _deliver(
        self, first: int, items: list[Any], values: list[Any], failed: dict[int, ItemFailure], size: int
    ) -> None:
        if self._checkpoint is not None:
            self._checkpoint.record(first, items, values, failed)
        self._place(first, values, failed, size)

    def _place(self, first: int, values: list[Any], failed: dict[int, ItemFailure], size: int) -> None:
        span = len(values)
        if failed:
            put = {index - first: failure for index, failure in failed.items()}
            if self._options.on_error == "return":
                values = [put.get(i, value) for i, value in enumerate(values)]
            else:
                values = [value for i, value in enumerate(values) if i not in put]
        if span:
            self._waiting.add(first, Segment(span, values, size))


def _completed(failure: ItemFailure, chunk: Chunk) -> ItemFailure:
    """With what only the parent knows. Tries end with a failure or with the worker; only the former are the item's own."""
    return replace(
        failure,
        index=chunk.first + failure.index,
        attempts=chunk.attempt - chunk.deaths,
        item=chunk.items[failure.index],
    )


def _between(holes: Iterable[int], end: int) -> Iterator[tuple[int, int]]:
    """The spans of [0, end) that are left where `holes` are taken out."""
    start = 0
    for hole in sorted(holes):
        if hole > start:
            yield start, hole
        start = hole + 1
    if end > start:
        yield start, end


def _size_of(value: Any) -> int:
    """Bytes that a result takes, roughly: nothing pickles it, so nobody knows better."""
    size = getattr(value, "nbytes", None)
    return size if isinstance(size, int) else sys.getsizeof(value)

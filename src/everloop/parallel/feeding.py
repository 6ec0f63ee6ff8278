"""What is sent out next: what has to be sent again before anything new, the lowest index first, since all others may wait for it."""

from __future__ import annotations

from collections.abc import Callable

from everloop.parallel.buffer import Buffer
from everloop.parallel.chunking import Chunking
from everloop.parallel.options import RunOptions
from everloop.parallel.retrying import Backlog, Piece
from everloop.parallel.settling import Settlement
from everloop.parallel.source import Source
from everloop.parallel.work import Chunk


class Feed:
    """Cuts chunks from the backlog and the input, as far as the buffer allows. What the checkpoint has is not sent out again."""

    def __init__(
        self,
        options: RunOptions,
        *,
        source: Source,
        backlog: Backlog,
        buffer: Buffer,
        settlement: Settlement,
        total: int | None,
        enough: Callable[[], bool] | None = None,
    ) -> None:
        """`enough`: whether a slow input has been read for long enough, for a chunk that need not be full."""
        self._options = options
        self._source = source
        self._backlog = backlog
        self._buffer = buffer
        self._settlement = settlement
        self._total = total
        self._enough = enough
        self._number = 0

    @property
    def exhausted(self) -> bool:
        """Nothing is left to send."""
        return self._source.ended and not self._backlog.items

    @property
    def remaining(self) -> int | None:
        """Items left to send, where that is known."""
        left = self._source.left
        if left is None:
            if self._total is None:
                return None
            left = max(0, self._total - self._buffer.read)
        return left + self._backlog.items

    def next_chunk(self, chunking: Chunking, now: float, in_flight: int, most: int | None = None) -> Chunk | None:
        """At most `most` items; None where there is nothing to send now."""
        size = chunking.size(self.remaining)
        if most is not None:
            size = min(size, most)
        piece = self._backlog.take(size, now) if self._backlog.items else None
        if piece is None:
            piece = self._fresh(size, in_flight, None if chunking.fixed else self._enough)
        if piece is None:
            return None
        self._number += 1
        return Chunk(
            self._number,
            piece.first,
            piece.items,
            chunking.slice,
            self._options.timeout,
            piece.attempt,
            piece.deaths,
        )

    def _fresh(self, size: int, in_flight: int, enough: Callable[[], bool] | None) -> Piece | None:
        while not self._source.ended and (free := self._buffer.free(size, in_flight)) > 0:
            first = self._buffer.read
            kept, count = self._settlement.kept(first, free)
            items = self._source.take(count, None if kept else enough)
            self._buffer.took(len(items))
            self._look_at_the_end()
            if kept:
                self._settlement.resume(first, count, items)
            elif items:
                return Piece(first, items, attempt=1, deaths=0)
        return None

    def _look_at_the_end(self) -> None:
        if self._source.ended and self._source.error is None:
            self._settlement.input_ended(self._buffer.read)

"""`BatchPredictor`: the server's batcher for a program without a server.

    predict(frame) ──┐
    predict(frame) ──┼──► one `predict` of the model, on a thread ──► each its own rows
    predict(frame) ──┘    when `batch_size` rows wait, or after `window_ms`

While a batch runs the next one collects; the event loop never blocks.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from secrets import token_hex
from time import perf_counter
from types import TracebackType
from typing import Any

from everloop.core.errors import Closed, DeadlineExceeded, EverloopError, InvalidInput
from everloop.policy.batching import UNMEASURED, BatchRules
from everloop.serving.batcher import Batcher
from everloop.serving.counters import Counters
from everloop.serving.frame_work import FrameWork
from everloop.serving.frames import rows_of
from everloop.serving.tickets import FutureTicket

MOST_WAITING = 65_536


class BatchPredictor:
    """Requests of any number of rows, run together. Of one event loop at a time: `start` binds it to the one that runs.

    `predictor`: anything with `predict`, plain or async, which takes a frame or array of rows and answers one row each. A plain one is
    called on a thread, one call at a time. `batch_size`: rows of a full batch, which leaves at once; a request with more is run in slices
    of so many. `window_ms`: how long a request waits for others, at most. `max_queue`: rows that may wait.

        async with BatchPredictor(model, batch_size=32, window_ms=5) as batched:
            answers = await batched.predict(frame)
    """

    def __init__(
        self, predictor: Any, batch_size: int = 32, window_ms: float = 50, *, max_queue: int = MOST_WAITING
    ) -> None:
        """Raises InvalidInput naming the argument."""
        predict = getattr(predictor, "predict", None)
        if not callable(predict):
            raise InvalidInput(
                f"predictor: expected an object with a method `predict`, got {type(predictor).__name__}",
                field="predictor",
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidInput(f"batch_size: expected a whole number from 1 on, got {batch_size!r}", field="batch_size")
        if isinstance(window_ms, bool) or not isinstance(window_ms, (int, float)) or not 0 <= window_ms < float("inf"):
            raise InvalidInput(f"window_ms: expected milliseconds, 0 or more, got {window_ms!r}", field="window_ms")
        if isinstance(max_queue, bool) or not isinstance(max_queue, int) or max_queue < 1:
            raise InvalidInput(f"max_queue: expected a whole number from 1 on, got {max_queue!r}", field="max_queue")
        self._name = type(predictor).__name__
        self._predict = predict
        self._rules = BatchRules(batch_size, max(max_queue, batch_size), window_seconds=window_ms / 1e3)
        self._batcher: Batcher | None = None
        self._past = Counters()
        self._pending: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Take requests from now on. Starting twice is once. Raises Closed if another event loop uses it."""
        loop = asyncio.get_running_loop()
        if self._batcher is not None:
            if self._batcher.loop is not loop and not self._batcher.loop.is_closed():
                raise Closed("this BatchPredictor is used by another event loop; stop it there first")
            if self._batcher.loop is loop:
                return
            self._let_go(self._batcher)
        work = FrameWork(self._name, self._predict, self._rules, loop)
        self._batcher = Batcher(work, loop, token_hex(8), costs=UNMEASURED)

    async def stop(self) -> None:
        """Finish what waits, at once, and take no more. Safe to call twice."""
        batcher, self._batcher = self._batcher, None
        if batcher is None:
            return
        batcher.configure(replace(self._rules, window_seconds=0.0))
        pending = list(self._pending)
        if pending:
            await asyncio.wait(pending)
        self._let_go(batcher)

    async def predict(self, features: Any, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109  a deadline of the request
        """What the predictor answers to `features` (a Polars or pandas frame, an array or a list, of any number of rows), as if it had been
        asked for these alone.

        `timeout`: seconds after which the answer is not wanted any more. Raises Closed before `start`, InvalidInput for what has no rows,
        Overloaded if too many rows wait, DeadlineExceeded, and whatever the predictor raised on these rows."""
        batcher = self._batcher
        if batcher is None:
            raise Closed("this BatchPredictor takes no requests: `await start()` first")
        loop = asyncio.get_running_loop()
        if batcher.loop is not loop:
            raise Closed("this BatchPredictor was started on another event loop")
        count = max(rows_of(features), 1)
        ticket = _Ticket(loop)
        batcher.submit_payload(ticket, features, count, deadline=None if timeout is None else perf_counter() + timeout)
        future = ticket.future
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await future
        except asyncio.CancelledError:
            batcher.abandon()
            raise
        except TimeoutError as error:
            if not limit.expired():  # the predictor's own
                raise
            batcher.abandon()
            raise DeadlineExceeded(f"no answer within {timeout:g} s; it may still be worked on") from error

    def get_stats(self) -> dict[str, float]:
        """`total_requests` and `total_batches` so far, `avg_batch_size` in rows, `avg_batch_time_ms` in the predictor, `pending_requests`
        that have no answer yet."""
        total = Counters()
        total.add(self._past)
        if self._batcher is not None:
            total.add(self._batcher.counters)
        batches = total.batches
        return {
            "total_requests": total.requests,
            "total_batches": batches,
            "avg_batch_size": total.rows / batches if batches else 0.0,
            "avg_batch_time_ms": total.run_seconds / batches * 1e3 if batches else 0.0,
            "pending_requests": len(self._pending),
        }

    async def __aenter__(self) -> BatchPredictor:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _let_go(self, batcher: Batcher) -> None:
        self._past.add(batcher.counters)
        batcher.retire()


class _Ticket(FutureTicket):
    """Gets answers as they are, and errors as the predictor raised them."""

    __slots__ = ()

    def deliver_rows(self, predictions: Any, batcher: Batcher, number: int) -> None:  # noqa: ARG002  as `Ticket`
        if not self.future.done():
            self.future.set_result(predictions)

    def fail(self, error: EverloopError) -> None:
        if not self.future.done():
            self.future.set_exception(error if error.__cause__ is None else error.__cause__)

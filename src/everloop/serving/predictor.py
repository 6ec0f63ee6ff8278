"""The spine of a prediction: one snapshot of the table, the lane, its answer.

`predict` never waits for another request. The `async` forms join the tick batch of the running event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from everloop.core.errors import EverloopError, InvalidInput, ModelNotFound, ModelUntrained, StoreUnavailable
from everloop.core.types import Features, Prediction, PredictionBatch
from everloop.serving.batcher import Batcher
from everloop.serving.lane import Lane, as_rows
from everloop.serving.table import TableRef
from everloop.serving.tickets import FutureTicket

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry


class Predictor:
    def __init__(
        self, table: TableRef, registry: Registry, refused: Callable[[str, int], EverloopError | None]
    ) -> None:
        """`refused`: why this version of this model cannot be opened here; None as far as is known."""
        self._table = table
        self._registry = registry
        self._refused = refused

    def predict(self, name: str, features: Features) -> Prediction:
        """One example. Raises ModelNotFound, ModelUntrained, InvalidInput, ModelFailed, and what `missing` tells."""
        try:
            answer = self._table.current.answers[name]
        except (KeyError, TypeError):  # TypeError: not hashable, so no name
            raise self.missing(name) from None
        return answer(features)

    def predict_batch(self, name: str, rows: Any) -> PredictionBatch:
        """Several examples, all answered by one version. Raises as `predict`, naming the instance."""
        return self.lane(name).answer_rows(rows)

    async def predict_async(self, name: str, features: Features) -> Prediction:
        """One example, batched with whatever else this turn of the event loop brings. Raises as `predict`, Overloaded."""
        lane = self.lane(name)
        row = lane.schema.row(features)
        loop = asyncio.get_running_loop()
        batcher, ticket = lane.batcher_for(loop), FutureTicket(loop)
        batcher.submit(ticket, row)
        answer: Prediction = await _answered(batcher, ticket)
        return answer

    async def predict_batch_async(self, name: str, rows: Any) -> PredictionBatch:
        """Several examples in one request. Raises as `predict`, naming the instance; Overloaded."""
        lane = self.lane(name)
        checked = as_rows(rows, lane.schema)
        loop = asyncio.get_running_loop()
        batcher, ticket = lane.batcher_for(loop), FutureTicket(loop)
        batcher.submit_rows(ticket, checked)
        answer: PredictionBatch = await _answered(batcher, ticket)
        return answer

    def lane(self, name: str) -> Lane:
        """The lane that answers right now. Raises ModelNotFound, ModelUntrained, StoreUnavailable (not live here yet),
        or why its version cannot be opened (Untrusted, ArtifactCorrupt …)."""
        lane = self._table.current.lanes.get(name)
        if lane is None:
            raise self.missing(name)
        return lane

    def missing(self, name: Any) -> EverloopError:
        """Why no lane answers for `name`."""
        if not isinstance(name, str):
            return InvalidInput(f"name: expected the name of a model, got {type(name).__name__}", field="name")
        try:
            record = self._registry.get(name)
        except ModelNotFound as error:
            return error
        if record.live_version is None:
            return ModelUntrained(
                f"model {name!r} has no version yet: give it labelled examples, or promote a version that is waiting"
            )
        return self._refused(name, record.live_version) or StoreUnavailable(
            f"version {record.live_version} of model {name!r} is being opened; try again", retry_after=1.0
        )


async def _answered(batcher: Batcher, ticket: FutureTicket) -> Any:
    try:
        return await ticket.future
    except asyncio.CancelledError:
        batcher.abandon()
        raise

"""The spine of a prediction: one snapshot of the table, the lane, its answer.

`predict` never waits for another request. The `async` forms join the tick batch of the running event loop. Where several versions of a
model are live, `unit` (a user, a session) always meets the same one; `version` asks for one by number, whatever its share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from everloop.core.errors import (
    Conflict,
    EverloopError,
    InvalidInput,
    ModelNotFound,
    ModelUntrained,
    StoreUnavailable,
)
from everloop.core.types import Features, Prediction, PredictionBatch
from everloop.serving.batcher import Batcher
from everloop.serving.lane import Lane
from everloop.serving.split import Arm, checked_unit
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

    def predict(self, name: str, features: Features, unit: str | None = None) -> Prediction:
        """One example. Raises ModelNotFound, ModelUntrained, InvalidInput, ModelFailed, and what `missing` tells."""
        table = self._table.current
        try:
            answer = table.answers[name]
        except (KeyError, TypeError):  # TypeError: not hashable, so no name
            raise self.missing(name) from None
        if unit is None:
            return answer(features)
        split = table.splits.get(name)
        if split is None:
            checked_unit(unit)
            return answer(features)
        return split.answer_named(features, unit)

    def predict_batch(self, name: str, rows: Any, unit: str | None = None) -> PredictionBatch:
        """Several examples, all answered by one version. Raises as `predict`, naming the instance."""
        lane, arm = self._asked(name, unit, None)
        return lane.answer_rows(rows) if arm is None else arm.answer_rows(rows)

    async def predict_async(
        self,
        name: str,
        features: Features,
        unit: str | None = None,
        *,
        version: int | None = None,
        deadline: float | None = None,
    ) -> Prediction:
        """One example, batched with whatever else this turn of the event loop brings. Raises as `predict`, Overloaded; with
        `version` also as `lane_of`, with a `deadline` (`time.perf_counter`) also DeadlineExceeded."""
        lane, arm = self._asked(name, unit, version)
        row = lane.schema.row(features)
        loop = asyncio.get_running_loop()
        batcher, ticket = lane.batcher_for(loop), FutureTicket(loop)
        batcher.submit(ticket, row, arm, deadline)
        answer: Prediction = await _answered(batcher, ticket)
        return answer

    async def predict_batch_async(
        self,
        name: str,
        rows: Any,
        unit: str | None = None,
        *,
        version: int | None = None,
        deadline: float | None = None,
    ) -> PredictionBatch:
        """Several examples in one request, all answered by one version. Raises as `predict_async`, naming the instance."""
        lane, arm = self._asked(name, unit, version)
        checked = lane.checked(rows)
        loop = asyncio.get_running_loop()
        batcher, ticket = lane.batcher_for(loop), FutureTicket(loop)
        batcher.submit_rows(ticket, checked, arm, deadline)
        answer: PredictionBatch = await _answered(batcher, ticket)
        return answer

    def lane_of(self, name: str, version: int) -> Lane:
        """The lane of one version, whatever its share of the traffic. What it answers is its own answer or its own error, and no
        evidence of a rollout. Raises ModelNotFound, VersionNotFound, Conflict (nobody wants it live), StoreUnavailable (not open here
        yet), or why it cannot be opened. Touches the registry's store only where it raises."""
        lane = self._table.current.versions(name).get(version)
        if lane is None:
            raise self.closed(name, version)
        return lane

    def closed(self, name: str, version: int) -> EverloopError:
        """Why no lane answers for this version."""
        try:
            self._registry.version(name, version)
            model = self._registry.get(name)
        except EverloopError as error:
            return error
        failure = self._refused(name, version)
        if failure is not None:
            return failure
        shares = {} if model.allocation is None else model.allocation.counts()
        if version == model.live_version or version in shares:
            return StoreUnavailable(f"version {version} of model {name!r} is being opened; try again", retry_after=1.0)
        return Conflict(
            f"version {version} of model {name!r} is not live: only the champion, versions with a share of the traffic and the "
            "challenger of a rollout are open; roll it out, or give it a share",
            field="version",
        )

    def _asked(self, name: str, unit: str | None, version: int | None) -> tuple[Lane, Arm | None]:
        table = self._table.current
        if unit is not None:
            checked_unit(unit)
        if version is not None:
            return self.lane_of(name, version), None
        split = table.splits.get(name) if isinstance(name, str) else None
        if split is not None:
            arm = split.route(unit)
            return arm.lane, arm
        return self.lane(name), None

    def lane(self, name: str) -> Lane:
        """The lane of the champion. Raises ModelNotFound, ModelUntrained, StoreUnavailable (not live here yet),
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

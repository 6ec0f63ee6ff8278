"""Inference by the Open Inference Protocol, without a protocol: who answers, whether the tensors fit, what is told.

    InferAsked ─► version or routing ─► lane ─► TensorModel.take ─► the lane's batcher of tensors ─► InferAnswer

HTTP (`http.oip_endpoints`, the fast lane) and gRPC decode into `InferAsked` and encode `InferAnswer`; nothing else is theirs. What a
model takes is what its champion takes: a challenger whose tensors have other names or types is asked by none of these requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from everloop.api import verbs, versions
from everloop.api.door import ANYBODY, Caller
from everloop.api.inference import InferAnswer, InferAsked, OutputAsked
from everloop.api.services import Services
from everloop.core.errors import Forbidden, InvalidInput, TooLarge
from everloop.core.tensors import Array, Tensor, Tensors, datatype_of
from everloop.core.types import PredictionBatch, request_id
from everloop.serving.split import checked_unit
from everloop.serving.tensor_work import TensorsAsked, TensorWork
from everloop.serving.tickets import FutureTicket

if TYPE_CHECKING:
    from everloop.serving.batcher import Batcher
    from everloop.serving.lane import Lane
    from everloop.serving.split import Arm

Run = Callable[..., Awaitable[Any]]
"""Calls a function on some thread: what may touch a store."""
LONGEST_TIMEOUT = 1e15
"""Microseconds; beyond it a timeout means nothing."""


class Chosen(NamedTuple):
    """Who answers a request, and what it is asked."""

    lane: Lane
    arm: Arm | None
    payload: TensorsAsked
    rows: int


class InferTicket(FutureTicket):
    """A coroutine that waits for tensors."""

    __slots__ = ("_rows",)

    def __init__(self, loop: asyncio.AbstractEventLoop, rows: int) -> None:
        super().__init__(loop)
        self._rows = rows

    def deliver_rows(self, predictions: Any, batcher: Batcher, number: int) -> None:
        if not self.future.done():
            if self.watcher is not None:
                self.watcher.settled(batcher, number, self._rows)
            self.future.set_result(PredictionBatch(predictions, batcher.version, batcher.key, number))


async def infer(
    services: Services,
    asked: InferAsked,
    caller: Caller = ANYBODY,
    *,
    run: Run = asyncio.to_thread,
    key: str | None = None,
    deadline: float | None = None,
) -> InferAnswer:
    """`key`: one of the server's override keys, for who has no scope to choose a version; `deadline`: by `time.perf_counter`.

    Raises ModelNotFound, VersionNotFound, ModelUntrained, Starting, Conflict (not open), Forbidden, InvalidInput, TooLarge,
    Overloaded, DeadlineExceeded, ModelFailed."""
    name, number = asked.model, None
    if asked.version:
        number = await version_of(services, name, asked.version, run=run, caller=caller, key=key)
    elif name not in services.table.current.lanes:
        raise await run(verbs.missing, services, name)
    chosen = choose(services, asked, number)
    answered = await run_of(chosen, deadline_of(asked.parameters, deadline))
    return answer_of(
        asked,
        chosen,
        cast("Tensors", answered.predictions),
        request_id(answered.lane_key, answered.number),
        answered.model_version,
    )


def choose(services: Services, asked: InferAsked, number: int | None = None) -> Chosen:
    """Touches no store. `number`: a version that is open. Raises ModelNotFound …, InvalidInput, TooLarge."""
    table, name = services.table.current, asked.model
    if number is not None:
        lane, arm = services.predictor.lane_of(name, number), None
        return Chosen(lane, arm, *_taken(services, lane.tensor_work, asked))
    champion = services.predictor.lane(name)
    payload, rows = _taken(services, champion.tensor_work, asked)
    split = table.splits.get(name)
    unit = asked.parameters.get("unit") if asked.parameters else None
    if unit is not None:
        checked_unit(unit)
    if split is not None:
        arm = split.route(unit)
        if arm.lane is champion or _alike(arm.lane.tensor_work, champion.tensor_work, payload.outputs):
            return Chosen(arm.lane, arm, payload, rows)
    return Chosen(champion, None, payload, rows)


async def run_of(chosen: Chosen, deadline: float | None) -> PredictionBatch:
    """The tensors, and who answered: it may be the champion in the place of another. Raises Overloaded, DeadlineExceeded, ModelFailed."""
    loop = asyncio.get_running_loop()
    batcher, ticket = chosen.lane.tensors_for(loop), InferTicket(loop, chosen.rows)
    batcher.submit_payload(ticket, chosen.payload, chosen.rows, chosen.arm, deadline)
    try:
        answered: PredictionBatch = await ticket.future
    except asyncio.CancelledError:
        batcher.abandon()
        raise
    return answered


async def version_of(
    services: Services, name: str, ref: str, *, run: Run, caller: Caller = ANYBODY, key: str | None = None
) -> int:
    """The number of a version that is open, and that this caller may choose. Raises VersionNotFound, Conflict, Forbidden …"""
    open_here = services.table.current.versions(name)
    number = int(ref) if ref.isdecimal() and len(ref) < 10 and int(ref) in open_here else None
    if number is None:
        number = await run(versions.number_of, services, name, ref)
        assert number is not None
    champion = services.table.current.lanes.get(name)
    if (champion is None or number != champion.version) and not caller.has("admin"):
        if key is None:
            raise Forbidden(
                f"version {number} of model {name!r} is not its champion; to ask for it takes a key with the scope admin",
                field="version",
            )
        services.override_keys.require(key)
    if number not in open_here:
        raise await run(services.predictor.closed, name, number)
    return number


def deadline_of(parameters: dict[str, Any], deadline: float | None) -> float | None:
    """The earlier one of the caller's `timeout` (microseconds) and `deadline`. Raises InvalidInput."""
    timeout = parameters.get("timeout") if parameters else None
    if timeout is None:
        return deadline
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 <= timeout <= LONGEST_TIMEOUT:
        raise InvalidInput(
            f"parameters.timeout: expected microseconds, got {str(timeout)[:40]!r}", field="parameters.timeout"
        )
    if timeout == 0:
        return deadline  # as Triton: none
    until = perf_counter() + timeout / 1e6
    return until if deadline is None else min(deadline, until)


def answer_of(asked: InferAsked, chosen: Chosen, found: Tensors, told: str, version: int) -> InferAnswer:
    """What is told of a run, whose request id is `told`: the outputs that were asked for, in that order. `version` is who answered: it
    may be the champion in the place of another. Raises InvalidInput (no classes can be told)."""
    arrays = [found[name] for name in chosen.payload.outputs]
    if asked.outputs:
        wanted = {each.name: each for each in asked.outputs}
        for i, name in enumerate(chosen.payload.outputs):
            if wanted[name].classification:
                arrays[i] = classified(wanted[name], arrays[i], chosen.lane.classes)
    outputs = [
        Tensor(name, datatype_of(array.dtype), array)
        for name, array in zip(chosen.payload.outputs, arrays, strict=True)
    ]
    return InferAnswer(asked.model, version, outputs, asked.id or told, told)


def classified(asked: OutputAsked, scores: Array, labels: Sequence[Any] | None) -> Array:
    """The best classes of each row, as Triton's classification extension writes them: `score:index[:label]`."""
    if scores.dtype.kind not in "fiu" or scores.ndim < 2:
        raise InvalidInput(f"outputs.{asked.name}: classes can be told of a table of scores only", field="outputs")
    table = scores.reshape(len(scores), -1)
    most = min(asked.classification, table.shape[1])
    best = np.argsort(-table.astype(np.float64), axis=1, kind="stable")[:, :most]
    names = [f":{label}" for label in labels] if labels is not None and len(labels) == table.shape[1] else None
    out = np.empty((len(table), most), object)
    for i, row in enumerate(best):
        for j, k in enumerate(row):
            out[i, j] = f"{table[i, k]:f}:{k}{names[k] if names else ''}".encode()
    return out


def _taken(services: Services, work: TensorWork, asked: InferAsked) -> tuple[TensorsAsked, int]:
    """The payload and its rows. Raises InvalidInput, TooLarge."""
    arrays = work.tensors.take(asked.inputs)
    rows = work.rows_of(arrays)
    most = services.limits.max_rows
    if rows > most:
        raise TooLarge(f"inputs: {rows:,} rows, at most {most:,} at a time", field="inputs")
    if rows < 1:
        raise InvalidInput("inputs: expected at least one row", field="inputs")
    return TensorsAsked(arrays, _outputs(work, asked)), rows


def _outputs(work: TensorWork, asked: InferAsked) -> tuple[str, ...]:
    if not asked.outputs:
        return work.outputs
    names = tuple(each.name for each in asked.outputs)
    for i, name in enumerate(names):
        if name not in work.outputs:
            raise InvalidInput(
                f"outputs[{i}]: unexpected inference output {name[:100]!r} for model {work.model!r}; it has {', '.join(work.outputs)}",
                field=f"outputs[{i}]",
            )
    if len(set(names)) != len(names):
        raise InvalidInput("outputs: the same name is asked for twice", field="outputs")
    return names


def _alike(one: TensorWork, other: TensorWork, outputs: tuple[str, ...]) -> bool:
    """Whether what one of them takes and is asked for, the other takes and gives."""
    same = type(one.tensors) is type(other.tensors) and one.tensors.signature.inputs == other.tensors.signature.inputs
    return same and set(outputs) <= set(one.outputs)

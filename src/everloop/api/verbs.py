"""What can be done with a server, in plain functions over `Services`: no protocol in it, so that every protocol shares it.

The functions that are not `async` read and write stores: call them from a thread, never from an event loop. The `async` ones
wait for nothing but the event loop's own work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from everloop.api.services import Services
from everloop.api.traffic import batching, traffic
from everloop.api.wire import (
    DriftInfo,
    EventInfo,
    FieldInfo,
    Learner,
    ModelChange,
    ModelInfo,
    ModelList,
    ModelSpec,
    ModelStatus,
    ModelSummary,
    Optimization,
    OptimizeSpec,
    SchemaInfo,
    TargetInfo,
    Timeline,
)
from everloop.core.errors import EverloopError, ModelNotFound, ModelUntrained, Starting
from everloop.core.events import Event
from everloop.core.types import Features, Prediction, PredictionBatch
from everloop.serving.config import effective, merged
from everloop.stores.ports import Appended, ModelRecord

if TYPE_CHECKING:
    from everloop.learning.intake import Feedback

T = TypeVar("T")

ALARMS = 50
"""Most recent drift events that `drift` shows."""


def create_model(services: Services, spec: ModelSpec) -> tuple[ModelInfo, bool]:
    """Register a model; the bool tells whether it is new. The same name with the same spec is the model that is there.

    Raises NotSupported (kind), InvalidInput (parameters, learning, rollout, serving), Conflict (the name is another model's)."""
    from everloop.learning.learners.make import make_learner
    from everloop.runtime.artifact import Trust

    effective(services.serving, spec.serving or {})
    learner = make_learner(spec.kind, spec.parameters, trust=services.trust or Trust())
    known = spec.name in services.registry.names()
    record = services.loop.register(
        spec.name,
        learner,
        task=learner.task,
        learning=spec.learning,
        rollout=spec.rollout,
        serving=spec.serving,
        record=spec.record,
    )
    return _info(services, record), not known


def list_models(services: Services) -> ModelList:
    return ModelList([_summary(services, record) for record in services.registry.list()])


def describe_model(services: Services, name: str) -> ModelInfo:
    return _info(services, find_model(services, name))


def change_model(services: Services, name: str, asked: ModelChange, *, by: str) -> ModelInfo:
    """How it is served from now on, here at once and wherever else it is served within moments. Raises ModelNotFound, InvalidInput."""
    record = find_model(services, name)
    wanted = merged(record.serving, asked.serving)
    effective(services.serving, wanted)
    record = services.registry.configure(name, wanted, by=by)
    services.reconciler.step()
    return _info(services, record)


def delete_model(services: Services, name: str) -> None:
    """The model, its versions and its examples go; its timeline stays. Requests in flight finish; later ones are refused
    by the time this returns."""
    find_model(services, name)
    services.loop.remove(name)
    services.registry.unregister(name)
    services.reconciler.step()


def optimize(services: Services, name: str, asked: OptimizeSpec) -> Optimization:
    """Look for a faster form of the version that serves; returns at once. Raises ModelNotFound, InvalidInput (nothing to compare it on)."""
    find_model(services, name)
    services.optimizer.ask(name, "int8" if asked.int8 else "float")
    return _optimization(services, name)


def timeline(services: Services, name: str, after: int = 0, limit: int = 100, latest: bool = False) -> Timeline:
    """Events of one model by ascending id. A model that is gone still has its history."""
    found = _sought(services, name, lambda: services.registry.timeline(name, after, limit, latest=latest))
    return Timeline(name, [event_info(e) for e in found], found[-1].id if found else after)


def drift(services: Services, name: str) -> DriftInfo:
    find_model(services, name)
    status = services.loop.status(name)
    recent = services.journal.events(model=name, limit=services.limits.max_page, latest=True)
    alarms = [event_info(e) for e in reversed(recent) if e.kind in ("drift", "input_drift")][:ALARMS]
    return DriftInfo(name, status.drift, status.input_drift, alarms)


def events(services: Services, after: int, limit: int, model: str | None = None) -> list[Event]:
    """Of all models, after what is queued so far has been committed: every event that happened before this call."""
    services.journal.flush()
    return services.journal.events(model=model, after=after, limit=limit)


def newest_event(services: Services) -> int:
    """The id of the last event there is; 0 if none."""
    services.journal.flush()
    found = services.journal.events(limit=1, latest=True)
    return found[-1].id if found else 0


def missing(services: Services, name: str) -> EverloopError:
    """Why nothing answers for `name` here."""
    try:
        find_model(services, name)
    except EverloopError as error:
        return error
    return _unless_starting(services, name, services.predictor.missing(name))


async def predict(
    services: Services,
    name: str,
    features: Features,
    unit: str | None = None,
    *,
    version: int | None = None,
    deadline: float | None = None,
) -> Prediction:
    """`unit` meets the same version each time; `version` is for those who may choose one."""
    return await services.predictor.predict_async(name, features, unit, version=version, deadline=deadline)


async def predict_batch(
    services: Services,
    name: str,
    instances: Sequence[Features],
    unit: str | None = None,
    *,
    version: int | None = None,
    deadline: float | None = None,
) -> PredictionBatch:
    """All rows by one version."""
    return await services.predictor.predict_batch_async(name, instances, unit, version=version, deadline=deadline)


async def feedback(
    services: Services,
    name: str,
    items: Sequence[Feedback],
    *,
    run: Callable[..., Awaitable[None]],
    idempotency_key: str = "",
    body: str = "",
) -> Appended:
    """Answers after the commit, for which no thread waits. `run` calls a function on some thread: a model's first labels fix
    its schema, and that is written. Raises what refused all of it (ModelNotFound, Starting, InvalidInput, Overloaded, the commit's
    own)."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Appended] = loop.create_future()

    def done(result: Appended | EverloopError) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result)

    def settle(result: Appended | EverloopError) -> None:
        if answer.done():
            return
        if isinstance(result, EverloopError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    try:
        await run(services.intake.accept, name, items, done, idempotency_key=idempotency_key, body=body)
    except ModelNotFound as error:
        raise _unless_starting(services, name, error) from error
    return await answer


def serving_version(services: Services, name: str) -> int | None:
    """The version that answers in this process right now."""
    lane = services.table.current.lanes.get(name)
    return None if lane is None else lane.version


def model_status(services: Services, record: ModelRecord) -> ModelStatus:
    if record.name in services.table.current.lanes:
        return "ready"
    if record.live_version is None:
        return "untrained"
    if record.name in services.reconciler.unloaded:
        return "unloaded"
    return "failed" if record.name in services.reconciler.failures else "loading"


def event_info(event: Event) -> EventInfo:
    return EventInfo(event.id, event.model, event.kind, event.at, event.message, event.version, event.data)


def find_model(services: Services, name: str) -> ModelRecord:
    """Raises ModelNotFound, Starting."""
    return _sought(services, name, lambda: services.registry.get(name))


def _sought(services: Services, name: str, look: Callable[[], T]) -> T:
    """Raises ModelNotFound, Starting; a name longer than any model's is not looked for among them."""
    if len(name) > services.limits.max_name:
        raise ModelNotFound(f"no model has a name of {len(name)} characters")
    try:
        return look()
    except ModelNotFound as error:
        raise _unless_starting(services, name, error) from error


def _unless_starting(services: Services, name: str, error: EverloopError) -> EverloopError:
    """What is not there may come as long as the server is not up."""
    if services.up or not isinstance(error, (ModelNotFound, ModelUntrained)):
        return error
    return Starting(f"the server is starting, and model {name!r} does not answer yet; try again", retry_after=1.0)


def _summary(services: Services, record: ModelRecord) -> ModelSummary:
    return ModelSummary(
        name=record.name,
        kind=record.kind,
        task=record.task,
        status=model_status(services, record),
        live_version=record.live_version,
        labels=services.journal.examples_total(record.name),
        created_at=record.created_at,
    )


def _info(services: Services, record: ModelRecord) -> ModelInfo:
    status = services.loop.status(record.name)
    lane = services.table.current.lanes.get(record.name)
    schema, target = record.schema, record.target
    if lane is not None:
        schema, target = schema or lane.schema, target or lane.target
    summary = _summary(services, record)
    return ModelInfo(
        **msgspec.structs.asdict(summary),
        serving_version=None if lane is None else lane.version,
        schema=None
        if schema is None
        else SchemaInfo([FieldInfo(f.name, f.kind, f.nullable) for f in schema.fields], schema.named),
        target=None if target is None else TargetInfo(target.task, target.kind),
        parameters=record.parameters,
        learning=record.learning,
        serving=record.serving,
        record=record.record,
        quality=status.quality,
        drift=status.drift,
        input_drift=status.input_drift,
        traffic=traffic(lane, services.traffic.models().get(record.name)),
        batching=batching(lane),
        learner=Learner(
            is_training=status.is_training,
            learns_here=status.learns_here,
            backlog=status.backlog,
            examples_learned=status.examples_learned,
            failures=status.failures,
            last_error=status.last_error or None,
            last_verdict=status.last_verdict or None,
            last_fit=status.last_fit,
        ),
        optimization=_optimization(services, record.name),
    )


def _optimization(services: Services, name: str) -> Optimization:
    return Optimization(**msgspec.structs.asdict(services.optimizer.status(name)))

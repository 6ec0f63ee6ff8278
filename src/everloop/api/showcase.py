"""The verbs of `/api/predict/…` and `/api/models`, without a protocol: who is asked, who answered, what models there are.

Nothing here is special to the models that come with everloop: `Services.showcase` names the models, and they are asked as any model is
asked for tensors (`api.oip_infer`), with versions, routing, batching, cache, recording and limits.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import msgspec

from everloop.api import verbs
from everloop.api.door import ANYBODY, Caller
from everloop.api.oip_infer import Chosen, Run, choose, run_of
from everloop.api.questions import Question, Told, answer
from everloop.api.services import Services
from everloop.api.wire import ModelStatus
from everloop.core.errors import EverloopError, ModelNotFound
from everloop.runtime.formats import FORMATS
from everloop.showcase.builtin import BUILTIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everloop.core.tensors import Tensors
    from everloop.stores.ports import ModelRecord

ROUTES = {
    "sentiment": ("/api/predict/sentiment", "/api/predict/batch"),
    "image": ("/api/predict/image",),
    "recommender": ("/api/predict/recommend",),
}
"""By field of `ShowcaseConfig`: what asks the model that it names."""

RUNTIMES = {"sentiment": "text", "image": "image", "recommender": "factors"}
"""What the models that come with everloop need."""


class ShownModel(msgspec.Struct, kw_only=True):
    name: str
    status: ModelStatus
    version: int | None
    """The version that answers in this process; null while none does."""
    model: str | None
    """What answers call it: `sentiment-v1`."""
    runtime: str | None
    """What answers: `text`, `image`, `factors`, `onnx` …"""
    task: str | None
    labels: list[Any] | None
    """Of a classifier, in the order of its probabilities."""
    routes: list[str]
    """What asks this model by itself; by its name it is asked at `/v1/models/{model}/predict` and `/v2/models/{model}/infer`."""


class ShownModels(msgspec.Struct):
    models: list[ShownModel]


async def ask(
    services: Services,
    question: Question,
    *,
    run: Run,
    version: int | None = None,
    unit: str | None = None,
    deadline: float | None = None,
    began: float | None = None,
) -> msgspec.Struct:
    """The answer, for a protocol to write. `version`: for those who may choose one; `run` calls a function on some thread; `began`: when it
    came, by `time.perf_counter`.

    Raises ModelNotFound, ModelUntrained, Starting, Conflict, NotSupported (that model answers no such questions), InvalidInput, TooLarge,
    Overloaded, DeadlineExceeded, ModelFailed."""
    name = question.model
    if version is None and name not in services.table.current.lanes:
        raise await run(absent, services, name)
    lane = services.predictor.lane(name) if version is None else services.predictor.lane_of(name, version)
    asked = question.asked(lane)
    if unit is not None:
        asked.parameters = {"unit": unit}
    chosen = choose(services, asked, version)
    answered = await run_of(chosen, deadline)
    classes = classes_of(services, chosen, answered.model_version)
    told = Told(name, answered.model_version, classes, answered.lane_key, answered.number, began or perf_counter())
    return answer(question, cast("Tensors", answered.predictions), told)


def classes_of(services: Services, chosen: Chosen, version: int) -> Sequence[Any]:
    """The labels of who answered: it may be the champion in the place of another."""
    lane = chosen.lane
    if lane.version != version:
        lane = services.predictor.lane_of(lane.name, version)
    return lane.classes or ()


def absent(services: Services, name: str) -> EverloopError:
    """Why nothing answers; where no such model was ever registered, also how to get one."""
    error = verbs.missing(services, name)
    roles = [role for role in ROUTES if getattr(services.showcase, role) == name]
    if not isinstance(error, ModelNotFound) or not roles:
        return error
    missing = FORMATS[RUNTIMES[roles[0]]].missing()
    if missing is not None:
        return ModelNotFound(f"{error.message}; {missing.message}, then start the server again", field=error.field)
    builtin = dict(zip(ROUTES, BUILTIN, strict=True))[roles[0]]
    return ModelNotFound(
        f"{error.message}; `everloop serve --showcase` serves the models that come with everloop, "
        f"`everloop serve {name}=builtin:{builtin}` this one",
        field=error.field,
    )


def models(services: Services, caller: Caller = ANYBODY) -> ShownModels:
    """Touches the registry's store: call it on a thread."""
    return ShownModels([_shown(services, r) for r in services.registry.list() if caller.reaches(r.name)])


def _shown(services: Services, record: ModelRecord) -> ShownModel:
    lane = services.table.current.lanes.get(record.name)
    version = None if lane is None else lane.version
    config = services.showcase
    return ShownModel(
        name=record.name,
        status=verbs.model_status(services, record),
        version=version,
        model=None if version is None else f"{record.name}-v{version}",
        runtime=None if lane is None else lane.record.manifest.runtime,
        task=record.task,
        labels=None if lane is None else lane.classes,
        routes=[path for role, paths in ROUTES.items() if getattr(config, role) == record.name for path in paths],
    )

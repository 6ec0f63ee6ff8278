"""The Open Inference Protocol's verbs, without a protocol: one table of them behind HTTP and gRPC.

`infer` is a coroutine (`api.oip_infer`). The others touch stores: call them on a thread. What they answer is in `api.oip_wire`.

What is ready is what is open in this process. `unload` closes a model's versions here and in every process on the same storage, and keeps
everything else of it; `load` opens them again. Both are a field of how the model is served, so a restart does not change them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import everloop
from everloop.api import verbs, versions
from everloop.api.oip_infer import infer
from everloop.api.oip_wire import (
    Dimensioned,
    Duration,
    IndexEntry,
    InferStatistics,
    ModelConfig,
    ModelMetadata,
    ModelStatistics,
    ServerMetadata,
    Statistics,
)
from everloop.api.services import Services
from everloop.core.errors import ModelUntrained
from everloop.core.tensors import TensorSpec
from everloop.serving.config import merged

if TYPE_CHECKING:
    from everloop.serving.lane import Lane

__all__ = [
    "config",
    "infer",
    "load",
    "model_metadata",
    "model_ready",
    "repository_index",
    "server_metadata",
    "statistics",
    "unload",
]

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
]
BY = "oip"
"""Who acts, in the timeline, where the protocol in front does not say."""
SETTLE_SECONDS = 30.0
"""How long `load` waits until this process answers."""


def server_metadata(services: Services) -> ServerMetadata:  # noqa: ARG001  every verb has them
    return ServerMetadata("everloop", everloop.__version__, EXTENSIONS)


def model_metadata(services: Services, name: str, version: str = "") -> ModelMetadata:
    """Raises ModelNotFound, VersionNotFound, Conflict (that version is not open), ModelUntrained …"""
    lane = _lane(services, name, version)
    signature = lane.tensor_work.tensors.signature
    numbers = [str(number) for number in services.table.current.versions(name)]
    return ModelMetadata(name, numbers, _platform(lane), signature.inputs, signature.outputs)


def model_ready(services: Services, name: str, version: str = "") -> bool:
    """Whether it can be asked now. Raises ModelNotFound, VersionNotFound."""
    verbs.find_model(services, name)
    open_here = services.table.current.versions(name)
    number = versions.number_of(services, name, version) if version else None
    return not services.draining and (bool(open_here) if number is None else number in open_here)


def repository_index(services: Services, *, ready: bool = False) -> list[IndexEntry]:
    """Every version that answers, and unless `ready` every model of which none does."""
    entries: list[IndexEntry] = []
    for record in services.registry.list():
        open_here = services.table.current.versions(record.name)
        entries += [IndexEntry(record.name, str(number)) for number in sorted(open_here)]
        if open_here or ready:
            continue
        error = services.predictor.missing(record.name)
        loading = verbs.model_status(services, record) == "loading"
        live = "" if record.live_version is None else str(record.live_version)
        entries.append(IndexEntry(record.name, live, "LOADING" if loading else "UNAVAILABLE", error.message))
    return entries


def load(services: Services, name: str, *, by: str = BY) -> None:
    """Answers once this process serves it. Raises ModelNotFound, ModelUntrained, StoreUnavailable, or why it cannot be opened."""
    model = _set_loaded(services, name, True, by=by)
    if model is None:
        raise ModelUntrained(f"model {name!r} has no version yet that could be loaded")
    services.reconciler.wait_for(name, model, SETTLE_SECONDS)
    if name not in services.table.current.lanes:
        raise services.predictor.missing(name)


def unload(services: Services, name: str, *, by: str = BY) -> None:
    """Later requests are refused by the time this returns; those in flight finish. Raises ModelNotFound, StoreUnavailable."""
    _set_loaded(services, name, False, by=by)


def config(services: Services, name: str, version: str = "") -> ModelConfig:
    """In Triton's words. Raises as `model_metadata`."""
    lane = _lane(services, name, version)
    tensors = lane.tensor_work.tensors
    batched = tensors.batched and all(spec.shape for spec in (*tensors.signature.inputs, *tensors.signature.outputs))
    platform = _platform(lane)
    return ModelConfig(
        name,
        platform,
        platform.partition("_")[0],
        lane.runner.rules.max_rows if batched else 0,
        [_dimensioned(spec, batched) for spec in tensors.signature.inputs],
        [_dimensioned(spec, batched) for spec in tensors.signature.outputs],
    )


def statistics(services: Services, name: str = "", version: str = "") -> Statistics:
    """Of one version, of a model's open versions, or of all that is open. Raises as `model_metadata`."""
    if version:
        lanes = [_lane(services, name, version)]
    elif name:
        _lane(services, name)
        lanes = list(services.table.current.versions(name).values())
    else:
        lanes = list(services.table.current.all_lanes)
    return Statistics([_statistics(lane) for lane in lanes])


def _lane(services: Services, name: str, version: str = "") -> Lane:
    if version:
        return services.predictor.lane_of(name, versions.number_of(services, name, version))
    if name not in services.table.current.lanes:
        raise verbs.missing(services, name)
    return services.predictor.lane(name)


def _set_loaded(services: Services, name: str, loaded: bool, *, by: str) -> int | None:
    """The live version."""
    record = verbs.find_model(services, name)
    wanted = merged(record.serving, {"loaded": loaded})
    if wanted != record.serving:
        services.registry.configure(name, wanted, by=by)
    services.reconciler.step()
    return record.live_version


def _platform(lane: Lane) -> str:
    runtime = lane.record.manifest.runtime
    return "onnxruntime_onnx" if runtime == "onnx" else f"everloop_{runtime}"


def _dimensioned(spec: TensorSpec, batched: bool) -> Dimensioned:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return Dimensioned(spec.name, f"TYPE_{datatype}", spec.shape[1:] if batched else spec.shape)


def _statistics(lane: Lane) -> ModelStatistics:
    counts = lane.counters()
    answered = counts.requests - counts.failed
    run, whole = int(counts.run_seconds * 1e9), int(counts.latency_seconds * 1e9)
    stages = InferStatistics(
        success=Duration(answered, whole),
        fail=Duration(counts.failed, 0),
        queue=Duration(counts.requests, max(0, whole - run)),
        compute_input=Duration(),
        compute_infer=Duration(counts.batches, run),
        compute_output=Duration(),
        cache_hit=Duration(),
        cache_miss=Duration(),
    )
    return ModelStatistics(lane.name, str(lane.version), 0, counts.rows, counts.batches, stages, [])

"""How the server is, without a protocol: the seed's `/health` and what readiness is decided from.

A part that is meant to run and does not makes the server unhealthy: a server that answers while its learner is dead looks
well and slowly goes wrong. A model whose version cannot be opened makes it degraded: the others answer, so traffic goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from everloop.api.services import Services
from everloop.api.verbs import model_status
from everloop.api.wire import Component, Health, Memory
from everloop.core.errors import EverloopError

if TYPE_CHECKING:
    from everloop.serving.failures import Failure

TOLD = 10
"""Models whose reason is spelt out, of those that cannot be opened."""


def components(services: Services) -> dict[str, Component]:
    """The parts besides the models. Reads the journal: call it from a thread."""
    return {
        "journal": _journal(services),
        "recorder": _recorder(services),
        "learner": _learner(services),
        "reconciler": _reconciler(services),
        "controller": _controller(services),
        "optimizer": _optimizer(services),
        "cache": _cache(services),
        "queues": _queues(services),
    }


def failed(services: Services) -> list[str]:
    """Names of the parts that have failed."""
    return [name for name, part in components(services).items() if part.status == "failed"]


def ready(services: Services) -> bool:
    """Whether traffic should be sent here. A model that cannot be opened does not take the others' traffic away."""
    return services.up and not services.draining and not failed(services)


def health(services: Services) -> Health:
    parts = components(services)
    status: Literal["healthy", "degraded", "starting", "draining", "unhealthy"]
    if services.draining:
        status = "draining"
    elif not services.up:
        status = "starting"
    else:
        found = {part.status for part in parts.values()}
        status = "unhealthy" if "failed" in found else "degraded" if "degraded" in found else "healthy"
    try:
        models = {record.name: model_status(services, record) for record in services.registry.list()}
    except EverloopError:  # the registry's store is gone: what serves is known without it
        models = dict.fromkeys(services.table.current.lanes, "ready")
        parts["registry"] = Component("failed", "its store cannot be read")
        status = "unhealthy"
    return Health(
        status=status,
        uptime=max(0, int((services.clock.now() - services.started_at) * 1000)),
        models=models,
        memory=memory(),
        components=parts,
    )


def memory() -> Memory:
    return Memory(f"{_megabytes(resident_bytes())} MB", f"{_megabytes(max(peak_bytes(), resident_bytes()))} MB")


def resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most resident memory this process ever had; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _journal(services: Services) -> Component:
    try:
        stats = services.journal.stats()
    except EverloopError as error:
        return Component("failed", str(error))
    if stats.failure:
        return Component("failed", f"it cannot commit: {stats.failure}")
    return Component("ok", f"{stats.pending} pending, {stats.dropped} dropped")


def _recorder(services: Services) -> Component:
    """Predictions go on while the journal refuses their records, but labels by request id then have nothing to join."""
    failure = services.recorder.failure
    return Component("ok") if failure is None else Component("failed", f"predictions are not recorded: {failure}")


def _learner(services: Services) -> Component:
    if not services.learning:
        return Component("off", "this server does not learn")
    if not services.loop.alive:
        return Component("failed", "the learning loop has died: models answer but do not improve; restart the server")
    if not services.loop.running and services.up and not services.draining:
        return Component("failed", "the learning loop is not running")
    return Component("ok")


def _reconciler(services: Services) -> Component:
    reconciler = services.reconciler
    if reconciler.broken is not None:
        return Component("failed", f"the registry cannot be read: {reconciler.broken}")
    if not reconciler.alive and services.up and not services.draining:
        return Component("failed", "it is not running: new versions will not be served")
    if reconciler.failures:
        return Component("degraded", _unopened(reconciler.failures))
    return Component("ok")


def _controller(services: Services) -> Component:
    """Without it a rollout stands still, and everybody is answered as before: no reason to send traffic elsewhere."""
    controller = services.controller
    if not controller.alive:
        return Component("degraded", f"rollouts stand still: {controller.last_error}")
    if stuck := controller.stuck:
        told = "; ".join(f"{name!r}: {why}" for name, why in sorted(stuck.items())[:TOLD])
        return Component("degraded", f"rollouts that cannot be looked at: {told}")
    return Component("ok")


def _optimizer(services: Services) -> Component:
    """Without it versions stay as they are."""
    optimizer = services.optimizer
    if not optimizer.alive:
        return Component("degraded", f"versions are not made faster: {optimizer.last_error}")
    running = optimizer.running()
    return Component("ok", f"looking for a faster form of {running[0]!r}" if running else "")


def _cache(services: Services) -> Component:
    """Without its second level it remembers in this process only: answers are the same, the models are asked more often."""
    cache = services.cache
    if cache.second is None:
        return Component("ok", "in this process only")
    trouble = cache.trouble
    if trouble:
        return Component("degraded", f"in this process only, not in {cache.second.name}: {trouble}")
    return Component("ok", f"in this process and in {cache.second.name}")


def _queues(services: Services) -> Component:
    """What is refused here would be elsewhere, too, if traffic went there: no reason to say that the server is not ready."""
    now = perf_counter()
    full = sorted({lane.name for lane in services.table.current.all_lanes if lane.overloaded(now)})
    if not full:
        return Component("ok")
    more = f" and {len(full) - TOLD} more" if len(full) > TOLD else ""
    named = ", ".join(map(repr, full[:TOLD]))
    return Component("degraded", f"overloaded, so requests are refused: {named}{more}")


def _unopened(failures: Mapping[str, Failure]) -> str:
    told = [
        f"version {failure.version} of model {name!r} cannot be opened: {failure.error.message}"
        for name, failure in sorted(failures.items())[:TOLD]
    ]
    more = len(failures) - len(told)
    return "; ".join(told + ([f"and {more} more models"] if more else []))


def _megabytes(size: int) -> int:
    return round(size / (1 << 20))

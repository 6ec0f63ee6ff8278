"""Turns what a fit gave into a version: the manifest's metrics and lineage, and the one call to the registry."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from everloop.core.types import Task
from everloop.learning.challenge import FitResult
from everloop.learning.going_out import BY
from everloop.policy.rollout import Plan
from everloop.registry.catalog import Registry
from everloop.stores.ports import VersionRecord


class Publisher:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def publish(
        self,
        model: str,
        result: FitResult,
        *,
        task: Task,
        reason: str,
        parent: int | None,
        live: bool,
        more: dict[str, Any],
        plan: Plan | None = None,
    ) -> VersionRecord:
        """Register the challenger; with `live` it serves from now on, with a `plan` it goes out as that says. Raises what the registry
        raises (ModelNotFound where the model was unregistered meanwhile)."""
        assert result.manifest is not None
        assert result.payload is not None
        metrics = dict(result.manifest.metrics)
        if result.challenger is not None:
            if task == "classification":
                metrics |= {"accuracy": 1.0 - result.challenger, "error_rate": result.challenger}
            else:
                metrics |= {"mae": result.challenger}
            metrics["held_out"] = result.n
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        lineage = result.manifest.lineage | {
            "parent": parent,
            "reason": reason,
            "first_id": result.first_id,
            "last_id": result.last_id,
            "count": result.count,
            "held_out": result.n,
            "held_out_learned": result.refitted,
            "seconds": round(result.seconds, 4),
            "where": result.where,
            "verdict": result.reason,
            "promote": result.promote,
            **more,
        }
        manifest = msgspec.structs.replace(result.manifest, metrics=metrics, lineage=lineage)
        note = f"{reason}; {result.reason}"
        return self._registry.add_version(model, manifest, result.payload, live=live, plan=plan, note=note, by=BY)

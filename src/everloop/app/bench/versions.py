"""A model whose version n answers `n * x`: at x = 1 every answer tells which version made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from everloop.core.schema import Schema, Target
from everloop.runtime.linear import LinearModel
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from everloop.app.continuum import Continuum


def numbered_versions(engine: Continuum, name: str, count: int) -> dict[int, float]:
    """Register `name` with versions 1 … count, all waiting to be promoted. Returns version -> its answer to `[1.0]`."""
    engine.register_model(name, "linear")
    registry = engine.engine.services.registry
    manifest = Manifest(runtime="linear", task="regression", schema=Schema.unnamed(1), target=Target("regression"))
    registry.fix_schema(name, manifest.schema, manifest.target)
    answers: dict[int, float] = {}
    for number in range(1, count + 1):
        weights = np.array([[float(number)]])
        payload = LinearModel(weights, np.zeros(1), np.zeros(1)).pack()
        made = registry.add_version(name, manifest, payload, live=False, note="for the benchmark")
        answers[made.version] = float(number)
    return answers

"""WANT: what should be live, durably; every change of a model goes through here.

catalog        `Registry`: the one way that models and versions change
changes        one transaction, its events in it, told once committed
registration   how a model is registered, and what fits it
references     what versions are called: numbers, names, aliases
traffic        promote, roll back, split, archive
plans          plans of rollouts as people write them
rolling        what a rollout's actions change of its model
rollouts       rollouts as people and the controller handle them
lineage        how a version came about
models         `ModelRegistry`: the registry as a person uses it; `info` is what it tells, `production` what share a version gets,
               `best` which of a metric's values is better
removal        deleting one version
collection     garbage collection of artifacts
bundle         a model as one file
deployment     what should be live, for `serving.reconciler`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop.registry.info import ModelInfo
    from everloop.registry.models import ModelRegistry

__all__ = ["ModelInfo", "ModelRegistry"]

_HOMES = {"ModelInfo": "everloop.registry.info", "ModelRegistry": "everloop.registry.models"}


def __getattr__(name: str) -> Any:
    """Loaded when somebody first asks: importing one module of this room loads no other."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'everloop.registry' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)

"""ANSWER: what is live in this process, and how it answers.

A prediction, in order:

predictor    the spine: one snapshot of the table, the lane, its answer
table        the immutable map from models to lanes
split        several versions of one model: who is answered by which, and by the champion where one fails
lane         one version, live here; `open_lane` is the only way to make one
batcher      what one turn of the event loop brings runs together, as a `batch`; `tickets` wait for the answer
runner       checked input in, checked values out of a session
counters     what was answered, in plain integers
recorder     predictions on their way into the journal; `outbox` merges those of batches

A swap: `reconciler` turns what should be live into what is, by the `arranger`, which writes the table; `failures` keeps what cannot be
opened.

A version beside the champion: `trial` tries it in a process of its own, where Python code stays (`remote`, and `remote_process` there);
`guard` gives its runs up on threads of `worker`, `evidence` counts both arms and `evidences` reports them. `confinement` is what such a
process does to itself.

A version that answers nobody: `shadows` opens each `shadow`, whose `shadow_host` keeps a `shadow_process`; what it is shown comes by the
recorder's `audience`, waits in a `backlog`, and is counted in a `comparison`.

What was answered before: `cache` is a process's memory (`cache_config` its size, `answers` what is in it), `lane_cache` asks it in process,
`flights` for a batcher. In process a row goes straight through the model by `direct`.

For programs that ask models themselves: `router`, the registry's split, and counts of what came of it; `prediction_cache`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop.serving.batch_predictor import BatchPredictor
    from everloop.serving.prediction_cache import PredictionCache
    from everloop.serving.router import ModelRouter

_HOMES = {
    "BatchPredictor": "everloop.serving.batch_predictor",
    "ModelRouter": "everloop.serving.router",
    "PredictionCache": "everloop.serving.prediction_cache",
}

__all__ = ["BatchPredictor", "ModelRouter", "PredictionCache"]


def __getattr__(name: str) -> Any:
    """Loaded when somebody first asks: importing one module of this room loads no other."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'everloop.serving' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)

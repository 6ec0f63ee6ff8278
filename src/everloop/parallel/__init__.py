"""The engine that spreads work: maps a function over a list, an iterator or an endless stream, and learns its own settings.

    from everloop.parallel import execute, stream
    squares = execute(square, range(1_000_000))            # in order, as fast as this machine can
    for answer in stream(ask, endless()): ...              # lazily, never further ahead than the buffer

`optimize` and `optimize_streaming` only decide, and `explain()` why. It stands alone: nothing here knows models or servers.
Everything named here is loaded when it is first used, so that the import is instant.
"""

from __future__ import annotations

from typing import Any

_ERRORS = "everloop.core.errors"
_HOMES = {
    "optimize": "api",
    "execute": "api",
    "optimize_streaming": "streaming",
    "stream": "streaming",
    "OptimizationResult": "results",
    "StreamingOptimizationResult": "results",
    "Plan": "plan",
    "RunOptions": "options",
    "PredictionResult": "predictor",
    "StreamingPredictionResult": "predictor",
    "predict_parameters": "predictor",
    "predict_streaming_parameters": "predictor",
    "update_model_from_execution": "recording",
    "update_model_from_streaming_execution": "recording",
    "TrainingData": "history",
    "History": "history",
    "load_ml_training_data": "history",
    "get_history": "history",
    "set_history_folder": "history",
    "WorkloadFeatures": "features",
    "track_prediction_accuracy": "calibration",
    "get_calibration_stats": "calibration",
    "feature_importance": "importance",
    "get_fingerprint": "fingerprint",
    "PoolManager": "pool",
    "get_global_pool_manager": "pool",
    "ExecutionHooks": "hooks",
    "PrometheusHooks": "telemetry",
    "ItemFailure": "work",
    "CheckpointMismatch": _ERRORS,
    "ItemFailed": _ERRORS,
    "ItemTimeout": _ERRORS,
    "NotPicklable": _ERRORS,
    "WorkerDied": _ERRORS,
    "DEFAULT_BUFFER_SIZE_MULTIPLIER": "constants",
    "STREAMING_BUFFER_MEMORY_FRACTION": "constants",
    "HETEROGENEOUS_CV_THRESHOLD": "constants",
    "LARGE_DATASET_THRESHOLD": "constants",
    "MIN_TRAINING_SAMPLES": "constants",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'everloop.parallel' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home if home == _ERRORS else f"everloop.parallel.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

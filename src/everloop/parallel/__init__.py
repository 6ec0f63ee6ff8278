"""The engine that spreads work: maps a function over a list, an iterator or an endless stream, and learns its own settings.

    from everloop.parallel import execute, stream
    squares = execute(square, range(1_000_000))            # in order, as fast as this machine can
    for answer in stream(ask, endless()): ...              # lazily, never further ahead than the buffer

`optimize` and `optimize_streaming` only decide, and `explain()` why. It stands alone: nothing here knows models or servers.
Everything named here is loaded when it is first used, so that the import is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop.core.errors import CheckpointMismatch as CheckpointMismatch
    from everloop.core.errors import ItemFailed as ItemFailed
    from everloop.core.errors import ItemTimeout as ItemTimeout
    from everloop.core.errors import NotPicklable as NotPicklable
    from everloop.core.errors import WorkerDied as WorkerDied
    from everloop.parallel.api import execute as execute
    from everloop.parallel.api import optimize as optimize
    from everloop.parallel.calibration import get_calibration_stats as get_calibration_stats
    from everloop.parallel.calibration import track_prediction_accuracy as track_prediction_accuracy
    from everloop.parallel.constants import DEFAULT_BUFFER_SIZE_MULTIPLIER as DEFAULT_BUFFER_SIZE_MULTIPLIER
    from everloop.parallel.constants import HETEROGENEOUS_CV_THRESHOLD as HETEROGENEOUS_CV_THRESHOLD
    from everloop.parallel.constants import LARGE_DATASET_THRESHOLD as LARGE_DATASET_THRESHOLD
    from everloop.parallel.constants import MIN_TRAINING_SAMPLES as MIN_TRAINING_SAMPLES
    from everloop.parallel.constants import STREAMING_BUFFER_MEMORY_FRACTION as STREAMING_BUFFER_MEMORY_FRACTION
    from everloop.parallel.features import WorkloadFeatures as WorkloadFeatures
    from everloop.parallel.fingerprint import get_fingerprint as get_fingerprint
    from everloop.parallel.history import History as History
    from everloop.parallel.history import TrainingData as TrainingData
    from everloop.parallel.history import get_history as get_history
    from everloop.parallel.history import load_ml_training_data as load_ml_training_data
    from everloop.parallel.history import set_history_folder as set_history_folder
    from everloop.parallel.hooks import ExecutionHooks as ExecutionHooks
    from everloop.parallel.importance import feature_importance as feature_importance
    from everloop.parallel.options import RunOptions as RunOptions
    from everloop.parallel.plan import Plan as Plan
    from everloop.parallel.pool import PoolManager as PoolManager
    from everloop.parallel.pool import get_global_pool_manager as get_global_pool_manager
    from everloop.parallel.predictor import PredictionResult as PredictionResult
    from everloop.parallel.predictor import StreamingPredictionResult as StreamingPredictionResult
    from everloop.parallel.predictor import predict_parameters as predict_parameters
    from everloop.parallel.predictor import predict_streaming_parameters as predict_streaming_parameters
    from everloop.parallel.recording import update_model_from_execution as update_model_from_execution
    from everloop.parallel.recording import (
        update_model_from_streaming_execution as update_model_from_streaming_execution,
    )
    from everloop.parallel.results import OptimizationResult as OptimizationResult
    from everloop.parallel.results import StreamingOptimizationResult as StreamingOptimizationResult
    from everloop.parallel.streaming import optimize_streaming as optimize_streaming
    from everloop.parallel.streaming import stream as stream
    from everloop.parallel.telemetry import PrometheusHooks as PrometheusHooks
    from everloop.parallel.work import ItemFailure as ItemFailure

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

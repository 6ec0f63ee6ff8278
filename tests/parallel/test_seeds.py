"""The samples of Amorsize's iterations 113 and 115, as they were printed: only their import lines are changed.

What a sample takes for granted (`my_function`, `data`, `measured_speedup`) is defined around it. Outlines that are no programs, with `...` in
place of arguments, are held to by what they promise.
"""

from __future__ import annotations

import inspect
import time
from typing import Any

import pytest

import everloop.parallel as parallel
from everloop.parallel import get_history

BASIC = """
from amorsize import optimize_streaming

# First execution: Uses dry-run (no training data)
result = optimize_streaming(
    my_function,
    data,
    enable_ml_prediction=True,
    estimated_item_time=0.001,
    verbose=True
)

# After 3-5 executions: Uses ML (instant prediction)
result = optimize_streaming(
    my_function,
    new_data,
    enable_ml_prediction=True,
    estimated_item_time=0.001,
    verbose=True
)
# ✓ ML Prediction: n_jobs=4, chunksize=50, buffer_size=12
# ✓ Confidence: 85%
# → Using ML prediction (10-100x faster than dry-run)
"""

HETEROGENEOUS = """
# ML automatically selects imap_unordered for better load balancing
result = optimize_streaming(
    variable_duration_task,
    data,
    enable_ml_prediction=True,
    estimated_item_time=0.003,
    verbose=True
)
# ✓ ML recommends imap_unordered for heterogeneous workload (CV=0.8)
"""

MEMORY = """
# ML adjusts buffer size based on pickle_size and available memory
result = optimize_streaming(
    large_return_task,
    data,
    enable_ml_prediction=True,
    estimated_item_time=0.001,
    verbose=True
)
# ✓ ML calculated buffer_size=8 (respecting 10% memory budget)
"""

ADAPTIVE = """
result = optimize_streaming(
    func, data,
    enable_ml_prediction=True,
    enable_adaptive_chunking=True,
    adaptation_rate=0.3
)
# ML provides initial chunksize, adaptive chunking refines at runtime
"""

BACKPRESSURE = """
result = optimize_streaming(
    func, data,
    enable_ml_prediction=True,
    enable_memory_backpressure=True,
    memory_threshold=0.8
)
# ML-predicted buffer size respects backpressure settings
"""

POOL = """
from amorsize import get_global_pool_manager

result = optimize_streaming(
    func, data,
    enable_ml_prediction=True,
    pool_manager=get_global_pool_manager()
)
# ML prediction works seamlessly with pool reuse
"""

TRAINING_DATA = """
# Before (Iteration 112): Batch only
training_sample = TrainingData(
    features=features,
    n_jobs=4,
    chunksize=100,
    speedup=3.5,
    timestamp=time.time()
)

# After (Iteration 115): Supports streaming
training_sample = TrainingData(
    features=features,
    n_jobs=4,
    chunksize=100,
    speedup=3.5,
    timestamp=time.time(),
    buffer_size=12,  # NEW: Streaming parameter
    use_ordered=True,  # NEW: Streaming parameter
    is_streaming=True  # NEW: Streaming flag
)
"""

LEARNING = """
from amorsize import (
    optimize_streaming,
    update_model_from_streaming_execution
)

# Get optimization result
result = optimize_streaming(my_func, data, verbose=True)

# Execute streaming workload
# ... actual imap/imap_unordered execution ...

# Update model with actual streaming results
update_model_from_streaming_execution(
    func=my_func,
    data_size=len(data),
    estimated_item_time=result.estimated_item_time,
    actual_n_jobs=result.n_jobs,
    actual_chunksize=result.chunksize,
    actual_speedup=measured_speedup,
    buffer_size=result.buffer_size,  # Streaming-specific
    use_ordered=result.use_ordered,  # Streaming-specific
    verbose=True
)
"""


def work(item: int) -> int:
    return item * item


def uneven(item: int) -> int:
    time.sleep(0.04 * (item % 3 == 0))
    return item


def large(item: int) -> bytes:
    return bytes(1 << 20)


def run(sample: str, **around: Any) -> dict[str, Any]:
    names = {name: getattr(parallel, name) for name in ("optimize_streaming", "TrainingData")}
    names |= {"func": work, "my_function": work, "my_func": work, "data": list(range(200)), **around}
    exec(sample.replace("from amorsize import", "from everloop.parallel import"), names)
    return names


def test_basic_usage(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(BASIC, new_data=list(range(300)))["result"]
    assert result.n_jobs >= 1
    assert "work over 300 items" in capsys.readouterr().err


def test_after_some_executions_a_prediction_takes_the_place_of_the_dry_run() -> None:
    for _ in range(8):
        parallel.update_model_from_streaming_execution(work, 300, 0.001, 2, 25, 1.8, buffer_size=150, use_ordered=True)
    seen: list[int] = []
    run(BASIC, my_function=work, new_data=list(range(300)))
    result = parallel.optimize_streaming(
        work, (seen.append(item) or item for item in range(300)), enable_ml_prediction=True, ml_confidence_threshold=0.1
    )
    assert seen == [], "not one item was run, or read"
    assert result.plan.source == "history"
    assert (result.n_jobs, result.buffer_size, result.use_ordered) == (2, 150, True)
    assert result.plan.confidence is not None


def test_heterogeneous_workloads_come_unordered() -> None:
    result = run(HETEROGENEOUS, variable_duration_task=uneven, data=list(range(500)))["result"]
    assert not result.use_ordered


def test_memory_constraints() -> None:
    result = run(MEMORY, large_return_task=large, data=list(range(500)))["result"]
    assert result.plan.buffer_bytes is None or result.plan.buffer_bytes > 0
    assert result.buffer_size >= 1


def test_with_adaptive_chunking() -> None:
    result = run(ADAPTIVE)["result"]
    assert result.use_adaptive_chunking
    assert result.adaptive_chunking_params["adaptation_rate"] == 0.3


def test_with_memory_backpressure() -> None:
    result = run(BACKPRESSURE)["result"]
    assert result.memory_backpressure_enabled
    assert result.memory_threshold == 0.8


def test_with_the_pool_manager() -> None:
    assert run(POOL)["result"].n_jobs >= 1


def test_training_data_of_both_iterations() -> None:
    features = parallel.WorkloadFeatures.of(work, 1_000, 0.001)
    sample = run(TRAINING_DATA, features=features, time=time)["training_sample"]
    assert sample.is_streaming
    assert (sample.buffer_size, sample.use_ordered) == (12, True)


def test_learning_from_a_streaming_execution() -> None:
    names = run(LEARNING, measured_speedup=1.7)
    (sample,) = get_history().load()
    assert sample.is_streaming
    assert sample.speedup == 1.7
    assert sample.buffer_size == names["result"].buffer_size


def test_the_constants() -> None:
    assert parallel.DEFAULT_BUFFER_SIZE_MULTIPLIER == 3
    assert parallel.STREAMING_BUFFER_MEMORY_FRACTION == 0.1
    assert parallel.HETEROGENEOUS_CV_THRESHOLD == 0.5
    assert parallel.LARGE_DATASET_THRESHOLD == 10000
    assert parallel.MIN_TRAINING_SAMPLES == 3


def test_the_result_of_a_prediction() -> None:
    result = parallel.StreamingPredictionResult(n_jobs=4, chunksize=50, confidence=0.85)
    assert isinstance(result, parallel.PredictionResult)
    assert (result.buffer_size, result.use_ordered) == (12, True)


def test_the_signature_of_a_prediction() -> None:
    """`predict_streaming_parameters(func, data_size, estimated_item_time=0.01, confidence_threshold=0.7, verbose=False,
    pickle_size=None, coefficient_of_variation=None, prefer_ordered=None)`"""
    parameters = inspect.signature(parallel.predict_streaming_parameters).parameters
    positional = {name: each.default for name, each in parameters.items() if each.kind is not each.KEYWORD_ONLY}
    assert positional == {
        "func": inspect.Parameter.empty,
        "data_size": inspect.Parameter.empty,
        "estimated_item_time": 0.01,
        "confidence_threshold": 0.7,
        "verbose": False,
        "pickle_size": None,
        "coefficient_of_variation": None,
        "prefer_ordered": None,
    }
    assert parallel.predict_streaming_parameters(work, 1_000) is None, "too little is known: a dry run takes over"


def test_a_prediction_below_the_threshold_leaves_it_to_the_dry_run() -> None:
    for _ in range(3):
        parallel.update_model_from_streaming_execution(work, 200, 0.001, 2, 25, 1.8, buffer_size=50, use_ordered=True)
    result = parallel.optimize_streaming(work, list(range(200)), enable_ml_prediction=True, ml_confidence_threshold=1.0)
    assert result.plan.source == "dry run"

"""The shapes of what the Open Inference Protocol answers besides inference, for HTTP and gRPC alike; names are the protocol's.

Source: the Open Inference Protocol, version 2; for the repository, statistics and configuration Triton's extensions of it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from everloop.core.tensors import TensorSpec


class ServerMetadata(msgspec.Struct):
    name: str
    version: str
    extensions: list[str]


class ModelMetadata(msgspec.Struct):
    name: str
    versions: list[str]
    """Those that answer here; the champion first."""
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class ModelReady(msgspec.Struct):
    name: str
    ready: bool


class IndexEntry(msgspec.Struct):
    """One version that answers here, or a model of which none does."""

    name: str
    version: str = ""
    state: Literal["READY", "LOADING", "UNAVAILABLE"] = "READY"
    reason: str = ""
    """Why it is not ready."""


class Dimensioned(msgspec.Struct):
    name: str
    data_type: str
    """`TYPE_FP32`, `TYPE_STRING` …"""
    dims: tuple[int, ...]
    """Without the batch, where `max_batch_size` is not 0."""


class ModelConfig(msgspec.Struct):
    name: str
    platform: str
    backend: str
    max_batch_size: int
    """0: requests are not put together."""
    input: list[Dimensioned]
    output: list[Dimensioned]


class Duration(msgspec.Struct):
    count: int = 0
    ns: int = 0


class InferStatistics(msgspec.Struct):
    """Requests since the version opened here. What is not measured apart stays 0."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class ModelStatistics(msgspec.Struct):
    name: str
    version: str
    last_inference: int
    """Milliseconds since the epoch; 0: not kept."""
    inference_count: int
    """Rows."""
    execution_count: int
    """Batches."""
    inference_stats: InferStatistics
    batch_stats: list[Duration]


class Statistics(msgspec.Struct):
    model_stats: list[ModelStatistics]


class IndexSpec(msgspec.Struct):
    ready: bool = False
    """Only what can be asked now."""


class LoadSpec(msgspec.Struct):
    """Nothing of it is needed. `parameters` that would load something else than what is registered are refused."""

    parameters: dict[str, Any] = {}


class Settled(msgspec.Struct):
    """It is so now."""

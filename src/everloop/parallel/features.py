"""What of a workload tells how it is best spread: twelve numbers, those of the machine's topology among them.

`distance` compares two workloads on logarithmic scales, since it is orders of magnitude that matter: 1 ms is as far from 10 ms as 10 ms
from 100.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from everloop.parallel import machine
from everloop.parallel.identity import function_complexity

START_METHODS = ("fork", "forkserver", "spawn")

_RANGES: dict[str, tuple[float, float]] = {
    "data_size": (1.0, 1e8),
    "estimated_item_time": (1e-7, 1e2),
    "physical_cores": (1.0, 256.0),
    "available_memory": (1e8, 1e12),
    "pickle_size": (1.0, 1e8),
    "function_complexity": (1.0, 1e5),
    "l3_cache_size": (1e6, 1e9),
    "numa_nodes": (1.0, 16.0),
    "memory_bandwidth_gbps": (1.0, 1e3),
}
"""Features on a logarithmic scale: the values that become 0 and 1."""
_MOST_VARIATION = 2.0
_UNKNOWN = 0.5
"""In the vector: the middle, so that not knowing is no great distance from anything."""


@dataclass(frozen=True, slots=True)
class WorkloadFeatures:
    data_size: int
    """Items."""
    estimated_item_time: float
    """Seconds that one item takes alone, undisturbed by other workers."""
    physical_cores: int
    available_memory: int
    """Bytes."""
    start_method: str = "spawn"
    pickle_size: int | None = None
    """Bytes of one result, pickled."""
    coefficient_of_variation: float | None = None
    """Standard deviation over mean of the item times."""
    function_complexity: int | None = None
    """Bytes of bytecode."""
    l3_cache_size: int | None = None
    """Bytes."""
    numa_nodes: int | None = None
    memory_bandwidth_gbps: float | None = None
    has_numa: bool | None = None

    @classmethod
    def of(
        cls,
        func: Callable[..., Any] | None,
        data_size: int,
        item_time: float,
        *,
        pickle_size: int | None = None,
        coefficient_of_variation: float | None = None,
        memory_bandwidth_gbps: float | None = None,
    ) -> WorkloadFeatures:
        """Of a workload on this machine, now."""
        here = machine.here()
        return cls(
            data_size=data_size,
            estimated_item_time=item_time,
            physical_cores=here.physical_cores,
            available_memory=machine.available_memory(),
            pickle_size=pickle_size,
            coefficient_of_variation=coefficient_of_variation,
            function_complexity=None if func is None else function_complexity(func),
            l3_cache_size=here.l3_cache or None,
            numa_nodes=here.numa_nodes,
            memory_bandwidth_gbps=memory_bandwidth_gbps,
            has_numa=here.numa_nodes > 1,
        )

    @property
    def total_seconds(self) -> float:
        """What the whole workload would take serially."""
        return self.data_size * self.estimated_item_time

    def to_vector(self) -> list[float]:
        """(12,) in the order of the fields, each in [0, 1]."""
        return [_scaled(name, getattr(self, name)) for name in NAMES]

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in NAMES}

    def distance(self, other: WorkloadFeatures) -> float:
        """Root of the mean squared difference of the two vectors, in [0, 1]."""
        pairs = zip(self.to_vector(), other.to_vector(), strict=True)
        return math.sqrt(sum((a - b) ** 2 for a, b in pairs) / len(NAMES))


NAMES: tuple[str, ...] = tuple(each.name for each in fields(WorkloadFeatures))


def _scaled(name: str, value: Any) -> float:
    if value is None:
        return _UNKNOWN
    if name == "start_method":
        return START_METHODS.index(value) / (len(START_METHODS) - 1) if value in START_METHODS else _UNKNOWN
    if name == "has_numa":
        return float(value)
    if name == "coefficient_of_variation":
        return min(1.0, max(0.0, float(value) / _MOST_VARIATION))
    least, most = _RANGES[name]
    share = math.log(max(float(value), least) / least) / math.log(most / least)
    return min(1.0, share)

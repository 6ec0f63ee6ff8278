"""What a machine is, as far as it decides how fast work spreads, and how alike two machines are.

Every recorded run carries its machine's fingerprint, as one short line. Runs of other machines count by `similarity`, and their numbers of
workers are translated to the cores that are here (`evidence.py`): a new machine starts with what others have learned.
"""

from __future__ import annotations

import functools
import hashlib
import math
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from everloop.parallel import machine

_SEPARATOR = "|"
_MOST_CORES = 100_000
_MOST = 1 << 40


@dataclass(frozen=True)
class Fingerprint:
    cpu_model: str
    cores: int
    """That a process may use, by affinity and cgroup."""
    physical_cores: int
    memory_total: int
    """Bytes."""
    l3_cache: int
    """Bytes; 0 where unknown."""
    numa_nodes: int
    system: str
    """`Linux-x86_64`"""
    python: str
    """`3.11`"""

    @property
    def key(self) -> str:
        """8 hexadecimal digits: equal fingerprints have equal keys."""
        return hashlib.sha1(self.line().encode(), usedforsecurity=False).hexdigest()[:8]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        """One short line, as it stands in a sample's file; memory in MiB, cache in KiB."""
        model = self.cpu_model.replace(_SEPARATOR, "/")[:40]
        numbers = (self.cores, self.physical_cores, self.memory_total >> 20, self.l3_cache >> 10, self.numa_nodes)
        return _SEPARATOR.join([model, *map(str, numbers), self.system, self.python])

    @classmethod
    @functools.lru_cache(maxsize=256)
    def of_line(cls, line: str) -> Fingerprint:
        """Raises ValueError where it is not such a line."""
        model, cores, physical, memory, cache, nodes, system, python = line.split(_SEPARATOR)
        numbers = [int(each) for each in (cores, physical, memory, cache, nodes)]
        if not 1 <= numbers[0] <= _MOST_CORES or min(numbers) < 0 or max(numbers) > _MOST:
            raise ValueError(f"this is no machine: {line[:100]!r}")
        return cls(model, numbers[0], numbers[1], numbers[2] << 20, numbers[3] << 10, numbers[4], system, python)

    def similarity(self, other: Fingerprint) -> float:
        """In [0, 1]; 1 for equal machines. Cores count most, the CPU's model and its caches and memory less, by their ratios."""
        if self == other:
            return 1.0
        distance = (
            0.7 * _octaves(self.cores, other.cores)
            + 0.3 * _octaves(self.physical_cores, other.physical_cores)
            + 0.1 * _octaves(self.memory_total, other.memory_total)
            + 0.1 * _octaves(self.l3_cache, other.l3_cache)
            + 0.1 * _octaves(self.numa_nodes, other.numa_nodes)
            + 0.3 * (self.cpu_model != other.cpu_model)
            + 0.5 * (self.system != other.system)
            + 0.1 * (self.python != other.python)
        )
        return math.exp(-distance)


def _octaves(one: int, other: int) -> float:
    """How many doublings lie between; 1 where just one of them is unknown."""
    if one <= 0 or other <= 0:
        return float(one != other)
    return min(6.0, abs(math.log2(one / other)))


@functools.cache
def get_fingerprint() -> Fingerprint:
    """This machine's, read once."""
    here = machine.here()
    return Fingerprint(
        cpu_model=_cpu_model(),
        cores=here.cores,
        physical_cores=here.physical_cores,
        memory_total=here.memory_total >> 20 << 20,  # as precise as it is written
        l3_cache=here.l3_cache >> 10 << 10,
        numa_nodes=here.numa_nodes,
        system=f"{platform.system()}-{platform.machine()}",
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
    )


def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.lower().startswith(("model name", "hardware", "cpu model")):
                    return line.partition(":")[2].strip().replace(_SEPARATOR, "/")[:40]
    except OSError:
        return platform.processor()[:40] or "unknown"
    return platform.processor()[:40] or "unknown"


def measure_memory_bandwidth(megabytes: int = 32, times: int = 1) -> float:
    """GB/s, read and written counted: the best of some copies of a block that no cache holds."""
    source = bytearray(b"\1") * (megabytes << 20)  # pages of zeros that were never written are one page
    target = memoryview(bytearray(len(source)))
    best = math.inf
    for _ in range(times + 1):  # the first also brings the pages in
        started = time.perf_counter()
        target[:] = source
        best = min(best, time.perf_counter() - started)
    return round(2 * len(source) / best / 1e9, 1)

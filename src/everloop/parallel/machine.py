"""What this process may use of the machine: cores and memory as its control group and affinity grant them, caches, NUMA nodes, BLAS.

A container sees the whole host in `os.cpu_count()` and `/proc/meminfo`; what it *gets* stands in its cgroup (v2: `cpu.max`,
`memory.max`, `memory.current`; v1: `cpu.cfs_quota_us`, `memory.limit_in_bytes`; Linux Documentation/admin-guide/cgroup-v2.rst). Limits
of every group up to the root count, the tightest wins. Page cache that can be dropped (`inactive_file`) is not in use.

All reading goes through a root folder, so that tests describe other machines. Without `/proc` (macOS, Windows) psutil answers.
"""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60
"""cgroup v1 says "no limit" with a number near 2**63, rounded to pages."""


@dataclass(frozen=True)
class Machine:
    cores: int
    """That this process may keep busy: its affinity, and no more than its cgroup's CPU quota (rounded up); at least 1."""
    physical_cores: int
    """Of those: without hyper-threads' twins."""
    memory_total: int
    """Bytes; the cgroup's limit where that is smaller."""
    l3_cache: int
    """Bytes of one last-level cache; 0 where unknown."""
    numa_nodes: int


@dataclass(frozen=True)
class Memory:
    """Bytes, now."""

    total: int
    available: int

    @property
    def in_use(self) -> float:
        """Share of the total, in [0, 1]."""
        return 1.0 - self.available / self.total if self.total else 0.0


@functools.cache
def here() -> Machine:
    """This machine, read once: a process's share of it hardly ever changes."""
    return read()


def read(root: Path = Path("/")) -> Machine:
    allowed = _affinity(root)
    quota = cpu_quota(root)
    granted = len(allowed) if math.isinf(quota) else max(1, min(len(allowed), math.ceil(quota)))
    return Machine(
        cores=granted,
        physical_cores=min(granted, _physical(root, allowed)),
        memory_total=memory(root).total,
        l3_cache=_size(_text(root / "sys/devices/system/cpu/cpu0/cache/index3/size")),
        numa_nodes=max(1, len(list((root / "sys/devices/system/node").glob("node[0-9]*")))),
    )


def cpu_quota(root: Path = Path("/")) -> float:
    """Cores' worth of time that the tightest cgroup grants; infinite without a quota."""
    quota = math.inf
    for group in _groups(root, "cpu"):
        limit, _, period = _text(group / "cpu.max").partition(" ")  # v2
        if not limit:
            limit, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")  # v1: -1 is none
        if limit.isdigit() and period.isdigit() and int(period) > 0:
            quota = min(quota, int(limit) / int(period))
    return quota


def memory(root: Path = Path("/")) -> Memory:
    """Of the machine or of the tightest cgroup, whichever leaves less."""
    total, available = _host_memory(root)
    for group in _groups(root, "memory"):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        if not limit or limit >= min(_UNLIMITED, total or _UNLIMITED):
            continue
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes")
        droppable = _table(group / "memory.stat").get("inactive_file", 0)
        free = max(0, limit - max(0, used - droppable))
        total, available = limit, min(available, free)
    return Memory(total=total, available=min(available, total))


def memory_in_use() -> float:
    """Share of the memory that this process may use which is in use now, in [0, 1]: what backpressure watches."""
    return memory().in_use


def available_memory() -> int:
    """Bytes."""
    return memory().available


def blas_threads_of(workers: int, cores: int | None = None) -> int:
    """Threads that each of `workers` may use in BLAS and OpenMP, so that together they do not exceed the cores."""
    return max(1, (here().cores if cores is None else cores) // max(1, workers))


def _affinity(root: Path) -> set[int]:
    if root != Path("/"):
        return _ranges(_text(root / "sys/devices/system/cpu/online")) or {0}
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _physical(root: Path, allowed: set[int]) -> int:
    found = set()
    for cpu in allowed:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        core = _text(topology / "core_id")
        if not core:
            break
        found.add((_text(topology / "physical_package_id"), core))
    else:
        return max(1, len(found))
    if (root / "proc").is_dir():
        return len(allowed)
    import psutil

    return int(psutil.cpu_count(logical=False) or len(allowed))


def _host_memory(root: Path) -> tuple[int, int]:
    table = _table(root / "proc/meminfo")
    if "MemTotal:" in table:
        total = table["MemTotal:"] * 1024
        return total, table.get("MemAvailable:", table.get("MemFree:", 0)) * 1024
    import psutil

    now = psutil.virtual_memory()
    return int(now.total), int(now.available)


@functools.lru_cache(maxsize=8)
def _groups(root: Path, controller: str) -> tuple[Path, ...]:
    """This process's cgroup for `controller`, and its parents up to the mount: whichever of v2 and v1 is there."""
    mounts = root / "sys/fs/cgroup"
    found: list[Path] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top = mounts
        elif controller in controllers.split(","):
            top = next((m for m in (mounts / controllers, mounts / controller) if m.is_dir()), mounts / controller)
        else:
            continue
        # In a container the path may be the host's, which is not mounted here: its own group is then the mount itself.
        group = top / path.lstrip("/")
        while group != top and top in group.parents:
            if group.is_dir():
                found.append(group)
            group = group.parent
        found.append(top)
    return tuple(found)


def _text(path: Path) -> str:
    """ "" where there is no such file, or none that may be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _size(text: str) -> int:
    """`32768K` in bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    if text[:-1].isdigit() and text[-1:] in units:
        return int(text[:-1]) * units[text[-1]]
    return int(text) if text.isdigit() else 0


def _ranges(text: str) -> set[int]:
    """`0-3,8` as a set."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found

"""Machines that are described by a folder: containers with quotas and limits, hosts without."""

from __future__ import annotations

from pathlib import Path

import pytest

from everloop.parallel import machine

GIB = 1 << 30


def host(root: Path, cpus: int = 8, memory_gib: int = 32, free_gib: int = 24, cgroup: str = "0::/") -> Path:
    put(root / "sys/devices/system/cpu/online", f"0-{cpus - 1}")
    for cpu in range(cpus):
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        put(topology / "physical_package_id", "0")
        put(topology / "core_id", str(cpu // 2))  # two threads on each core
    put(root / "sys/devices/system/cpu/cpu0/cache/index3/size", "32768K")
    (root / "sys/devices/system/node/node0").mkdir(parents=True)
    (root / "sys/devices/system/node/node1").mkdir(parents=True)
    put(
        root / "proc/meminfo", f"MemTotal: {memory_gib << 20} kB\nMemAvailable: {free_gib << 20} kB\nHugePages_Total: 0"
    )
    put(root / "proc/self/cgroup", cgroup)
    (root / "sys/fs/cgroup").mkdir(parents=True, exist_ok=True)
    return root


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_a_host_without_limits(tmp_path: Path) -> None:
    assert machine.read(host(tmp_path)) == machine.Machine(
        cores=8, physical_cores=4, memory_total=32 * GIB, l3_cache=32 << 20, numa_nodes=2
    )
    assert machine.memory(tmp_path) == machine.Memory(total=32 * GIB, available=24 * GIB)
    assert machine.memory(tmp_path).in_use == 0.25


@pytest.mark.parametrize(("limit", "cores"), [("250000 100000", 3), ("50000 100000", 1), ("max 100000", 8)])
def test_the_quota_of_a_v2_group_is_rounded_up_to_cores(tmp_path: Path, limit: str, cores: int) -> None:
    host(tmp_path, cgroup="0::/app")
    put(tmp_path / "sys/fs/cgroup/app/cpu.max", limit)
    assert machine.read(tmp_path).cores == cores


def test_the_tightest_group_up_to_the_root_counts(tmp_path: Path) -> None:
    host(tmp_path, cgroup="0::/pod/app")
    put(tmp_path / "sys/fs/cgroup/pod/cpu.max", "200000 100000")
    put(tmp_path / "sys/fs/cgroup/pod/app/cpu.max", "600000 100000")
    put(tmp_path / "sys/fs/cgroup/pod/memory.max", str(4 * GIB))
    put(tmp_path / "sys/fs/cgroup/pod/memory.current", str(3 * GIB))
    put(tmp_path / "sys/fs/cgroup/pod/memory.stat", f"anon 7\ninactive_file {GIB}")
    assert machine.read(tmp_path).cores == 2
    assert machine.memory(tmp_path) == machine.Memory(total=4 * GIB, available=2 * GIB), "droppable cache is free"


def test_a_v1_group(tmp_path: Path) -> None:
    host(tmp_path, cgroup="4:memory:/app\n3:cpu,cpuacct:/app\n0::/")
    put(tmp_path / "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us", "150000")
    put(tmp_path / "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us", "100000")
    put(tmp_path / "sys/fs/cgroup/memory/app/memory.limit_in_bytes", str(2 * GIB))
    put(tmp_path / "sys/fs/cgroup/memory/app/memory.usage_in_bytes", str(GIB))
    put(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", str((1 << 63) - 4096))
    assert machine.read(tmp_path).cores == 2
    assert machine.memory(tmp_path) == machine.Memory(total=2 * GIB, available=GIB)


def test_a_container_that_does_not_see_its_own_path(tmp_path: Path) -> None:
    host(tmp_path, cgroup="0::/docker/4711")
    put(tmp_path / "sys/fs/cgroup/cpu.max", "100000 100000")
    assert machine.read(tmp_path).cores == 1


def test_a_machine_that_tells_nothing_is_asked_otherwise(tmp_path: Path) -> None:
    found = machine.read(tmp_path)
    assert found.cores == 1
    assert found.memory_total > 0, "by psutil"


def test_this_machine() -> None:
    here = machine.here()
    assert 1 <= here.physical_cores <= here.cores
    assert 0.0 <= machine.memory_in_use() <= 1.0
    assert 0 < machine.available_memory() <= here.memory_total


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (100, 1)])
def test_blas_threads_never_exceed_the_cores_together(workers: int, threads: int) -> None:
    assert machine.blas_threads_of(workers, cores=8) == threads

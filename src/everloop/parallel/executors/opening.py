"""The sole way to an executor, and what each kind needs to be there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from everloop.core.errors import InvalidInput, NotSupported
from everloop.parallel.work import KINDS, ExecutorKind

if TYPE_CHECKING:
    from everloop.parallel.executors.base import Executor
    from everloop.parallel.pool import PoolManager


def open_executor(
    kind: ExecutorKind,
    func: Callable[[Any], Any],
    workers: int,
    *,
    pool: PoolManager | None = None,
    blas_threads: int | None = None,
) -> Executor:
    """`pool`: whose processes are used; None: processes of its own, ended with it. `blas_threads`: of each worker process; None: a
    fair share of the cores. Raises NotPicklable where `func` cannot travel to where it has to, MissingExtra without Ray."""
    if workers < 1:
        raise InvalidInput(f"workers: at least one is needed, this is {workers}", field="workers")
    if kind == "serial":
        from everloop.parallel.executors.serial import SerialExecutor

        return SerialExecutor(func)
    if kind == "thread":
        from everloop.parallel.executors.threads import ThreadExecutor

        return ThreadExecutor(func, workers)
    if kind == "process":
        if os.name != "posix":
            raise NotSupported("process workers need a POSIX system (pipes and signals); use executor='thread'")
        from everloop.parallel.executors.processes import ProcessExecutor
        from everloop.parallel.machine import blas_threads_of
        from everloop.parallel.pool import PoolManager

        threads = blas_threads or blas_threads_of(workers)
        return ProcessExecutor(func, workers, pool or PoolManager(), blas_threads=threads, owns_pool=pool is None)
    if kind == "ray":
        from everloop.parallel.executors.ray_actors import RayExecutor

        return RayExecutor(func, workers)
    raise InvalidInput(f"executor: {kind!r} is not one of {', '.join(KINDS)}", field="executor")

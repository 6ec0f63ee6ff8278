"""What the parallel engine is compared with: other people's pools, each as its documentation shows it, at its defaults.

Every pool is started, and has run something, before it is timed; only mpire starts its workers anew for each map, which is its default.
All of them fork, and so need no time to import anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from everloop.app.bench.parallel_workloads import Workload, nothing

Map = Callable[[Workload], list[Any]]
"""One run over all items: the results, in order."""


@contextmanager
def pools(cores: int) -> Iterator[dict[str, Map]]:
    """Name -> its map, while the pools are open. One that is not installed is left out."""
    with ExitStack() as stack:
        found: dict[str, Map] = {"Pool": _pool(stack), "ProcessPoolExecutor": _futures(stack)}
        if find_spec("joblib"):
            found["joblib"] = _joblib(cores)
        if find_spec("mpire"):
            found["mpire"] = _mpire(stack)
        warm = Workload("warm", nothing, list(range(64)))
        for each in found.values():
            each(warm)
        yield found


def _pool(stack: ExitStack) -> Map:
    import multiprocessing

    pool = stack.enter_context(multiprocessing.Pool())

    def run(work: Workload) -> list[Any]:
        return list(pool.imap(work.func, work.data())) if work.generated else pool.map(work.func, work.data())

    return run


def _futures(stack: ExitStack) -> Map:
    from concurrent.futures import ProcessPoolExecutor

    executor = stack.enter_context(ProcessPoolExecutor())
    return lambda work: list(executor.map(work.func, work.data()))


def _joblib(cores: int) -> Map:
    from joblib import Parallel, delayed

    def run(work: Workload) -> list[Any]:
        call = delayed(work.func)
        return list(Parallel(n_jobs=cores)(call(item) for item in work.data()))

    return run


def _mpire(stack: ExitStack) -> Map:
    from mpire.pool import WorkerPool

    pool = stack.enter_context(WorkerPool())

    def run(work: Workload) -> list[Any]:
        # A tuple would be taken for several arguments.
        items = ((item,) for item in work.data()) if work.generated else [(item,) for item in work.data()]
        return list(pool.map(work.func, items))

    return run

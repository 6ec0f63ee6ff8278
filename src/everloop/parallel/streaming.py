"""`optimize_streaming` and `stream`: the same for inputs that are too long to hold, or that have no end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from everloop.core.errors import InvalidInput
from everloop.parallel.api import facts_of, listed, say
from everloop.parallel.decision import Wishes
from everloop.parallel.engine import Run
from everloop.parallel.hooks import ExecutionHooks
from everloop.parallel.inputs import Input, opened, rest
from everloop.parallel.machine import here
from everloop.parallel.options import RunOptions
from everloop.parallel.planning import Foresight, Planner
from everloop.parallel.results import StreamingOptimizationResult
from everloop.parallel.validation import number
from everloop.parallel.work import ExecutorKind

if TYPE_CHECKING:
    from everloop.parallel.history import History
    from everloop.parallel.plan import Plan
    from everloop.parallel.pool import PoolManager


def optimize_streaming(  # noqa: PLR0917 - the names and places that callers know
    func: Callable[[Any], Any],
    data: Iterable[Any],
    sample_size: int = 5,
    target_chunk_duration: float = 0.2,
    prefer_ordered: bool | None = None,
    buffer_size: int | None = None,
    verbose: bool = False,
    profile: bool = False,
    enable_adaptive_chunking: bool = False,
    adaptation_rate: float = 0.3,
    pool_manager: PoolManager | None = None,
    enable_memory_backpressure: bool = False,
    memory_threshold: float = 0.8,
    enable_ml_prediction: bool = False,
    ml_confidence_threshold: float = 0.7,
    estimated_item_time: float | None = None,
    *,
    n_jobs: int | None = None,
    chunksize: int | None = None,
    executor: ExecutorKind | None = None,
    prefer_threads_for_io: bool = True,
    use_cache: bool = True,
    history: History | None = None,
) -> StreamingOptimizationResult:
    """The settings that `stream(func, data)` would use, and why: `.explain()`. Hand the result to `stream` as `settings`.

    Runs `func` on up to `sample_size` items, as `optimize` does. `.data` still yields every item.

    prefer_ordered
        results in the order of the items, or as they are ready; None: whichever suits the durations.
    buffer_size
        items that are read and not yet handed out, at most; None: three chunks for each worker, within a tenth of the free memory.
    enable_adaptive_chunking, adaptation_rate
        chunks follow what items are observed to take, toward `target_chunk_duration`; the newest weighs `adaptation_rate`.
    enable_memory_backpressure, memory_threshold
        nothing is submitted while more than that share of the memory is in use.
    """
    began = time.perf_counter()
    number("memory_threshold", memory_threshold, 0, 1, above=True)
    given = opened(data)
    planner = Planner(
        func,
        Wishes(
            executor=executor,
            n_jobs=n_jobs,
            chunksize=chunksize,
            target_chunk_duration=target_chunk_duration,
            prefer_threads_for_io=prefer_threads_for_io,
            streaming=True,
            ordered=prefer_ordered,
            buffer_size=buffer_size,
            adaptive=enable_adaptive_chunking,
            adaptation_rate=adaptation_rate,
        ),
        RunOptions(memory_threshold=memory_threshold if enable_memory_backpressure else None),
        sample_size=sample_size,
        use_cache=use_cache,
        foresight=Foresight(enable_ml_prediction, ml_confidence_threshold, estimated_item_time, verbose=verbose),
        pool=pool_manager,
        history=history,
        first=given.first,
    )
    plan = planner.plan(given.source, given.total, extend=False)
    result = _described(planner, plan, given, profile, time.perf_counter() - began)
    result.data = given.data if given.repeatable else rest(planner.run.sampled if planner.run else [], given.source)
    if verbose:
        say(result)
    return result


class Stream(Iterator[Any]):
    """The results of a stream, one by one. Close it (or leave its `with`) to end it early; its workers are then free."""

    def __init__(self, run: Run, finish: Callable[[], None]) -> None:
        self._run = run
        self._results = iter(run)
        self._finish = finish

    @property
    def report(self) -> Any:
        """What happened so far: a `RunReport`."""
        return self._run.report

    @property
    def plan(self) -> Plan:
        """The settings in use now."""
        return self._run.report.plan

    def __next__(self) -> Any:
        try:
            return next(self._results)
        except StopIteration:
            finish, self._finish = self._finish, _nothing
            finish()
            raise

    def close(self) -> None:
        self._run.close()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stream(  # noqa: PLR0917 - the same
    func: Callable[[Any], Any],
    iterable: Iterable[Any],
    sample_size: int = 5,
    target_chunk_duration: float = 0.2,
    prefer_ordered: bool | None = None,
    buffer_size: int | None = None,
    verbose: bool = False,
    enable_adaptive_chunking: bool = True,
    adaptation_rate: float = 0.3,
    pool_manager: PoolManager | None = None,
    enable_memory_backpressure: bool = False,
    memory_threshold: float = 0.8,
    enable_ml_prediction: bool = False,
    ml_confidence_threshold: float = 0.7,
    estimated_item_time: float | None = None,
    *,
    settings: StreamingOptimizationResult | None = None,
    enable_online_learning: bool = True,
    hooks: ExecutionHooks | Sequence[ExecutionHooks] | None = None,
    n_jobs: int | None = None,
    chunksize: int | None = None,
    executor: ExecutorKind | None = None,
    prefer_threads_for_io: bool = True,
    use_cache: bool = True,
    history: History | None = None,
    explore: bool = True,
    **options: Any,
) -> Stream:
    """`(func(item) for item in iterable)`, spread over workers: a lazy iterator that reads its input no further than `buffer_size` items
    ahead of what was taken from it, and works only while somebody asks for results.

    Settings are those of `optimize_streaming`, or its answer as `settings`; `options` those of `RunOptions`. Chunks adapt unless
    `enable_adaptive_chunking=False` or `chunksize` says otherwise. What the run teaches is recorded unless
    `enable_online_learning=False`.

    An item's exception is raised in its place. A stream that is closed or forgotten frees its workers.
    """
    wishes = Wishes(
        executor=executor,
        n_jobs=n_jobs,
        chunksize=chunksize,
        target_chunk_duration=target_chunk_duration,
        prefer_threads_for_io=prefer_threads_for_io,
        streaming=True,
        ordered=prefer_ordered,
        buffer_size=buffer_size,
        adaptive=enable_adaptive_chunking and chunksize is None,
        adaptation_rate=adaptation_rate,
    )
    number("memory_threshold", memory_threshold, 0, 1, above=True)
    threshold = memory_threshold if enable_memory_backpressure else None
    if settings is not None and not isinstance(settings, StreamingOptimizationResult):
        raise InvalidInput(
            f"settings: what optimize_streaming answers is needed, this is {settings!r}", field="settings"
        )
    if settings is not None and settings.memory_threshold is not None:
        threshold = settings.memory_threshold
    run_options = RunOptions.of(stream, memory_threshold=threshold, **options)
    watchers = listed(hooks)
    began = time.perf_counter()
    given = opened(iterable)
    planner = Planner(
        func,
        wishes,
        run_options,
        sample_size=sample_size,
        use_cache=use_cache,
        foresight=Foresight(
            enable_ml_prediction,
            ml_confidence_threshold,
            estimated_item_time,
            learn=enable_online_learning,
            explore=explore,
            verbose=verbose,
        ),
        pool=pool_manager,
        history=history,
        first=given.first,
    )
    if settings is not None:
        plan = _with(settings.plan, wishes)
    else:
        plan = planner.plan(given.source, given.total, extend=True)
    if verbose:
        say(_described(planner, plan, given, False, time.perf_counter() - began))
    run = Run(
        func,
        given.source,
        plan,
        planner.options,
        total=given.total,
        done=planner.done,
        hooks=watchers,
        open_executor=planner.open,
        replan=planner.replan,
    )
    return Stream(run, lambda: planner.finish(run.report, given.total))


def _with(plan: Plan, wishes: Wishes) -> Plan:
    """`plan`, where the caller does not say something else."""
    said: dict[str, Any] = {
        "executor": wishes.executor,
        "n_jobs": here().cores if wishes.n_jobs == -1 else wishes.n_jobs,
        "chunksize": wishes.chunksize,
        "ordered": wishes.ordered,
        "buffer_size": wishes.buffer_size,
    }
    said = {name: value for name, value in said.items() if value is not None}
    if "chunksize" in said:
        said["adaptive"] = None
    if "buffer_size" in said:
        said["buffer_grows"] = False
    return replace(plan, **said) if said else plan


def _described(
    planner: Planner, plan: Plan, given: Input, profile: bool, seconds: float
) -> StreamingOptimizationResult:
    facts = facts_of(planner, seconds)
    threshold = planner.options.memory_threshold
    return StreamingOptimizationResult(
        plan=plan,
        name=planner.name,
        total=given.total,
        warnings=list(planner.warnings),
        profile=facts if profile else None,
        facts=facts,
        memory_backpressure_enabled=threshold is not None,
        memory_threshold=threshold,
    )


def _nothing() -> None:
    """After the end there is nothing more to keep."""

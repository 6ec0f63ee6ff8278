"""`optimize` and `execute`: the best settings for mapping a function over data, and the mapping itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from everloop.core.errors import InvalidInput
from everloop.parallel.decision import Wishes
from everloop.parallel.engine import Run
from everloop.parallel.hooks import ExecutionHooks
from everloop.parallel.inputs import opened, rest
from everloop.parallel.options import RunOptions
from everloop.parallel.planning import Foresight, Planner
from everloop.parallel.results import OptimizationResult, Profile
from everloop.parallel.work import ExecutorKind

if TYPE_CHECKING:
    from everloop.parallel.history import History
    from everloop.parallel.plan import Plan
    from everloop.parallel.pool import PoolManager

ProgressCallback = Callable[[str, float], object]
"""Is told what is being decided, and the share of it that is done, in [0, 1]."""


def optimize(  # noqa: PLR0917 - the names and places that callers know
    func: Callable[[Any], Any],
    data: Iterable[Any],
    sample_size: int = 5,
    target_chunk_duration: float = 0.2,
    verbose: bool = False,
    profile: bool = False,
    progress_callback: ProgressCallback | None = None,
    prefer_threads_for_io: bool = True,
    use_cache: bool = True,
    use_ml_prediction: bool = False,
    ml_confidence_threshold: float = 0.7,
    *,
    estimated_item_time: float | None = None,
    n_jobs: int | None = None,
    chunksize: int | None = None,
    executor: ExecutorKind | None = None,
    pool_manager: PoolManager | None = None,
    history: History | None = None,
) -> OptimizationResult:
    """The settings that `execute(func, data)` would use, and why: `.explain()`.

    Runs `func` on up to `sample_size` items (and a few more on threads, to see whether it lets go of the GIL) unless the history, an
    earlier call or the caller knows enough. `.data` still yields every item, also where `data` is an iterator.

    n_jobs, chunksize, executor
        are taken as they are; -1 jobs are as many as there are cores.
    use_ml_prediction
        ask the recorded runs first; below `ml_confidence_threshold` they are not believed.
    estimated_item_time
        seconds that one item takes, for predicting a function that has no runs yet.

    Raises InvalidInput for settings that cannot be, NotPicklable where `executor="process"` is asked for and `func` cannot be sent.
    """
    wishes = Wishes(
        executor=executor,
        n_jobs=n_jobs,
        chunksize=chunksize,
        target_chunk_duration=target_chunk_duration,
        prefer_threads_for_io=prefer_threads_for_io,
    )
    foresight = Foresight(use_ml_prediction, ml_confidence_threshold, estimated_item_time, verbose=verbose)
    began = time.perf_counter()
    tell(progress_callback, "looking at the input", 0.0)
    given = opened(data)
    planner = Planner(
        func,
        wishes,
        sample_size=sample_size,
        use_cache=use_cache,
        foresight=foresight,
        pool=pool_manager,
        history=history,
        first=given.first,
    )
    tell(progress_callback, "dry run", 0.2)
    plan = planner.plan(given.source, given.total, extend=False)
    tell(progress_callback, "decided", 1.0)
    result = described(planner, plan, given.total, profile, time.perf_counter() - began)
    result.data = given.data if given.repeatable else rest(planner.run.sampled if planner.run else [], given.source)
    if planner.run is not None and planner.run.probe.failure:
        unknown = "; what an item takes is not known" if planner.run.probe.only_failures else ""
        result.warnings.append(
            f"the sample failed: {planner.run.probe.failure}; that item will fail in the run, too{unknown}"
        )
    if verbose:
        say(result)
    return result


@overload
def execute(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    sample_size: int = ...,
    *,
    return_optimization_result: Literal[True],
    **settings: Any,
) -> tuple[list[Any], OptimizationResult]: ...


@overload
def execute(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    sample_size: int = ...,
    target_chunk_duration: float = ...,
    verbose: bool = ...,
    profile: bool = ...,
    progress_callback: ProgressCallback | None = ...,
    prefer_threads_for_io: bool = ...,
    use_cache: bool = ...,
    use_ml_prediction: bool = ...,
    ml_confidence_threshold: float = ...,
    **settings: Any,
) -> list[Any]: ...


def execute(  # noqa: PLR0917 - the same
    func: Callable[[Any], Any],
    data: Iterable[Any],
    sample_size: int = 5,
    target_chunk_duration: float = 0.2,
    verbose: bool = False,
    profile: bool = False,
    progress_callback: ProgressCallback | None = None,
    prefer_threads_for_io: bool = True,
    use_cache: bool = True,
    use_ml_prediction: bool = False,
    ml_confidence_threshold: float = 0.7,
    *,
    enable_online_learning: bool = False,
    return_optimization_result: bool = False,
    hooks: ExecutionHooks | Sequence[ExecutionHooks] | None = None,
    estimated_item_time: float | None = None,
    n_jobs: int | None = None,
    chunksize: int | None = None,
    executor: ExecutorKind | None = None,
    pool_manager: PoolManager | None = None,
    history: History | None = None,
    explore: bool = True,
    **options: Any,
) -> list[Any] | tuple[list[Any], OptimizationResult]:
    """`[func(item) for item in data]`, with the settings that are fastest here and now. Each item is run exactly once: what the dry run
    has done is not done again.

    Settings are those of `optimize`; `options` those of `RunOptions`: on_error, retries, timeout, checkpoint, progress and more.

    enable_online_learning
        record how fast this run was, so that later ones are predicted from it.
    explore
        with prediction: now and then, when it costs little, try a neighbouring setting.
    return_optimization_result
        `(results, OptimizationResult)`, whose `.report` tells what really happened.

    An item's exception is raised as it is, with a note that names the item; the rest of the work is stopped. Ctrl-C leaves no process.
    """
    wishes = Wishes(
        executor=executor,
        n_jobs=n_jobs,
        chunksize=chunksize,
        target_chunk_duration=target_chunk_duration,
        prefer_threads_for_io=prefer_threads_for_io,
    )
    run_options = RunOptions.of(execute, **options) if options else RunOptions()
    watchers = listed(hooks)
    began = time.perf_counter()
    tell(progress_callback, "looking at the input", 0.0)
    given = opened(data, look_ahead=True)
    planner = Planner(
        func,
        wishes,
        run_options,
        sample_size=sample_size,
        use_cache=use_cache,
        foresight=Foresight(
            use_ml_prediction,
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
    tell(progress_callback, "dry run", 0.1)
    plan = planner.plan(given.source, given.total, extend=True)
    decided = time.perf_counter() - began
    tell(progress_callback, "running", 0.2)
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
    results = run.results()
    planner.finish(run.report, given.total)
    tell(progress_callback, "done", 1.0)
    if not (return_optimization_result or verbose):
        return results
    result = described(planner, plan, given.total, profile, decided)
    result.data = given.data if given.repeatable else ()
    result.report = run.report
    if verbose:
        say(result)
    return (results, result) if return_optimization_result else results


def described(planner: Planner, plan: Plan, total: int | None, profile: bool, seconds: float) -> OptimizationResult:
    facts = facts_of(planner, seconds)
    return OptimizationResult(
        plan=plan,
        name=planner.name,
        total=total,
        warnings=list(planner.warnings),
        profile=facts if profile else None,
        facts=facts,
    )


def facts_of(planner: Planner, seconds: float) -> Profile:
    probe = planner.run.probe if planner.run is not None else None
    return Profile(probe, planner.around, planner.estimates, seconds)


def listed(hooks: ExecutionHooks | Sequence[ExecutionHooks] | None) -> Sequence[ExecutionHooks]:
    if hooks is None:
        return ()
    given = [hooks] if isinstance(hooks, ExecutionHooks) else hooks
    if not isinstance(given, Sequence) or not all(isinstance(each, ExecutionHooks) for each in given):
        raise InvalidInput(
            f"hooks: an ExecutionHooks object or a list of them is needed, this is {hooks!r}; subclass ExecutionHooks, and override "
            "what you want to hear of",
            field="hooks",
        )
    return given


def tell(callback: ProgressCallback | None, what: str, share: float) -> None:
    if callback is not None:
        callback(what, share)


def say(result: OptimizationResult) -> None:
    print(result.explain(), file=sys.stderr)  # noqa: T201 - that is what `verbose` asks for

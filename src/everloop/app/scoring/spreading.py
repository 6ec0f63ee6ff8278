"""The blocks over the machine's cores, in order, by `everloop.parallel`, which learns from each run what is fastest for the next."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Generator, Iterator

from everloop.app.scoring.models import FunctionModel
from everloop.app.scoring.rows import Block, Scored
from everloop.app.scoring.scorer import Scorer
from everloop.core.errors import WorkerDied
from everloop.parallel.work import ExecutorKind


class Spread:
    def __init__(self, workers: int | None, executor: ExecutorKind | None) -> None:
        """None: as the engine finds best, from a dry run or from runs before this one."""
        self._wanted_workers = workers
        self._wanted_executor = executor
        self.executor: ExecutorKind = "serial"
        self.workers = 1

    def run(self, scorer: Scorer, blocks: Iterator[Block]) -> Generator[Scored, None, None]:
        """One block at a time goes to each worker: `Pace` has made them large enough. An exception of the input comes when all that was
        read before it has been scored."""
        from everloop.app.scoring.poison import score_piecemeal
        from everloop.parallel import ItemFailure, PoolManager, stream

        work = functools.partial(score_block, scorer=scorer, work=work_of(scorer))
        with (
            PoolManager() as pool,
            stream(
                work,
                blocks,
                prefer_ordered=True,
                chunksize=1,
                executor=self._wanted_executor,
                n_jobs=self._wanted_workers,
                prefer_threads_for_io=isinstance(scorer.model, FunctionModel),  # a model never waits for anybody
                pool_manager=pool,
                enable_ml_prediction=True,
                on_error="return",
                progress=False,
                label="score",
            ) as results,
        ):
            try:
                for found in results:
                    if not isinstance(found, ItemFailure):
                        yield found
                    elif isinstance(found.error, WorkerDied):
                        yield score_piecemeal(found.item, found.error, scorer=scorer, work=work, pool=pool)
                    else:
                        raise found.error
            finally:
                self.executor, self.workers = results.plan.executor, results.plan.n_jobs


def score_block(block: Block, *, scorer: Scorer, work: str) -> Scored:  # noqa: ARG001 - `work` names the run for the history
    return scorer(block)


def work_of(scorer: Scorer) -> str:
    """A name for this kind of work, by which runs of the past are found: the next version of a model profits from them, too."""
    model = getattr(scorer.model, "target", scorer.model.name)
    parts = (model, scorer.decoder.format, type(scorer.encoder).__name__, str(scorer.scores), str(len(scorer.columns)))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

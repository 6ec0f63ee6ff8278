"""The blocks over the machine's cores, in order, by `everloop.parallel`."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from everloop.app.scoring.rows import Block, Scored
from everloop.app.scoring.scorer import Scorer
from everloop.parallel.work import ExecutorKind


class Spread:
    def __init__(self, workers: int | None, executor: ExecutorKind | None) -> None:
        """None: as the engine finds best, from a dry run or from runs before this one."""
        self._wanted_workers = workers
        self._wanted_executor = executor
        self.executor = "serial"
        self.workers = 1

    def run(self, scorer: Scorer, blocks: Iterator[Block]) -> Generator[Scored, None, None]:
        for block in blocks:
            yield scorer(block)

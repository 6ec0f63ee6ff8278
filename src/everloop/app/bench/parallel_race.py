"""One workload raced: cold and warm `execute`, the best of the grid, and the peers, in turns.

Cold is as after installation: an empty history folder, no workers, nothing decided before. Warm is after five runs that were recorded, with
predictions from them, and with recording left on while it is timed. Both choose by themselves.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everloop.app.bench.parallel_grid import Run, Setting, fixed, screen, timed
from everloop.app.bench.parallel_workloads import Workload

if TYPE_CHECKING:
    from everloop.parallel.pool import PoolManager

Ready = Callable[[], AbstractContextManager[Run]]
"""Gives what runs a workload, after making ready and before clearing away, neither of which is timed."""
WARM_RUNS = 5
HOPELESS = 4.0
"""A peer this many times slower than the best has made its point after two rounds."""


@dataclass
class Raced:
    """Seconds of every round, by side."""

    name: str
    serial: float
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    grid: dict[Setting, list[float]] = field(default_factory=dict)
    peers: dict[str, list[float]] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    """What cold and warm decided in their last round."""

    @property
    def best(self) -> tuple[Setting, list[float]]:
        """The fastest of the grid by its median over the rounds."""
        return min(self.grid.items(), key=lambda side: statistics.median(side[1]))

    @property
    def best_peer(self) -> tuple[str, list[float]]:
        return min(self.peers.items(), key=lambda side: statistics.median(side[1]))

    def against_best(self, side: list[float], allowance: float = 0.0) -> float:
        """The median of the rounds' ratios; `allowance` seconds are not counted."""
        best = self.best[1]
        return statistics.median((ours - allowance) / theirs for ours, theirs in zip(side, best, strict=True))

    def against_peer(self, name: str) -> float:
        """Of the rounds that the peer ran in, which are the first ones."""
        return statistics.median(ours / theirs for ours, theirs in zip(self.warm, self.peers[name], strict=False))

    def raw(self) -> dict[str, Any]:
        """For the report and the picture."""
        setting, best = self.best
        return {
            "name": self.name,
            "serial": self.serial,
            "best setting": str(setting),
            "best": best,
            "cold": self.cold,
            "warm": self.warm,
            "peers": self.peers,
            "grid": {str(each): times for each, times in self.grid.items()},
            "chosen": self.chosen,
        }


class Cold:
    """`execute` that knows nothing; making and ending what it runs in is not timed, starting the workers is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chose = ""

    @contextmanager
    def ready(self) -> Iterator[Run]:
        from everloop.parallel import History, PoolManager, execute

        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        history, pool = History(self.folder), PoolManager()

        def run(work: Workload) -> list[Any]:
            results, decided = execute(
                work.func,
                work.data(),
                history=history,
                pool_manager=pool,
                use_cache=False,
                return_optimization_result=True,
                progress=False,
            )
            self.chose = described(decided)
            return list(results)

        try:
            yield run
        finally:
            pool.shutdown(wait=True)


class Warm:
    """`execute` that predicts from what it recorded, and goes on recording."""

    def __init__(self, folder: Path, pool: PoolManager) -> None:
        from everloop.parallel import History

        folder.mkdir(parents=True)
        self.history, self.pool = History(folder), pool
        self.chose = ""

    def run(self, work: Workload) -> list[Any]:
        from everloop.parallel import execute

        results, decided = execute(
            work.func,
            work.data(),
            history=self.history,
            pool_manager=self.pool,
            enable_online_learning=True,
            use_ml_prediction=True,
            return_optimization_result=True,
            progress=False,
        )
        self.chose = described(decided)
        return list(results)

    @contextmanager
    def ready(self) -> Iterator[Run]:
        yield self.run


def as_it_is(run: Run) -> Ready:
    """What needs neither making ready nor clearing away."""
    return lambda: nullcontext(run)


def described(decided: Any) -> str:
    return f"{decided.executor_type} {decided.n_jobs} × {decided.chunksize}"


def race(
    work: Workload,
    folder: Path,
    rounds: int,
    cores: int,
    peers: Mapping[str, Run],
    say: Callable[[str], None],
) -> Raced:
    """Screens the grid, lets the warm side have its runs, then `rounds` rounds of every side in turn."""
    from everloop.parallel import PoolManager

    work.serial()
    raced = Raced(work.name, work.serial())
    with ExitStack() as stack:
        pool = PoolManager()
        stack.callback(pool.shutdown)
        say(f"{work.name}: the grid")
        raced.grid = {setting: [] for setting in screen(work, pool, cores)}
        unprepared, learned = Cold(folder / "cold"), Warm(folder / "warm", pool)
        for _ in range(WARM_RUNS):
            timed(work, learned.run, "warm")
        raced.peers = {name: [] for name in peers}
        sides: list[tuple[str, Ready, list[float]]] = [
            ("cold", unprepared.ready, raced.cold),
            ("warm", learned.ready, raced.warm),
        ]
        sides += [(str(each), as_it_is(fixed(each, pool)), times) for each, times in raced.grid.items()]
        sides += [(name, as_it_is(run), raced.peers[name]) for name, run in peers.items()]
        for turn in range(rounds):
            say(f"{work.name}: round {turn + 1} of {rounds}")
            fastest = min((min(times) for _, _, times in sides if times), default=0.0)
            for name, ready, times in sides:
                if turn >= 2 and name in peers and min(times) > HOPELESS * fastest:
                    continue
                with ready() as run:
                    times.append(timed(work, run, name))
            sides.reverse()  # what runs after whom should not matter, so it is turned round
        raced.chosen = {"cold": unprepared.chose, "warm": learned.chose}
    return raced

"""What `everloop tune` does: reads items, asks the engine what it would choose, and runs the alternatives in turns.

Alternatives are compared as a race in rounds: every round runs each of them once, in another order, so that what slows the machine down for
a while slows them all; medians are compared. Workers are warm, as they are from the second call on in a program that uses the engine.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from everloop.app.scoring.formats import Format, place
from everloop.app.scoring.source import open_source
from everloop.core.errors import InvalidInput
from everloop.parallel.work import ExecutorKind

if TYPE_CHECKING:
    from pathlib import Path

    from everloop.parallel.pool import PoolManager
    from everloop.parallel.results import OptimizationResult

BLOCK_ROWS = 1000
BLOCK_BYTES = 1 << 20

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """`chunksize` None: chunks find their size. `executor` None: all as the engine chooses."""

    executor: ExecutorKind | None = None
    workers: int | None = None
    chunksize: int | None = None

    def __str__(self) -> str:
        if self.executor is None:
            return "as chosen"
        if self.executor == "serial":
            return "serial"
        kind = {"thread": "threads", "process": "processes"}.get(self.executor, self.executor)
        return f"{self.workers} {kind}, chunks {'adapt' if self.chunksize is None else f'of {self.chunksize}'}"


@dataclass
class Measured:
    setting: Setting
    seconds: list[float] = field(default_factory=list)
    """One for each round."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Comparison:
    items: int
    rounds: int
    measured: list[Measured]
    """The quickest first."""

    @property
    def serial(self) -> Measured:
        return next(each for each in self.measured if each.setting.executor == "serial")

    @property
    def best(self) -> Measured:
        return self.measured[0]

    @property
    def chosen(self) -> Measured:
        return next(each for each in self.measured if each.setting.executor is None)


def rows_of(file: str, chosen: Format | None, column: str | None) -> Iterator[Any]:
    """The rows of a CSV, NDJSON or Parquet file as dicts, or the values of one column. Raises InvalidInput naming the line."""
    with closing(open_source(place(file, chosen, None, field="data"), delimiter=None, types={})) as source:
        if column is not None and column not in source.names:
            raise InvalidInput(
                f"--column: {file} has no column {column!r}; it has {', '.join(source.names[:12])}", field="column"
            )
        while (block := source.reader.take(BLOCK_ROWS, BLOCK_BYTES)) is not None:
            rows = source.decoder.rows(block)
            mappings = rows.mappings()
            for i, error in sorted(rows.errors.items()):
                raise InvalidInput(f"{file}, line {rows.lines[i]}, {error.text()}", field=error.column)
            yield from mappings if column is None else (mapping.get(column) for mapping in mappings)


def choose(
    function: Callable[[Any], Any], items: Iterable[Any], *, history: bool, pool: PoolManager
) -> OptimizationResult:
    """What the engine would do with all of the items, and why."""
    from everloop.parallel import optimize

    return optimize(function, items, use_ml_prediction=history, use_cache=False, pool_manager=pool, profile=True)


def fitting(items: Sequence[Any], item_seconds: float, seconds: float) -> list[Any]:
    """As many of the items, evenly spread over them, as one worker does in `seconds`; at least 20 where there are as many."""
    most = max(20, int(seconds / max(item_seconds, 1e-9)))
    if len(items) <= most:
        return list(items)
    step = len(items) / most
    return [items[int(i * step)] for i in range(most)]


def alternatives(count: int, cores: int) -> list[Setting]:
    """Kinds of workers, numbers of them, sizes of chunks: what a careful person would try by hand."""
    found = [Setting(), Setting("serial", 1)]
    for kind in ("thread", "process"):
        numbers = {2, cores, *([4 * cores, 16] if kind == "thread" else [2 * cores])}
        for workers in sorted(number for number in numbers if 1 < number <= max(2, count)):
            large = max(1, count // (4 * workers))
            found += [Setting(kind, workers, size) for size in (None, 1, *([large] if large > 1 else []))]
    return found


def compare(
    function: Callable[[Any], Any],
    items: list[Any],
    settings: Sequence[Setting],
    *,
    rounds: int,
    learn: bool,
    pool: PoolManager,
    say: Say,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Race the settings. A first round starts the workers and is not counted."""
    from everloop.parallel import execute

    entrants = [Measured(setting) for setting in settings]
    order = random.Random(0)  # noqa: S311 - it only has to differ from round to round
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warming up")
        for entrant in order.sample(entrants, len(entrants)):
            setting = entrant.setting
            began = clock()
            execute(
                function,
                items,
                executor=setting.executor,
                n_jobs=setting.workers,
                chunksize=setting.chunksize,
                enable_online_learning=learn,
                pool_manager=pool,
                progress=False,
            )
            if number:
                entrant.seconds.append(clock() - began)
    return Comparison(len(items), rounds, sorted(entrants, key=lambda entrant: entrant.median))


def plot(comparison: Comparison, name: str, path: Path) -> None:
    """A bar for each setting, with all of its rounds as dots. Raises MissingExtra."""
    from everloop.core.errors import MissingExtra

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra.of("bench", "--plot") from error

    measured = comparison.measured[::-1]
    figure = Figure(figsize=(8, 0.6 + 0.32 * len(measured)), layout="constrained")
    axes = figure.add_subplot()
    colours = ["#d1495b" if each.setting.executor is None else "#6c8ead" for each in measured]
    places = range(len(measured))
    axes.barh(places, [each.median for each in measured], color=colours, height=0.7)
    for at, each in zip(places, measured, strict=True):
        axes.plot(each.seconds, [at] * len(each.seconds), "o", color="black", markersize=2.5, alpha=0.6)
    axes.set_yticks(list(places), [str(each.setting) for each in measured])
    axes.set_xlabel(f"seconds for {comparison.items:,} items, median of {comparison.rounds} rounds")
    axes.set_title(name, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def head(items: Iterable[Any], most: int) -> tuple[list[Any], bool]:
    """The first `most` items, and whether there are more."""
    rest = iter(items)
    found = list(islice(rest, most))
    return found, next(chain(rest, (_NOTHING,))) is not _NOTHING


_NOTHING = object()

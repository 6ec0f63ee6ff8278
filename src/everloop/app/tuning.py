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
from everloop.core.errors import InvalidInput, NotPicklable, explain
from everloop.parallel.wording import duration
from everloop.parallel.work import ExecutorKind

if TYPE_CHECKING:
    from pathlib import Path

    from everloop.parallel.pool import PoolManager
    from everloop.parallel.results import OptimizationResult

BLOCK_ROWS = 1000
BLOCK_BYTES = 1 << 20
BUDGET = 12.0
"""Seconds that a race may take, where nobody says otherwise."""
ROUNDS = 5
FEWEST = 8
"""Items of a run."""
WARMING = 64
"""Items of the first round, which only starts the workers."""
SLOW_ITEM = 0.02
"""Seconds; beside them it does not matter how many are sent at once."""
HANDLING = 20e-6
"""Seconds that an item costs beside the function, as a mean over the settings (most in chunks of 1)."""

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
    found: Setting | None = None
    """Where the engine chose: what it came to."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.setting}: {self.found}" if self.found is not None else str(self.setting)


@dataclass
class Comparison:
    items: int
    rounds: int
    measured: list[Measured]
    """The quickest first."""
    impossible: dict[Setting, str] = field(default_factory=dict)
    """What could not be run, and why."""

    @property
    def serial(self) -> Measured:
        return next(each for each in self.measured if each.setting.executor == "serial")

    @property
    def best(self) -> Measured:
        return self.measured[0]

    @property
    def chosen(self) -> Measured:
        return next(each for each in self.measured if each.setting.executor is None)


@dataclass(frozen=True)
class Race:
    """What is run for a comparison."""

    items: list[Any]
    settings: list[Setting]
    rounds: int
    seconds: float
    """That it will take, about: so much as if no setting were quicker than a plain loop."""


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


def race_of(
    items: Sequence[Any], item_seconds: float, *, cores: int, rounds: int | None = None, seconds: float | None = None
) -> Race:
    """As many items, settings and rounds as take BUDGET seconds in all, unless the caller knows better: `seconds` is the work in one run.

    Of slow items fewer are run, down to FEWEST, then fewer rounds; the sizes of chunks do not matter to them and are left out."""
    settings = alternatives(len(items), cores, chunks=item_seconds < SLOW_ITEM)
    each_run = seconds if seconds is not None else BUDGET / (len(settings) * (1 + (rounds or ROUNDS)))
    some = fitting(items, item_seconds + (0.0 if seconds is not None else HANDLING), each_run)
    settings = alternatives(len(some), cores, chunks=item_seconds < SLOW_ITEM)
    one_round = len(settings) * len(some) * (item_seconds + HANDLING)
    if rounds is None:
        rounds = int(min(ROUNDS, max(1, BUDGET // max(one_round, 1e-9) - 1)))
    warmed = sum(each.executor in (None, "process") for each in settings) / len(settings)
    warm_up = warmed * one_round * len(some[:WARMING]) / len(some)
    return Race(some, settings, rounds, warm_up + rounds * one_round)


def fitting(items: Sequence[Any], item_seconds: float, seconds: float) -> list[Any]:
    """As many of the items, evenly spread over them, as one worker does in `seconds`; at least FEWEST where there are as many."""
    most = max(FEWEST, int(seconds / max(item_seconds, 1e-9)))
    if len(items) <= most:
        return list(items)
    step = len(items) / most
    return [items[int(i * step)] for i in range(most)]


def alternatives(count: int, cores: int, *, chunks: bool = True) -> list[Setting]:
    """Kinds of workers, numbers of them, sizes of chunks: what a careful person would try by hand."""
    found = [Setting(), Setting("serial", 1)]
    for kind in ("thread", "process"):
        numbers = {2, cores, *([4 * cores, 16] if kind == "thread" else [2 * cores])}
        for workers in sorted(number for number in numbers if 1 < number <= max(2, count)):
            large = max(1, count // (4 * workers))
            sizes = (None, 1, *([large] if large > 1 else [])) if chunks else (1,)
            found += [Setting(kind, workers, size) for size in sizes]
    return found


def compare(
    function: Callable[[Any], Any],
    race: Race,
    *,
    learn: bool,
    pool: PoolManager,
    say: Say,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Race the settings. A first round, over few items, starts the worker processes and is not counted.

    Raises InvalidInput where the function itself fails, naming the item."""
    from everloop.parallel import execute

    entrants = [Measured(setting) for setting in race.settings]
    impossible: dict[Setting, str] = {}
    order = random.Random(0)  # noqa: S311 - it only has to differ from round to round
    left = ""
    for number in range(race.rounds + 1):
        say(f"round {number} of {race.rounds}{left}" if number else "warming up")
        started = clock()
        for entrant in order.sample(entrants, len(entrants)):
            setting = entrant.setting
            if setting in impossible or not (number or setting.executor in (None, "process")):
                continue
            began = clock()
            try:
                _, result = execute(
                    function,
                    race.items if number else race.items[:WARMING],
                    executor=setting.executor,
                    n_jobs=setting.workers,
                    chunksize=setting.chunksize,
                    enable_online_learning=learn,
                    pool_manager=pool,
                    progress=False,
                    return_optimization_result=True,
                )
            except NotPicklable as error:
                impossible[setting] = error.message
                continue
            except (Exception, SystemExit) as error:
                where = "; ".join(getattr(error, "__notes__", ())) or "an item"
                raise InvalidInput(f"the function fails: {where}: {explain(error)}", field="function") from error
            if number:
                entrant.seconds.append(clock() - began)
                if setting.executor is None:
                    entrant.found = _came_to(result)
        if number and number < race.rounds:
            left = f", about {duration((race.rounds - number) * (clock() - started))} left"
    ran = [entrant for entrant in entrants if entrant.seconds]
    return Comparison(len(race.items), race.rounds, sorted(ran, key=lambda entrant: entrant.median), impossible)


def _came_to(result: OptimizationResult) -> Setting:
    plan = result.report.plan if result.report is not None else result.plan
    return Setting(plan.executor, plan.n_jobs, None if plan.adaptive else plan.chunksize)


def check_drawing() -> None:
    """Raises MissingExtra: better before a race than after it."""
    from importlib.util import find_spec

    from everloop.core.errors import MissingExtra

    if find_spec("matplotlib") is None:
        raise MissingExtra.of("bench", "--plot")


def plot(comparison: Comparison, name: str, path: Path) -> None:
    """A bar for each setting, with all of its rounds as dots."""
    from matplotlib.figure import Figure

    measured = comparison.measured[::-1]
    figure = Figure(figsize=(8, 0.6 + 0.32 * len(measured)), layout="constrained")
    axes = figure.add_subplot()
    colours = ["#d1495b" if each.setting.executor is None else "#6c8ead" for each in measured]
    places = range(len(measured))
    axes.barh(places, [each.median for each in measured], color=colours, height=0.7)
    for at, each in zip(places, measured, strict=True):
        axes.plot(each.seconds, [at] * len(each.seconds), "o", color="black", markersize=2.5, alpha=0.6)
    axes.set_yticks(list(places), [str(each) for each in measured])
    axes.set_xlabel(
        f"seconds for {comparison.items:,} items, median of {comparison.rounds} round{'s' * (comparison.rounds != 1)}"
    )
    axes.set_title(name, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def head(items: Iterable[Any], most: int) -> tuple[list[Any], bool]:
    """The first `most` items, and whether there are more."""
    rest = iter(items)
    found = list(islice(rest, most))
    return found, next(chain(rest, (_NOTHING,))) is not _NOTHING


_NOTHING = object()

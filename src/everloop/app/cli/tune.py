"""`everloop tune`: the choice in words, the alternatives as a table with bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everloop.app.cli.group import UsageError
from everloop.app.cli.output import as_json as to_json
from everloop.app.cli.output import data, for_data_alone, say, table
from everloop.app.scoring.formats import Format
from everloop.app.scoring.models import import_function
from everloop.app.tuning import (
    Comparison,
    Measured,
    Race,
    Say,
    check_drawing,
    choose,
    compare,
    head,
    plot,
    race_of,
    rows_of,
)
from everloop.parallel.results import OptimizationResult
from everloop.parallel.wording import duration

BAR = 24
"""Characters of the longest bar."""
EIGHTHS = " ▏▎▍▌▋▊▉█"


def run(
    target: str,
    *,
    file: str | None,
    data_format: Format | None,
    column: str | None,
    count: int | None,
    items_json: str | None,
    limit: int,
    race: bool,
    rounds: int | None,
    seconds: float | None,
    learn: bool,
    history: bool,
    picture: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Raises UsageError, and InvalidInput for a function or a file that is not there or cannot be read."""
    from everloop.parallel import PoolManager
    from everloop.parallel.machine import here

    items = _items(file=file, data_format=data_format, column=column, count=count, text=items_json, limit=limit)
    if picture is not None and not picture.parent.is_dir():
        raise UsageError(f"--plot {picture}: there is no folder {picture.parent}")
    if picture is not None:
        check_drawing()
    told: Say = (lambda _: None) if quiet else say
    with for_data_alone():  # the function may print
        function = import_function(target)
    if not items:
        raise UsageError("there are no items: nothing to tune for")
    with PoolManager() as pool:
        with for_data_alone():
            result = choose(function, items, history=history, pool=pool)
        if not as_json:
            data(result.explain())
        if not race and picture is None:
            if as_json:
                data(to_json(_choice(target, result)))
            return
        plan = race_of(items, result.estimated_item_time, cores=here().cores, rounds=rounds, seconds=seconds)
        told(_announced(plan, len(items)))
        with for_data_alone():
            found = compare(function, plan, learn=learn, pool=pool, say=told)
    if as_json:
        data(to_json({**_choice(target, result), "compared": _compared(found)}))
    else:
        show(found)
    if picture is not None:
        plot(found, target, picture)
        told(f"drawn in {picture}")


def _announced(race: Race, count: int) -> str:
    some = f"{len(race.items):,} of the {count:,}" if len(race.items) < count else f"all {count:,}"
    rounds = f"{race.rounds} round{'s' * (race.rounds != 1)}"
    return (
        f"compares {len(race.settings)} settings over {some} items in {rounds}: about {duration(race.seconds)} at most "
        "(--seconds: work in one run; --rounds)"
    )


def show(found: Comparison) -> None:
    slowest = max(each.median for each in found.measured)
    data("")
    table(
        ("setting", "median", "spread", "against serial", "time"),
        [
            (
                str(each) + ("  <- best" if each is found.best else ""),
                duration(each.median),
                _spread(each),
                f"{found.serial.median / each.median:.2f} x",
                bar(each.median / slowest),
            )
            for each in found.measured
        ],
    )
    for setting, why in found.impossible.items():
        data(f"{setting}: not possible, {why}")
    behind = found.chosen.median / found.best.median
    verdict = "it is the best of them" if behind <= 1.0 else f"{behind:.2f} times the best"
    rounds = f"{found.rounds} round{'s' * (found.rounds != 1)} in turns"
    data(f"\n{found.items:,} items, {rounds}, workers warm. {str(found.chosen).capitalize()}: {verdict}.")


def bar(share: float) -> str:
    """A bar of up to BAR characters, in eighths of one."""
    whole, rest = divmod(round(share * BAR * 8), 8)
    return "█" * whole + (EIGHTHS[rest] if rest else "") or "▏"


def _spread(each: Measured) -> str:
    return f"{duration(min(each.seconds))} – {duration(max(each.seconds))}"


def _items(
    *, file: str | None, data_format: Format | None, column: str | None, count: int | None, text: str | None, limit: int
) -> Sequence[Any]:
    if sum(each is not None for each in (file, count, text)) != 1:
        raise UsageError(
            "say one of --data FILE, --range N and --items-json '[…]': what would the function be mapped over?"
        )
    if column is not None and file is None:
        raise UsageError("--column goes with --data")
    if count is not None:
        return range(count)
    if text is not None:
        try:
            found = json.loads(text)
        except ValueError as error:
            raise UsageError(f"--items-json: not JSON ({error}); quote it for the shell, e.g. '[1, 2, 3]'") from None
        if not isinstance(found, list):
            raise UsageError("--items-json: expected a list, e.g. '[1, 2, 3]'")
        return found
    assert file is not None
    items, more = head(rows_of(file, data_format, column), limit)
    if more:
        say(f"takes the first {limit:,} rows of {file} (--limit)")
    return items


def _choice(target: str, result: OptimizationResult) -> dict[str, Any]:
    return {
        "function": target,
        "items": result.total,
        "executor": result.executor_type,
        "n_jobs": result.n_jobs,
        "chunksize": result.chunksize,
        "estimated_speedup": result.estimated_speedup,
        "estimated_item_seconds": result.estimated_item_time,
        "source": result.plan.source,
        "reason": result.reason,
        "notes": result.plan.notes,
        "warnings": result.warnings,
    }


def _compared(found: Comparison) -> dict[str, Any]:
    return {
        "items": found.items,
        "rounds": found.rounds,
        "settings": [
            {
                "executor": (each.found or each.setting).executor,
                "n_jobs": (each.found or each.setting).workers,
                "chunksize": (each.found or each.setting).chunksize,
                "as_chosen": each.setting.executor is None,
                "median_seconds": each.median,
                "seconds": each.seconds,
                "speedup": found.serial.median / each.median,
            }
            for each in found.measured
        ],
        "impossible": {str(setting): why for setting, why in found.impossible.items()},
    }

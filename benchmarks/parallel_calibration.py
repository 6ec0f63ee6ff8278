"""Calibration of the parallel engine's predictions: real functions, really run, over and over, each run predicted before it is learned from.

    python benchmarks/parallel_calibration.py [--quick] [--figure docs/figures/calibration.png]

Thirty functions of ten kinds (pure Python, hashing, compression, JSON, sorting, NumPy, waiting, uneven durations, large results,
decimals), from microseconds to milliseconds an item. Each run does 10 to 50 ms of work, of varying size, with one of a handful of
settings; two of them come up most, as in use. Before a run, the history says how long it expects these very settings to take, and how sure it
is; a hit is within 25 %. Nothing is simulated: times are this machine's, its noise included.

**Held out** means by function: the functions are dealt into four folds, and the confidence of each fold's predictions is calibrated
by the outcomes of the other three alone. What users were told while the outcomes came in (calibrated by those before) is a row of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from everloop.parallel import (
    execute,
    get_global_pool_manager,
    optimize,
    predict_parameters,
    predict_streaming_parameters,
)
from everloop.parallel.calibration import Calibrator, Outcome, calibration_error, get_calibration_stats, reliability
from everloop.parallel.history import History
from everloop.parallel.identity import func_hash
from everloop.parallel.recording import record_run

BAR = 0.1
FOLDS = 4
FEWEST = 5
"""Outcomes of a point that is drawn."""
WORK_SECONDS = 0.03
"""That a run does, about."""


def spin(n: int, _: int) -> int:
    total = 0
    for i in range(n):
        total += i * i
    return total


def digest(n: int, seed: int) -> str:
    return hashlib.sha256(bytes([seed % 256]) * n).hexdigest()


def squeeze(n: int, seed: int) -> int:
    return len(zlib.compress(random.Random(seed).randbytes(n // 8) * 8))


def translate(n: int, seed: int) -> int:
    rows = [{"id": seed + i, "name": f"row {i}", "values": [i, i / 3, None]} for i in range(n)]
    return len(json.loads(json.dumps(rows)))


def rank(n: int, seed: int) -> float:
    rng = random.Random(seed)
    return sorted(rng.random() for _ in range(n))[n // 2]


def wait(milliseconds: float, _: int) -> None:
    time.sleep(milliseconds / 1000)


def multiply(n: int, seed: int) -> float:
    import numpy as np

    matrix = np.random.default_rng(seed).random((n, n))
    return float((matrix @ matrix).sum())


def uneven(n: int, seed: int) -> int:
    return spin(int(n * random.Random(seed).lognormvariate(0, 1.1)), 0)


def produce(n: int, seed: int) -> bytes:
    return bytes([seed % 256]) * n


def root(n: int, seed: int) -> Decimal:
    value = Decimal(seed + 2)
    for _ in range(n):
        value = (value + 2 / value) / 2
    return value


KINDS: dict[Callable[..., Any], tuple[float, ...]] = {
    spin: (60, 900, 20_000), digest: (300, 30_000, 2_000_000), squeeze: (800, 8_000, 200_000), translate: (3, 50, 900),
    rank: (40, 600, 9_000), wait: (0.3, 1.1, 5.1), multiply: (12, 90, 300), uneven: (100, 1_100, 11_000),
    produce: (2_000, 70_000, 1_000_000), root: (20, 200, 3_000),
}  # fmt: skip


@dataclass
class Subject:
    name: str
    func: Callable[[int], Any]
    items: int
    """That take about `WORK_SECONDS` serially."""
    favourites: list[tuple[str, int, float | None]]
    others: list[tuple[str, int, float | None]]
    outcomes: list[Outcome] = field(default_factory=list)


def subjects(rng: random.Random, per_kind: int) -> list[Subject]:
    found = []
    for kind, sizes in KINDS.items():
        for size in sizes[:per_kind]:
            func = partial(kind, size)
            func(0)
            started, runs = time.perf_counter(), 0
            while runs < 3 or time.perf_counter() - started < 0.002:
                func(runs)
                runs += 1
            items = round(WORK_SECONDS / ((time.perf_counter() - started) / runs))
            # The executor, its workers, and chunks as a share of all items (None: adaptive).
            settings: list[tuple[str, int, float | None]] = [
                ("serial", 1, 1.0), ("thread", 2, None), ("thread", 2, 0.1), ("process", 2, None), ("process", 2, 0.05),
                ("process", 2, 0.2), ("thread", 8 if kind is wait else 4, None),
            ]  # fmt: skip
            rng.shuffle(settings)
            found.append(
                Subject(f"{kind.__name__}({size:g})", func, min(20_000, max(6, items)), settings[:2], settings[2:])
            )
    return found


def measure(quick: bool, say: Callable[[str], None]) -> tuple[History, list[Subject]]:
    """Every subject's runs, interleaved so that the machine's moods fall on all of them."""
    rng = random.Random(20)
    history = History(tempfile.mkdtemp(prefix="calibration-"))
    found = subjects(rng, 2 if quick else 3)
    rounds = 10 if quick else 30
    for number in range(rounds):
        for subject in rng.sample(found, len(found)):
            kind, n_jobs, share = rng.choice(subject.favourites if rng.random() < 0.8 else subject.others)
            count = max(4, round(subject.items * math.exp(rng.gauss(0, 0.5))))
            chunksize = None if share is None else max(1, round(count * share))
            before = len(history.outcomes.load())
            _, decided = execute(
                subject.func,
                range(count),
                executor=kind,
                n_jobs=n_jobs,
                chunksize=chunksize,
                history=history,
                use_cache=False,
                return_optimization_result=True,
            )
            record_run(subject.func, decided.report, total=count, history=history)
            outcomes = history.outcomes.load()
            if len(outcomes) > before or (outcomes and subject.outcomes[-1:] != outcomes[-1:]):
                subject.outcomes.append(outcomes[-1])
        say(f"round {number + 1} of {rounds}")
    return history, found


def held_out(found: list[Subject]) -> list[Outcome]:
    """Every outcome, its confidence calibrated by the outcomes of functions of other folds only."""
    dealt = random.Random(1).sample(found, len(found))
    rows = []
    for fold in range(FOLDS):
        for basis in ("function", "across"):
            others = [o for at, s in enumerate(dealt) if at % FOLDS != fold for o in s.outcomes if o.basis == basis]
            calibrator = Calibrator((outcome.raw, outcome.hit) for outcome in others)
            for at, subject in enumerate(dealt):
                if at % FOLDS == fold:
                    own = [outcome for outcome in subject.outcomes if outcome.basis == basis]
                    rows += [replace(outcome, confidence=calibrator(outcome.raw)) for outcome in own]
    return rows


def error_of(rows: list[Outcome], *, raw: bool = False) -> float:
    return calibration_error([row.raw if raw else row.confidence for row in rows], [row.hit for row in rows])


def larger(history: History, found: list[Subject]) -> tuple[int, int]:
    """How many workloads a thousand times larger than any seen, of how many, were predicted: in items, and in item time."""
    asked = predicted = 0
    for subject in found:
        experience = history.experience(func_hash(subject.func))
        assert experience is not None
        items, item_time, _ = (math.exp(value) for value in experience.largest)
        for size, seconds in ((math.ceil(items * 1_001), None), (round(items), item_time * 1_001)):
            for ask in (predict_parameters, predict_streaming_parameters):
                asked += 1
                predicted += ask(subject.func, size, seconds, 0.0, history=history) is not None
    return predicted, asked


def speed(history: History, found: list[Subject]) -> tuple[float, float, int]:
    """Median seconds of a warm prediction with 1,000 samples on disk, of the dry run that it replaces, and the samples."""
    samples = history.load()
    extra = 0
    while len(samples) + extra < 1_000:  # what was measured, once more
        sample = samples[extra % len(samples)]
        history.record(replace(sample, timestamp=sample.timestamp + 1e-3))
        extra += 1
    subject = next(each for each in found if each.func.func is rank and each.func.args == (600,))  # type: ignore[attr-defined]
    predictions, dry_runs = [], []
    for number in range(300):
        started = time.perf_counter()
        predict_parameters(subject.func, 1_000 + number, history=history, confidence_threshold=0.0)
        predictions.append(time.perf_counter() - started)
    for _ in range(15):
        started = time.perf_counter()
        optimize(subject.func, range(1_000), use_cache=False, history=history)
        dry_runs.append(time.perf_counter() - started)
    return median(predictions), median(dry_runs), len(history.load())


def row(
    what: str, bar: str, measured: str, passed: bool | None, detail: str = "", ratio: float | None = None
) -> dict[str, Any]:
    return {"what": what, "bar": bar, "measured": measured, "ratio": ratio, "pass": passed, "detail": detail}


def run(
    quick: bool = False, figure: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Rows for `make bench`: {what, bar, measured, ratio, pass, detail}."""
    history, found = measure(quick, say)
    live = [outcome for subject in found for outcome in subject.outcomes]
    rows = held_out(found)
    error, raw = error_of(rows), error_of(rows, raw=True)
    sure = [outcome for outcome in rows if outcome.confidence >= 0.7]
    predicted, asked = larger(history, found)
    warm, dry, samples = speed(history, found)
    get_global_pool_manager().shutdown()
    if figure is not None:
        draw(rows, figure)
    right = sum(outcome.hit for outcome in sure) / len(sure) if sure else math.nan
    moved = get_calibration_stats(history)["adjusted_threshold"]
    return [
        row(
            "expected calibration error of predicted times, functions held out",
            f"at most {BAR}",
            f"{error:.3f}",
            error <= BAR,
            f"{len(rows):,} real runs of {len(found)} functions; {raw:.3f} without calibration",
        ),
        row(
            "the same for what was told while the outcomes came in",
            "no bar",
            f"{error_of(live):.3f}",
            None,
            "the beginning counted, when there was nothing to calibrate by",
        ),
        row(
            "predictions of at least 70 % confidence that came true within 25 %",
            "no bar",
            f"{right:.0%}",
            None,
            f"{len(sure):,} of {len(rows):,} were so sure; the threshold 0.70 now stands at {moved:.2f}",
        ),
        row(
            "workloads a thousand times larger than any seen that were predicted",
            "0",
            f"{predicted} of {asked}",
            predicted == 0,
        ),
        row(
            f"a warm prediction with {samples:,} samples on disk, median",
            "under 0.2 ms, under a tenth of the dry run",
            f"{warm * 1e3:.3f} ms",
            warm < 0.0002 and warm < dry / 10,
            f"the dry run takes {dry * 1e3:.1f} ms",
            dry / warm,
        ),
    ]


def draw(rows: list[Outcome], path: Path) -> None:
    """The reliability curve: how often predictions of each confidence came true, and how many there were."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from everloop.app.bench.figures import BLUE, GREY, ORANGE, STYLE

    told, raw, hits = [r.confidence for r in rows], [r.raw for r in rows], [r.hit for r in rows]
    with plt.rc_context(STYLE):
        picture, (curve, counts) = plt.subplots(
            2, 1, figsize=(5.6, 6.2), sharex=True, height_ratios=(4, 1), layout="constrained"
        )
        curve.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="means what it says")
        for values, colour, name in (
            (raw, ORANGE, "by the model alone"),
            (told, BLUE, "calibrated, functions held out"),
        ):
            points = [point for point in reliability(values, hits) if point[3] >= FEWEST]
            error = calibration_error(values, hits)
            xs, ys = [p[1] for p in points], [p[2] for p in points]
            sizes = [8 + 90 * math.sqrt(p[3] / len(rows)) for p in points]
            curve.plot(xs, ys, color=colour, linewidth=1.6, label=f"{name}: error {error:.3f}")
            curve.scatter(xs, ys, s=sizes, color=colour, zorder=3)
        curve.set(
            title="Confidence means what it says", ylabel="share that came true within 25 %", xlim=(0, 1), ylim=(0, 1)
        )
        curve.legend(frameon=False, loc="lower right")
        counts.hist(told, bins=[step / 10 for step in range(11)], color=BLUE, rwidth=0.9)
        counts.set(xlabel="confidence", ylabel="runs")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(path)
        plt.close(picture)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="some 200 runs instead of 900")
    parser.add_argument("--figure", type=Path, help="where the reliability curve is drawn")
    arguments = parser.parse_args()
    rows = run(arguments.quick, arguments.figure, say=lambda text: print(f"  {text}", file=sys.stderr, flush=True))
    for each in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[each["pass"]]
        print(f"{verdict:7} {each['what']}: {each['measured']} ({each['bar']}) {each['detail']}")
    return 1 if any(each["pass"] is False for each in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

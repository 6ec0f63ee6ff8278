"""The forms of scikit-learn models: how much faster the chosen one is than the estimator, whether any other would have been faster still, and
whether they all answer alike on rows that nobody trained on.

The estimator is asked by its own `predict` with an array that is ready; the chosen form as a server asks it, from a list to a plain answer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everloop.app.bench.rows import Context, Result, Row, against, counted, ratio_in_turns, spread
from everloop.app.optimizing import compare
from everloop.core.hashing import artifact_digest
from everloop.optimization.asking import one_row
from everloop.optimization.measuring import contenders, measure
from everloop.optimization.variants import Report, Wishes, optimise
from everloop.runtime import sklearn
from everloop.runtime.artifact import Trust, load_session

BARS = {"LogReg": 10.0, "RandomForest-100": 100.0, "GradientBoosting": 20.0, "HistGradientBoosting": None}
FIELDS, TRAINED, ROWS = 20, 2_000, 20_000
SLOWER = 1.05
BLOCK_SECONDS = 0.02


def run(context: Context, folder: Path) -> Result:
    """Needs no `folder`."""
    del folder
    from sklearn.datasets import make_classification

    asked = ROWS // 10 if context.quick else ROWS
    X, y = make_classification(TRAINED + asked, FIELDS, n_informative=10, random_state=0)
    rows: list[Row] = []
    data: dict[str, Any] = {}
    worst: list[tuple[float, str]] = []
    flips = told = again = 0
    for name, bar in BARS.items():
        if context.quick and bar is None:
            continue
        context.say(f"variants: {name}")
        estimator = _estimator(name).fit(X[:TRAINED], y[:TRAINED])
        manifest, payload = sklearn.manifest_of(estimator), sklearn.dump_estimator(estimator, Trust())
        examples, labels = X[TRAINED:].tolist(), y[TRAINED:].tolist()
        wishes = Wishes(max_seconds=context.seconds(40.0, 8.0), open_apart=not context.quick, drawn=0)
        report = optimise(manifest, payload, examples, labels, wishes=wishes, trust=Trust())
        ours, theirs = _one_row(report, estimator, X[TRAINED:], context.rounds(21, 7))
        if bar is not None:
            ratio = ratio_in_turns(theirs, ours)
            detail = f"{report.chosen.name}: {spread([t * 1e6 for t in ours], ' µs')}, the estimator {spread([t * 1e6 for t in theirs], ' µs')}"
            rows.append(
                against(
                    "variants",
                    f"{name}, one row, chosen form against the estimator",
                    ratio,
                    "at least",
                    bar,
                    detail=detail,
                )
            )
        worst += [(ratio, f"{name} at {size} rows") for size, ratio in _against_best(report, examples, context)]
        flips += sum(form.parity.flips for form in report.figures.forms if form.exact and form.parity is not None)
        if not context.quick:
            repeated = optimise(
                manifest, payload, examples, labels, wishes=replace(wishes, open_apart=False), trust=Trust()
            )
            checks = compare(report.figures, repeated.figures, artifact_digest(report.chosen.payload))
            told, again = told + len(checks), again + sum(check.holds for check in checks)
        data[name] = {"figures": msgspec.to_builtins(report.figures), "chosen": ours, "estimator": theirs}
    ratio, where = max(worst)
    rows.append(
        against(
            "variants",
            "the chosen form against the fastest that agrees, at 1, 8 and 64 rows",
            ratio,
            "at most",
            SLOWER,
            detail=f"most at {where}; median of the rounds' ratios",
        )
    )
    rows.append(
        counted(
            "variants",
            f"labels that a float form gives otherwise, {asked:,} rows a model",
            "0",
            str(flips),
            passed=flips == 0,
        )
    )
    if told:
        rows.append(
            counted(
                "variants",
                "numbers of the manifest that come out again",
                "all",
                f"{again} of {told}",
                passed=again == told,
            )
        )
    return Result(rows, data)


def _estimator(name: str) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    return {
        "LogReg": lambda: LogisticRegression(max_iter=500),
        "RandomForest-100": lambda: RandomForestClassifier(100, random_state=0),
        "GradientBoosting": lambda: GradientBoostingClassifier(random_state=0),
        "HistGradientBoosting": lambda: HistGradientBoostingClassifier(random_state=0),
    }[name]()


def _one_row(report: Report, estimator: Any, X: Any, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds a row of both, in turns."""
    lists, arrays = X[:64].tolist(), [X[i : i + 1] for i in range(64)]
    with closing(load_session(report.chosen.manifest, report.chosen.payload, trust=Trust())) as session:
        ask = one_row(session, lists[0])
        ours, theirs = [], []
        _seconds(ask, lists)
        for _ in range(rounds):
            ours.append(_seconds(ask, lists))
            theirs.append(_seconds(estimator.predict, arrays))
    return ours, theirs


def _seconds(ask: Callable[[Any], Any], inputs: Sequence[Any]) -> float:
    """A call, of as many as take about `BLOCK_SECONDS`."""
    begun = time.perf_counter()
    ask(inputs[0])
    each = time.perf_counter() - begun
    asked = [inputs[i % len(inputs)] for i in range(max(1, min(20_000, round(BLOCK_SECONDS / each))))]
    begun = time.perf_counter()
    for one in asked:
        ask(one)
    return (time.perf_counter() - begun) / len(asked)


def _against_best(report: Report, rows: Sequence[Any], context: Context) -> list[tuple[int, float]]:
    """For each size, the chosen form's time against that of the fastest, measured anew."""
    sizes = report.figures.sizes
    with ExitStack() as stack:
        near = {
            report.chosen.name,
            *contenders({form.name: form.seconds for form in report.figures.forms if form.seconds}),
        }
        forms = {each.name: each for each in [*report.candidates, report.chosen] if each.name in near}
        sessions = {
            name: stack.enter_context(closing(load_session(each.manifest, each.payload, trust=Trust())))
            for name, each in forms.items()
        }
        taken = measure(sessions, rows[:2_000], sizes, seconds=context.seconds(15.0, 2.0), seed=1)
    found = []
    for i, size in enumerate(sizes):
        best = min(taken, key=lambda name: statistics.median(taken[name][i]))
        ours = np.array(taken[report.chosen.name][i]) / np.array(taken[best][i])
        found.append((size, float(np.median(ours))))
    return found

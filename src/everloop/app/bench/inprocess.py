"""What one prediction costs inside a Python program, against scikit-learn and against the least that Python could do."""

from __future__ import annotations

import contextlib
import statistics
import timeit
from collections.abc import Sequence
from operator import mul
from pathlib import Path
from typing import Any

from everloop.app.bench.material import linear_data, trained_linear
from everloop.app.bench.processes import load_core, on_core
from everloop.app.bench.rows import Context, Result, Row, against, ratio_in_turns, spread

WIDTHS = (1, 8, 30)


class BareAnswer:
    """The least that an answer must say."""

    __slots__ = ("prediction", "version")

    def __init__(self, prediction: float, version: int) -> None:
        self.prediction = prediction
        self.version = version


class BareModels:
    """The floor: models in a dictionary, a dot product, a result object. No check, no record, no request id."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[list[float], float, int]] = {}

    def predict(self, name: str, features: Sequence[float]) -> BareAnswer:
        weights, bias, version = self.models[name]
        return BareAnswer(sum(map(mul, weights, features)) + bias, version)


def microseconds(statement: str, names: dict[str, Any], count: int) -> float:
    """A statement's mean over `count` runs, in µs, by `timeit`: no call of ours is wrapped around it. The collector stays on."""
    timer = timeit.Timer(statement, setup="import gc; gc.enable()", globals=names)
    return timer.timeit(count) / count * 1e6


def run(context: Context, folder: Path) -> Result:
    """`Continuum.predict` at 1, 8 and 30 features, all sides given the same list. Every prediction is recorded, as is the
    default. Needs no `folder`."""
    del folder
    from sklearn.linear_model import LinearRegression

    from everloop.app.continuum import Continuum

    rows: list[Row] = []
    data: dict[str, Any] = {}
    rounds, count = context.rounds(9, 3), context.rounds(20_000, 4_000)
    with Continuum() as engine, contextlib.ExitStack() as stack:
        trained = {width: trained_linear(engine, f"linear-{width}", width) for width in WIDTHS}
        stack.enter_context(on_core(load_core()))  # now, so that what training started does not share this core
        for width in WIDTHS:
            context.say(f"in process, {width} features")
            row = [float(value) for value in trained[width][3]]
            peer = LinearRegression().fit(*linear_data(width))
            bare = BareModels()
            bare.models[f"linear-{width}"] = (peer.coef_.tolist(), float(peer.intercept_), 1)
            names = {"engine": engine, "bare": bare, "peer": peer, "name": f"linear-{width}", "row": row}
            sides = {
                "everloop": ("engine.predict(name, row)", count),
                "bare": ("bare.predict(name, row)", count),
                "scikit-learn": ("peer.predict([row])", max(200, count // 50)),
            }
            for statement, _ in sides.values():
                microseconds(statement, names, 300)
            took: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, (statement, calls) in sides.items():
                    took[side].append(microseconds(statement, names, calls))
            detail = ", ".join(f"{side} {spread(values, ' µs')}" for side, values in took.items())
            faster = ratio_in_turns(took["scikit-learn"], took["everloop"])
            slower = ratio_in_turns(took["everloop"], took["bare"])
            rows.append(
                against(
                    "in process",
                    f"predict, {width} features, faster than LinearRegression.predict",
                    faster,
                    "at least",
                    60,
                    detail=detail,
                )
            )
            rows.append(
                against(
                    "in process",
                    f"predict, {width} features, of the bare dot product",
                    slower,
                    "at most",
                    3,
                    detail=detail,
                )
            )
            data[str(width)] = {side: statistics.median(values) for side, values in took.items()}
    return Result(rows, {"microseconds": data})

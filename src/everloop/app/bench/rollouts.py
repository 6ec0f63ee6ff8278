"""What several live versions cost: routing and counting one prediction in process, requests over HTTP, and a million units split."""

from __future__ import annotations

import contextlib
import math
import statistics
from pathlib import Path
from typing import Any

from everloop.app.bench.inprocess import microseconds
from everloop.app.bench.load import WrkRun, need_wrk, wrk
from everloop.app.bench.material import breast_cancer_body, breast_cancer_onnx
from everloop.app.bench.processes import everloop_server, load_core, on_core
from everloop.app.bench.rows import Context, Result, Row, Skip, against, counted, ratio_in_turns, skipped, spread
from everloop.app.bench.versions import numbered_versions
from everloop.app.continuum import Continuum
from everloop.policy.routing import Allocation, allocate, bucket_of

CONNECTIONS = 64
IDS = 1_000_000
SHARES = (0.01, 0.05, 0.25, 0.5)
SPLIT = {1: 0.9, 2: 0.1}


def run(context: Context, folder: Path) -> Result:
    """The HTTP part needs wrk; without it its rows are left out."""
    rows, data = in_process(context)
    rows += routing(context)
    try:
        need_wrk()
    except Skip as why:
        rows.append(skipped("rollouts: over HTTP", str(why)))
    else:
        more, http = over_http(context, folder)
        rows += more
        data |= http
    return Result(rows, data)


def in_process(context: Context) -> tuple[list[Row], dict[str, Any]]:
    """The same model with one version and with two, in turns; every prediction recorded, as is the default."""
    rounds, count = context.rounds(101, 21), 4_000
    sides = {
        "one version": 'engine.predict("alone", row)',
        "two versions": 'engine.predict("split", row)',
        "two versions, with a unit": 'engine.predict("split", row, "customer-4711")',
    }
    took: dict[str, list[float]] = {side: [] for side in sides}
    with Continuum() as engine, contextlib.ExitStack() as stack:
        for name in ("alone", "split"):
            numbered_versions(engine, name, 2)
            engine.promote(name, 1)
        engine.engine.services.registry.set_traffic("split", SPLIT)
        engine.engine.services.reconciler.step()
        stack.enter_context(on_core(load_core()))
        names = {"engine": engine, "row": [1.0]}
        for turn in range(rounds):
            if turn % 10 == 0:
                context.say(f"rollouts, in process: round {turn + 1} of {rounds}")
            for side, statement in sides.items():
                engine.engine.services.recorder.drain()  # so that nobody pays for recording what another has asked
                took[side].append(microseconds(statement, names, count))
    detail = ", ".join(f"{side} {spread(values, ' µs')}" for side, values in took.items())
    alone, rows = took.pop("one version"), []
    for side, values in took.items():
        more = statistics.median(a - b for a, b in zip(values, alone, strict=True))
        what = f"predict in process, {side}, more than one version"
        # Of the second, hashing the unit is about a third.
        bar = 0.5 if "unit" not in side else 1.0
        rows.append(against("rollouts", what, more, "at most", bar, "µs", detail=detail))
    return rows, {
        "in_process_us": {"one": statistics.median(alone), **{s: statistics.median(v) for s, v in took.items()}}
    }


def routing(context: Context) -> list[Row]:
    """A million units at each share, growing."""
    context.say(f"rollouts: {IDS:,} units")
    buckets = [bucket_of("fraud", f"user-{i}") for i in range(IDS)]
    allocation: Allocation | None = None
    inside: set[int] = set()
    off, moved_out = [], 0
    for share in SHARES:
        allocation = allocate({1: 1 - share, 2: share}, salt="fraud", before=allocation)
        owners = allocation.owners()
        now = {i for i, bucket in enumerate(buckets) if owners[bucket] == 2}
        off.append((len(now) - IDS * share) / math.sqrt(IDS * share * (1 - share)))
        moved_out += len(inside - now)
        inside = now
    worst = max(off, key=abs)
    shares = " → ".join(f"{share:.0%}" for share in SHARES)
    what = f"{IDS:,} units at {shares}"
    detail = ", ".join(f"{share:.0%}: {each:+.2f} standard deviations" for share, each in zip(SHARES, off, strict=True))
    return [
        against(
            "rollouts",
            f"{what}: farthest from its share",
            abs(worst),
            "at most",
            3,
            "standard deviations",
            detail=detail,
        ),
        counted("rollouts", f"{what}: moved out by growing", "nobody", f"{moved_out}", passed=moved_out == 0),
    ]


def over_http(context: Context, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Requests a second with one version and with two, in turns, of a linear model and of one in ONNX. The second one of the ONNX model
    runs on a thread, under guard."""
    data = folder / "rollouts"
    with Continuum(data_dir=data) as engine:
        registry = engine.engine.services.registry
        for name in ("linear", "linear-split"):
            numbered_versions(engine, name, 2)
            engine.promote(name, 1)
        registry.set_traffic("linear-split", SPLIT)
        model = breast_cancer_onnx(folder / "bc.onnx")
        for name in ("onnx", "onnx-split"):
            engine.register_model(name, str(model))
        (first,) = registry.versions("onnx-split")
        registry.add_version("onnx-split", first.manifest, registry.payload(first), live=False)
        registry.set_traffic("onnx-split", SPLIT)
    bodies = {"linear": b'{"features":[1.0]}', "onnx": breast_cancer_body()}
    seconds, rounds = context.seconds(4, 1), context.rounds(5, 2)
    runs: dict[str, list[WrkRun]] = {}
    with everloop_server(folder, "--data-dir", str(data)) as server:
        server.wait()
        for turn in range(-1, rounds):
            context.say(f"rollouts over HTTP, round {turn + 1} of {rounds}")
            for kind, body in bodies.items():
                for name in (kind, f"{kind}-split"):
                    path = f"/v1/models/{name}/predict"
                    ran = wrk(server.port, path, body, connections=CONNECTIONS, seconds=seconds, folder=folder)
                    if turn >= 0:  # the first round warms, and sees the trial of the second version end
                        runs.setdefault(name, []).append(ran)
    rows = []
    for kind, bar in (("linear", 0.9), ("onnx", 0.7)):
        alone, split = runs[kind], runs[f"{kind}-split"]
        ratio = ratio_in_turns([r.per_second for r in split], [r.per_second for r in alone])
        failed = sum(r.refused + r.socket_errors for r in alone + split)
        detail = (
            f"one version {spread([r.per_second for r in alone], ' /s')}, p99 {spread([r.p99 * 1e3 for r in alone], ' ms')}; "
            f"two {spread([r.per_second for r in split], ' /s')}, p99 {spread([r.p99 * 1e3 for r in split], ' ms')}; {failed} failed"
        )
        what = f"requests/s with 10 % at a second version, {kind}, of those with one"
        rows.append(against("rollouts", what, ratio, "at least", bar, detail=detail, ok=not failed))
    return rows, {"http": {name: statistics.median(r.per_second for r in ran) for name, ran in runs.items()}}

"""Which range of numbers each tensor of a graph has on examples: what static quantisation divides into 256 steps.

    minmax      all that was seen: nothing is cut off, and one outlier makes all steps coarse
    percentile  the middle so many per cent
    entropy     the cut that keeps the most information when what is left has 128 steps: the least Kullback-Leibler divergence
                (S. Migacz, "8-bit inference with TensorRT", GPU Technology Conference 2017)

Two passes: the limits first, then a histogram between them, so that memory does not grow with the examples. (ONNX Runtime's own
calibrators hold all activations at once, want batches of one size and print to stdout.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from everloop.runtime.onnx import open_runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method = Literal["minmax", "entropy", "percentile"]
Range = tuple[float, float]
Feed = dict[str, Any]

BINS = 2048
STEPS = 128
"""Of a range that is tried, in `entropy`: what seven bits and a sign have."""
_STRIDE = 8
"""Bins between two cuts that are tried."""
_NOTHING = 1e-9
"""What q has where it knows of nothing and p has all that was cut off."""


def calibrate(
    model: Any, types: Collection[str], feeds: Sequence[Feed], method: Method, percentile: float
) -> dict[str, Range]:
    """`model`: an `onnx.ModelProto` with its shapes inferred; it stays as it is. The range of each float tensor that operators of `types`
    read or write, by its name."""
    run = _watched(model, types)
    limits: dict[str, Range] = {}
    for name, values in run(feeds):
        low, high = float(values.min()), float(values.max())
        known = limits.get(name, (low, high))
        limits[name] = (min(known[0], low), max(known[1], high))
    if method == "minmax":
        return limits
    counts = {name: np.zeros(BINS, np.int64) for name in limits}
    for name, values in run(feeds):
        counts[name] += np.histogram(values, BINS, limits[name] if limits[name][0] < limits[name][1] else None)[0]
    if method == "percentile":
        return {name: middle(counts[name], *limits[name], percentile) for name in limits}
    return {name: least_divergence(counts[name], *limits[name]) for name in limits}


def middle(counts: NDArray[np.int64], low: float, high: float, percentile: float) -> Range:
    """The narrowest range of whole bins that leaves at most half of the rest on either side. `counts`: (bins,) between the limits."""
    seen = np.cumsum(counts) / max(1, counts.sum())
    rest = (1 - percentile / 100) / 2
    first = int(np.searchsorted(seen, rest, side="right"))
    last = int(np.searchsorted(seen, 1 - rest, side="left"))
    edges = np.linspace(low, high, len(counts) + 1)
    return float(edges[min(first, len(counts) - 1)]), float(edges[min(last, len(counts) - 1) + 1])


def least_divergence(counts: NDArray[np.int64], low: float, high: float) -> Range:
    """`counts`: (bins,) between the limits. A range that is on both sides of zero is cut at the same distance from it on both."""
    greatest = max(abs(low), abs(high))
    if greatest == 0 or low == high:
        return low, high
    edges = np.linspace(low, high, len(counts) + 1)
    middles = np.abs((edges[:-1] + edges[1:]) / 2)
    sizes = np.histogram(middles, BINS, (0, greatest), weights=counts)[0]
    sizes[0] = sizes[1]  # zero is a step of its own: the many of a ReLU say nothing about how fine the steps need to be
    best, cut = np.inf, BINS
    for bins in range(STEPS, BINS + 1, _STRIDE):
        divergence = _divergence(sizes, bins)
        if divergence <= best:
            best, cut = divergence, bins
    threshold = greatest * cut / BINS
    return max(low, -threshold), min(high, threshold)


def _divergence(sizes: NDArray[np.float64], bins: int) -> float:
    """KL(p, q) of the first `bins`, where p has all beyond them in its last bin and q is p in `STEPS` steps."""
    kept = sizes[:bins]
    p = kept.copy()
    p[-1] += sizes[bins:].sum()
    starts = np.arange(STEPS) * bins // STEPS
    filled = p > 0
    total = np.add.reduceat(kept, starts)
    places = np.add.reduceat(filled.astype(np.float64), starts)
    level = np.divide(total, places, out=np.zeros(STEPS), where=places > 0)
    q = np.repeat(level, np.diff(np.append(starts, bins))) * filled
    if not q.sum():
        return np.inf
    p, q = p[filled] / p.sum(), np.maximum(q[filled] / q.sum(), _NOTHING)
    return float(np.sum(p * np.log(p / q)))


def _watched(model: Any, types: Collection[str]) -> Any:
    """A function of feeds that yields (name, values) for every tensor to be watched, feed by feed."""
    from onnx import TensorProto

    graph = model.graph
    known = {each.name: each for each in (*graph.value_info, *graph.output, *graph.input)}
    constants = {tensor.name for tensor in graph.initializer}
    wanted = {
        name
        for node in graph.node
        if node.op_type in types
        for name in (*node.input, *node.output)
        if name in known and name not in constants and known[name].type.tensor_type.elem_type == TensorProto.FLOAT
    }
    watching = type(model)()
    watching.CopyFrom(model)
    given = {each.name for each in graph.input}
    told = {each.name for each in graph.output}
    names = sorted(wanted - given)
    watching.graph.output.extend(known[name] for name in names if name not in told)
    runtime = open_runtime(watching.SerializeToString())

    def run(feeds: Sequence[Feed]) -> Iterator[tuple[str, NDArray[Any]]]:
        for feed in feeds:
            yield from ((name, np.asarray(feed[name])) for name in sorted(wanted & given))
            yield from zip(names, runtime.run(names, feed), strict=True)

    return run

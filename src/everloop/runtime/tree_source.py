"""Small trees as Python source: nested ifs, which ask one comparison a level and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from everloop.runtime.session import RowFunction

if TYPE_CHECKING:
    from everloop.runtime.tree import Ints, TreeModel

WRITTEN_NODES = 8_000
"""Beyond, the source takes longer to compile than it is worth, and ONNX Runtime walks the trees in less time."""
WRITTEN_DEPTH = 60
"""CPython refuses a hundred levels of indentation."""
MOST_BY_HAND = 256

_SIGNS = {"logit": ">", "logit_closed": ">="}


def deepest(feature: Ints, left: Ints, right: Ints, root: Ints, most: int) -> int:
    """Levels of decisions on the longest way; `most + 1` for more. No node has two parents."""
    levels = 0
    nodes: npt.NDArray[Any] = root[feature[root] >= 0]
    while len(nodes) and levels <= most:
        levels += 1
        nodes = np.concatenate([left[nodes], right[nodes]])
        nodes = nodes[feature[nodes] >= 0]
    return levels


def rows_by_hand(model: TreeModel, depth: int) -> int:
    """Up to how many rows the written out function, one after another, is quicker than all at once in NumPy.

    Measured: a comparison in Python costs 0.015 µs; in NumPy a row costs 0.009 µs a tree and level, and each level 6 µs once."""
    one = 0.5 + 0.015 * sum(_mean_depths(model))
    once, each = 20.0 + 6.0 * depth, 0.009 * depth * len(model.root)
    return MOST_BY_HAND if one <= each else max(1, min(MOST_BY_HAND, int(once / (one - each))))


def compiled_below(model: TreeModel, depth: int) -> int:
    """From how many rows on scikit-learn is quicker than the written out function and than NumPy.

    Measured: a call costs it 120 µs, and 70 µs a tree of a forest or 2 µs a boosted one; a row then costs it a fifth of NumPy's time."""
    one = 0.5 + 0.015 * sum(_mean_depths(model))
    each = 0.009 * max(depth, 1) * len(model.root)
    call = 120.0 + (70.0 if model.divisor != 1.0 else 2.0) * len(model.root)
    by_hand = call / max(one - 0.2 * each, 0.1 * one)
    return max(2, int(max(by_hand, (call - 20.0 - 6.0 * depth) / (0.8 * each))))


def write_out(model: TreeModel, classes: list[Any] | None) -> RowFunction | None:
    """A function of one list of plain numbers -> the answer; None for trees that are not small. Only our own floats' `repr` get into it.

    `sum` is what refuses anything but finite plain numbers, with TypeError, ValueError or OverflowError; a missing value is so left to
    the session."""
    if len(model.feature) > WRITTEN_NODES:
        return None
    if deepest(model.feature, model.left, model.right, model.root, WRITTEN_DEPTH) > WRITTEN_DEPTH:
        return None
    used = sorted(set(model.feature[model.feature >= 0].tolist()))
    lines = [
        "def answer(row):",
        f"    if len(row) != {len(model.fill)}: raise ValueError('another number of values')",
        "    total = sum(row, 0.0)",
        "    if type(total) is not float or total - total != 0.0: raise ValueError('no finite plain numbers')",
        *(f"    a{i} = row[{i}]" for i in used),
        *(_one_tree if len(model.root) == 1 and model.values.shape[1] == model.outputs else _many_trees)(
            model, classes
        ),
    ]
    namespace: dict[str, Any] = {"inf": float("inf"), "exp": _exp}
    namespace.update({f"c{i}": label for i, label in enumerate(classes or ())})
    exec(compile("\n".join(lines), "<everloop trees>", "exec"), namespace)  # noqa: S102 - our own floats
    function: RowFunction = namespace["answer"]
    return function


def _exp(x: float) -> float:
    """As the matrix is answered, to the last bit."""
    return float(np.exp(x))


def _one_tree(model: TreeModel, classes: list[Any] | None) -> Iterator[str]:
    """Each leaf knows the answer."""
    outputs = (model.base + model.values) / model.divisor
    if classes is None:
        answers = [repr(v) for v in (np.exp(outputs) if model.link == "exp" else outputs)[:, 0].tolist()]
    elif model.link in _SIGNS:
        second = outputs[:, 0] > 0 if model.link == "logit" else outputs[:, 0] >= 0
        answers = ["c1" if v else "c0" for v in second.tolist()]
    else:
        answers = [f"c{i}" for i in outputs.argmax(axis=1).tolist()]
    yield from _nested(model, int(model.root[0]), "    ", lambda leaf: f"return {answers[leaf]}")


def _many_trees(model: TreeModel, classes: list[Any] | None) -> Iterator[str]:
    width = model.values.shape[1]
    for i, base in enumerate(model.base.tolist()):
        yield f"    s{i} = {base!r}"
    values = model.values.tolist()
    for root, column in zip(model.root.tolist(), model.column.tolist(), strict=True):

        def adds(leaf: int, column: int = column) -> str:
            told = [f"s{column + i} += {values[leaf][i]!r}" for i in range(width) if values[leaf][i] != 0.0]
            return "; ".join(told) or "pass"

        yield from _nested(model, root, "    ", adds)
    if model.divisor != 1.0:
        yield from (f"    s{i} /= {model.divisor!r}" for i in range(model.outputs))
    if classes is None:
        yield "    return exp(s0)" if model.link == "exp" else "    return s0"
    elif model.link in _SIGNS:
        yield f"    return c1 if s0 {_SIGNS[model.link]} 0.0 else c0"
    else:
        yield "    best = s0; label = c0"
        yield from (f"    if s{i} > best: best = s{i}; label = c{i}" for i in range(1, model.outputs))
        yield "    return label"


def _nested(model: TreeModel, node: int, indent: str, leaf: Callable[[int], str]) -> Iterator[str]:
    feature = int(model.feature[node])
    if feature < 0:
        yield f"{indent}{leaf(int(model.left[node]))}"
        return
    yield f"{indent}if a{feature} <= {float(model.threshold[node])!r}:"
    yield from _nested(model, int(model.left[node]), indent + " ", leaf)
    yield f"{indent}else:"
    yield from _nested(model, int(model.right[node]), indent + " ", leaf)


def _mean_depths(model: TreeModel) -> Iterator[float]:
    """A tree's levels of decisions to a leaf, the mean over its leaves."""
    for root in model.root.tolist():
        total = count = level = 0
        nodes = [root]
        while nodes:
            inner = [node for node in nodes if model.feature[node] >= 0]
            total, count = total + level * (len(nodes) - len(inner)), count + len(nodes) - len(inner)
            nodes = [int(child) for node in inner for child in (model.left[node], model.right[node])]
            level += 1
        yield total / count

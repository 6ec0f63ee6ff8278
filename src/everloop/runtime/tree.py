"""Decision trees, forests and boosted trees as data: a safe artifact format, and the session that answers from it.

Format: the eight bytes `EVTREES1`, a little-endian uint32 with the length of a JSON header, the header, then little-endian arrays:

    threshold     float64, a node: left where `x <= threshold`
    feature       int32, a node: which value it asks for; -1 for a leaf
    left, right   int32, a node: the children, which come after it; of a leaf, `left` is its row in `values`
    missing_left  uint8, a node: whether a missing value goes left
    root, column  int32, a tree: its first node, and the first output that its leaves add to
    values        float64 (leaves, width)
    base          float64 (outputs,): what is there before the first tree adds
    fill          float64 (fields,): what a missing value is taken for; NaN where the nodes decide

The answer is `(base + every tree's leaf) / divisor`, read by `link`:

    identity, exp    a number
    probabilities    one output a class; the label is the greatest
    logit            one output; the label is the second class where it is > 0
    logit_closed     the same, where it is >= 0
    softmax          one output a class; the label is the greatest

How a row is answered: trees that are small are written out as Python source, nested ifs with the thresholds as constants, which asks one
comparison a level and nothing else. More rows go through all trees at once, level by level, in NumPy. Both add the trees in the same
order and as scikit-learn does, so that an answer is the same to the last bit, alone, in any batch, and from the estimator.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from everloop.core.errors import ArtifactCorrupt
from everloop.core.schema import Schema, Target
from everloop.runtime.artifact import Trust
from everloop.runtime.linear import softmax
from everloop.runtime.session import Matrix, RowFunction
from everloop.runtime.tree_source import compiled_below, deepest, rows_by_hand, write_out
from everloop.stores.ports import Manifest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Link = Literal["identity", "exp", "probabilities", "logit", "logit_closed", "softmax"]

MAGIC = b"EVTREES1"
MOST_DEPTH = 1_000
CELLS = 1 << 15
"""Rows times trees that are walked at once: what they need stays in the processor's cache, which is worth a factor of two."""


@dataclass(frozen=True)
class TreeModel:
    threshold: Floats
    feature: Ints
    left: Ints
    right: Ints
    missing_left: npt.NDArray[np.bool_]
    root: Ints
    column: Ints
    values: Floats
    base: Floats
    fill: Floats
    divisor: float
    link: Link

    @property
    def outputs(self) -> int:
        return len(self.base)

    def pack(self) -> bytes:
        header = {
            "nodes": len(self.feature),
            "trees": len(self.root),
            "leaves": len(self.values),
            "width": self.values.shape[1],
            "outputs": len(self.base),
            "fields": len(self.fill),
            "divisor": self.divisor,
            "link": self.link,
        }
        encoded = json.dumps(header).encode()
        arrays = [getattr(self, name).astype(kind).tobytes() for name, kind in _ARRAYS]
        return b"".join([MAGIC, struct.pack("<I", len(encoded)), encoded, *arrays])

    @classmethod
    def unpack(cls, payload: bytes) -> TreeModel:
        """Raises ArtifactCorrupt, also for trees whose nodes point outside of them or back."""
        start = len(MAGIC) + 4
        if not payload.startswith(MAGIC) or len(payload) < start:
            raise ArtifactCorrupt("not compiled trees: the bytes do not begin as everloop's format of trees does")
        (length,) = struct.unpack_from("<I", payload, len(MAGIC))
        try:
            header = json.loads(payload[start : start + length])
            nodes, trees, leaves, width, outputs, fields = (
                int(header[name]) for name in ("nodes", "trees", "leaves", "width", "outputs", "fields")
            )
            divisor, link = float(header["divisor"]), header["link"]
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ArtifactCorrupt(f"compiled trees with an unreadable header: {error}") from error
        sizes = [nodes, nodes, nodes, nodes, nodes, trees, trees, leaves * width, outputs, fields]
        counted = sum(size * np.dtype(kind).itemsize for size, (_, kind) in zip(sizes, _ARRAYS, strict=True))
        if min(sizes) < 1 or width < 1 or len(payload) - start - length != counted or link not in get_args(Link):
            raise ArtifactCorrupt(
                f"compiled trees of {nodes} nodes with {len(payload) - start - length} bytes of arrays"
            )
        arrays: dict[str, Any] = {}
        place = start + length
        for size, (name, kind) in zip(sizes, _ARRAYS, strict=True):
            arrays[name] = np.frombuffer(payload, kind, size, place).astype(np.dtype(kind).newbyteorder("="))
            place += size * np.dtype(kind).itemsize
        arrays["missing_left"] = arrays["missing_left"] != 0
        arrays["values"] = arrays["values"].reshape(leaves, width)
        model = cls(**arrays, divisor=divisor, link=link)
        model.check()
        return model

    def check(self) -> None:
        """Raises ArtifactCorrupt where walking it could leave it, or not end."""
        place = np.arange(len(self.feature))
        inner = self.feature >= 0
        children = np.concatenate([self.left[inner], self.right[inner], self.root])
        sound = (
            bool(np.all(self.feature < len(self.fill)))
            and bool(np.all((self.left[inner] > place[inner]) & (self.right[inner] > place[inner])))
            and bool(np.all((children >= 0) & (children < len(place))))
            and bool(np.all((self.left[~inner] >= 0) & (self.left[~inner] < len(self.values))))
            and bool(np.all((self.column >= 0) & (self.column + self.values.shape[1] <= len(self.base))))
            and not np.isnan(self.threshold).any()
            and bool(np.isfinite(self.values).all() and np.isfinite(self.base).all() and not np.isinf(self.fill).any())
            and np.isfinite(self.divisor)
            and self.divisor != 0.0
        )
        if (
            not sound
            or (np.bincount(children, minlength=len(place)) != 1).any()
            or np.bincount(self.left[~inner]).max() > 1
        ):
            raise ArtifactCorrupt("compiled trees whose nodes point outside of them, or at each other")
        if deepest(self.feature, self.left, self.right, self.root, MOST_DEPTH) > MOST_DEPTH:
            raise ArtifactCorrupt(f"compiled trees that are more than {MOST_DEPTH} levels deep")


_ARRAYS = (
    ("threshold", "<f8"),
    ("feature", "<i4"),
    ("left", "<i4"),
    ("right", "<i4"),
    ("missing_left", "u1"),
    ("root", "<i4"),
    ("column", "<i4"),
    ("values", "<f8"),
    ("base", "<f8"),
    ("fill", "<f8"),
)


class TreeSession:
    """A regression or classification by trees."""

    dtype: Any = np.float64

    def __init__(self, manifest: Manifest, model: TreeModel) -> None:
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = list(manifest.classes) if manifest.classes is not None else None
        self.model = model
        _check_fits(manifest, model)
        self.scored = self.classes is not None
        self._labels = np.empty(len(self.classes or ()), object)
        self._labels[:] = self.classes or ()
        self._walk = _Walk(model)
        self.best_below = compiled_below(model, self._walk.depth)
        """From this many rows on, the library that made the trees answers sooner."""
        self._row = write_out(model, self.classes)
        self._by_hand = 0
        if self._row is not None:
            self._by_hand = rows_by_hand(model, self._walk.depth)
            self.compile_row = self._compile_row

    def run(self, X: Matrix) -> Matrix:
        if len(X) <= self._by_hand and self._row is not None:
            try:
                answers = [self._row(row) for row in X.tolist()]
            except ValueError:  # a value is missing
                return self._read(self._walk(X))
            out = np.empty(len(answers), np.float64 if self.classes is None else object)
            out[:] = answers
            return out
        return self._read(self._walk(X))

    def scores(self, X: Matrix) -> Floats | None:
        if self.classes is None:
            return None
        outputs = self._walk(X)
        if self.model.link == "probabilities":
            return outputs
        if self.model.link in ("logit", "logit_closed"):
            second = 1.0 / (1.0 + np.exp(-np.maximum(outputs, -700.0)))
            return np.hstack([1.0 - second, second])
        return softmax(outputs)

    def close(self) -> None:
        """Nothing is held."""

    def _compile_row(self) -> RowFunction:
        assert self._row is not None
        return self._row

    def _read(self, outputs: Floats) -> Matrix:
        if self.classes is None:
            return np.exp(outputs[:, 0]) if self.model.link == "exp" else outputs[:, 0]
        if self.model.link == "logit":
            best = (outputs[:, 0] > 0).astype(np.intp)
        elif self.model.link == "logit_closed":
            best = (outputs[:, 0] >= 0).astype(np.intp)
        else:
            best = outputs.argmax(axis=1)
        labels: Matrix = self._labels[best]
        return labels


class _Walk:
    """(n, fields) -> (n, outputs): every row through every tree, a level at a time. A leaf is its own child until all have arrived."""

    def __init__(self, model: TreeModel) -> None:
        leaf = model.feature < 0
        itself = np.arange(len(leaf), dtype=np.int32)
        self._feature = np.where(leaf, 0, model.feature)
        self._left, self._right = np.where(leaf, itself, model.left), np.where(leaf, itself, model.right)
        self._value = np.where(leaf, model.left, 0)
        self._model = model
        self._filled = ~np.isnan(model.fill)
        self.depth = deepest(model.feature, model.left, model.right, model.root, MOST_DEPTH)
        self._single = model.values.shape[1] == model.outputs

    def __call__(self, X: Matrix) -> Floats:
        X = np.ascontiguousarray(X, np.float64)
        step = max(1, CELLS // (len(self._model.root) * self._model.values.shape[1]))
        if len(X) <= step:
            return self._some(X)
        return np.concatenate([self._some(X[i : i + step]) for i in range(0, len(X), step)])

    def _some(self, X: Floats) -> Floats:
        model = self._model
        missing = np.isnan(X)
        gaps = bool(missing.any())
        if gaps and self._filled.any():
            X = np.where(missing & self._filled, model.fill, X)
        node = np.broadcast_to(model.root, (len(X), len(model.root)))
        row = (np.arange(len(X), dtype=np.intp) * X.shape[1])[:, None]
        flat = X.reshape(-1)
        for _ in range(self.depth):
            x = flat.take(row + self._feature.take(node))
            left = x <= model.threshold.take(node)
            if gaps:
                left |= np.isnan(x) & model.missing_left.take(node)
            node = np.where(left, self._left.take(node), self._right.take(node))
        leaves = model.values.take(self._value.take(node), axis=0)  # (n, trees, width)
        if self._single:
            leaves[:, 0] += model.base
            outputs = np.add.accumulate(leaves, axis=1)[:, -1]
        else:
            outputs = np.empty((len(X), model.outputs))
            for column in range(model.outputs):
                mine = leaves[:, model.column == column, 0]
                outputs[:, column] = model.base[column]
                if mine.shape[1]:
                    mine[:, 0] += model.base[column]
                    outputs[:, column] = np.add.accumulate(mine, axis=1)[:, -1]
        return outputs if model.divisor == 1.0 else outputs / model.divisor


def load(manifest: Manifest, payload: bytes, trust: Trust | None = None) -> TreeSession:  # noqa: ARG001  there is nothing to trust
    return TreeSession(manifest, TreeModel.unpack(payload))


def _check_fits(manifest: Manifest, model: TreeModel) -> None:
    """Raises ArtifactCorrupt where the manifest tells of something else than the trees answer."""
    classes = len(manifest.classes or ())
    expected = {"identity": 0, "exp": 0, "logit": 2, "logit_closed": 2}.get(model.link, model.outputs)
    outputs = model.outputs if model.link in ("probabilities", "softmax") else 1
    width = model.values.shape[1]
    if (
        classes != expected
        or model.outputs != outputs
        or len(model.fill) != len(manifest.schema.fields)
        or not manifest.schema.numeric
        or (manifest.task == "regression") != (classes == 0)
        or width not in (1, model.outputs)
    ):
        raise ArtifactCorrupt(
            f"compiled trees of {model.outputs} outputs ({model.link}) over {len(model.fill)} fields do not fit their manifest"
        )

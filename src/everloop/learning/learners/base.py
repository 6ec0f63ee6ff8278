"""The contract of a learner: it learns from examples and freezes into an artifact.

A learner belongs to one thread at a time. It is mutable and private; what serves is only ever what it froze. It may have two more
attributes: `prefers`, fields of `LearningConfig` that suit it, unless whoever registers it says otherwise; and `identities`, whether its
fields only name somebody or something, so that it is no drift of the inputs when others are asked about.
`everloop.testing.check_learner` runs the contract over any learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from everloop.core.schema import Schema, Target
from everloop.core.types import Row, Scalar, Task
from everloop.stores.ports import Manifest

Weight = Literal["light", "heavy", "unknown"]


class Learner(Protocol):
    kind: str
    task: Task | None
    """None: a kind that the first labels decide (`auto` and its like); `fit` takes it from its target."""
    incremental: bool
    """Whether `learn` improves it example by example; otherwise only `fit` does."""
    weight: Weight
    """`light`: a fit takes a few milliseconds or releases the GIL, so a thread will do. `heavy`: use a child process.
    `unknown`: the trainer finds out."""

    def clone(self) -> Learner:
        """An unfitted learner with exactly the same parameters."""

    def fit(self, schema: Schema, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """Train from scratch. Raises FitFailed with what to do (too few classes, the library's own message)."""

    def learn(self, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """Learn further from these, in order. Only if `incremental`, and only after `fit`."""

    def predict(self, rows: Sequence[Row]) -> list[Any]:
        """Plain Python values or labels. Only after `fit`."""

    def freeze(self) -> tuple[Manifest, bytes]:
        """The artifact: what `runtime.artifact.load_session` loads. The learner stays usable and shares nothing with it."""

    def dump(self) -> bytes:
        """The whole learner, for a checkpoint or a child process; `restore` on a clone gives it back.

        Incremental state included. Uses a safe format unless the learner's library has none (then Untrusted is raised
        without trust)."""

    def restore(self, data: bytes) -> None: ...


Losses = npt.NDArray[np.float64]


def losses(target: Target, labels: Sequence[Scalar], predictions: Sequence[Any]) -> Losses:
    """One loss an example: absolute error for regression, 0 or 1 for classification."""
    if target.task == "regression":
        return np.abs(np.asarray(labels, np.float64) - np.asarray(predictions, np.float64))
    return np.fromiter((p != y for p, y in zip(predictions, labels, strict=True)), np.float64, len(labels))

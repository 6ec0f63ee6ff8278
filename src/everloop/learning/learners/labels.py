"""Class labels as codes, and what to say when there are too few of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.core.errors import FitFailed
from everloop.core.types import Scalar


def encode_labels(labels: Sequence[Scalar]) -> tuple[list[Any], npt.NDArray[np.intp]]:
    """The classes in ascending order, and each label's index among them. Raises FitFailed for fewer than two classes."""
    classes = distinct_classes(labels)
    index = {label: i for i, label in enumerate(classes)}
    return classes, np.fromiter((index[label] for label in labels), np.intp, len(labels))


def distinct_classes(labels: Sequence[Scalar]) -> list[Any]:
    """At least two classes, ascending. Raises FitFailed."""
    classes = sorted(set(labels))
    if not classes:
        raise FitFailed("there are no examples to fit")
    if len(classes) == 1:
        raise FitFailed(
            f"all {len(labels)} labels are {classes[0]!r}: a classifier needs examples of at least two classes; send examples of "
            "another class"
        )
    return classes

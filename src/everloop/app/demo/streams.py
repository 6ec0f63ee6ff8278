"""What the demo plays: streams that come with River and scikit-learn (nothing is downloaded), and two made ones that drift.

The made ones have no end; a real one is played again, in the same order, by whoever wants more of it. What the server registers
under the same names is in `host`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Example = tuple[Any, Any]
"""Features (a list, or a mapping by name) and the label, None where there is none."""

SLOPES = (1.0, 4.0, -2.0, 2.5)
SLOPE_EVERY = 400
CONCEPT_EVERY = 700


@dataclass(frozen=True)
class Stream:
    """`play` starts the stream from its beginning; `length` is that of one pass, None where it has no end."""

    name: str
    about: str
    play: Callable[[], Iterator[Example]]
    length: int | None = None


def bundled() -> list[Stream]:
    """Every stream of the demo. Nothing is read before it is played."""
    return [
        Stream("slope", f"made: a line whose slope changes every {SLOPE_EVERY} examples", slope),
        Stream("loans", f"made: Agrawal's loan rules, which change every {CONCEPT_EVERY}", loans),
        Stream(
            "approval",
            "River's TrumpApproval: a rating from five polls; it hardly moves, so its last value is hard to beat",
            lambda: _river("TrumpApproval"),
            1001,
        ),
        Stream("phishing", "River's Phishing: web pages that are, and are not", lambda: _river("Phishing"), 1250),
        Stream(
            "segments", "River's ImageSegments: seven kinds of image patches", lambda: _river("ImageSegments"), 2310
        ),
        Stream("digits", "scikit-learn's digits, 8 by 8 pixels", digits, 1797),
    ]


def slope() -> Iterator[Example]:
    """y = slope · x + noise; the slope is another one every `SLOPE_EVERY` examples."""
    rng = random.Random(7)  # noqa: S311 - a stream to learn from, not a secret
    for factor in itertools.cycle(SLOPES):
        for _ in range(SLOPE_EVERY):
            x = rng.uniform(0, 10)
            yield [x], factor * x + rng.gauss(0, 0.1)


def loans() -> Iterator[Example]:
    """Agrawal et al. 1993, as River generates it: nine numbers about an applicant, and which of two rules decides."""
    from river.datasets import synth

    for lap in itertools.count():
        for function in (0, 4):
            for features, label in synth.Agrawal(classification_function=function, seed=11 + lap).take(CONCEPT_EVERY):
                yield {name: float(value) for name, value in features.items()}, int(label)


def digits() -> Iterator[Example]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # The file goes 0, 1, 2 … by writer, so its order alone would give the label away.
    order = list(range(len(labels)))
    random.Random(7).shuffle(order)  # noqa: S311 - see slope
    for i in order:
        yield pixels[i].tolist(), int(labels[i])


def _river(name: str) -> Iterator[Example]:
    """A data set that is inside River's own package."""
    from river import datasets

    yield from getattr(datasets, name)()

"""The built-in digits: what they are worth on the fifth of the data that was held out, and how fast an image is.

`split` is what the training script (`benchmarks/showcase/train_digits.py`) trains on the other part of.
"""

from __future__ import annotations

import io
import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everloop.app.bench.rows import Context, Row, against, spread

SPLIT_SEED = 20
BAR = 98.0


def split() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Labels of all rows of `load_digits`, and the places of the training rows and of those held out: a fifth of each digit."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    target = load_digits().target
    train, held_out = train_test_split(np.arange(len(target)), test_size=0.2, random_state=SPLIT_SEED, stratify=target)
    return target, train, held_out


def png_of(image: NDArray[Any]) -> bytes:
    """8 x 8 values of 0 to 16 as the file that a person would send."""
    import PIL.Image

    out = io.BytesIO()
    PIL.Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def measure(context: Context) -> tuple[list[Row], dict[str, Any]]:
    from sklearn.datasets import load_digits

    from everloop.showcase.images import ImageClassifier

    context.say("showcase: the digits that were held out")
    target, _, places = split()
    images = load_digits().images
    files = [png_of(images[i]) for i in places]
    classifier = ImageClassifier()
    classifier.warmup()
    took = []
    for _ in range(context.rounds(7, 3)):
        began = time.perf_counter()
        answers = classifier.classify_batch(files, top_k=1)
        took.append((time.perf_counter() - began) / len(files) * 1e3)
    right = sum(each.predictions[0].label == str(target[i]) for each, i in zip(answers, places, strict=True))
    row = against(
        "showcase",
        "digits: right answers on the fifth that was held out",
        100 * right / len(files),
        "at least",
        BAR,
        "%",
        detail=f"{right} of {len(files)}; {statistics.median(took):.2f} ms an image, {spread(took, ' ms')}",
    )
    return [row], {"right": right, "of": len(files), "ms": took}

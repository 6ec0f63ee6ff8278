"""The models that come with everloop: how soon they are there, how fast they answer, by themselves and over HTTP.

What they are worth, on rows that nobody trained on, is measured in a checkout (`benchmarks/showcase_quality.py`): the rows are not shipped.
The texts here are made of the model's own words, about as long as people's.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from everloop.app.bench.digits import measure as measure_digits
from everloop.app.bench.load import WrkRun, ask_served
from everloop.app.bench.recommending import measure as measure_recommender
from everloop.app.bench.rows import Context, Result, Row, against, counted, spread

TEXTS = 1000
CONNECTIONS = 64
LOADED = """
import json, sys, time
from everloop.runtime import text
from everloop.runtime.packaged import read_artifact
from everloop.showcase.builtin import builtin_path
from everloop.showcase.sentiment import SentimentModel
began = time.perf_counter()
model = SentimentModel()
took = time.perf_counter() - began
print(json.dumps([took, "sklearn" in sys.modules]))
"""
"""In a clean process, its imports apart: from the file to a model that answers."""


def run(context: Context, folder: Path) -> Result:
    rows, data = _sentiment(context, folder)
    seen, digits = measure_digits(context)
    more, recommending = measure_recommender(context, folder)
    return Result([*rows, *seen, *more], {"sentiment": data, "digits": digits, "recommender": recommending})


def _sentiment(context: Context, folder: Path) -> tuple[list[Row], dict[str, object]]:
    from everloop.showcase.builtin import builtin_path
    from everloop.showcase.sentiment import SentimentModel

    rounds = context.rounds(7, 3)
    context.say("showcase: loading the sentiment model")
    loads = [_loaded() for _ in range(rounds)]
    model = SentimentModel()
    texts = sentences(TEXTS, 7)
    context.say("showcase: a thousand texts at once")
    model.analyze_batch(sentences(50, 8))
    batches = [_seconds(lambda: model.analyze_batch(texts)) for _ in range(rounds)]
    runs = _over_http(context, folder, texts)
    size = builtin_path("sentiment").stat().st_size / 1e6
    rows = [
        counted(
            "showcase",
            "sentiment: a clean process opens the artifact",
            "at most 100 ms, without scikit-learn",
            f"{statistics.median(took for took, _ in loads) * 1e3:.0f} ms",
            passed=statistics.median(took for took, _ in loads) <= 0.1 and not any(seen for _, seen in loads),
            detail=f"{spread([took * 1e3 for took, _ in loads], ' ms')}; {size:.2f} MB",
        ),
        against(
            "showcase",
            f"sentiment: {TEXTS:,} texts in one batch",
            statistics.median(batches),
            "at most",
            0.25,
            "s",
            detail=f"{spread(batches, ' s')}; {statistics.mean(map(len, texts)):.0f} characters a text",
        ),
        against(
            "showcase",
            f"sentiment: texts a second at {CONNECTIONS} connections, the server on one core",
            statistics.median(each.per_second for each in runs),
            "at least",
            5000,
            "texts/s",
            detail=f"{spread([each.per_second for each in runs])}; p99 {spread([each.p99 * 1e3 for each in runs], ' ms')}; "
            f"{sum(each.refused + each.socket_errors for each in runs)} errors",
            ok=not any(each.refused or each.socket_errors for each in runs),
        ),
    ]
    return rows, {"load": loads, "batch": batches, "http": [msgspec.to_builtins(each) for each in runs]}


def sentences(count: int, seed: int) -> list[str]:
    """Of 8 to 26 words that the built-in model knows, about a hundred characters."""
    from everloop.runtime.packaged import read_artifact
    from everloop.runtime.text_model import unpack_text
    from everloop.showcase.builtin import builtin_path

    features = unpack_text(read_artifact(builtin_path("sentiment").read_bytes())[1]).features
    pairs = [feature for feature in features if " " in feature and feature.replace(" ", "").isalpha()]
    rng = random.Random(seed)
    return [" ".join(rng.choices(pairs, k=rng.randint(4, 13))) + rng.choice((".", "!", "?", "")) for _ in range(count)]


def _over_http(context: Context, folder: Path, texts: list[str]) -> list[WrkRun]:
    bodies = [msgspec.json.encode({"text": text}) for text in texts]
    return ask_served(
        context,
        folder,
        "sentiment=builtin:sentiment",
        "/api/predict/sentiment",
        bodies,
        what="showcase: sentiment",
        connections=CONNECTIONS,
        rounds=context.rounds(5, 2),
        seconds=context.seconds(6, 3),
    )


def _loaded() -> tuple[float, bool]:
    ran = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=60)
    took, seen = msgspec.json.decode(ran.stdout, type=tuple[float, bool])
    return took, seen


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

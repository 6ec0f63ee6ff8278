"""The recommender: how much better than what is popular, how long training takes, how soon it answers, what strangers cost."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil

from everloop.app.bench.load import WrkRun, ask_served
from everloop.app.bench.rows import Context, Row, against, counted, spread
from everloop.app.bench.shop import HERD, STRENGTHS, generate
from everloop.learning.learners.factors import start
from everloop.showcase.interactions import Interaction
from everloop.showcase.recommender import Recommender
from everloop.showcase.training import Recall, later_items, recall_at, train

JUDGED = 0.2
INTERACTIONS = 100_000
CONNECTIONS = 64
BATCH = 32
"""Interactions that are learned at once, as the learning loop does."""


def measure(context: Context, folder: Path) -> tuple[list[Row], dict[str, object]]:
    context.say("showcase: recommendations held against what is popular")
    seeds = range(1, context.rounds(3, 1) + 1)
    found = {herd: [held_out(generate(seed, herd)[0]) for seed in seeds] for herd in (HERD,) if seeds}
    if not context.quick:
        found |= {herd: [held_out(generate(1, herd)[0])] for herd in STRENGTHS if herd != HERD}
    ratios = [each.ratio for each in found[HERD]]
    others = ", ".join(f"{each[0].ratio:.2f} at {herd:.0%}" for herd, each in sorted(found.items()) if herd != HERD)
    context.say("showcase: learning online held against fitting again")
    fresh = [kept_fresh(generate(seed)[0]) for seed in range(1, context.rounds(3, 1) + 1)]
    context.say("showcase: training on a hundred thousand interactions")
    took = _fitted(context.rounds(3, 1))
    shop, asked = Recommender(), [f"user{i}" for i in range(1000)]
    shop.warmup()
    latencies = [_each(shop, user) for _ in range(context.rounds(3, 1)) for user in asked]
    strangers = context.rounds(100_000, 10_000)
    grown = _strangers(shop, strangers)
    runs = _over_http(context, folder)
    median = statistics.median
    rows = [
        against(
            "showcase",
            f"recommendations: recall@10 of the last fifth, generated shop ({HERD:.0%} of what is taken has no taste in it)",
            median(ratios),
            "at least",
            1.5,
            "× popularity",
            detail=f"{', '.join(f'{e.recall:.3f} against {e.popular:.3f}' for e in found[HERD])}"
            + (f"; {others}" if others else ""),
        ),
        against(
            "showcase", f"recommendations: training on {INTERACTIONS:,} interactions", median(took), "at most", 10, "s"
        ),
        against(
            "showcase",
            "recommendations: ten for a known user, in process",
            median(latencies) * 1e3,
            "at most",
            0.6,
            "ms",
            detail=f"p99 {float(np.quantile(latencies, 0.99)) * 1e3:.2f} ms; the seed's example tells 0.6",
        ),
        counted(
            "showcase",
            f"recommendations: memory after {strangers:,} users nobody knows",
            "at most 1 MB more",
            f"{grown / 1e6:.2f} MB",
            passed=grown <= 1e6,
        ),
        against(
            "showcase",
            f"recommendations a second at {CONNECTIONS} connections, the server on one core",
            median(each.per_second for each in runs),
            "at least",
            1000,
            "/s",
            detail=f"{spread([each.per_second for each in runs])}; p99 {spread([each.p99 * 1e3 for each in runs], ' ms')}",
            ok=not any(each.refused or each.socket_errors for each in runs),
        ),
    ]
    data: dict[str, object] = {
        "recall": {str(herd): [each._asdict() for each in several] for herd, several in found.items()},
        "fresh": fresh,
        "fit": took,
        "http": [msgspec.to_builtins(each) for each in runs],
    }
    return rows, data


def held_out(given: list[Interaction]) -> Recall:
    """Trained on the first four fifths, held against what users did in the last."""
    cut = int(len(given) * (1.0 - JUDGED))
    before, later = given[:cut], given[cut:]
    return recall_at(train(before).model, before, later_items(before, later))


def kept_fresh(given: list[Interaction]) -> tuple[float, float, float]:
    """Recall on the last fifth, of a model trained on three fifths: as it was, having learned the fourth online, and fitted again."""
    first, second = int(len(given) * (1.0 - 2 * JUDGED)), int(len(given) * (1.0 - JUDGED))
    before = given[:second]
    wanted = later_items(before, given[second:])
    stale = train(given[:first])
    online = start(*stale.freeze())
    for at in range(first, second, BATCH):
        part = given[at : min(at + BATCH, second)]
        online.learn([[each.user, each.item] for each in part], [each.label for each in part])
    learners = stale, online, train(before)
    as_it_was, learned, fitted = (recall_at(each.model, before, wanted).recall for each in learners)
    return as_it_was, learned, fitted


def _fitted(rounds: int) -> list[float]:
    """Seconds; of 5,000 users with 2,000 items, a few of which nearly everybody takes."""
    rng = np.random.default_rng(7)
    users, items = rng.integers(0, 5000, INTERACTIONS).tolist(), (rng.zipf(1.3, INTERACTIONS) % 2000).tolist()
    given = [Interaction(f"u{user}", f"i{item}", 1.0, 0.0) for user, item in zip(users, items, strict=True)]
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        train(given)
        found.append(time.perf_counter() - began)
    return found


def _each(shop: Recommender, user: str) -> float:
    began = time.perf_counter()
    shop.recommend(user, {"category": "tech"})
    return time.perf_counter() - began


def _strangers(shop: Recommender, count: int) -> int:
    """Bytes that the process has grown by, after its first thousand."""
    process = psutil.Process()
    for i in range(1000):
        shop.recommend(f"stranger{i}")
    before = process.memory_info().rss
    for i in range(count):
        shop.recommend(f"another{i}")
    return int(process.memory_info().rss - before)


def _over_http(context: Context, folder: Path) -> list[WrkRun]:
    bodies = [
        msgspec.json.encode({"user_id": f"user{i}", "context": {"category": "tech"}, "limit": 10}) for i in range(1000)
    ]
    return ask_served(
        context,
        folder,
        "recommender=builtin:shop",
        "/api/predict/recommend",
        bodies,
        what="showcase: recommendations",
        connections=CONNECTIONS,
        rounds=context.rounds(3, 1),
        seconds=context.seconds(4, 2),
    )

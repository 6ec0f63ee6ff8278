"""Makes the built-in shop: generated interactions, the recommender trained on them, and the report of how well it does.

    python benchmarks/showcase/make_shop.py               writes the data, the artifact and benchmarks/showcase/shop.json
    python benchmarks/showcase/make_shop.py --seeds 3     the report over more seeds, nothing else is written

The data is generated: no shop, no person. What it assumes, so that nobody takes its numbers for those of a real one:

- Appeal of items has a long tail (log-normal), and part of what people take is just what is seen most (`herd`): no taste is in that.
- Tastes: a user cares for a few of eight categories (Dirichlet), and within each more for some styles than for others. The model is not
  told the styles, and they are not vectors: it has to find them.
- Time: items appear over the year, users come and go, tastes of three users in ten move to another category some day, appeal fades.
- Nobody takes an item twice. A rating tells of the item's quality, the style's fit, the user's mood and noise; nobody rates what he
  did not take.

How easy it is to beat what is popular depends on `herd` above all. The report has several strengths and seeds; `HERD` is that of
the shipped data.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from everloop.runtime.factors_model import Catalogue, by_value
from everloop.runtime.packaged import write_artifact
from everloop.showcase.interactions import Interaction
from everloop.showcase.training import Recall, later_items, recall_at, train

HERE = Path(__file__).parent
ARTIFACT = HERE.parents[1] / "src/everloop/showcase/data/shop.artifact"
INTERACTIONS, ITEMS, REPORT = HERE / "data/shop.csv", HERE / "data/shop_items.csv", HERE / "shop.json"

CATEGORIES = {
    "tech": ("headphones", "keyboard", "camera", "router"),
    "books": ("novel", "cookbook", "atlas", "biography"),
    "home": ("lamp", "kettle", "blanket", "vase"),
    "sports": ("racket", "helmet", "tent", "dumbbell"),
    "music": ("guitar", "record", "drum", "flute"),
    "garden": ("spade", "seeds", "hose", "planter"),
    "fashion": ("scarf", "boots", "jacket", "watch"),
    "toys": ("puzzle", "kite", "robot", "blocks"),
}
COLOURS = ("amber", "blue", "coral", "green", "grey", "ivory", "red", "silver", "teal", "violet")
YEAR = 365.0
HERD = 0.2
STRENGTHS = (0.1, HERD, 0.3, 0.5)
START = 1_735_689_600
"""2025-01-01, in seconds."""
TEST_SHARE = 0.2


def generate(
    seed: int, herd: float = HERD, users: int = 1000, items: int = 400, events: int = 30_000
) -> tuple[list[Interaction], Catalogue]:
    """Interactions in order of time, and the items. `herd`: the share of interactions with no taste in them."""
    rng = np.random.default_rng(seed)
    names = list(CATEGORIES)
    category = rng.integers(0, len(names), items)
    style = rng.integers(0, 4, items)
    appeal = rng.lognormal(0.0, 1.1, items)
    quality = rng.normal(0.0, 0.5, items)
    born = np.where(rng.random(items) < 0.7, 0.0, rng.uniform(0.0, 0.9 * YEAR, items))
    cares = rng.dirichlet(np.full(len(names), 0.25), users)
    fits = rng.lognormal(0.0, 1.0, (users, len(names), 4))
    moves_at = np.where(rng.random(users) < 0.3, rng.uniform(0.2, 0.9, users) * YEAR, np.inf)
    moves_to = rng.integers(0, len(names), users)
    mood = rng.normal(0.0, 0.4, users)
    activity = rng.lognormal(0.0, 0.8, users)
    who = rng.choice(users, events, p=activity / activity.sum())
    joined = np.where(rng.random(users) < 0.6, 0.0, rng.uniform(0.0, 0.8 * YEAR, users))
    when = joined[who] + rng.random(events) * (YEAR - joined[who])
    taken: list[set[int]] = [set() for _ in range(users)]
    found: list[Interaction] = []
    for i in np.argsort(when, kind="stable").tolist():
        user, day = int(who[i]), float(when[i])
        seen = appeal * (born <= day) * np.exp(-np.maximum(day - born, 0.0) / (2 * YEAR))
        if rng.random() >= herd:
            care = cares[user].copy()
            if day >= moves_at[user]:
                care = 0.3 * care
                care[moves_to[user]] += 0.7
            seen = np.sqrt(seen) * care[category] * fits[user, category, style]
        seen[list(taken[user])] = 0.0
        total = seen.sum()
        if total <= 0.0:
            continue
        item = int(rng.choice(items, p=seen / total))
        taken[user].add(item)
        fit = np.log(fits[user, category[item], style[item]])
        stars = 3.5 + quality[item] + mood[user] + 0.4 * fit + rng.normal(0.0, 0.7)
        rating = float(min(max(round(stars), 1), 5))
        found.append(Interaction(f"user{user}", f"item{item}", rating, START + round(day * 86_400)))
    ids = [f"item{i}" for i in range(items)]
    titles, serial = {}, {}
    for i, item in enumerate(ids):
        kind = CATEGORIES[names[category[i]]][style[i]]
        titles[item] = f"{COLOURS[serial.get(kind, 0) % len(COLOURS)]} {kind} {serial.get(kind, 0) // len(COLOURS) + 1}"
        serial[kind] = serial.get(kind, 0) + 1
    attributes = {"category": by_value({item: [names[category[i]]] for i, item in enumerate(ids)}, ids)}
    return found, Catalogue(ids, titles, attributes)


def held_out(found: list[Interaction]) -> Recall:
    """Trained on the first four fifths of the time's interactions, held against what the users of the last fifth went on to take."""
    cut = int(len(found) * (1.0 - TEST_SHARE))
    before, later = found[:cut], found[cut:]
    return recall_at(train(before).model, before, later_items(before, later))


def told(recall: Recall) -> dict[str, float]:
    return {name: round(value, 4) for name, value in {**recall._asdict(), "ratio": recall.ratio}.items()}


def report(seeds: int) -> dict[str, object]:
    grid = [
        {"seed": seed, "herd": herd, **told(held_out(generate(seed, herd)[0]))}
        for herd in STRENGTHS
        for seed in range(1, seeds + 1)
    ]
    return {"shipped": {"seed": 1, "herd": HERD}, "test_share": TEST_SHARE, "recall_at_10": grid}


def write_data(found: list[Interaction], items: Catalogue) -> None:
    INTERACTIONS.parent.mkdir(exist_ok=True)
    with INTERACTIONS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("user", "item", "rating", "timestamp"))
        writer.writerows((each.user, each.item, f"{each.label:g}", int(each.at)) for each in found)
    of = {items.ids[place]: value for value, places in items.attributes["category"].items() for place in places}
    with ITEMS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("item", "title", "category"))
        writer.writerows((item, items.titles[item], of[item]) for item in items.ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=0)
    seeds = parser.parse_args().seeds
    if seeds:
        print(json.dumps(report(seeds), indent=1))
        return
    found, items = generate(1)
    write_data(found, items)
    manifest, payload = train(found, items).freeze()
    print(write_artifact(ARTIFACT, manifest, payload), len(payload))
    REPORT.write_text(json.dumps(report(3), indent=1) + "\n")


if __name__ == "__main__":
    main()

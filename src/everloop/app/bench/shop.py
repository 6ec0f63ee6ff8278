"""A shop that does not exist: generated interactions of users with items, as a file of MovieLens would have them.

The data is generated: no shop, no person. What it assumes, so that nobody takes its numbers for those of a real one:

- Appeal of items has a long tail (log-normal), and part of what people take is just what is seen most (`herd`): no taste is in that.
- Tastes: a user cares for a few of eight categories (Dirichlet), and within each more for some styles than for others. The model is not
  told the styles, and they are not vectors: it has to find them.
- Time: items appear over the year, users come and go, tastes of three users in ten move to another category some day, appeal fades.
- Nobody takes an item twice. A rating tells of the item's quality, the style's fit, the user's mood and noise; nobody rates what he
  did not take.

How easy it is to beat what is popular depends on `herd` above all. `benchmarks/showcase/shop.json` has several strengths and
seeds; `HERD` is that of the built-in shop.
"""

from __future__ import annotations

import numpy as np

from everloop.runtime.factors_model import Catalogue, Places, by_value
from everloop.showcase.interactions import Interaction

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
    return found, _catalogue(category, style)


def _catalogue(category: Places, style: Places) -> Catalogue:
    """`red lamp 2` is the second lamp in red."""
    names, kinds = list(CATEGORIES), list(CATEGORIES.values())
    ids = [f"item{i}" for i in range(len(category))]
    titles: dict[str, str] = {}
    serial: dict[str, int] = {}
    for item, c, s in zip(ids, category.tolist(), style.tolist(), strict=True):
        kind = kinds[c][s]
        round_, colour = divmod(serial.get(kind, 0), len(COLOURS))
        titles[item] = f"{COLOURS[colour]} {kind} {round_ + 1}"
        serial[kind] = serial.get(kind, 0) + 1
    of = {item: [names[c]] for item, c in zip(ids, category.tolist(), strict=True)}
    return Catalogue(ids, titles, {"category": by_value(of, ids)})

"""Makes the built-in shop: generated interactions, the recommender trained on them, and the report of how well it does.

    python benchmarks/showcase/make_shop.py               writes the data, the artifact and benchmarks/showcase/shop.json
    python benchmarks/showcase/make_shop.py --seeds 3     the report over more seeds, nothing else is written

What the data assumes is told by its generator, `everloop.app.bench.shop`. The report has several seeds and strengths.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from everloop.app.bench.recommending import JUDGED, held_out, kept_fresh
from everloop.app.bench.shop import HERD, STRENGTHS, generate
from everloop.runtime.factors_model import Catalogue
from everloop.runtime.packaged import write_artifact
from everloop.showcase.interactions import Interaction
from everloop.showcase.training import Recall, train

HERE = Path(__file__).parent
ARTIFACT = HERE.parents[1] / "src/everloop/showcase/data/shop.artifact"
INTERACTIONS, ITEMS, REPORT = HERE / "data/shop.csv", HERE / "data/shop_items.csv", HERE / "shop.json"


def _rounded(value: float) -> float:
    return round(value, 4)


def told(recall: Recall) -> dict[str, float]:
    return {name: _rounded(value) for name, value in {**recall._asdict(), "ratio": recall.ratio}.items()}


def report(seeds: int) -> dict[str, object]:
    grid = [
        {"seed": seed, "herd": herd, **told(held_out(generate(seed, herd)[0]))}
        for herd in STRENGTHS
        for seed in range(1, seeds + 1)
    ]
    fresh = [
        {
            "seed": seed,
            **dict(zip(("untold", "online", "fitted"), map(_rounded, kept_fresh(generate(seed)[0])), strict=True)),
        }
        for seed in range(1, seeds + 1)
    ]
    return {"shipped": {"seed": 1, "herd": HERD}, "test_share": JUDGED, "recall_at_10": grid, "kept_fresh": fresh}


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

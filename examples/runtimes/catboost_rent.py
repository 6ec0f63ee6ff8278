"""CatBoost with categories: `python examples/runtimes/catboost_rent.py FOLDER` writes CatBoost's own file."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from catboost import CatBoostRegressor

rng = np.random.default_rng(0)
flats = pd.DataFrame(
    {
        "city": rng.choice(["Ulm", "Bonn", "Kiel"], 400),
        "rooms": rng.integers(1, 6, 400),
        "area": rng.uniform(20, 140, 400),
    }
)
rent = 200 + 9 * flats.area + 150 * (flats.city == "Bonn") + rng.normal(0, 20, 400)
model = CatBoostRegressor(
    iterations=60, depth=4, cat_features=["city"], thread_count=1, verbose=0, allow_writing_files=False
).fit(flats, rent)

file = Path(sys.argv[1]) / "rent.cbm"
model.save_model(file)

print(f"rent_catboost={file}")
print(json.dumps({"city": "Bonn", "rooms": 3, "area": 75.0}))

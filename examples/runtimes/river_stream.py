"""A River model: `python examples/runtimes/river_stream.py FOLDER` writes it. Its file is a pickle inside: serve it with --trust-pickle."""

import json
import sys
from pathlib import Path

from river import compose, linear_model, preprocessing

import everloop

model = compose.Pipeline(preprocessing.StandardScaler(), linear_model.LinearRegression())
for i in range(200):
    model.learn_one({"rooms": i % 5 + 1, "area": i % 70 + 30}, 100.0 * (i % 5 + 1) + 10.0 * (i % 70 + 30))

file = everloop.save_model(model, Path(sys.argv[1]) / "rent.artifact", feature_names=["rooms", "area"])

print(f"rent={file}")
print(json.dumps({"rooms": 3, "area": 80}))

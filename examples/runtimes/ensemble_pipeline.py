"""An ensemble with steps before it: `python examples/runtimes/ensemble_pipeline.py FOLDER` writes two models and the pipeline of both.

A score is imputed and scaled, a country becomes columns, and the mean of two probabilities, one of them twice as heavy, decides.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

import everloop

PIPELINE = """
[inputs]
amount = "number"
score = "number?"
country = "text"

[[steps]]
impute = { score = 600 }
[[steps]]
scale = { amount = { mean = 100, std = 50 }, score = { min = 300, max = 900 } }
[[steps]]
one_hot = { country = ["DE", "FR"] }

[[models]]
model = "linear.skops"
[[models]]
model = "boosted.skops"
weight = 2

[answer]
threshold = 0.4
labels = ["ok", "fraud"]
"""

folder = Path(sys.argv[1])
names = ["amount", "score", "country=DE", "country=FR"]
rng = np.random.default_rng(0)
X = np.column_stack([rng.normal(size=500), rng.uniform(size=500), *np.eye(3)[rng.integers(0, 3, 500)].T[:2]])
y = (X[:, 0] - 2 * X[:, 1] + X[:, 2] > 0).astype(int)
everloop.save_model(LogisticRegression().fit(X, y), folder / "linear.skops", feature_names=names)
everloop.save_model(
    GradientBoostingClassifier(n_estimators=20).fit(X, y), folder / "boosted.skops", feature_names=names
)
file = folder / "fraud.toml"
file.write_text(PIPELINE)

print(f"fraud={file}")
print(json.dumps({"amount": 180.0, "country": "DE"}))

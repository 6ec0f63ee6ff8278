"""LightGBM with labels that are text: `python examples/runtimes/lightgbm_iris.py FOLDER` writes LightGBM's own text with them inside."""

import json
import sys
from pathlib import Path

from lightgbm import LGBMClassifier
from sklearn.datasets import load_iris

import everloop

iris = load_iris()
model = LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1).fit(iris.data, iris.target_names[iris.target])

names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
file = everloop.save_model(model, Path(sys.argv[1]) / "iris.txt", feature_names=names)

print(f"iris_lightgbm={file}")
print(json.dumps(dict(zip(names, [5.1, 3.5, 1.4, 0.2], strict=True))))

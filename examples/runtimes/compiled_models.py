"""Compiled models: `python examples/runtimes/compiled_models.py FOLDER` writes a scaled logistic regression and a small forest without scikit-learn.

`everloop optimize` chooses this form where it is the fastest; here it is made by hand. What answers is data, a few kilobytes of it.
"""

import json
import sys
from pathlib import Path

from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from everloop.optimization.compiling import compile_artifact
from everloop.runtime.artifact import Trust
from everloop.runtime.packaged import write_artifact
from everloop.runtime.packing import pack

iris = load_iris()
folder = Path(sys.argv[1])
for name, model in (
    ("iris-linear", make_pipeline(StandardScaler(), LogisticRegression())),
    ("iris-trees", RandomForestClassifier(10, max_depth=4, random_state=0)),
):
    artifact = pack(model.fit(iris.data, iris.target), trust=Trust())
    file = write_artifact(folder / f"{name}.artifact", *compile_artifact(*artifact, trust=Trust()))
    print(f"{name}={file}")
    print(json.dumps(iris.data[70].tolist()))

"""MLflow models: `python examples/runtimes/mlflow_folders.py FOLDER` writes two folders as MLflow's save_model does.

One holds an estimator that is read as such. The other has code of its own, which MLflow runs: serve it with --trust-pickle. A version of a
registry is served as `churn=models:/churn@champion`, where MLFLOW_TRACKING_URI names the server."""

import json
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression


class Points(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):  # noqa: ARG002  as MLflow calls it
        return 10.0 * model_input["calls"] - model_input["age"]


rng = np.random.default_rng(0)
customers = pd.DataFrame({"age": rng.uniform(18, 90, 400), "calls": rng.poisson(3, 400).astype(float)})
model = LogisticRegression(max_iter=500).fit(customers, np.where(customers.calls > 3, "leaves", "stays"))
folder = Path(sys.argv[1])

mlflow.sklearn.save_model(
    model,
    folder / "churn",
    serialization_format="skops",  # MLflow's pickles are served too, with --trust-pickle
    signature=mlflow.models.infer_signature(customers, model.predict(customers)),
    pip_requirements=["scikit-learn"],
)
mlflow.pyfunc.save_model(
    folder / "points",
    python_model=Points(),
    signature=mlflow.models.infer_signature(customers, 10.0 * customers.calls - customers.age),
    pip_requirements=["pandas"],
)

print(f"churn_mlflow={folder / 'churn'}")
print(json.dumps({"age": 40.0, "calls": 7.0}))
print(f"points_mlflow={folder / 'points'}")
print(json.dumps({"age": 40.0, "calls": 7.0}))

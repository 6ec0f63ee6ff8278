"""A scikit-learn pipeline over text and numbers: `python examples/runtimes/sklearn_pipeline.py FOLDER` writes it as a skops file."""

import json
import sys
from pathlib import Path

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import everloop

customers = pd.DataFrame(
    {"plan": ["basic", "plus", "pro", "basic"] * 25, "age": range(18, 118), "calls": [i % 9 for i in range(100)]}
)
left = (customers.calls > 4) & (customers.plan != "pro")
columns = ColumnTransformer(
    [("plan", OneHotEncoder(handle_unknown="ignore"), ["plan"]), ("numbers", StandardScaler(), ["age", "calls"])]
)
model = make_pipeline(columns, LogisticRegression()).fit(customers, left)

file = everloop.save_model(model, Path(sys.argv[1]) / "churn.skops")

print(f"churn={file}")
print(json.dumps({"plan": "basic", "age": 40, "calls": 7}))

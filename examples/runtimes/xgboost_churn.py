"""XGBoost with a category and missing values: `python examples/runtimes/xgboost_churn.py FOLDER` writes XGBoost's own file."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from xgboost import XGBClassifier

import everloop

rng = np.random.default_rng(0)
customers = pd.DataFrame(
    {
        "plan": pd.Categorical(rng.choice(["basic", "plus", "pro"], 400)),
        "age": np.where(rng.random(400) < 0.1, np.nan, rng.integers(18, 90, 400)),
        "calls": rng.poisson(3, 400),
    }
)
left = ((customers.calls > 3) & (customers.plan != "pro")).astype(int)
model = XGBClassifier(n_estimators=30, max_depth=3, enable_categorical=True, n_jobs=1).fit(customers, left)

file = everloop.save_model(model, Path(sys.argv[1]) / "churn.ubj")  # model.save_model writes one that is served as well

print(f"churn_xgboost={file}")
print(json.dumps({"plan": "basic", "age": None, "calls": 7}))

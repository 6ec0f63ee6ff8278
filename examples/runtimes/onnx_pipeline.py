"""An ONNX file: `python examples/runtimes/onnx_pipeline.py FOLDER` converts a pipeline of text, a category and a number, and says what to
serve and a row to ask. The server needs no scikit-learn for it, and the row is split into words inside the graph.
"""

import json
import sys
from pathlib import Path

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from everloop.optimization import ONNXConverter

tickets = pd.DataFrame(
    {
        "text": ["The parcel never came", "Where is my parcel?", "I was charged twice", "Please refund the charge"]
        * 25,
        "country": ["DE", "FR", "DE", "US"] * 25,
        "amount": [12.0, 30.0, 99.0, 45.0] * 25,
    }
)
team = ["delivery", "delivery", "billing", "billing"] * 25
columns = ColumnTransformer(
    [
        ("words", TfidfVectorizer(), "text"),
        ("country", OneHotEncoder(handle_unknown="ignore"), ["country"]),
        ("amount", StandardScaler(), ["amount"]),
    ]
)
model = make_pipeline(columns, LogisticRegression()).fit(tickets, team)
file = ONNXConverter().convert(model, tickets, Path(sys.argv[1]) / "tickets.onnx")

print(f"tickets={file.path}")
print(json.dumps({"text": "My parcel is late", "country": "IT", "amount": 20.0}))

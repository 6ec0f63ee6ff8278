"""A model in Python: `python examples/runtimes/python_class.py FOLDER` writes the code that is served, says what to serve and a row to ask.

The module that is written is the whole model. The version that serves it holds its source.
"""

import json
import sys
from pathlib import Path

SOURCE = """
import re

POSITIVE = {"good", "great", "love", "fine"}
NEGATIVE = {"bad", "poor", "hate", "dull"}


class Model:
    features = {"text": "text"}
    classes = ["negative", "positive"]

    def predict(self, rows):
        return ["positive" if share >= 0.5 else "negative" for share in map(self._share, rows[:, 0])]

    def predict_proba(self, rows):
        return [[1 - share, share] for share in map(self._share, rows[:, 0])]

    def _share(self, text):
        words = set(re.findall(r"[a-z]+", text.lower()))
        good, bad = len(words & POSITIVE), len(words & NEGATIVE)
        return (1 + good) / (2 + good + bad)
"""

folder = Path(sys.argv[1])
file = folder / "sentiment.py"
file.write_text(SOURCE)

print(f"sentiment={file}:Model")
print(json.dumps({"text": "A good film, great even"}))

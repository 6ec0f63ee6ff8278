"""What the built-in models are worth, on rows that nobody trained on. The rows are in `benchmarks/showcase/data`.

python benchmarks/run.py showcase_quality
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that `benchmarks.showcase` is found, wherever this is started


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """Rows {what, bar, measured, ratio, pass, detail}. `quick` is as long: it takes seconds."""
    return [sentiment()]


def sentiment() -> dict[str, Any]:
    """Against VADER as it is installed; without it, against the scores that it gave these rows when they were prepared."""
    from benchmarks.showcase.sentiment_rows import HELD_OUT, label_of, read_snippets
    from benchmarks.showcase.train_sentiment import judge

    from everloop.runtime.packaged import read_artifact
    from everloop.runtime.text import load
    from everloop.showcase.builtin import builtin_path

    snippets = [each for each in read_snippets() if each.fold == HELD_OUT]
    try:
        version = importlib.metadata.version("vaderSentiment")
    except importlib.metadata.PackageNotFoundError:
        whose = "its kept scores (not installed: pip install 'everloop[bench]')"
    else:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        vader = SentimentIntensityAnalyzer()
        snippets = [each._replace(compound=vader.polarity_scores(each.text)["compound"]) for each in snippets]
        whose = f"vaderSentiment {version}, its authors' rule ({label_of(0.05, 0.05)} from a compound of 0.05)"
    found = judge(load(*read_artifact(builtin_path("sentiment").read_bytes())).model, snippets)
    low, high = (100 * each for each in found["difference_95"])
    return {
        "what": f"sentiment: macro-F1 on {found['held_out']:,} held-out snippets, against VADER's",
        "bar": "at least 9 points more",
        "measured": f"{100 * found['difference']:.1f} points more",
        "ratio": 100 * found["difference"],
        "pass": found["difference"] >= 0.09,
        "detail": f"{found['macro_f1']:.3f} against {found['vader_macro_f1']:.3f}; 95 %: {low:.1f} to {high:.1f} points; {whose}",
    }


if __name__ == "__main__":
    for row in run():
        print(row)

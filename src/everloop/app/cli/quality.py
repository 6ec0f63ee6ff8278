"""`everloop models quality`: what the answers of a model's versions were worth, side by side. It adds its command to the group of
`cli.models`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from everloop.app.cli.models import models
from everloop.app.cli.options import Json, Model, Url

METRICS = {
    "classification": ("accuracy", "balanced_accuracy", "log_loss", "auc", "brier", "calibration_error"),
    "regression": ("mae", "rmse", "r2"),
}
WORDS = {
    "balanced_accuracy": "balanced",
    "calibration_error": "calibration",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "auc": "AUC",
}

HELP = """What the answers of each version were worth, by labels as they came.

Each figure is over the version's newest 1,000 labels and over all of them since it was first seen; in brackets, what answering with the
label before would have been worth on the same labels.
"""


@models.command("quality", help=HELP)
def quality(model: Model, *, url: Url = None, json: Json = False) -> None:
    from everloop.app.cli.calls import connect
    from everloop.app.cli.output import as_json, data, say, table
    from everloop.app.client import model_path

    with connect(url) as client:
        found = client.get(model_path(model, "quality"))
    if json:
        data(as_json(found))
        return
    if not found["versions"]:
        here = "no answer has been judged by a label yet" if found["learns_here"] else "this process does not learn it"
        say(f"{model}: {here}; quality is known where the labels are learned")
        return
    known = [
        metric
        for metric in METRICS[found["task"]]
        if any(metric in part for each in (found, *found["versions"]) for part in (each["overall"], each["window"]))
    ]
    table(
        ("version", "name", "status", "labels", *(WORDS.get(metric, metric.replace("_", " ")) for metric in known)),
        _rows(found, known),
    )
    say("in brackets: no-change, answering with the label before")


def _rows(found: dict[str, Any], metrics: list[str]) -> Iterator[list[Any]]:
    named = [(str(each["version"]), each["name"], each["status"], each) for each in found["versions"]]
    for version, name, status, each in [*named, ("all", "", "", found)]:
        newest, overall = each["window"], each["overall"]
        for part, labels in ((newest, f"newest {newest['n']:,}"), (overall, f"all {overall['n']:,}")):
            if part is overall and overall["n"] == newest["n"]:
                continue
            yield [version, name, status, labels, *(_cell(part, metric) for metric in metrics)]


def _cell(figures: dict[str, Any], metric: str) -> str:
    value, base = (_number(metric, figures.get(key)) for key in (metric, f"baseline_{metric}"))
    return value if base == "–" else f"{value} ({base})"


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if metric.endswith("accuracy") else f"{value:.4g}"

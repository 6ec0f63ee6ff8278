"""Which of a metric's values is better: known of the usual ones by their names."""

from __future__ import annotations

import re

from everloop.core.errors import InvalidInput

_HIGHER = """
accuracy balanced_accuracy acc auc auroc auprc roc_auc average_precision precision recall sensitivity specificity f1 f_score fbeta
kappa kappa_temporal mcc r2 r_squared explained_variance correlation ndcg map mrr hit_rate score throughput speedup sharpe profit
revenue return
"""
_LOWER = """
mse rmse mae mape smape msle rmsle medae error errors error_rate loss log_loss cross_entropy nll brier calibration_error ece deviance
perplexity wer cer latency duration time size memory cost drift
"""
_UNITS = re.compile(r"_(ms|us|ns|s|sec|seconds|mb|kb|gb|bytes)\Z")
_AROUND = re.compile(
    r"\A(val|valid|validation|test|train|eval|cv|mean|avg|max|min|p\d+|median|macro|micro|weighted|baseline)_"
)


def better_is_higher(metric: str) -> bool:
    """`accuracy` -> True, `test_rmse` -> False, `latency_ms` -> False. Raises InvalidInput for a name that tells nothing."""
    name = metric.strip().lower().replace("-", "_").replace(" ", "_")
    if _UNITS.search(name):
        return "throughput" in name
    while (shorter := _AROUND.sub("", name)) != name:
        name = shorter
    higher, lower = _HIGHER.split(), _LOWER.split()
    # The noun comes last: an `accuracy_loss` is a loss.
    for told in (name, name.rpartition("_")[2]):
        if told in higher or told in lower:
            return told in higher
    raise InvalidInput(
        f"metric: whether a higher {metric!r} is better is not known by its name; say higher_is_better=True or False",
        field="metric",
    )

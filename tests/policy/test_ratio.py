from __future__ import annotations

import math
from math import comb

import numpy as np
import pytest

from everloop.policy.ratio import log_ratio, ratio_broken


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_mean_is_one_where_the_split_is_as_intended(share: float) -> None:
    n = 40
    mean = sum(
        comb(n, k) * share**k * (1 - share) ** (n - k) * math.exp(log_ratio(n - k, k, share)) for k in range(n + 1)
    )
    assert mean == pytest.approx(1)


def test_a_split_as_intended_is_hardly_ever_called_broken() -> None:
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(300):
        challenger = np.cumsum(rng.random(2000) < 0.05)
        broken += any(
            ratio_broken(n - int(challenger[n - 1]), int(challenger[n - 1]), 0.05, 0.05).broken
            for n in range(10, 2001, 10)
        )
    assert broken <= 15


def test_a_broken_split_is_found() -> None:
    verdict = ratio_broken(9_300, 700, 0.05)
    assert verdict.broken
    assert verdict.observed == 0.07
    assert verdict.text == (
        "the split: the challenger got 7 % of 10,000 requests, 5 % were intended; evidence over a million of 1,000 needed: "
        "the split is broken, so nothing that compares the versions holds"
    )
    assert ratio_broken(605_000, 395_000, 0.4).broken


def test_the_ends() -> None:
    assert not ratio_broken(0, 0, 0.5).broken
    assert not ratio_broken(100, 0, 0.0).broken
    assert ratio_broken(100, 1, 0.0).broken
    assert not ratio_broken(0, 100, 1.0).broken
    assert ratio_broken(1, 100, 1.0).broken
    assert math.isfinite(ratio_broken(10**9, 10**9, 0.0001).e_value)

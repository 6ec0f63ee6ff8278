"""When to fit."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.policy.retraining import Decision, Progress, backoff, decide

FITTED = {"champion": True, "examples": 1_000, "last_fit": 100.0}


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress(examples=99, new=99), Decision(None)),
        (Progress(examples=100, new=100), Decision("first")),
        (Progress(**FITTED, new=99), Decision(None)),
        (Progress(**FITTED, new=100), Decision(None, 50.0)),
        (Progress(**{**FITTED, "last_fit": 90.0}, new=100), Decision("schedule")),
        (Progress(champion=True, examples=1_000, new=1_000), Decision("schedule")),
        (Progress(**FITTED, since_change=9), Decision(None)),
        (Progress(**FITTED, since_change=10), Decision("drift", recovering=True)),
        (Progress(**FITTED, since_change=59, fitted_since_change=40), Decision(None)),
        (Progress(**FITTED, since_change=60, fitted_since_change=40), Decision("recovery", recovering=True)),
        (Progress(examples=100, last_fit=100.0, failures=1, retry_at=101.0), Decision("retry")),
        (Progress(examples=100, last_fit=100.0, failures=1, retry_at=103.0), Decision(None, 3.0)),
        (Progress(**FITTED, since_change=40, failures=2, retry_at=103.0), Decision(None, 3.0)),
        (Progress(examples=100, new=0, last_fit=100.0), Decision(None)),
    ],
)
def test_decide(progress: Progress, expected: Decision) -> None:
    now = 100.0 if progress.failures else 150.0
    if progress.failures and progress.retry_at == 101.0:
        now = 101.0
    if expected.wait == 50.0:
        now = 110.0
    assert decide(progress, min_samples=100, interval_sec=60, now=now) == expected


def test_a_wait_is_long_enough() -> None:
    progress = Progress(**FITTED, new=100)
    decision = decide(progress, min_samples=100, interval_sec=60, now=110.0)
    assert decision.wait is not None
    assert decide(progress, min_samples=100, interval_sec=60, now=110.0 + decision.wait).fit


def test_recovery_fits_are_few() -> None:
    progress = Progress(**FITTED, since_change=20)
    fits = 0
    for _ in range(10_000):
        if decide(progress, min_samples=10**9, interval_sec=1e9, now=0.0).fit:
            fits += 1
            progress.fitted_since_change = progress.since_change or 0
        assert progress.since_change is not None
        progress.since_change += 1
    assert fits == 16


@given(st.integers(0, 10_000), st.integers(0, 2**32))
def test_backoff_grows_is_capped_and_jittered(failures: int, seed: int) -> None:
    seconds = backoff(failures, random.Random(seed))
    full = min(300.0, 2.0 ** max(min(failures, 60) - 1, 0))
    assert full / 2 <= seconds < full

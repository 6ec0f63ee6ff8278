"""The detectors are the ones their papers and River describe."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from everloop.policy.drift.detectors import HddmA, _PublicAdwin, adaptive_windowing, bernstein, chernoff, loss_cap


def stream(seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    return np.r_[rng.random(1_000) < 0.2, rng.random(1_000) < 0.45].astype(float).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_hddm_a_alarms_where_rivers_does(seed: int) -> None:
    from river.drift import binary

    river = (getattr(binary, "HDDMA", None) or binary.HDDM_A)()
    ours, found, expected = HddmA(), [], []
    for i, x in enumerate(stream(seed)):
        river.update(x)
        if river.drift_detected:
            expected.append(i)
        if ours.update(x):
            found.append(i)
    assert found == expected
    assert found


def test_the_compiled_adwin_is_the_public_one() -> None:
    """Up to the first alarm, after which the public class forgets more than it has to."""
    compiled, public = adaptive_windowing(), _PublicAdwin()
    alarm = False
    for x in stream(0):
        alarm = bool(compiled.update(x))
        assert public.update(x) == alarm
        if alarm:
            break
    assert alarm
    assert compiled.get_total() == pytest.approx(public.get_total())
    assert compiled.get_width() == public.get_width()


def test_a_monitor_does_not_import_rivers_dependencies() -> None:
    code = (
        "import sys; from everloop.policy.drift.errors import ErrorDriftMonitor as M; M('regression').update([1.0] * 50); "
        "print(sorted({'pandas', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_evidence_bounds_the_chance_of_a_split() -> None:
    """Monte Carlo: splits of evidence e come up no more often than exp(-e), for a known mean before."""
    rng = np.random.default_rng(1)
    means = (rng.random((20_000, 30)) < 0.2).mean(axis=1)
    for bar in (1.0, 2.0, 4.0):
        hits = sum(mean > 0.2 and chernoff(mean, 30, 0.2, 10**9) >= bar for mean in means)
        assert hits / len(means) <= np.exp(-bar)
    assert bernstein(0.3, 0.1, 20, 0.1, 20) > bernstein(0.2, 0.1, 20, 0.1, 20) > 0


def test_the_cap_follows_the_bulk_not_the_outlier() -> None:
    errors = [0.1, 0.12, 0.09, 0.11, 0.1, 0.13, 0.08, 0.1, 0.11, 0.1]
    assert loss_cap([*errors, 1e12], 0.0) < 1.0
    assert 0.4 < loss_cap(errors, 0.0) < 1.0
    assert loss_cap([0.0] * 10, 0.0) > 0
    assert loss_cap([float("nan")], 0.0) == 1.0
    assert loss_cap([0.0] * 10, 0.5) == 3.0

"""What the gates are compared with, and what is simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from everloop.app.bench import rollout_simulation as simulation
from everloop.app.bench.rows import Context


@pytest.mark.parametrize("draw", [simulation.slower_body, simulation.slower_tail])
def test_the_slow_challenger_has_a_p99_of_15_ms(draw: simulation.Draw) -> None:
    rng = np.random.default_rng(0)
    arms = rng.random((100, 4000)) < 0.5
    seconds = draw(rng, arms)
    assert np.quantile(seconds[~arms], 0.99) == pytest.approx(0.010, rel=0.02)
    assert np.quantile(seconds[arms], 0.99) == pytest.approx(0.015, rel=0.02)


def test_only_the_tail_is_slower() -> None:
    rng = np.random.default_rng(0)
    arms = rng.random((100, 4000)) < 0.5
    seconds = simulation.slower_tail(rng, arms)
    for share in (0.5, 0.9, 0.94):
        assert np.quantile(seconds[arms], share) == pytest.approx(np.quantile(seconds[~arms], share), rel=0.02)


def test_the_peeked_z_test_is_the_textbooks() -> None:
    rng = np.random.default_rng(1)
    arms = rng.random((5, 600)) < 0.5
    events = rng.random(arms.shape) < np.where(arms, 0.5, 0.3)
    for i, when in enumerate(simulation.z_test(arms, events, one_sided=True, least=10)):
        t = int(when) + 1
        b, a = events[i, :t][arms[i, :t]], events[i, :t][~arms[i, :t]]
        pooled = events[i, :t].mean()
        z = (b.mean() - a.mean()) / np.sqrt(pooled * (1 - pooled) * (1 / len(a) + 1 / len(b)))
        assert when >= 0
        assert z > norm.ppf(0.95)


def test_one_look_needs_what_the_textbook_says() -> None:
    assert simulation.fixed_horizon(0.05, 0.10, one_sided=True) == 341
    assert simulation.fixed_horizon(0.20, 0.25, one_sided=False) == 1091


def test_a_small_simulation_from_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(simulation, "SPLITS", (("1:1", 0.5, 300), ("95:5", 0.05, 300)))
    monkeypatch.setattr(Context, "rounds", lambda _self, _full, _quick=1: 10)
    result = simulation.run(Context(quick=True), tmp_path)
    assert len(result.rows) == 9
    assert {row.subject for row in result.rows} == {"rollout_simulation"}
    assert all("(" in row.measured for row in result.rows)
    assert set(result.data) >= {"errors", "quality", "null_errors", "null_latency", "null_quality"}

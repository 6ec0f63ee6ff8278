"""What the benchmarks find right or wrong, whatever the machine's speed: the short form of those that check answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from everloop.app.bench import crash, inprocess, labels, swaps, threads
from everloop.app.bench.rows import Context

pytestmark = pytest.mark.e2e
QUICK = Context(quick=True)


def test_swaps_under_load_refuse_nobody_and_never_go_back(tmp_path: Path) -> None:
    (row,) = swaps.run(QUICK, tmp_path).rows
    assert row.passed, f"{row.measured}; {row.detail}"


def test_threads_see_no_pair_that_no_version_would_give() -> None:
    pairs, latency = threads.swaps(QUICK).rows
    assert pairs.passed, f"{pairs.measured}; {pairs.detail}"
    assert latency.ratio is not None
    assert latency.ratio > 0


def test_acknowledged_labels_survive_a_kill(tmp_path: Path) -> None:
    (row,) = crash.run(QUICK, tmp_path).rows
    assert row.passed, f"{row.measured}; {row.detail}"


def test_labels_under_load_are_all_accepted(tmp_path: Path) -> None:
    for row in labels.run(QUICK, tmp_path).rows:
        assert row.ratio is not None
        assert row.ratio > 0
        assert "refused: none, 0 socket errors" in row.detail, row.detail


def test_in_process_every_width_is_compared_with_both(tmp_path: Path) -> None:
    result = inprocess.run(QUICK, tmp_path)
    assert len(result.rows) == 2 * len(inprocess.WIDTHS)
    assert all(row.ratio is not None and row.ratio > 0 for row in result.rows)
    assert set(result.data["microseconds"]["30"]) == {"everloop", "bare", "scikit-learn"}

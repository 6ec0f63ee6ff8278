"""The long subjects, in short: they count what really happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from everloop.app.bench.parallel_long import child


def test_a_stream_is_measured_while_it_flows(tmp_path: Path) -> None:
    found = child(tmp_path, "memory", "small", "2000")
    assert found["items"] == 2000
    assert all(each > 5 for each in [*found["parent"], *found["worker"], *found["peak"]])


def test_workers_are_really_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    found = child(tmp_path, "kills", "2")
    assert (found["killed"], found["missing"], found["twice"], found["in_order"]) == (2, 0, 0, True)
    assert found["items"] >= 500


def test_what_went_wrong_in_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="KeyError"):
        child(tmp_path, "memory", "large", "10")

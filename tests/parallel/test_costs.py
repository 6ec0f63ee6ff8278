"""The costs of this machine's workers: measured with real ones, kept in a file that may be damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from everloop.core.errors import WorkerDied
from everloop.parallel import PoolManager, costs
from everloop.parallel.cost import MachineCosts
from everloop.parallel.executors.opening import open_executor
from everloop.parallel.work import Chunk, Done

MEASURED = MachineCosts(spawn_seconds=0.05, process_chunk=2e-5, measured=True)


def test_they_are_measured_with_the_workers_that_are_then_used(pool: PoolManager) -> None:
    found = costs.measure(lambda kind, func, workers: open_executor(kind, func, workers, pool=pool), MEASURED)
    assert found.measured
    assert found.spawn_seconds == 0.05, "that is learned from real starts"
    assert 0 < found.process_chunk < 0.01
    assert 0 <= found.process_item < found.process_chunk
    assert 0 <= found.byte_seconds < 1e-6
    assert pool.stats()["started"] == 1


def test_they_are_kept(tmp_path: Path) -> None:
    assert costs.keep(tmp_path / "new", "abc", MEASURED)
    assert costs.load(tmp_path / "new", "abc") == MEASURED
    assert costs.load(tmp_path / "new", "another machine") == MachineCosts()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "spawn_seconds": -1.0}',
        '{"format": 1, "spawn_seconds": 1e9}',
        '{"format": 1, "spawn_seconds": "soon"}',
        '{"format": 1, "spawn_seconds": NaN}',
    ],
)
def test_what_cannot_be_read_counts_as_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "costs_abc.json").write_text(text)
    assert costs.load(tmp_path, "abc") == MachineCosts()


def test_what_later_versions_add_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "costs_abc.json").write_text(json.dumps({"format": 1, "spawn_seconds": 0.3, "moon_phase": 4}))
    assert costs.load(tmp_path, "abc") == replace(MachineCosts(), spawn_seconds=0.3)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not costs.keep(tmp_path / "file", "abc", MEASURED)


def test_quicker_starts_are_believed_sooner_than_slower_ones() -> None:
    assert costs.learned(MEASURED, 0.03).spawn_seconds == pytest.approx(0.04)
    assert costs.learned(MEASURED, 0.15).spawn_seconds == pytest.approx(0.06)
    assert costs.learned(MEASURED, 0.0) == MEASURED
    assert costs.learned(MEASURED, None) == MEASURED


def test_a_chunk_that_a_worker_hands_back_is_sent_again(pool: PoolManager) -> None:
    handed_back = []

    class HeldUp:
        """As a worker that somebody else's work keeps from its queue: each chunk comes back once before it is run."""

        def __init__(self, executor: Any) -> None:
            self.executor, self.kind = executor, executor.kind
            self.waiting: list[Chunk] = []
            self.seen: set[int] = set()

        @property
        def room(self) -> int:
            return int(self.executor.room)

        def submit(self, chunk: Chunk) -> None:
            if id(chunk) in self.seen:
                self.executor.submit(chunk)
            else:
                self.seen.add(id(chunk))
                self.waiting.append(chunk)

        def collect(self, timeout: float | None = None) -> list[Done]:
            back, self.waiting = [Done(chunk, [], 0) for chunk in self.waiting], []
            handed_back.extend(back)
            return back or self.executor.collect(timeout)  # type: ignore[no-any-return]

        def close(self, *, kill: bool = False) -> None:
            self.executor.close(kill=kill)

    def opening(kind: Any, func: Any, workers: int) -> Any:
        return HeldUp(open_executor(kind, func, workers, pool=pool))

    assert costs.measure(opening).measured
    assert handed_back


def test_a_worker_that_dies_meanwhile_is_told() -> None:
    class Dying:
        kind: Any = "process"
        workers = room = 1
        running = 0

        def submit(self, chunk: Chunk) -> None:
            self.chunk = chunk

        def collect(self, timeout: float | None = None) -> list[Done]:
            return [Done(self.chunk, [], 0, lost="killed by signal 9")]

        def close(self, *, kill: bool = False) -> None: ...

    with pytest.raises(WorkerDied, match="signal 9"):
        costs.measure(lambda kind, func, workers: Dying())

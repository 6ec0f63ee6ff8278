"""What is sent again, when, and when it is given up."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.parallel.test_engine import Bench, fails_at

from everloop.core.errors import InvalidInput, ItemTimeout, NotPicklable, WorkerDied
from everloop.parallel.hooks import ExecutionHooks, ItemError
from everloop.parallel.options import RunOptions
from everloop.parallel.plan import Plan
from everloop.parallel.retrying import Backlog, Piece, after_death, wait_before, worth_another_try
from everloop.parallel.work import Chunk

RNG = random.Random(1)


def test_waits_double_up_to_a_limit() -> None:
    options = RunOptions(backoff=0.1, max_backoff=1.0, jitter=0.0)
    assert [wait_before(options, tries, RNG) for tries in (1, 2, 3, 4, 5, 2000)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@given(tries=st.integers(1, 20), seed=st.integers())
def test_jitter_takes_away_at_most_its_share(tries: int, seed: int) -> None:
    options = RunOptions(jitter=0.5)
    whole = wait_before(RunOptions(jitter=0.0), tries, RNG)
    assert whole / 2 <= wait_before(options, tries, random.Random(seed)) <= whole


def test_only_what_may_pass_is_tried_again() -> None:
    options = RunOptions(retries=2, retry_on=(OSError,))
    assert worth_another_try(options, ConnectionError(), 2)
    assert not worth_another_try(options, ConnectionError(), 3)
    assert not worth_another_try(options, ValueError(), 1)
    assert worth_another_try(options, ItemTimeout("late"), 1)  # a TimeoutError is an OSError


def test_a_chunk_is_halved_at_its_second_death() -> None:
    options = RunOptions()
    (whole,) = after_death(options, Chunk(1, 10, [0, 1, 2, 3]))
    assert (len(whole), whole.deaths) == (4, 1)
    halves = after_death(options, Chunk(1, 10, [0, 1, 2, 3], attempt=2, deaths=1))
    assert [(piece.first, piece.items) for piece in halves] == [(10, [0, 1]), (12, [2, 3])]


def test_who_is_alone_begins_with_a_clean_record() -> None:
    (left, right) = after_death(RunOptions(), Chunk(1, 10, [0, 1], attempt=5, deaths=4))
    assert (left.deaths, right.deaths) == (0, 0)
    assert left.attempt - left.deaths == 1
    piece = Piece(0, [1, 2, 3], attempt=3, deaths=2)
    assert piece.cut(1).deaths == 0
    assert piece.cut(1).deaths == 0
    assert (len(piece), piece.deaths) == (1, 0)


def test_an_item_is_poison_after_max_deaths() -> None:
    options = RunOptions(max_deaths=2)
    assert after_death(options, Chunk(1, 0, [0]))
    last = Chunk(1, 0, [0], attempt=2, deaths=1)
    assert after_death(options, last) == []
    assert after_death(options, last, innocent=1), "workers die with others, too: it may be none of its fault"


@given(pieces=st.lists(st.integers(1, 8), min_size=1, max_size=20), sizes=st.lists(st.integers(1, 5), min_size=1))
def test_the_backlog_gives_everything_lowest_first(pieces: list[int], sizes: list[int]) -> None:
    backlog, first, rng = Backlog(), 0, random.Random(3)
    made = []
    for length in pieces:
        made.append(Piece(first, list(range(first, first + length)), 1, 0))
        first += length
    rng.shuffle(made)
    for piece in made:
        backlog.add(piece)
    assert backlog.items == first
    out: list[Any] = []
    while (taken := backlog.take(sizes[len(out) % len(sizes)], 0.0)) is not None:
        assert taken.items[0] == taken.first
        out += taken.items
    assert out == list(range(first))
    assert backlog.items == 0


def test_what_waits_is_not_given_before_its_time() -> None:
    backlog = Backlog()
    backlog.add_later(5.0, Piece(0, ["early"], 2, 0))
    backlog.add(Piece(7, ["now"], 1, 0))
    assert backlog.due() == 5.0
    taken = backlog.take(10, 4.9)
    assert taken is not None
    assert taken.items == ["now"]
    assert backlog.take(10, 4.9) is None
    taken = backlog.take(10, 5.0)
    assert taken is not None
    assert taken.items == ["early"]


# -- in a run


class Flaky:
    """Fails the first `times` times at each item."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.tries: dict[Any, int] = {}

    def __call__(self, item: Any) -> Any:
        self.tries[item] = self.tries.get(item, 0) + 1
        if self.tries[item] <= self.times:
            raise ConnectionError(f"try {self.tries[item]} of {item}")
        return item


def test_items_are_tried_again_alone_while_others_go_on() -> None:
    func = Flaky(2)
    bench = Bench(func, range(6), Plan("process", 2, 3), retries=2, backoff=1.0, jitter=0.0)
    begun = bench.clock.monotonic()
    assert bench.run.results() == list(range(6))
    assert bench.report.retries == 12
    assert 3.0 <= bench.clock.monotonic() - begun < 3.2  # 1 s and 2 s, of all together
    assert all(len(chunk.items) == 1 for chunk in bench.executor.sent if chunk.attempt > 1)


def test_after_its_retries_an_item_fails_with_its_own_exception() -> None:
    events: list[ItemError] = []

    class Hooks(ExecutionHooks):
        def on_item_error(self, event: ItemError) -> None:
            events.append(event)

    bench = Bench(fails_at(2), range(4), retries=2, jitter=0.0, hooks=(Hooks(),))
    with pytest.raises(ValueError, match="bad 2"):
        bench.run.results()
    assert [(event.retried, event.wait, event.failure.attempts) for event in events] == [
        (True, 0.1, 1),
        (True, 0.2, 2),
        (False, 0.0, 3),
    ]


def test_a_death_takes_no_try_away() -> None:
    """Its worker dies once, then it raises once, and it may: there is one retry."""
    died: list[int] = []

    def kills(item: int) -> bool:
        died.append(item)
        return item == 1 and died.count(1) == 1

    bench = Bench(Flaky(1), range(3), retries=1, script={"kills": kills})
    assert bench.run.results() == [0, 1, 2]


def test_an_item_that_ends_its_worker_by_lateness_is_found() -> None:
    bench = Bench(
        lambda item: item,
        range(8),
        Plan("process", 2, 4),
        script={"late": lambda item: item == 2},
        timeout=0.5,
        on_error="return",
    )
    results = bench.run.results()
    assert isinstance(results[2].error, ItemTimeout)
    assert results[:2] + results[3:] == [0, 1, 3, 4, 5, 6, 7]


def test_poison_ends_a_run_that_raises() -> None:
    bench = Bench(lambda item: item, range(8), script={"kills": lambda item: item == 5})
    with pytest.raises(WorkerDied, match="3 workers died with this item alone") as raised:
        bench.run.results()
    assert raised.value.__notes__ == ["item 5: 5"]


def test_what_cannot_travel_is_not_tried_again() -> None:
    assert issubclass(NotPicklable, Exception)
    from tests.parallel.scripted import Unsendable

    bench = Bench(lambda item: item, [Unsendable()], retries=5, on_error="return")
    (failure,) = bench.run.results()
    assert isinstance(failure.error, NotPicklable)
    assert bench.report.retries == 0


def test_dead_letters_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "failed.ndjson"
    items = [{"id": 0}, {"id": 1}, {1, 2}]

    def func(item: Any) -> Any:
        if item != {"id": 0}:
            raise ValueError("no")
        return item

    bench = Bench(func, items, on_error="skip", dead_letter=path, label="ids", retries=1)
    assert bench.run.results() == [{"id": 0}]
    letters = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(letter["index"], letter["item"], letter["error"]) for letter in letters] == [
        (1, {"id": 1}, "ValueError"),
        (2, "{1, 2}", "ValueError"),
    ]
    assert {letter["attempts"] for letter in letters} == {2}
    Bench(func, items, on_error="skip", dead_letter=path).run.results()
    assert len(path.read_text().splitlines()) == 4  # appended


def test_no_failure_makes_no_dead_letter_file(tmp_path: Path) -> None:
    Bench(lambda item: item, range(3), on_error="skip", dead_letter=tmp_path / "none").run.results()
    assert not (tmp_path / "none").exists()
    with pytest.raises(InvalidInput):
        RunOptions(dead_letter=tmp_path / "none")


def test_a_repr_that_raises_does_not_hide_the_failure() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    def func(item: Any) -> Any:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad") as raised:
        Bench(func, [Shy()]).run.results()
    assert raised.value.__notes__[0].startswith("item 0: <Shy instance")

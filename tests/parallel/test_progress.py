"""Events in time, and what a person sees."""

from __future__ import annotations

import io

import pytest
from tests.parallel.test_engine import Bench

from everloop.parallel.hooks import Ended, Progress
from everloop.parallel.plan import Plan
from everloop.parallel.progress import Bar, Ticker, bar_for
from everloop.parallel.report import RunReport

END = Ended("work", RunReport(Plan("serial", 1, 1)))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def event(elapsed: float, done: int = 50, total: int | None = 100, *, paused: bool = False) -> Progress:
    rate = done / elapsed if elapsed else 0.0
    remaining = None if total is None or not rate else (total - done) / rate
    return Progress("work", done, total, elapsed, rate, remaining, paused)


def test_events_are_a_tenth_of_a_second_apart() -> None:
    ticker = Ticker("work", 1000, 0.0)
    assert ticker.tick(5, 0.05) is None
    told = ticker.tick(10, 0.1)
    assert told is not None
    assert (told.done, told.total, told.elapsed, told.rate, told.remaining) == (
        10,
        1000,
        0.1,
        100.0,
        pytest.approx(9.9),
    )
    assert ticker.tick(11, 0.15) is None
    assert ticker.tick(20, 0.15, last=True) is not None


def test_the_rate_follows_what_happens_lately() -> None:
    ticker = Ticker("work", None, 0.0)
    for step in range(1, 50):
        ticker.tick(step * 100, step * 1.0)
    for step in range(50, 100):
        told = ticker.tick(5000 + (step - 50) * 10, step * 1.0)
    assert told is not None
    assert told.rate == pytest.approx(10, rel=0.05)
    assert told.remaining is None


def test_a_terminal_sees_a_bar_once_the_work_lasts() -> None:
    terminal = Terminal()
    bar = bar_for(None, terminal)
    assert bar is not None
    bar.on_progress(event(0.5, done=1))
    bar.on_progress(event(1.2, done=99))
    assert terminal.getvalue() == ""  # it is over in a moment
    bar.on_progress(event(1.5, done=10))
    bar.on_progress(event(2.0, done=20))
    bar.on_end(END)
    seen = terminal.getvalue()
    assert "work" in seen
    assert "20/100" in seen
    assert "0:08 left" in seen


def test_a_log_gets_lines_if_asked_for_and_else_nothing() -> None:
    log = io.StringIO()
    assert bar_for(None, log) is None
    assert bar_for(False, Terminal()) is None
    bar = bar_for(True, log)
    assert bar is not None
    for step in range(1, 13):
        bar.on_progress(event(step * 1.0, done=step))
    bar.on_end(END)
    lines = log.getvalue().splitlines()
    assert [line.partition(" items")[0] for line in lines] == [f"work: {n} of 100" for n in (1, 6, 11, 12)]


def test_a_stream_without_end_says_how_long_it_runs() -> None:
    log = io.StringIO()
    bar = Bar(log, asked=True)
    bar.on_progress(event(7.0, done=7000, total=None))
    bar.on_progress(event(14.0, done=7000, total=None, paused=True))
    assert log.getvalue().splitlines() == [
        "work: 7,000 items, 1,000/s, 7 s",
        "work: 7,000 items, 500/s, waiting for memory",
    ]


def test_a_run_shows_what_it_was_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(lambda item: item, range(40), script={"seconds": lambda item: 0.5}, progress=True, label="forty")
    bench.run.results()
    assert "forty: 40 of 40 items" in capsys.readouterr().err.splitlines()[-1]
    Bench(lambda item: item, range(40), script={"seconds": lambda item: 0.5}).run.results()
    assert capsys.readouterr().err == ""

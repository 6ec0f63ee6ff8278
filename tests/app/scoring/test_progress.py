"""How far a run is, as it is told."""

from __future__ import annotations

import pytest

from everloop.app.scoring import progress as module
from everloop.app.scoring.pace import MOST_ROWS, Pace
from everloop.app.scoring.progress import Progress, span


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.52, "0.5 s"), (12.3, "12 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (59.9, "60 s")]
)
def test_spans(seconds: float, told: str) -> None:
    assert span(seconds) == told


def test_lines_tell_rows_share_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [50.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = Progress(bar=False, lines=True)
    progress.start(1000, 0.1)
    for tick in range(1, 61):
        now[0] += 0.1
        progress.update(1000 + 100 * tick, 0.1 + 0.01 * tick, 3 if tick > 30 else 0)
    progress.stop()
    said = capsys.readouterr().err.splitlines()
    assert said == ["60%, 6,000 rows, 1,000 rows/s, 4.0 s left, 3 bad"]


def test_a_bar_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wanted, quiet in [(None, False), (False, False), (True, True)]:
        progress = Progress.chosen(wanted, quiet=quiet)
        progress.start(0, None)
        progress.update(10, None, 0)
        progress.stop()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = Progress(bar=True, lines=False)
    shown.start(0, 0.0)
    now = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 1)
    shown.update(500, 0.5, 0)
    shown.stop()
    assert "50%" in capsys.readouterr().err


@pytest.mark.parametrize("row_seconds", [1e-7, 1e-5, 1e-3, 0.04, 2.0])
def test_blocks_come_to_take_a_twentieth_of_a_second(row_seconds: float) -> None:
    pace = Pace()
    work = 0.0
    while not pace.settled:
        work += pace.rows * row_seconds
        pace.observe(pace.rows, pace.rows * row_seconds)
    assert work < 0.1 or pace.rows == 1, "little is done before the workers come"
    for _ in range(20):
        pace.observe(pace.rows, pace.rows * row_seconds)
    assert pace.rows == max(1, min(MOST_ROWS, int(0.05 / row_seconds))) or pace.rows * row_seconds == pytest.approx(
        0.05, rel=0.1
    )


def test_blocks_shrink_when_rows_become_slow() -> None:
    pace = Pace(1000)
    for _ in range(12):
        pace.observe(pace.rows, pace.rows * 1.0)
    assert pace.rows == 1

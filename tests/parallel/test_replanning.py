"""When a plan is doubted."""

from __future__ import annotations

from everloop.parallel.plan import Plan
from everloop.parallel.replanning import LONG, Doubts

EXPECTING = Plan("process", 2, 1, item_seconds=0.01)


def test_an_item_time_that_is_several_times_off_is_doubted_both_ways() -> None:
    assert Doubts(EXPECTING).arise(0.04, measured=1.0, remaining=None)
    assert Doubts(EXPECTING).arise(0.002, measured=1.0, remaining=None)
    assert not Doubts(EXPECTING).arise(0.025, measured=1.0, remaining=None)


def test_little_evidence_and_little_left_are_no_reason() -> None:
    assert not Doubts(EXPECTING).arise(0.04, measured=0.005, remaining=None)
    assert not Doubts(EXPECTING).arise(0.04, measured=1.0, remaining=2)
    assert not Doubts(EXPECTING).arise(None, measured=0.0, remaining=None)


def test_what_was_asked_once_is_what_is_expected_then() -> None:
    doubts = Doubts(EXPECTING)
    assert doubts.arise(0.04, measured=1.0, remaining=None)
    assert not doubts.arise(0.05, measured=2.0, remaining=None)
    assert doubts.arise(0.2, measured=3.0, remaining=None)


def test_serial_work_that_goes_on_is_asked_about_at_every_doubling() -> None:
    doubts = Doubts(Plan("serial", 1, 1))
    asked = [step / 100 for step in range(1, 500) if doubts.arise(0.001, measured=step / 100, remaining=None)]
    assert asked == [LONG, 0.5, 1.0, 2.0, 4.0]
    assert not any(Doubts(Plan("process", 2, 1)).arise(0.001, measured=float(t), remaining=None) for t in range(9))

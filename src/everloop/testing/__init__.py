"""KIT: what everloop's own tests use and its users may: clocks that stand still, checks that any learner must pass."""

from everloop.testing.checks import Examples, check_learner
from everloop.testing.clocks import ManualClock

__all__ = ["Examples", "ManualClock", "check_learner"]

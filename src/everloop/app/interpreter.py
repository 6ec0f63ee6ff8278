"""How this process shares its one interpreter among its threads."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter while another waits for it. Python's default of 5 ms is what a request would wait
whenever the learner, the journal or the recorder happens to be in Python, and what a client's thread would add to a latency."""


@contextlib.contextmanager
def quick_switches() -> Iterator[None]:
    """For the time of a `with` block in a process that is ours."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)

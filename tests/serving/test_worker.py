"""Threads that can be given up, and that leave the cores to others."""

from __future__ import annotations

import os
import sys
import threading
from queue import SimpleQueue

import pytest

from everloop.serving.worker import NICENESS, Worker


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere threads have no priority of their own")
def test_a_thread_that_gives_way_has_less_weight_than_the_others_and_only_it() -> None:
    found: SimpleQueue[int] = SimpleQueue()

    def look() -> None:
        found.put(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    worker = Worker("test")
    for _ in range(2):
        worker.submit(look)
        worker.give_way()
    worker.submit(look)
    worker.stop()
    heavier = min(19, mine + NICENESS)
    assert [found.get(timeout=20) for _ in range(3)] == [mine, heavier, heavier]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine

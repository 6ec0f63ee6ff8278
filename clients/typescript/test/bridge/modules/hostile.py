"""Functions that do what a bridge must survive; `test_hostile` calls them."""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref

import numpy as np

from everloop_bridge import fast

shared = np.zeros(100_000)
kept = []


class Thing:
    pass


class Unreadable(Exception):
    def __str__(self):
        raise SystemExit("not even its message")


class Halting:
    def model_dump(self):
        raise KeyboardInterrupt


@fast
def filled_fast(value):
    shared[:] = value
    return shared


def filled(value):
    shared[:] = value
    return shared


def filled_inside(value):
    shared[:] = value
    return {"a": shared[1:], "b": [shared]}


def own(value):
    return np.full(100_000, float(value))


def one_cannot_be_sent():
    array = np.ones(100_000)
    kept.append(weakref.ref(array))
    return [array, Thing()]


def one_is_huge():
    array = np.ones(100_000)
    kept.append(weakref.ref(array))
    return [array, 2**100]


def kept_alive():
    return sum(reference() is not None for reference in kept)


def dead():
    return weakref.proxy(Thing())


@fast
def dead_fast():
    return weakref.proxy(Thing())


def unreadable():
    raise Unreadable


@fast
def unreadable_fast():
    raise Unreadable


@fast
def halting_fast():
    return Halting()


async def child_leaves():
    async def leave():
        sys.exit(3)

    child = asyncio.create_task(leave())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return child.done()


async def stop_the_loop():
    asyncio.get_running_loop().stop()


async def break_the_loop():
    loop = asyncio.get_running_loop()
    loop._selector.select = None
    await asyncio.sleep(60)


async def total_awaited(array):
    return float(array.sum())


def refuses(array):
    raise ValueError("no")


def end_the_reader():
    for thread, frame in sys._current_frames().items():
        if any(it.ident == thread and it.name == "everloop-bridge-reader" for it in threading.enumerate()):
            while frame.f_code.co_name != "serve":
                frame = frame.f_back
            frame.f_locals["self"]._sock.shutdown(2)

"""Functions that the bridge's tests call."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import dataclasses
import datetime
import decimal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from everloop_bridge import fast

kept = []
cancelled = []
running = 0
most = 0


@fast
def same(value):
    return value


def same_in_pool(value):
    return value


async def same_awaited(value):
    await asyncio.sleep(0)
    return value


def kind(value):
    return f"{type(value).__module__}.{type(value).__qualname__}"


def text(value):
    return repr(value)


def add(a, b=10, *, c=0):
    return a + b + c


def anything(**named):
    return named


def nothing():
    return "nothing"


def optional(options=None):
    return options


def generator():
    yield 1


def give(what):
    import numpy as np

    @dataclasses.dataclass
    class Point:
        x: int
        y: float

    class Opaque:
        pass

    class Tensor:
        """As much of PyTorch's as is called."""

        def __init__(self, array):
            self.array = array

        def detach(self):
            return self

        def numpy(self):
            return self.array

    return {
        "dataclass": lambda: Point(1, 2.5),
        "set": lambda: {1},
        "tuple": lambda: (1, "two"),
        "decimal": lambda: decimal.Decimal("1.50"),
        "uuid": lambda: uuid.UUID(int=1),
        "datetime": lambda: datetime.datetime(2020, 1, 2, 3, 4, 5, 678_000, datetime.UTC),
        "date": lambda: datetime.date(2020, 1, 2),
        "big": lambda: 2**53 + 1,
        "huge": lambda: {"value": -(2**200)},
        "nan": lambda: [float("nan"), float("inf"), -float("inf"), -0.0],
        "bytes": lambda: b"\x00\xff",
        "numpy scalars": lambda: [np.float32(0.5), np.float64(1.5), np.int64(7), np.bool_(True), np.str_("s")],
        "matrix": lambda: np.arange(6, dtype=np.int16).reshape(2, 3),
        "transposed": lambda: np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "big endian": lambda: np.array([1, 2], dtype=">i4"),
        "scalar array": lambda: np.array(3.5),
        "booleans": lambda: np.array([True, False]),
        "strings": lambda: np.array(["a", "b"]),
        "halves": lambda: np.array([1.0], dtype=np.float16),
        "large": lambda: np.arange(100_000, dtype=np.float64),
        "proto": lambda: {"__proto__": {"polluted": 1}, "ok": 2},
        "number keys": lambda: {1: "a", 2.5: "b"},
        "naive": lambda: datetime.datetime(2020, 1, 2, 3, 4, 5),  # noqa: DTZ001
        "dates": lambda: [np.array(["2020-01-02", "NaT"], dtype="M8[ns]"), np.array(["2020-01-02"], dtype="M8[D]")],
        "date scalar": lambda: np.datetime64("2020-01-02"),
        "durations": lambda: [np.array([1500], dtype="m8[ms]"), np.timedelta64(1_500_000_000, "ns")],
        "records": lambda: np.array([(1, "a"), (2, "b")], dtype=[("x", "i4"), ("name", "U1")]),
        "no mask": lambda: np.ma.masked_array([1.0, 2.0], mask=False),
        "derived": lambda: [type("Text", (str,), {})("t"), type("Bytes", (bytes,), {})(b"b")],
        "huge in a dataclass": lambda: Point(2**80, 0.5),
        "huge key": lambda: {2**80: 2**90},
        "two keys": lambda: {1: "a", "1": "b"},
        "masked": lambda: np.ma.masked_array([1.0, 2.0], mask=[False, True]),
        "long double": lambda: np.longdouble(1),
        "opaque": Opaque,
        "complex": lambda: np.array([1j]),
        "function": lambda: len,
        "deep": lambda: {"rows": [1, {"point": Point(1, 1j)}]},
        "tensor": lambda: Tensor(np.arange(4, dtype=np.float32).reshape(2, 2)),
    }[what]()


def total(array):
    return float(array.sum())


def keep(array):
    kept.append(array)
    return len(kept)


def kept_total():
    return float(kept[-1].sum())


def forget():
    kept.clear()


def double_in_place(array):
    array *= 2


def fail(message):
    raise ValueError(message)


def fail_deep():
    try:
        fail("inner")
    except ValueError as error:
        raise LookupError("outer") from error


async def fail_awaited():
    await asyncio.sleep(0)
    raise KeyError("later")


def leave():
    sys.exit(3)


async def sleep(seconds):
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        cancelled.append(seconds)
        raise
    return seconds


def block(seconds):
    global running, most
    running += 1
    most = max(most, running)
    time.sleep(seconds)
    running -= 1
    return threading.current_thread().name


def most_running():
    return most


def were_cancelled():
    return cancelled


@fast
def where_fast():
    return threading.current_thread().name


def where():
    return threading.current_thread().name


async def where_awaited():
    return threading.current_thread().name


def die():
    ctypes.string_at(0)


def say_at_exit(what):
    sys.stdout.write("partial line")
    atexit.register(lambda: sys.stdout.write(f"; {what}"))


def print_lines(count):
    for number in range(count):
        print(f"line {number} of Python's own, which is long enough to fill a pipe soon")
    sys.stdout.flush()


def close_stdout():
    sys.stdout.close()


def write_at_exit(path):
    def late():
        time.sleep(0.05)  # An exit hook that takes its time.
        Path(path).write_text("written")

    atexit.register(late)


@fast
def forever():
    while True:
        pass


def echoed(text):
    subprocess.run(["echo", text], check=True)


def burn(threads=1):
    def run():
        while True:
            pass

    for _ in range(threads):
        threading.Thread(target=run, daemon=True).start()


def spawned():
    import multiprocessing

    with multiprocessing.Pool(1) as pool:
        return pool.apply(abs, (-5,))

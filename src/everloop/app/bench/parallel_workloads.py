"""The twelve workloads that the parallel engine is measured on: module-level functions, and what they are given.

Work for the processor is a loop whose number of turns is fixed for this machine beforehand (`turns_per_second`): a sleep would share a core
for nothing, a clock inside the work would do less of it where the machine is busy. Every function is its own, as in a user's program, so
that what is learned of one tells nothing of another. Results are small numbers that depend on the item, and every run is compared with
the serial one. This module stays light: the workers import it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

MEGABYTE = 1 << 20
SLEEP = 0.005


def spin(turns: int) -> int:
    """Pure Python, holding the GIL, no allocation that lasts: one turn after the other."""
    total = 1
    for i in range(turns):
        total = (total * 31 + i) & 0xFFFFFF
    return total


def turns_per_second(seconds: float = 0.2) -> float:
    """How many turns of `spin` this machine makes in a second, undisturbed: the fastest of many short tries."""
    turns, best = 20_000, math.inf
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        spin(turns)
        best = min(best, time.perf_counter() - began)
    return turns / best


def item_10us(turns: int) -> int:
    return spin(turns)


def item_100us(turns: int) -> int:
    return spin(turns) + 1


def item_1ms(turns: int) -> int:
    return spin(turns) + 2


def item_50ms(turns: int) -> int:
    return spin(turns) + 3


def item_lognormal(turns: int) -> int:
    return spin(turns) + 4


def item_megabyte(turns: int) -> bytes:
    """5 ms of work, then 1 MB to send back."""
    return bytes((spin(turns) & 0xFF,)) * MEGABYTE


def item_generated(turns: int) -> int:
    return spin(turns) + 5


def item_sleep(number: int) -> int:
    """What waits for a disk or a server."""
    time.sleep(SLEEP)
    return number


def item_numpy(task: tuple[Any, int]) -> float:
    """Sines of 32,768 numbers, some times over: NumPy lets go of the GIL in each."""
    import numpy as np

    values, times = task
    for _ in range(times):
        values = np.sin(values)
    return float(values.sum())


def item_fast_then_slow(turns: int) -> int:
    return spin(turns) + 6


def item_slow_then_fast(turns: int) -> int:
    return spin(turns) + 7


def item_of_twenty(turns: int) -> int:
    return spin(turns) + 8


def nothing(item: int) -> int:
    """What only costs its way."""
    return item


def small(number: int) -> int:
    """One of ten million."""
    return number + 1


def megabyte(number: int) -> bytes:
    """One of ten thousand: 1 MB that costs nothing but its way."""
    return number.to_bytes(8, "big") * (MEGABYTE // 8)


def numbered(task: tuple[int, int]) -> int:
    """Work that can be told from all other: a number, and turns."""
    number, turns = task
    spin(turns)
    return number


@dataclass(frozen=True)
class Workload:
    name: str
    func: Callable[[Any], Any]
    items: Sequence[Any]
    generated: bool = False
    """The items come from a generator: nobody is told how many there are."""
    expected: list[Any] = field(default_factory=list)
    """What each item gives, in brief; filled by `serial`."""

    def __len__(self) -> int:
        return len(self.items)

    def data(self) -> Iterable[Any]:
        """What a caller hands over, anew for each run."""
        return self._generate() if self.generated else self.items

    def _generate(self) -> Iterator[Any]:
        yield from self.items

    def serial(self) -> float:
        """Seconds of a plain loop over every item. The first call also notes what is expected."""
        began = time.perf_counter()
        results = [self.func(item) for item in self.items]
        took = time.perf_counter() - began
        if not self.expected:
            self.expected.extend(map(brief, results))
        return took

    def check(self, results: Iterable[Any], side: str) -> None:
        """Raises ValueError where a result is missing, wrong or out of order: errors fail a bar, however fast they came."""
        got = list(map(brief, results))
        if got != self.expected:
            wrong = next((i for i, (a, b) in enumerate(zip(got, self.expected, strict=False)) if a != b), len(got))
            raise ValueError(
                f"{self.name}, {side}: {len(got)} results for {len(self.expected)} items; item {wrong} is the first wrong one"
            )


def brief(result: Any) -> Any:
    """Enough of a result to tell it from a wrong one."""
    return (len(result), result[0], result[-1]) if isinstance(result, bytes) else result


def workloads(seconds: float, rate: float, names: Sequence[str] = ()) -> list[Workload]:
    """All of them (or `names`), each with about `seconds` of serial work at `rate` turns a second; `few items` has less, being few.

    The items are the same in every run of one machine's rate: the durations that are drawn come from a fixed seed."""

    def turns(each: float, count: float) -> list[int]:
        base = round(each * rate)
        return [base + i % 8 for i in range(max(1, round(count)))]

    def equal(each: float) -> list[int]:
        return turns(each, seconds / each)

    made: dict[str, Callable[[], tuple[Callable[[Any], Any], list[Any]]]] = {
        "10 µs": lambda: (item_10us, equal(10e-6)),
        "100 µs": lambda: (item_100us, equal(100e-6)),
        "1 ms": lambda: (item_1ms, equal(1e-3)),
        "50 ms": lambda: (item_50ms, equal(50e-3)),
        "lognormal": lambda: (item_lognormal, [round(each * rate) for each in lognormal(2e-3, 1.5, seconds)]),
        "1 MB results": lambda: (item_megabyte, equal(5e-3)),
        "generator": lambda: (item_generated, equal(300e-6)),
        "5 ms sleeps": lambda: (item_sleep, list(range(round(seconds / SLEEP)))),
        "NumPy": lambda: (item_numpy, arrays(5e-3, seconds)),
        "fast then slow": lambda: (
            item_fast_then_slow,
            turns(20e-6, 0.15 * seconds / 20e-6) + turns(2e-3, 0.85 * seconds / 2e-3),
        ),
        "slow then fast": lambda: (
            item_slow_then_fast,
            turns(2e-3, 0.5 * seconds / 2e-3) + turns(20e-6, 0.5 * seconds / 20e-6),
        ),
        "20 items": lambda: (item_of_twenty, turns(0.02 * min(1.0, seconds), 20)),
    }
    for name in names:
        if name not in made:
            raise ValueError(f"no workload {name!r}; there are {', '.join(made)}")
    found = []
    for name in names or made:
        func, items = made[name]()
        found.append(Workload(name, func, items, generated=name == "generator"))
    return found


def lognormal(mean: float, cv: float, total: float) -> list[float]:
    """Durations in seconds with that mean and coefficient of variation, until they sum up to `total`."""
    variance = math.log(1 + cv * cv)
    draw = random.Random(20_261_121)
    durations: list[float] = []
    left = total
    while left > 0:
        each = draw.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance))
        durations.append(min(each, left))
        left -= each
    return durations


def arrays(each: float, total: float) -> list[tuple[Any, int]]:
    """256 KB each, and how often their sines must be taken to last `each` seconds."""
    import numpy as np

    base = np.linspace(0.0, 6.0, 32_768)
    best = math.inf
    for _ in range(20):
        began = time.perf_counter()
        np.sin(base)
        best = min(best, time.perf_counter() - began)
    times = max(1, round(each / best))
    return [(base + i, times) for i in range(round(total / each))]

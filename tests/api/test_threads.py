"""Work that waits runs on few threads, and no more of it waits than was said."""

from __future__ import annotations

import asyncio
import threading

import pytest

from everloop.api.http.threads import Threads
from everloop.core.errors import Conflict, Overloaded


def test_results_and_errors_come_back() -> None:
    def fail() -> None:
        raise Conflict("taken")

    async def main() -> None:
        threads = Threads("test", most=2, waiting=2)
        assert await threads.run(lambda a, b: a + b, 1, b=2) == 3
        with pytest.raises(Conflict, match="taken"):
            await threads.run(fail)
        threads.close()

    asyncio.run(main())


def test_beyond_its_bounds_a_job_is_refused_and_not_run() -> None:
    release, ran = threading.Event(), []

    def job(number: int) -> int:
        release.wait(5)
        ran.append(number)
        return number

    async def main() -> None:
        threads = Threads("test", most=2, waiting=3)
        tasks = [asyncio.ensure_future(threads.run(job, i)) for i in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await threads.run(job, 99)
        assert refused.value.retry_after == 1.0
        assert repr(threads) == "<Threads test threads=2/2 jobs=5>"
        release.set()
        assert await asyncio.gather(*tasks) == [0, 1, 2, 3, 4]
        assert await threads.run(job, 5) == 5
        threads.close()

    asyncio.run(main())
    assert sorted(ran) == [0, 1, 2, 3, 4, 5]


def test_a_closed_pool_still_serves_who_comes_late() -> None:
    async def main() -> None:
        threads = Threads("test", most=1, waiting=1)
        await threads.run(int)
        threads.close()
        assert await threads.run(int, "7") == 7
        threads.close()

    asyncio.run(main())


def test_threads_end_when_idle() -> None:
    async def main() -> list[threading.Thread]:
        before = set(threading.enumerate())
        threads = Threads("test", most=2, waiting=2, idle_seconds=0.01)
        await threads.run(int)
        return [t for t in threading.enumerate() if t not in before]

    for thread in asyncio.run(main()):
        thread.join(5)
        assert not thread.is_alive()


def test_who_no_longer_waits_is_no_trouble() -> None:
    release = threading.Event()

    async def main() -> None:
        threads = Threads("test", most=1, waiting=2)
        task = asyncio.ensure_future(threads.run(release.wait, 5))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        assert await threads.run(int, "1") == 1
        threads.close()

    asyncio.run(main())

"""The event stream: in order, without gaps or repeats, across reconnects; bounded; ended by a drain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from everloop.api import verbs
from everloop.api.http.events import EventHub, EventStream
from everloop.api.http.threads import Threads
from everloop.api.services import Services
from everloop.core.errors import Draining, Overloaded
from everloop.core.events import Event

WITHIN = 5.0


def happen(services: Services, count: int, model: str = "m") -> None:
    for i in range(count):
        event = Event(model, "fitted", 1.0, f"number {i}\nsecond line", data={"i": i})
        services.journal.log(event)
        services.bus.emit(event)


def run(services: Services, test: Callable[[EventHub], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        threads = Threads("test", most=2, waiting=10)
        try:
            await asyncio.wait_for(test(EventHub(services, threads, **options)), 20)
        finally:
            threads.close()

    asyncio.run(main())


async def ids(lines: AsyncIterator[bytes], count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        line = await asyncio.wait_for(anext(lines), WITHIN)
        if line.startswith(b"id: "):
            found.append(int(line.split(b"\n")[0][4:]))
    return found


def newest(services: Services) -> int:
    """Where a reader who has seen no event yet comes back to."""
    return verbs.newest_event(services)


def test_an_event_is_one_block_with_its_id(services: Services) -> None:
    async def test(hub: EventHub) -> None:
        stream = await hub.open(None, None)
        lines = stream.lines()
        assert await anext(lines) == b"retry: 2000\nid: %d\n\n" % newest(services)
        happen(services, 1)
        block = await asyncio.wait_for(anext(lines), WITHIN)
        head, kind, data, *rest = block.decode().split("\n")
        assert rest == ["", ""]
        assert kind == "event: fitted"
        told = json.loads(data.removeprefix("data: "))
        assert head == f"id: {told['id']}"
        assert told["message"] == "number 0\nsecond line"
        stream.close()

    run(services, test)


def test_live_events_come_in_order_to_everybody(services: Services) -> None:
    async def test(hub: EventHub) -> None:
        streams = [await hub.open(None, None) for _ in range(3)]
        lines = [stream.lines() for stream in streams]
        for each in lines:
            await anext(each)
        wanted = []
        for _ in range(10):
            happen(services, 2)
            seen = [await ids(each, 2) for each in lines]
            assert seen[0] == seen[1] == seen[2]
            wanted += seen[0]
        assert wanted == list(range(wanted[0], wanted[0] + 20))
        for stream in streams:
            stream.close()

    run(services, test)


def test_who_comes_back_gets_what_was_missed_once(services: Services) -> None:
    happen(services, 55)  # several pages

    async def test(hub: EventHub) -> None:
        first = await hub.open(None, None)
        await anext(first.lines())
        stream = await hub.open(3, None)
        lines = stream.lines()
        task = asyncio.create_task(ids(lines, 54))
        happen(services, 2)
        assert await task == list(range(4, 58))
        stream.close()
        first.close()

    run(services, test)


def test_an_id_of_another_journal_is_told_and_this_one_comes_from_its_beginning(services: Services) -> None:
    happen(services, 2)
    there = newest(services)

    async def test(hub: EventHub) -> None:
        stream = await hub.open(10_000, None)
        lines = stream.lines()
        assert await anext(lines) == b"retry: 2000\nid: 0\n\n"
        assert await anext(lines) == b"event: reset\ndata: {}\n\n"
        assert await ids(lines, there) == list(range(1, there + 1))
        happen(services, 1)
        assert await ids(lines, 1) == [there + 1]
        stream.close()

    run(services, test)


def test_only_one_model_where_one_is_asked_for(services: Services) -> None:
    happen(services, 2, "other")
    happen(services, 1, "mine")

    async def test(hub: EventHub) -> None:
        stream = await hub.open(0, "mine")
        lines = stream.lines()
        assert await ids(lines, 1) == [3]
        happen(services, 1, "other")
        happen(services, 1, "mine")
        assert await ids(lines, 1) == [5]
        stream.close()

    run(services, test)


def test_a_slow_reader_is_let_go_and_misses_nothing(services: Services) -> None:
    async def test(hub: EventHub) -> None:
        slow = await hub.open(None, None)
        lines = slow.lines()
        await anext(lines)
        quick = await hub.open(None, None)
        quick_lines = quick.lines()
        await anext(quick_lines)
        for _ in range(4):  # the queue holds 4
            happen(services, 2)
            await ids(quick_lines, 2)
        had = [int(block.split(b"\n")[0][4:]) async for block in lines]
        assert had == [1, 2, 3, 4]
        slow.close()
        again = await hub.open(had[-1], None)
        assert await ids(again.lines(), 4) == [5, 6, 7, 8]
        again.close()
        quick.close()

    run(services, test)


def test_a_quiet_stream_still_says_something(services: Services) -> None:
    async def test(hub: EventHub) -> None:
        stream = await hub.open(None, None)
        lines = stream.lines()
        await anext(lines)
        assert (await asyncio.wait_for(anext(lines), WITHIN)).startswith(b": ")
        stream.close()

    run(services, test, heartbeat=0.01)


def test_a_drain_ends_every_stream_and_takes_no_new_one(services: Services) -> None:
    async def test(hub: EventHub) -> None:
        stream = await hub.open(None, None)
        lines = stream.lines()
        await anext(lines)
        await asyncio.to_thread(services.drain)
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(lines), WITHIN)
        stream.close()
        with pytest.raises(Draining):
            await hub.open(None, None)

    run(services, test)


def test_a_stream_ends_with_the_key_of_its_reader(services: Services) -> None:
    async def test(hub: EventHub) -> None:
        stream = await hub.open(None, None)
        stands = [True]
        stream.stands = lambda: stands[0]
        lines = stream.lines()
        await anext(lines)
        await asyncio.to_thread(happen, services, 1)
        assert (await anext(lines)).startswith(b"id: ")
        stands[0] = False
        await asyncio.to_thread(happen, services, 1)
        assert [line async for line in lines] == [], "not a line more"
        stream.close()

    run(services, test, heartbeat=0.2)


def test_there_is_a_most_of_streams_and_closed_ones_do_not_count(services: Services) -> None:
    async def test(hub: EventHub) -> None:
        streams: list[EventStream] = [await hub.open(None, None) for _ in range(3)]
        with pytest.raises(Overloaded):
            await hub.open(None, None)
        for stream in streams:
            stream.close()
            stream.close()
        (await hub.open(None, None)).close()
        assert repr(hub).startswith("<EventHub clients=0 ")

    run(services, test)


def test_events_of_another_process_are_seen_without_a_wake_up(services: Services) -> None:
    async def test(hub: EventHub) -> None:
        stream = await hub.open(None, None)
        lines = stream.lines()
        await anext(lines)
        services.journal.log(Event("m", "fitted", 1.0, "written elsewhere"))
        assert await ids(lines, 1) == [1]
        stream.close()

    run(services, test)

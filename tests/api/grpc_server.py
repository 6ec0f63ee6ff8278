"""A server that speaks gRPC, in this process: on a thread of its own over an engine that outlives it, or with all of `app.server`."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import uvloop

from everloop.api.grpc.server import GrpcServer
from everloop.api.http.endpoint import Api
from everloop.api.http.limits import Limits
from everloop.api.services import Services
from everloop.app.build import Engine, build_engine
from everloop.app.listening import Address
from everloop.app.server import serving
from everloop.app.settings import EngineSettings, ServerSettings
from everloop.learning.config import LearningConfig

LIMITS = Limits(max_body=100_000, max_rows=50)


def engine_of(prepare: Callable[[Services], None]) -> Engine:
    """Started, and given what it shall serve."""
    engine = build_engine(EngineSettings(learning=LearningConfig(min_samples=20, interval_sec=3600), limits=LIMITS))
    engine.start(learning=False)
    prepare(engine.services)
    return engine


def retire_batchers(services: Services) -> None:
    """The loop that asked them is gone, the engine goes on: their threads would wait for it until it ends."""
    for lane in services.table.current.all_lanes:
        for batcher in lane.batchers:
            if batcher.loop.is_closed():
                batcher.retire()


@contextmanager
def speaking(services: Services) -> Iterator[str]:
    """Only gRPC. Its address."""
    ready, target = threading.Event(), [""]
    ending: list[Callable[[], object]] = []

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        api = Api(services)
        server = GrpcServer(api, host="127.0.0.1", port=0)
        await server.start()
        target[0] = server.address
        ending.append(partial(loop.call_soon_threadsafe, stop.set))
        ready.set()
        await stop.wait()
        await server.stop(5.0)
        api.close()

    thread = threading.Thread(target=lambda: uvloop.run(serve()), name="test-grpc")
    thread.start()
    ready.wait()
    try:
        yield target[0]
    finally:
        ending[0]()
        thread.join()
        retire_batchers(services)
        gc.collect()  # a client of asyncio that was refused keeps what polls for both of them until then


@contextmanager
def running(
    prepare: Callable[[Services], None] = lambda _: None, *, settings: ServerSettings | None = None
) -> Iterator[tuple[Services, Address]]:
    """HTTP too, and an end as after a signal."""
    engine = engine_of(prepare)
    with serving(engine, settings or ServerSettings(port=0, grpc_port=0, notice=0.0)) as address:
        yield engine.services, address

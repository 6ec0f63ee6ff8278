"""Workers outlive a run, on purpose; here they end with their test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from everloop.parallel.pool import PoolManager, get_global_pool_manager


@pytest.fixture(autouse=True)
def no_idle_workers(leaves_nothing_running: None) -> Iterator[None]:
    yield
    get_global_pool_manager().shutdown()


@pytest.fixture
def pool() -> Iterator[PoolManager]:
    with PoolManager() as manager:
        yield manager

"""Workers outlive a run, on purpose; here they end with their test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.parallel.cache import forget
from everloop.parallel.history import set_history_folder
from everloop.parallel.pool import PoolManager, get_global_pool_manager


@pytest.fixture(autouse=True)
def no_idle_workers(leaves_nothing_running: None) -> Iterator[None]:
    yield
    get_global_pool_manager().shutdown()


@pytest.fixture
def pool() -> Iterator[PoolManager]:
    with PoolManager() as manager:
        yield manager


@pytest.fixture(autouse=True)
def nothing_is_known(tmp_path: Path) -> Iterator[None]:
    """No test learns from another one, nor from this machine's real runs."""
    set_history_folder(tmp_path / "history")
    forget()
    yield
    set_history_folder(None)
    forget()

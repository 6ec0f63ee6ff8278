"""What a signal handler raises is for the program, not for the item that it came in the middle of."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from everloop.parallel.api import execute
from everloop.parallel.signals import by_a_handler


def leave(*_: object) -> None:
    sys.exit(7)


class Service:
    def leave(self, *_: object) -> None:
        sys.exit(7)

    def __call__(self, *_: object) -> None:
        sys.exit(7)


def gone(by: type[BaseException], *_: object) -> None:
    raise by("gone")


@pytest.fixture
def on_sigterm() -> Iterator[Callable[[Any], None]]:
    before = signal.getsignal(signal.SIGTERM)
    yield lambda handler: signal.signal(signal.SIGTERM, handler) and None
    signal.signal(signal.SIGTERM, before)


def terminate(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return item


@pytest.mark.parametrize("handler", [leave, Service().leave, Service(), functools.partial(gone, SystemExit)])
@pytest.mark.parametrize("executor", ["serial", None])
def test_a_service_that_is_told_to_end_ends(handler: Any, executor: Any, on_sigterm: Callable[[Any], None]) -> None:
    on_sigterm(handler)
    with pytest.raises(SystemExit):
        execute(terminate, range(10), executor=executor, on_error="skip", retries=2)


def test_ordinary_exceptions_of_handlers_too(on_sigterm: Callable[[Any], None]) -> None:
    on_sigterm(functools.partial(gone, TimeoutError))
    with pytest.raises(TimeoutError, match="gone"):
        execute(terminate, range(10), executor="serial", on_error="return")


def test_an_item_s_own_exit_is_its_failure(on_sigterm: Callable[[Any], None]) -> None:
    on_sigterm(leave)

    def bad(item: int) -> int:
        return item if item != 3 else sys.exit(7)

    assert execute(bad, range(5), executor="serial", on_error="skip") == [0, 1, 2, 4]


def test_where_nothing_is_installed() -> None:
    assert not by_a_handler(ValueError("never raised"))

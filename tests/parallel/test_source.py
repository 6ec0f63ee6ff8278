"""Reading the input."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from everloop.parallel.source import Source


def test_what_is_slow_to_come_is_not_waited_for() -> None:
    source = Source(iter(range(100)))
    assert source.take(50, lambda: True) == [0], "one there must be"
    assert not source.ended
    assert source.take(3) == [1, 2, 3]
    assert source.take(50, lambda: False) == list(range(4, 54))


def test_a_slow_input_is_read_one_by_one() -> None:
    read: list[int] = []

    def trickle() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    source = Source(trickle())
    assert source.take(50, lambda: len(read) >= 20) == list(range(31)), "by sixteen, while they are quick to come"
    assert source.take(50, lambda: len(read) >= 33) == [31, 32]


@pytest.mark.parametrize("enough", [None, lambda: False])
def test_the_end_and_an_error_show(enough: object) -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise OSError("gone")

    source = Source(broken())
    assert source.take(50, enough) == [0, 1, 2, 3, 4]  # type: ignore[arg-type]
    assert source.ended
    assert isinstance(source.error, OSError)
    ends = Source(iter(range(5)))
    assert ends.take(50, enough) == [0, 1, 2, 3, 4]  # type: ignore[arg-type]
    assert ends.ended

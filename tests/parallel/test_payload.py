"""What travels, by which way, and what is said of what cannot."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.parallel import workloads

from everloop.core.errors import ItemFailed, NotPicklable
from everloop.parallel import payload

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@settings(max_examples=50)
@given(st.lists(plain, max_size=4))
def test_plain_data_comes_back_the_same(values: list[Any]) -> None:
    assert payload.load(*payload.dump(values, from_main=True)) == values


@given(st.lists(st.sampled_from([(1 << 14) - 1, 1 << 14, 20_000, None]), max_size=4))
def test_long_bytes_stay_outside_and_come_back_as_bytes(lengths: list[int | None]) -> None:
    values = ["text" if length is None else b"x" * length for length in lengths]
    body, parts = payload.dump(values, from_main=True)
    back = payload.load(body, [bytearray(part) for part in parts])
    assert back == values
    assert [type(each) for each in back] == [type(each) for each in values]
    if values and type(values[0]) is bytes and len(values[0]) >= 1 << 14:
        assert len(parts) == sum(type(each) is bytes and len(each) >= 1 << 14 for each in values)


def test_large_arrays_stay_outside_and_small_ones_inside() -> None:
    arrays = [np.arange(10.0), np.arange(10_000.0), np.asfortranarray(np.ones((300, 300))), np.arange(10_000)[::2]]
    body, parts = payload.dump(arrays, from_main=True)
    assert len(body) < 60_000
    for one, other in zip(payload.load(body, [bytearray(part) for part in parts]), arrays, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(parts) >= 2


def test_what_is_plain_is_not_cloudpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that happens to contain the word is no reason, if it is long."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    texts = ["in __main__ " * 10_000]
    assert payload.load(*payload.dump(texts, from_main=True)) == texts


def test_functions_of_main_go_by_value() -> None:
    script = (
        "import sys, pickle\n"
        "from everloop.parallel import payload\n"
        "def double(x): return 2 * x\n"
        "class Point: pass\n"
        "by = [payload.dump_function(double), payload.dump_items([Point()], 0), payload.dump_items([double], 0)]\n"
        "sys.stdout.buffer.write(pickle.dumps([(bytes(a), b) for a, b in by]))\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60).stdout
    function, items, functions = pickle.loads(out)
    assert payload.load(*function)(4) == 8
    assert type(payload.load(*items)[0]).__name__ == "Point"
    assert payload.load(*functions)[0](4) == 8


def test_cached_functions_of_main_go_by_value() -> None:
    """`lru_cache` makes them objects that pickle names, and no worker has the caller's `__main__`."""
    script = (
        "import sys, pickle, functools\n"
        "from everloop.parallel import payload\n"
        "@functools.lru_cache(maxsize=7)\n"
        "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "body, parts = payload.dump_function(fib)\n"
        "sys.stdout.buffer.write(body)\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60).stdout
    fib = payload.load(out)
    assert fib(90) == 2880067194370816120
    assert fib.cache_parameters()["maxsize"] == 7
    body, _ = payload.dump_function(workloads.cached_square)
    assert payload.load(body) is workloads.cached_square


def test_one_that_cannot_be_pickled_fails_alone() -> None:
    body, failures = payload.dump_each([1, threading.Lock(), 3], from_main=False)
    assert payload.load_each(body, "the result") == ([1, None, 3], [])
    ((index, error, _),) = failures
    assert index == 1
    assert isinstance(error, NotPicklable)


def test_one_that_cannot_be_unpickled_fails_alone() -> None:
    body, failures = payload.dump_each([1, workloads.Sealed(), 3], from_main=False)
    assert failures == []
    values, failures = payload.load_each(body, "the item")
    assert values == [1, None, 3]
    assert "the item cannot be unpickled again: ValueError: sealed" in str(failures[0][1])


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("bad", 3), ValueError, "('bad', 3)"),
        (workloads.Refused(7, "odd"), workloads.Refused, "7 refused: odd"),
        (workloads.Stubborn(7, "odd"), workloads.Stubborn, "7 is stubborn"),
        (KeyboardInterrupt("by code"), KeyboardInterrupt, "by code"),
    ],
)
def test_exceptions_travel_as_they_are_or_in_words(error: BaseException, kind: type, text: str) -> None:
    ((index, back, trace),) = payload.load_failures(payload.dump_failures([(4, error, "Traceback …")]))
    assert (index, type(back), str(back), trace) == (4, kind, text, "Traceback …")
    assert "Traceback …" in str(back.__cause__)


class ApiError(OSError):
    def __init__(self, *, code: int) -> None:
        super().__init__(code, "refused")
        self.code = code
        self.connection = threading.Lock()


class Speaking(Exception):
    def __init__(self, *, lock: Any) -> None:
        self.lock = lock

    def __str__(self) -> str:
        return f"with {self.lock}"


def test_an_exception_is_of_its_class_whatever_its_constructor_wants() -> None:
    ((_, back, _),) = payload.load_failures(payload.dump_failures([(0, ApiError(code=13), "")]))
    assert isinstance(back, ApiError)
    assert (back.code, back.errno, back.args) == (13, 13, (13, "refused"))
    assert not hasattr(back, "connection"), "what cannot travel stays behind"


def test_an_exception_that_would_say_something_else_is_told_in_words() -> None:
    ((_, back, _),) = payload.load_failures(payload.dump_failures([(0, Speaking(lock=threading.Lock()), "")]))
    assert type(back) is ItemFailed
    assert "Speaking: with <unlocked" in str(back)


def test_an_exception_without_words_is_no_trouble() -> None:
    ((_, back, _),) = payload.load_failures(payload.dump_failures([(0, Mute(threading.Lock()), "")]))
    assert "Mute: (its message cannot be told: RuntimeError)" in str(back)


def test_notes_travel_too() -> None:
    error = ValueError("bad")
    error.add_note("while reading")
    ((_, back, _),) = payload.load_failures(payload.dump_failures([(0, error, "")]))
    assert back.__notes__ == ["while reading"]


class Connection:
    def __init__(self) -> None:
        self.socket = threading.Lock()

    def ask(self, item: int) -> int:
        return item


def with_default(item: int, lock: Any = threading.Lock()) -> int:
    return item


def test_the_message_names_the_part_that_cannot_travel() -> None:
    connection = Connection()
    cases = {
        "its variable 'connection', in it its attribute 'socket' is a _thread.lock": lambda item: connection.ask(item),
        "its object, in it its attribute 'socket'": connection.ask,
        "its argument 'lock' is a _thread.lock": functools.partial(workloads.same, lock=threading.Lock()),
    }
    for part, func in cases.items():
        with pytest.raises(NotPicklable) as caught:
            payload.dump_function(func)
        assert part in str(caught.value)
        assert "executor='thread'" in str(caught.value)


def test_a_function_by_value_takes_its_modules_code_along() -> None:
    body, parts = payload.dump_function(workloads.square, by_value=True)
    assert b"square" in body
    script = "import sys, pickle; print(pickle.loads(sys.stdin.buffer.read())(5))"
    out = subprocess.run(
        [sys.executable, "-P", "-c", script], input=body, capture_output=True, check=True, timeout=60, cwd="/"
    )
    assert out.stdout.strip() == b"25"
    assert parts == []

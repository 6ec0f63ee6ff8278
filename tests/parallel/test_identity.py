"""A function is the same wherever it is, and another one when its work is."""

from __future__ import annotations

import functools
import operator
import re
import subprocess
import sys
from types import FunctionType
from typing import Any

import pytest

from everloop.parallel.identity import func_hash, function_complexity


def double(x: int) -> int:
    return 2 * x


def quadruple(x: int) -> int:
    return double(double(x))


class Scale:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, x: int) -> int:
        return x * self.by

    def of(self, x: int) -> int:
        return x * self.by

    @staticmethod
    def plain(x: int) -> int:
        return x


def power(x: int, n: int = 2, mode: str = "fast") -> int:
    return x**n if mode == "fast" else x


CALLABLES: list[Any] = [
    double, quadruple, power, Scale, Scale(2), Scale(2).of, Scale.plain, functools.partial(power, n=3), abs, operator.mul,
    "".join, functools.lru_cache(double), lambda x: x, str,
]  # fmt: skip


@pytest.mark.parametrize("func", CALLABLES, ids=lambda func: re.sub(r" at 0x[0-9a-f]+", "", str(func)))
def test_every_callable_has_a_name_of_twelve_hexadecimal_digits(func: Any) -> None:
    name = func_hash(func)
    assert len(name) == 12
    assert int(name, 16) >= 0
    assert func_hash(func) == name


def test_different_callables_have_different_names() -> None:
    names = [func_hash(func) for func in CALLABLES]
    assert len(set(names)) == len(names)


def test_the_name_is_the_same_in_another_process_whatever_its_hash_seed() -> None:
    program = (
        "def f(x):\n    return x in {'a', 'b', 'c', 'd'}, (lambda y: y + 1)(x)\n"
        "from everloop.parallel.identity import func_hash\nprint(func_hash(f))"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(names) == 1


def defined(body: str, **more: Any) -> FunctionType:
    names: dict[str, Any] = dict(more)
    exec(f"def f(x):\n    return {body}", names)
    made: FunctionType = names["f"]
    return made


def test_other_code_or_other_constants_are_another_function() -> None:
    assert func_hash(defined("x + 1")) == func_hash(defined("x + 1"))
    assert len({func_hash(defined(body)) for body in ("x + 1", "x + 2", "x - 1", "abs(x)", "len(x)")}) == 5


def test_what_it_calls_in_its_own_module_counts() -> None:
    def with_helper(helper: str) -> str:
        names: dict[str, Any] = {}
        exec(f"def helper(x):\n    return {helper}\ndef f(x):\n    return helper(x)", names)
        return func_hash(names["f"])

    assert with_helper("x") == with_helper("x")
    assert with_helper("x") != with_helper("x * x * x")


def test_a_function_that_calls_itself_has_a_name() -> None:
    names: dict[str, Any] = {}
    exec("def f(x):\n    return f(x - 1) if x else 0", names)
    assert len(func_hash(names["f"])) == 12


def test_changed_code_is_noticed_although_names_are_remembered() -> None:
    func = defined("x + 1")
    before = func_hash(func)
    func.__code__ = defined("x + 2").__code__
    assert func_hash(func) != before


def test_bound_numbers_count_by_their_magnitude_and_words_by_their_value() -> None:
    seeded = functools.partial(power, n=17)
    assert func_hash(seeded) == func_hash(functools.partial(power, n=18))
    assert func_hash(seeded) != func_hash(functools.partial(power, n=10_000_000))
    assert func_hash(functools.partial(power, mode="fast")) != func_hash(functools.partial(power, mode="slow"))
    few, many = functools.partial(power, mode=[0] * 3), functools.partial(power, mode=[0] * 3_000)  # type: ignore[arg-type]
    assert func_hash(few) != func_hash(many)


def test_closures_count_by_the_outline_of_what_they_hold() -> None:
    def times(n: float) -> Any:
        return lambda x: x * n

    assert func_hash(times(1.5)) == func_hash(times(1.7))
    assert func_hash(times(1.5)) != func_hash(times(15_000.0))


def test_complexity_is_the_size_of_the_bytecode_and_nothing_for_c() -> None:
    assert function_complexity(double) > 0
    assert (
        function_complexity(functools.partial(power, n=3)) == function_complexity(power) > function_complexity(double)
    )
    assert function_complexity(Scale(2)) > 0
    assert function_complexity(abs) == 0

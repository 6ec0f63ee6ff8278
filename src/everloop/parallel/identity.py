"""Which function is this? A name for what a callable *does*, the same in every process and on every machine with this Python.

Past runs of a function are found by it, so it must change when the work changes and stay when only the address does. It covers the
qualified name, the bytecode and constants, the functions of the same module that it calls (bounded), and the outline of what is bound to
it: a `partial`'s or closure's numbers and containers count by their octave, since `partial(render, seed=17)` is the same work as with seed
18, while `partial(work, n=10_000_000)` is not that with 10.
"""

from __future__ import annotations

import functools
import hashlib
import math
import types
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

HASH_LENGTH = 12
_MOST_CALLEES = 32
_LONGEST_WORD = 32
"""Strings up to this length are modes (`"fast"`) and count by value; longer ones are data and count by their size."""

_known: WeakKeyDictionary[types.FunctionType, tuple[types.CodeType, str]] = WeakKeyDictionary()


def func_hash(func: Callable[..., Any]) -> str:
    """12 hexadecimal digits. Plain functions are remembered, everything else costs some ten microseconds."""
    if isinstance(func, types.FunctionType) and not func.__closure__:
        known = _known.get(func)
        if known is not None and known[0] is func.__code__:
            return known[1]
        name = _digest(func)
        _known[func] = (func.__code__, name)
        return name
    return _digest(func)


def code_hash(func: Callable[..., Any]) -> str:
    """12 hexadecimal digits of the code alone, that of the functions of its module that it calls included: whatever is bound to it may
    fill or change while it runs. Empty for what is written in C."""
    digest, waiting = hashlib.sha1(usedforsecurity=False), [_function_of(func)]
    seen: set[types.CodeType] = set()
    while waiting:
        function = waiting.pop()
        if function is None or function.__code__ in seen or len(seen) > _MOST_CALLEES:
            continue
        seen.add(function.__code__)
        for code in _codes(function.__code__):
            constants = (_constant(value) for value in code.co_consts if not isinstance(value, types.CodeType))
            for part in (code.co_code.hex(), *code.co_names, *constants):
                digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
            called = (function.__globals__.get(name) for name in code.co_names)
            waiting += [
                each
                for each in called
                if isinstance(each, types.FunctionType) and each.__globals__ is function.__globals__
            ]
    return digest.hexdigest()[:HASH_LENGTH] if seen else ""


def function_complexity(func: Callable[..., Any]) -> int:
    """Bytes of bytecode, of nested functions too; 0 for what is written in C."""
    function = _function_of(func)
    if function is None:
        return 0
    return sum(len(code.co_code) for code in _codes(function.__code__))


def _digest(func: Any) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for part in _parts(func, {}):
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:HASH_LENGTH]


def _parts(func: Any, seen: dict[int, None]) -> Iterator[str]:
    if id(func) in seen or len(seen) > _MOST_CALLEES:
        return
    seen[id(func)] = None
    if isinstance(func, functools.partial):
        yield "partial"
        yield from _parts(func.func, seen)
        yield from (_outline(value) for value in func.args)
        yield from (f"{name}={_outline(value)}" for name, value in sorted(func.keywords.items()))
    elif isinstance(func, types.MethodType):
        yield f"of {type(func.__self__).__qualname__}"
        yield from _parts(func.__func__, seen)
    elif isinstance(func, types.FunctionType):
        yield from _parts_of_function(func, seen)
    elif isinstance(func, type):
        yield f"class {func.__module__}.{func.__qualname__}"
        yield from _parts(func.__dict__.get("__init__"), seen)
    elif hasattr(func, "__wrapped__"):  # what functools.wraps and lru_cache leave
        yield type(func).__qualname__
        yield from _parts(func.__wrapped__, seen)
    elif _call_of(func) is not None:
        yield f"instance of {type(func).__qualname__}"
        yield from _parts(_call_of(func), seen)
    else:  # written in C: a builtin, a method of one, a ufunc
        yield f"{getattr(func, '__module__', '')}.{getattr(func, '__qualname__', getattr(func, '__name__', type(func)))}"


def _parts_of_function(func: types.FunctionType, seen: dict[int, None]) -> Iterator[str]:
    yield func.__qualname__
    called: dict[str, None] = {}
    for code in _codes(func.__code__):
        yield code.co_code.hex()
        yield " ".join(code.co_names)
        yield from (_constant(value) for value in code.co_consts if not isinstance(value, types.CodeType))
        called.update(dict.fromkeys(code.co_names))
    yield from (_outline(value) for value in func.__defaults__ or ())
    for cell in func.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not yet filled: a function that is defined further down
            continue
        yield _outline(value)
        if isinstance(value, types.FunctionType):
            yield from _parts(value, seen)
    for name in called:
        callee = func.__globals__.get(name)
        if isinstance(callee, types.FunctionType) and callee.__globals__ is func.__globals__:
            yield from _parts(callee, seen)
    if hasattr(func, "__wrapped__"):
        yield from _parts(func.__wrapped__, seen)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _constant(value: Any) -> str:
    """As repr, except that the order of a frozenset of strings differs from process to process."""
    return " ".join(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _outline(value: Any) -> str:
    """What of a bound value tells how much work it makes."""
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"int~{value.bit_length()}"
    if isinstance(value, float):
        return f"float~{math.frexp(value)[1] if math.isfinite(value) else value}"
    if isinstance(value, str) and len(value) <= _LONGEST_WORD:
        return value
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    size = length(value)
    return type(value).__qualname__ if size is None else f"{type(value).__qualname__}~{size.bit_length()}"


def length(value: Any) -> int | None:
    """`len`, where the value has one: somebody else's `__len__` may raise whatever it likes, and that is no reason not to work."""
    try:
        return len(value)
    except Exception:
        return None


def _function_of(func: Any) -> types.FunctionType | None:
    while isinstance(func, functools.partial):
        func = func.func
    func = getattr(func, "__func__", func)
    func = getattr(func, "__wrapped__", func)
    return func if isinstance(func, types.FunctionType) else _call_of(func)


def _call_of(instance: Any) -> types.FunctionType | None:
    """What runs when an instance of a class written in Python is called."""
    for kind in type(instance).__mro__:
        if "__call__" in kind.__dict__:
            call = kind.__dict__["__call__"]
            return call if isinstance(call, types.FunctionType) else None
    return None

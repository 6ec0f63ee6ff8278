"""Pickling what travels between processes, both ways.

Plain pickle first: it is fast, and what it names by module is loaded there as it is here. What lives in the caller's `__main__` cannot be
named to a worker, whose `__main__` is another: it goes by value, by cloudpickle, which knows its own classes again when they come back.
Large buffers (NumPy arrays) stay outside of the pickle and are copied once, into the pipe.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from everloop.parallel.executors.frames import Bytes

Packed = tuple[bytes, list[memoryview]]
"""A pickle and its out-of-band buffers."""
Failures = list[tuple[int, BaseException, str]]
"""(index in the chunk, what was raised, its traceback as text)"""

_ASIDE = 1 << 14
_LONG = 1 << 14
_CACHED = type(functools.lru_cache(len))
_PLAIN = frozenset((int, float, bool, str, bytes, bytearray, complex, type(None)))


def dump(value: Any, *, from_main: bool) -> Packed:
    """`from_main`: this is the caller's process, whose `__main__` the other side cannot import.

    Raises whatever the value's own pickling raises."""
    parts: list[memoryview] = []

    def aside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _ASIDE:
            return True
        parts.append(raw)
        return False

    if type(value) is list and value and type(value[0]) is bytes and len(value[0]) >= _ASIDE:
        value = [_Long(each) if type(each) is bytes else each for each in value]
    try:
        payload = pickle.dumps(value, 5, buffer_callback=aside)
        named_well = not (from_main and _names_main(payload, value))
    except Exception:  # lambdas, closures, local classes
        named_well = False
    if not named_well:
        parts.clear()
        payload = _by_value(value, aside)
    return payload, parts


def _by_value(value: Any, aside: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    """With the code of what cannot be imported by name. cloudpickle takes a cached function for one that can."""
    import io

    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, each: Any) -> Any:
            if type(each) is _CACHED and not _by_name(each):
                return _cached, (each.__wrapped__, each.cache_parameters())
            return super().reducer_override(each)

    buffer = io.BytesIO()
    Pickler(buffer, 5, buffer_callback=aside).dump(value)
    return buffer.getvalue()


def _cached(func: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    cached: Callable[..., Any] = functools.lru_cache(**parameters)(func)
    return cached


def _by_name(func: Any) -> bool:
    """Whether another process finds it where it says it is."""
    import sys

    found: Any = sys.modules.get(func.__module__) if func.__module__ != "__main__" else None
    for name in func.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is func


class _Long:
    """Bytes that stay outside of the pickle: one copy less of each. They come back as bytes."""

    __slots__ = ("_bytes",)

    def __init__(self, content: bytes) -> None:
        self._bytes = content

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (pickle.PickleBuffer(self._bytes),)


def dump_one(value: Any, *, from_main: bool) -> bytes:
    """The same in one piece."""
    payload, parts = dump(value, from_main=from_main)
    return pickle.dumps(value, 5) if parts else payload


def load(payload: Bytes, parts: Sequence[Bytes] = ()) -> Any:
    return pickle.loads(payload, buffers=parts)  # noqa: S301 - written by our own other end


def dump_each(values: Sequence[Any], *, from_main: bool) -> tuple[bytes, Failures]:
    """Each by itself, so that one which cannot be pickled fails alone: the list of their pickles, None in the place of such a one."""
    singles: list[bytes | None] = []
    failures: Failures = []
    for index, value in enumerate(values):
        try:
            singles.append(dump_one(value, from_main=from_main))
        except Exception as error:
            singles.append(None)
            failures.append((index, not_picklable("the result", value, error), ""))
    return pickle.dumps(singles, 5), failures


def load_each(payload: Bytes, what: str) -> tuple[list[Any], Failures]:
    """The reverse, with the same for those that cannot be unpickled."""
    from everloop.core.errors import NotPicklable, explain

    values: list[Any] = []
    failures: Failures = []
    for index, single in enumerate(load(payload)):
        try:
            values.append(None if single is None else load(single))
        except Exception as error:
            values.append(None)
            failures.append((index, NotPicklable(f"{what} cannot be unpickled again: {explain(error)}"), ""))
    return values, failures


def dump_failures(failures: Failures) -> bytes:
    """What was raised travels as it is where that is possible, and always as text."""
    found: list[tuple[int, bytes, str, str]] = []
    for index, error, text in failures:
        try:
            single = dump_one(error, from_main=False)
            load(single)  # many an exception can be pickled and not unpickled
        except Exception:
            single = _dump_outline(error)
        found.append((index, single, _summary(error), text))
    return pickle.dumps(found, 5)


def _dump_outline(error: BaseException) -> bytes:
    """An exception that its own pickling does not carry, mostly since its constructor wants more than `args` has: its class, its
    arguments and those of its attributes that can travel, so that `except` and `retry_on` know it. Empty where that does not say the
    same."""
    attributes = {name: value for name, value in vars(error).items() if _travels(value)}
    try:
        single = dump_one(_Outline(type(error), error.args, attributes), from_main=False)
        return single if str(load(single)) == str(error) else b""
    except Exception:
        return b""


def _travels(value: Any) -> bool:
    try:
        load(dump_one(value, from_main=False))
    except Exception:
        return False
    return True


class _Outline:
    def __init__(self, *parts: Any) -> None:
        self._parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return _filled_in, self._parts


def _filled_in(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    """An exception without its class's own constructor, as that of the built-in class below it makes it."""
    below = next(each for each in kind.__mro__ if each.__module__ == "builtins")
    error: BaseException = below.__new__(kind, *args)
    below.__init__(error, *args)  # type: ignore[misc]
    vars(error).update(attributes)
    return error


def load_failures(packed: Bytes) -> Failures:
    from everloop.core.errors import ItemFailed

    failures: Failures = []
    for index, single, summary, text in load(packed):
        try:
            error = load(single) if single else None
        except Exception:
            error = None
        if not isinstance(error, BaseException):
            error = ItemFailed(summary)
        if text:
            error.__cause__ = RemoteTraceback(text)
        failures.append((index, error, text))
    return failures


class RemoteTraceback(Exception):
    """The cause of an exception that came from another process: the traceback it had there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def dump_function(func: Callable[..., Any], *, by_value: bool = False) -> Packed:
    """`by_value`: with its code, also where it is in a module, for a worker that cannot import that. Raises NotPicklable."""
    try:
        if not by_value:
            return dump(func, from_main=True)
        import cloudpickle

        module = _home(func)
        cloudpickle.register_pickle_by_value(module)
        try:
            return _by_value(func), []
        finally:
            cloudpickle.unregister_pickle_by_value(module)
    except Exception as error:
        raise not_picklable("the function", func, error) from error


def dump_items(items: list[Any], first: int) -> Packed:
    """Raises NotPicklable, which names the item by its index in the whole input."""
    try:
        return dump(items, from_main=True)
    except Exception as error:
        for index, item in enumerate(items):
            try:
                dump(item, from_main=True)
            except Exception as own:
                raise not_picklable(f"item {first + index}", item, own) from own
        raise not_picklable("the items", items, error) from error


def not_picklable(what: str, value: Any, error: Exception) -> Any:
    """The error that says which part of `value` cannot be sent to another process, and what to do."""
    from everloop.core.errors import NotPicklable, explain

    where, part = _culprit(value)
    named = f"{what} ({_label(value)}) cannot be sent to another process"
    because = f"{where} is a {_kind(part)}, which cannot be pickled" if where else explain(error)
    advice = "create it where it is used, or use executor='thread'" if where else "executor='thread' needs no pickling"
    return NotPicklable(
        f"{named}: {because} ({explain(error)}); {advice}" if where else f"{named}: {because}; {advice}"
    )


def _names_main(payload: bytes, value: Any) -> bool:
    """Whether something in it may be named `__main__.…`. A megabyte is searched only where it can be anything but text and numbers."""
    plain = len(payload) > _LONG and type(value) is list and _PLAIN.issuperset(map(type, value))
    return not plain and b"__main__" in payload


def _summary(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:
        text = f"(its message cannot be told: {type(broken).__name__})"
    return f"{type(error).__module__}.{type(error).__qualname__}: {text}".removeprefix("builtins.")


def _home(func: Any) -> Any:
    """The module that a function, or what stands behind a partial, a method or a callable object, is from."""
    import sys

    while hasattr(func, "func"):
        func = func.func
    owner = getattr(func, "__self__", None)
    name = getattr(func, "__module__", None) or type(owner if owner is not None else func).__module__
    return sys.modules[name]


def _culprit(value: Any, depth: int = 4) -> tuple[str, Any]:
    """The innermost part of `value` that cannot be pickled, and the way to it; "" where that is `value` itself."""
    if depth:
        for label, part in _parts(value):
            try:
                dump(part, from_main=True)
            except Exception:
                way, innermost = _culprit(part, depth - 1)
                return label + (f", in it {way}" if way else ""), innermost
    return "", value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    import inspect
    from itertools import islice

    if inspect.ismethod(value):
        yield "its object", value.__self__
    elif isinstance(value, functools.partial):
        yield "the function in it", value.func
        yield from ((f"its argument {index}", each) for index, each in enumerate(value.args))
        yield from ((f"its argument {name!r}", each) for name, each in value.keywords.items())
    elif inspect.isfunction(value):
        names = inspect.getclosurevars(value)
        yield from ((f"its variable {name!r}", each) for name, each in {**names.nonlocals, **names.globals}.items())
        yield from ((f"its default {index}", each) for index, each in enumerate(value.__defaults__ or ()))
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", each) for key, each in islice(value.items(), 1000))
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]", each) for index, each in enumerate(islice(value, 1000)))
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from ((f"its attribute {name!r}", each) for name, each in list(vars(value).items()))


def _label(value: Any) -> str:
    return str(getattr(value, "__qualname__", None) or _kind(value))


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"

"""What a call names: a function of a module, how its arguments are given, and where it runs.

Bridges of one process share the interpreter and with it `sys.modules`, which knows one module of a name; each has its own
folders all the same. So a name is looked up in the bridge's folders first, and a file of theirs that is not the one which
`import` gives is loaded beside it, under its path."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, TypeVar

from everloop_bridge.wire import Named

Function = TypeVar("Function", bound=Callable[..., Any])
_FAST = "__everloop_fast__"
_files: dict[Path, Any] = {}
_files_locks: dict[Path, threading.RLock] = {}
_naming = threading.Lock()


def fast(function: Function) -> Function:
    """Declare that `function` takes microseconds and never blocks: it then runs on the thread that reads the calls."""
    setattr(function, _FAST, True)
    return function


class Target:
    """One callable, looked up once. `coroutine`: it is awaited on the event loop; `inline`: it runs where calls are read."""

    __slots__ = ("coroutine", "function", "inline", "keywords", "open_ended", "required", "whole")

    def __init__(self, function: Callable[..., Any], *, inline: bool) -> None:
        self.function = function
        self.coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
        self.inline = inline or bool(getattr(function, _FAST, False))
        self.keywords: frozenset[str] = frozenset()
        self.required: frozenset[str] = frozenset()
        self.open_ended = False
        self.whole = True
        self._read_signature()

    def _read_signature(self) -> None:
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError):
            return  # A builtin that does not tell: an object goes to it whole.
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        only_positional = [p for p in parameters if p.kind is p.POSITIONAL_ONLY]
        self.keywords = frozenset(p.name for p in named)
        self.required = frozenset(p.name for p in [*named, *only_positional] if p.default is p.empty)
        self.open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        by_position = [p for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
        only_by_name = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        self.whole = len(by_position) == 1 and not only_by_name

    def call(self, args: Any) -> Any:
        """A list is the positional arguments; an object the keyword arguments where the function takes these names, and
        otherwise, for a function of one parameter, that parameter; nothing calls it without arguments."""
        if type(args) is dict:
            names = args.keys()
            if names == self.keywords or ((self.open_ended or names <= self.keywords) and names >= self.required):
                return self.function(**args)
            if self.whole:
                return self.function(args)
            return self.function(**args)  # Raises Python's own TypeError, which names what is missing or unknown.
        if type(args) is list:
            return self.function(*args)
        if args is None:
            return self.function()
        if type(args) is Named:
            # Its parameter's own name was given, without a value: what is left is not that parameter.
            if self.whole and args and self.keywords.isdisjoint(args.absent) and not self.keywords >= args.keys():
                return self.function(dict(args))
            return self.function(**args)
        return self.function(args)


def find(module: str, function: str, declared_fast: Collection[str] = (), folders: Sequence[str] = ()) -> Target:
    """`function` of `module`: its attribute (dotted names go deeper), else a method of the object in it that bears the
    module's own name (`custom_model.custom_model.predict`). Raises whatever the import raises, AttributeError, TypeError."""
    found = load(module, folders)
    own_name = Path(module).stem if _is_file(module) else module.rpartition(".")[2]
    value = _attribute(found, function)
    if value is None:
        own_object = getattr(found, own_name, None)
        value = None if own_object is None else _attribute(own_object, function)
    if value is None:
        there = sorted(name for name, it in vars(found).items() if callable(it) and not name.startswith("_"))
        raise AttributeError(
            f"module {module!r} has no function {function!r}; it has {', '.join(there[:30]) or 'none'}"
        )
    if not callable(value):
        raise TypeError(f"{module}.{function} is a {type(value).__name__}, not a function")
    return Target(value, inline=f"{module}.{function}" in declared_fast)


def _attribute(owner: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        owner = getattr(owner, name, None)
        if owner is None:
            return None
    return owner


def _is_file(module: str) -> bool:
    return module.endswith(".py") or "/" in module


def load(module: str, folders: Sequence[str] = ()) -> Any:
    """The module of that name, in `folders` first; or of that file (taken once, whatever the path it is named by)."""
    if _is_file(module):
        path = Path(module).resolve()
        return _of_file(path / "__init__.py" if path.is_dir() else path)
    top, _, rest = module.partition(".")
    own = _file_in(folders, top)
    if own is None or own == _imported_from(top):
        return importlib.import_module(module)
    loaded = _of_file(own)
    return importlib.import_module(f"{loaded.__name__}.{rest}") if rest else loaded


def _file_in(folders: Sequence[str], name: str) -> Path | None:
    if name in sys.builtin_module_names:
        return None
    spec = PathFinder.find_spec(name, list(folders))
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve()


def _imported_from(name: str) -> Path | str | None:
    """The file that `import name` gives; a word where it gives something without a file; None where it fails."""
    known = sys.modules.get(name)
    if known is not None:
        origin = getattr(known, "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return None
        origin = spec.origin if spec.has_location else None
    return "no file" if origin is None else Path(origin).resolve()


def _of_file(path: Path) -> Any:
    with _naming:
        lock = _files_locks.setdefault(path, threading.RLock())
    with lock:  # Of this file alone: one whose import takes long holds up no other.
        if path not in _files:
            _files[path] = _load_file(path)
        return _files[path]


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise ModuleNotFoundError(f"there is no file {path}")
    name = path.parent.name if path.name == "__init__.py" else path.stem
    spec = _named(path, name)
    if spec is None:
        return importlib.import_module(name)
    made = sys.modules[spec.name]
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return made


def _named(path: Path, name: str) -> Any:
    """The spec of a new module of that file, whose name is taken with it; None where `import name` gives the file."""
    with _naming:
        taken = _imported_from(name)
        if taken == path:
            return None
        # Two files may have one name: the second is kept under its path, so that neither hides the other.
        spec = importlib.util.spec_from_file_location(name if taken is None else f"{name}@{path}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python file")
        folder = str(path.parent)
        if folder not in sys.path:
            sys.path.append(folder)
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        return spec

"""Python code by import path: who may run it, and how an artifact brings its own.

Theory. A version must answer tomorrow as it does today, and be there to go back to, so an artifact holds the *source* of the module that
was named and not only its name. It is run as a module of its own each time that the artifact is loaded: two versions are two modules, side
by side. What that module imports is taken from the environment as it is; `__package__` is kept, so its relative imports resolve too.

Nothing of it runs unless `Trust.code` allows the entry. That says who is trusted, not which bytes: whoever can write where versions are
kept can put another source under a trusted name. So nobody can bring such an artifact in over the network (`api.files`), and a person who
names code where the server starts (a command line, its configuration, a call in Python) has said so for that name.
"""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import re
import sys
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from everloop.core.errors import InvalidInput, ModelFailed, NotSupported, Untrusted
from everloop.runtime.artifact import Trust

_DOTTED = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_ENTRY = re.compile(rf"({_DOTTED}):({_DOTTED})\Z")
_FILE = re.compile(rf"(.+\.py):({_DOTTED})\Z", re.DOTALL)
_NUMBERS = count()


class Code(msgspec.Struct, frozen=True):
    """One module's source, and the object in it that is meant."""

    entry: str
    """`package.module:Model`, or `file.py:Model`."""
    source: str
    package: str = ""
    """That its relative imports start from."""
    folder: str = ""
    """Of a file: where it lay, and so what it imports from beside it; looked into if it is there. The working directory always is."""

    @property
    def attribute(self) -> str:
        return self.entry.partition(":")[2]


def names_code(text: str) -> bool:
    """Whether it has the form `package.module:Model` or `path/to/file.py:Model`."""
    return bool(_ENTRY.match(text) or _FILE.match(text))


def is_file(text: str) -> bool:
    """Whether it has the form `path/to/file.py:Model`."""
    return bool(_FILE.match(text))


def entry_of(text: str) -> str:
    """The entry that somebody who types this means: of a file, its name without folders."""
    found = _FILE.match(text)
    return f"{Path(found[1]).name}:{found[2]}" if found else text


def allowed(entry: str, trust: Trust) -> bool:
    """Whether `trust.code` names the entry, its module, a package that it is in, or everything (`*`)."""
    module = entry.partition(":")[0]
    return not trust.network and any(
        said in ("*", entry, module) or module.startswith(f"{said}.") for said in trust.code
    )


def check_allowed(entry: str, trust: Trust) -> None:
    """Raises Untrusted."""
    if trust.network:
        raise Untrusted(
            f"the model runs the Python code {entry}, and none is taken from the network: register it where its server's data is, as "
            f"`everloop models register NAME {entry} --data-dir …` does, or name it where the server starts"
        )
    if not allowed(entry, trust):
        raise Untrusted(
            f"the model runs the Python code {entry}, which can do anything here: pass trust_code=[{entry!r}] (--trust-code {entry}) "
            "if you know where it comes from"
        )


def with_code(trust: Trust, *entries: str) -> Trust:
    """`trust`, and these entries."""
    return replace(trust, code=tuple(dict.fromkeys((*trust.code, *entries))))


def place_of(thing: Any) -> str:
    """What `read_code` takes for this class or function. Raises NotSupported where nothing finds it again."""
    name = thing.__qualname__
    if "<" in name:
        raise NotSupported(f"{name} is found by no import: define it at the top of a module", field="model")
    if thing.__module__ != "__main__":
        return f"{thing.__module__}:{name}"
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None:
        raise NotSupported(f"{name} was typed in, and has no file that an artifact could keep", field="model")
    return f"{file}:{name}"


def read_code(text: str) -> Code:
    """The source that `package.module:Model` or `path/to/file.py:Model` names; of a module in a package, the package is imported.

    Raises InvalidInput (no such module or file), NotSupported (it has no source)."""
    found = _FILE.match(text)
    if found:
        path = Path(found[1]).expanduser()
        try:
            return Code(entry_of(text), path.read_text(), folder=str(path.absolute().parent))
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise InvalidInput(f"{text}: {path} cannot be read: {why}", field="model") from error
    if not _ENTRY.match(text):
        raise InvalidInput(f"{text}: expected package.module:Model or path/to/file.py:Model", field="model")
    module = text.partition(":")[0]
    here = str(Path.cwd())
    _look_into(here)
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        raise InvalidInput(f"{text}: there is no module {error.name} here ({here})", field="model") from error
    except Exception as error:  # whatever a package's __init__ raises
        told = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"{text}: the package of {module} cannot be imported: {told}", field="model") from error
    if spec is None:
        raise InvalidInput(f"{text}: there is no module {module} here ({here})", field="model")
    get_source = getattr(spec.loader, "get_source", None)
    source = get_source(module) if get_source is not None else _file_of(spec.origin)
    if source is None:
        raise NotSupported(f"{text}: {module} has no Python source that an artifact could keep", field="model")
    package = (module if spec.submodule_search_locations is not None else spec.parent) or ""
    return Code(text, source, package)


def _file_of(origin: str | None) -> str | None:
    """The source of a module whose loader does not tell it."""
    return Path(origin).read_text() if origin is not None and origin.endswith(".py") else None


@dataclass(frozen=True)
class Running:
    """A module that was run, and what was meant in it. Close it when the object is not needed any more."""

    object: Any
    module: ModuleType

    def close(self) -> None:
        """Forget the module. Idempotent."""
        sys.modules.pop(self.module.__name__, None)
        linecache.cache.pop(str(self.module.__file__), None)


def run_code(code: Code, trust: Trust) -> Running:
    """Run the source as a module of its own. Raises Untrusted, ModelFailed (it raised, or does not have that name)."""
    check_allowed(code.entry, trust)
    for folder in (str(Path.cwd()), code.folder):
        if folder and Path(folder).is_dir():
            _look_into(folder)
    module = ModuleType(f"everloop_code_{next(_NUMBERS)}")
    # As a module of a file that only the linecache knows: tracebacks then show the lines that ran.
    module.__file__ = name = f"<{code.entry} {module.__name__}>"
    module.__package__ = code.package
    linecache.cache[name] = (len(code.source), None, code.source.splitlines(keepends=True), name)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their modules up
    made = Running(None, module)
    try:
        exec(compile(code.source, name, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - `trust` allows it
        found: Any = module
        for part in code.attribute.split("."):
            found = getattr(found, part)
    except BaseException as error:
        made.close()
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise _failed(code, error) from error
    return replace(made, object=found)


def _failed(code: Code, error: BaseException) -> ModelFailed | NotSupported:
    module, _, attribute = code.entry.partition(":")
    if isinstance(error, ModuleNotFoundError):
        return NotSupported(f"{code.entry} needs the module {error.name}, which is not installed here", field="model")
    if isinstance(error, AttributeError) and error.name in attribute.split("."):
        return NotSupported(f"{code.entry}: {module} has no {error.name}", field="model")
    return ModelFailed(f"{code.entry}: running {module} failed: {type(error).__name__}: {error}", field="model")


def _look_into(folder: str) -> None:
    """Last of all, so that it hides nothing that is installed."""
    if folder not in sys.path:
        sys.path.append(folder)

"""What a person names as a model, as an artifact: a file, a folder, code by its import path, a version in an MLflow registry.

Whoever takes a model from a person (a command line, a configuration, a call in Python) goes through here; what comes over the network
does not, for it may name nothing of this machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from everloop.core.errors import InvalidInput, NotSupported
from everloop.core.wording import near_names
from everloop.runtime.artifact import Trust, read_model_file, read_payload
from everloop.runtime.formats import FORMATS, format_of
from everloop.runtime.modules import entry_of, names_code, with_code
from everloop.runtime.sniff import look_at, look_at_folder
from everloop.stores.ports import Manifest

Source: TypeAlias = str | os.PathLike[str]

URIS = ("models:/", "runs:/")
"""How the names of an MLflow registry begin."""
NOT_ALONE = ("pipeline",)
"""Kinds of files that name others beside them."""


def read_source(source: Source, *, trust: Trust) -> tuple[Manifest, bytes]:
    """The artifact of what `source` names: the path of a file or folder, `package.module:Model`, `path/to/file.py:Model`,
    `models:/name@alias`, `models:/name/3` or `runs:/…`. Naming code allows it (`trust_in`); all else is up to `trust`.

    Raises InvalidInput (nothing there), NotSupported (what it looks like, and what to do), MissingExtra, Untrusted, ArtifactCorrupt."""
    text = os.fspath(source)
    path = Path(text).expanduser()
    if isinstance(source, str) and not path.exists():
        if text.startswith(URIS):
            made: tuple[Manifest, bytes] = format_of("mlflow").open().pack_uri(text, trust)
            return made
        if names_code(text):
            from everloop.runtime.python import pack_entry

            return pack_entry(text, with_code(trust, entry_of(text)))
    if path.is_dir():
        return _read_folder(path, trust)
    return read_model_file(path, trust=trust)


def whole_file(source: Source, *, trust: Trust) -> bytes:
    """What `source` names, as one file that can be sent: itself where it is one that stands alone, else an artifact file. Raises as
    `read_source`."""
    from everloop.runtime.packaged import dump_artifact

    path = Path(os.fspath(source)).expanduser()
    if path.is_file():
        payload = read_payload(path)
        if look_at(payload)[0] not in NOT_ALONE:
            return payload
    return dump_artifact(*read_source(source, trust=trust))


def trust_in(source: Source, trust: Trust) -> Trust:
    """`trust`, with what naming this source says besides: whoever names code wants it run."""
    if isinstance(source, str) and not Path(source).expanduser().exists() and names_code(source):
        return with_code(trust, entry_of(source))
    return trust


def check_source(source: Source) -> None:
    """That it can be there at all, before anything is opened. Raises InvalidInput."""
    text = os.fspath(source)
    path = Path(text).expanduser()
    if path.exists():
        if not os.access(path, os.R_OK):
            raise InvalidInput(f"{text} cannot be read: permission denied", field="model")
        if path.is_dir() and not _holds_a_model(path):
            what, advice = look_at_folder(path)
            raise InvalidInput(f"{text} is {what}: {advice}", field="model")
        return
    if isinstance(source, str) and (text.startswith(URIS) or names_code(text)):
        return
    raise InvalidInput(f"there is no file {text}{_near(path) or _meant_code(text)}", field="model")


def beside(text: str, folder: Path) -> Source:
    """What a file in `folder` names: paths start there."""
    if text.startswith(URIS):
        return text
    if names_code(text):
        path, _, attribute = text.rpartition(":")
        return f"{folder / Path(path).expanduser()}:{attribute}" if path.endswith(".py") else text
    return folder / Path(text).expanduser()


def is_source(text: str) -> bool:
    """Whether it is meant as a source, where a kind of model (one plain word) could be meant as well."""
    return os.sep in text or "/" in text or "." in text or ":" in text


def title(source: Source) -> str:
    """For a note: what it was, without folders."""
    text = os.fspath(source)
    if isinstance(source, str) and (text.startswith(URIS) or names_code(text)):
        return text if text.startswith(URIS) else entry_of(text)
    return Path(text).name or text


def _near(path: Path) -> str:
    try:
        names = [each.name for each in path.parent.iterdir()]
    except OSError:
        return f" (there is no folder {path.parent})"
    near = near_names(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _meant_code(text: str) -> str:
    """Where it looks like a class of a module, dotted throughout: what would be one."""
    module, _, name = text.rpartition(".")
    if text.isascii() and name[:1].isupper() and all(part.isidentifier() for part in text.split(".")):
        return f"; Python code is named like {module}:{name}"
    return ""


def _holds_a_model(path: Path) -> bool:
    return "mlflow" in FORMATS and (path / "MLmodel").is_file()


def _read_folder(path: Path, trust: Trust) -> tuple[Manifest, bytes]:
    if _holds_a_model(path):
        made: tuple[Manifest, bytes] = format_of("mlflow").open().pack_folder(path, trust)
        return made
    what, advice = look_at_folder(path)
    raise NotSupported(f"{path} is {what}: {advice}", field="path")

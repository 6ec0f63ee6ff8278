"""From bytes to a session: the one place that knows which runtime loads what, and what may be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everloop.core.errors import ArtifactCorrupt, EverloopError, InvalidInput, NotSupported, Untrusted
from everloop.runtime.formats import FORMATS, READERS, format_of
from everloop.runtime.session import Session
from everloop.stores.ports import Manifest

MOST_THREADS = 1024


@dataclass(frozen=True)
class Trust:
    """What may be loaded although it can run code. Nothing, unless somebody said so."""

    pickle: bool = False
    """Whether pickled models may be loaded. Whoever wrote them can then run anything here."""
    types: tuple[str, ...] = ()
    """Full names of types, such as `mypackage.MyTransformer`, that a skops file may contain besides scikit-learn's own."""
    code: tuple[str, ...] = ()
    """Python code that artifacts may name: import paths such as `package.module:Model`, packages (`package`), or `*`."""
    network: bool = False
    """Whether it came over the network: then it may bring no code, whatever is allowed (`runtime.modules`)."""


def load_session(manifest: Manifest, payload: bytes, *, trust: Trust) -> Session:
    """The session of an artifact. Raises ArtifactCorrupt (its runtime cannot read it), Untrusted, NotSupported,
    MissingExtra."""
    made = format_of(manifest.runtime).open()
    try:
        session: Session = made.load(manifest, payload, trust)
    except EverloopError:
        raise
    except Exception as error:
        raise ArtifactCorrupt(
            f"the {manifest.runtime} artifact cannot be read: {type(error).__name__}: {error}"
        ) from error
    return session


def read_model_file(path: str | Path, *, trust: Trust) -> tuple[Manifest, bytes]:
    """A file as an artifact. Raises as `read_payload` and `read_model`."""
    return read_model(read_payload(path), str(path), trust=trust, field="path", path=Path(path))


def read_payload(path: str | Path) -> bytes:
    """A model file's bytes. Raises InvalidInput (no such file), NotSupported (a folder)."""
    from everloop.runtime.sniff import look_at_folder

    path = Path(path)
    if path.is_dir():
        what, advice = look_at_folder(path)
        raise NotSupported(f"{path} is {what}: {advice}", field="path")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InvalidInput(f"there is no file {path}", field="path") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}", field="path") from error


def read_model(
    payload: bytes, source: str, *, trust: Trust, field: str, path: Path | None = None
) -> tuple[Manifest, bytes]:
    """The bytes of a model file (of a pickled estimator only where pickles are trusted) as an artifact, whose bytes may be others;
    told by content, not by name. `source` says in messages what they are, `field` is to blame, and `path` is where files that they
    name are looked for.

    Raises NotSupported (something else: what it looks like, and what to do), MissingExtra, Untrusted, ArtifactCorrupt."""
    from everloop.runtime.sniff import look_at

    kind, what, advice = look_at(payload)
    if kind != "artifact" and READERS.get(kind) not in FORMATS:
        raise NotSupported(f"{source} is {what}: {advice}", field=field)
    if kind == "pickle" and not trust.pickle:
        raise Untrusted(
            f"{source} is {what}, and loading one runs whatever its writer put in: {advice}, or pass trust_pickle=True "
            "(--trust-pickle) if you know where it comes from",
            field=field,
        )
    try:
        return _read(kind, payload, trust, path)
    except EverloopError as error:
        raise type(error)(f"{source}: {error.message}", field=field) from error
    except Exception as error:
        raise ArtifactCorrupt(f"{source} is {what}, but it cannot be read: {type(error).__name__}: {error}") from error


def _read(kind: str, payload: bytes, trust: Trust, path: Path | None) -> tuple[Manifest, bytes]:
    if kind == "artifact":
        from everloop.runtime.packaged import read_artifact

        manifest, payload = read_artifact(payload)
        load_session(manifest, payload, trust=trust).close()  # it is what it says, and is trusted
        return manifest, payload
    if kind == "pickle":
        from everloop.runtime.packing import read_pickle

        return read_pickle(payload, trust)
    module = format_of(READERS[kind]).open()
    if path is not None and hasattr(module, "read_path"):
        made: tuple[Manifest, bytes] = module.read_path(path, trust)
        return made
    return module.read_file(payload, trust), payload


def threads_of(manifest: Manifest) -> int:
    """How many threads one run of the model may use: 1, unless its options say otherwise."""
    threads = manifest.options.get("threads", 1)
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= MOST_THREADS:
        raise ArtifactCorrupt(f"options.threads: expected a whole number from 1 to {MOST_THREADS}, got {threads!r}")
    return threads


def save_model(
    model: Any,
    path: str | Path,
    *,
    feature_names: Sequence[str] | None = None,
    example: Any = None,
    classes: Sequence[Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    entry: str = "",
) -> Path:
    """Write a model as a file that `everloop serve NAME=PATH` takes, and return its path: a fitted scikit-learn estimator as a skops file;
    a PyTorch module as a program of `torch.export` (`.pt2`), or as its weights with the code that builds it (`.safetensors`); all else
    that `runtime.packing.pack` takes as an artifact file: boosted trees, River models, a class or function of a module. An ending is added
    if `path` has none; another than `.artifact` asks for the plain file of the model's library.

    `feature_names` tells the names of the columns where the model was fitted on arrays; callers can then send mappings. What follows is of
    PyTorch modules (`runtime.torch_saving`): `example` is what the module is asked with, one row or more, a tuple where it takes several
    inputs; `classes` are the labels, in the order of its scores; with `.safetensors`, `arguments` is what its class is called with, and
    `entry` where that is found (`package.module:Class`) if not where it says.
    Raises InvalidInput (not fitted, wrong number of names, the example fails), NotSupported (no model that can be saved; a module that
    cannot be exported), Untrusted (parts that only a pickle could hold, such as a lambda)."""
    from everloop.runtime import sklearn, torch_saving

    if torch_saving.is_torch(model):
        return torch_saving.save_module(
            model,
            Path(path),
            example=example,
            feature_names=feature_names,
            classes=classes,
            arguments=arguments,
            entry=entry,
        )
    from everloop.runtime.packing import is_estimator, save_packed

    if is_estimator(model) and Path(path).suffix != ".artifact":
        return sklearn.save_model(model, Path(path), feature_names)
    return save_packed(model, Path(path), feature_names, classes)


def library_versions(*names: str) -> dict[str, str]:
    """The installed versions of these distributions; those that are not installed are left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

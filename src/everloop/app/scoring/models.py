"""What MODEL means: a file, a registered model, or a function. Each is a small description that travels to the workers, which load it
there, once; what they load is verified to be what was meant when the run began.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everloop.core.errors import ArtifactCorrupt, EverloopError, InvalidInput, ModelUntrained
from everloop.core.hashing import artifact_digest
from everloop.core.wording import near_names
from everloop.registry.references import number_of, split_reference
from everloop.registry.traffic import check_there
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.modules import is_file
from everloop.runtime.source import read_source, title, trust_in
from everloop.showcase.builtin import located
from everloop.stores.opening import is_url

if TYPE_CHECKING:
    from everloop.app.scoring.predicting import Predictor
    from everloop.stores.ports import Catalog, Manifest, VersionRecord

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")
MODEL_ENDINGS = frozenset({".onnx", ".skops", ".pkl", ".pickle", ".joblib"})


@dataclass(frozen=True)
class FittedModel:
    """A version or a file: bytes on the disk, named by their digest."""

    path: Path
    digest: str
    manifest: Manifest
    trust: Trust
    name: str
    version: int | None = None

    @property
    def identity(self) -> str:
        version = f" version {self.version}" if self.version is not None else ""
        return f"{self.name}{version}, sha256 {self.digest[:16]}"

    @property
    def constants(self) -> dict[str, Any]:
        """What is told beside each prediction."""
        return {"model_version": self.version} if self.version is not None else {"model_digest": self.digest[:12]}

    def columns(self, available: Sequence[str], chosen: Sequence[str], *, closed: bool) -> tuple[str, ...]:
        """Where each field of the model is found: `chosen` by the caller in the model's order, by name, or by position.

        `closed`: the input has no other columns than the `available` ones. Raises InvalidInput naming what is missing."""
        schema = self.manifest.schema
        if chosen:
            if len(chosen) != len(schema.fields):
                raise InvalidInput(
                    f"--features: {self.name} takes {len(schema.fields)} features ({_some(schema.names)}), these are {len(chosen)}",
                    field="features",
                )
            _all_there(chosen, available, "--features")
            return tuple(chosen)
        missing = [field.name for field in schema.fields if field.name not in available]
        needed = [field.name for field in schema.fields if not field.nullable and field.name in missing]
        if not missing or (not closed and schema.named and not needed):
            return schema.names
        if not schema.named and len(available) == len(schema.fields):
            return tuple(available)
        if not schema.named:
            raise InvalidInput(
                f"{self.name} takes {len(schema.fields)} features without names, and the input has {len(available)} columns "
                f"({_some(available)}): say which, in order, with --features A,B,…",
                field="features",
            )
        raise InvalidInput(
            f"the input has no column {', '.join(map(repr, (needed or missing)[:6]))}{' …' if len(missing) > 6 else ''}, which "
            f"{self.name} takes; it has {_some(available)}",
            field="features",
        )

    def load(self, columns: Sequence[str], *, scores: bool) -> Predictor:
        """Raises ArtifactCorrupt if the bytes are others now."""
        from everloop.app.scoring.predicting import SessionPredictor

        try:
            payload = self.path.read_bytes()
        except OSError as error:
            raise ArtifactCorrupt(f"{self.path} cannot be read any more: {error.strerror or error}") from error
        if artifact_digest(payload) != self.digest:
            raise ArtifactCorrupt(
                f"{self.path} is not what it was when the run began: sha256 {self.digest[:16]} is expected"
            )
        return SessionPredictor(load_session(self.manifest, payload, trust=self.trust), columns, scores=scores)


@dataclass(frozen=True)
class FunctionModel:
    """`module:function`, imported where it is used."""

    target: str
    batch: bool
    digest: str
    """Of the source file of its module."""

    @property
    def name(self) -> str:
        return self.target

    @property
    def identity(self) -> str:
        return f"{self.target}{' --batch' if self.batch else ''}, source sha256 {self.digest[:16]}"

    @property
    def constants(self) -> dict[str, Any]:
        return {}

    def columns(self, available: Sequence[str], chosen: Sequence[str], *, closed: bool) -> tuple[str, ...]:  # noqa: ARG002
        """A function is given every column."""
        if chosen:
            raise InvalidInput("--features is for models; a function is given every column, by name", field="features")
        return tuple(available)

    def load(self, columns: Sequence[str], *, scores: bool) -> Predictor:  # noqa: ARG002 - as a model's
        from everloop.app.scoring.predicting import BatchPredictor, FunctionPredictor

        function = import_function(self.target)
        return BatchPredictor(function) if self.batch else FunctionPredictor(function)


@contextmanager
def find_model(text: str, *, storage: Path | str, trust: Trust, batch: bool) -> Iterator[FittedModel | FunctionModel]:
    """For as long as the block lasts: a model from a database is a file until then. `storage`: a data folder, or a database's URL. Raises
    InvalidInput, ModelNotFound, VersionNotFound, ModelUntrained, StoreUnavailable, and what reading a model file raises."""
    text = str(located(text))
    path = Path(text).expanduser()
    if not path.exists() and _FUNCTION.match(text) and not is_file(text):
        found = import_object(text)
        if batch or not is_model(found):
            function = as_function(found, text)
            yield FunctionModel(text, batch, source_digest(function))
            return
    if batch:
        raise InvalidInput(
            "--batch is for functions (module:function); models are always run on many rows at once", field="batch"
        )
    if path.is_file() or path.suffix.lower() in MODEL_ENDINGS or "/" in text or ":" in text:
        with named_model(text, trust) as fitted:
            yield fitted
        return
    if not is_url(storage):
        yield model_in_folder(text, Path(storage), trust)
        return
    with tempfile.TemporaryDirectory(prefix="everloop-") as scratch:
        yield model_in_database(text, str(storage), trust, Path(scratch))


@contextmanager
def named_model(text: str, trust: Trust) -> Iterator[FittedModel]:
    """What names a model (`runtime.source`). Where its artifact is no file yet, it is one until the block ends."""
    trust = trust_in(text, trust)
    manifest, payload = read_source(text, trust=trust)
    digest, path = artifact_digest(payload), Path(text).expanduser()
    if path.is_file() and path.stat().st_size == len(payload) and path.read_bytes() == payload:
        yield FittedModel(path.absolute(), digest, manifest, trust, path.name)
        return
    with tempfile.TemporaryDirectory(prefix="everloop-") as scratch:
        path = Path(scratch) / digest
        path.write_bytes(payload)
        yield FittedModel(path, digest, manifest, trust, title(text))


def model_in_folder(text: str, folder: Path, trust: Trust) -> FittedModel:
    """As `registered`. The folder is only read, also while a server runs on it."""
    from everloop.stores.objects import FolderArtifacts
    from everloop.stores.sqlite import SqliteCatalog

    database = folder / "everloop.db"
    if not database.is_file():
        raise InvalidInput(
            f"{text}: there is no such file, and no data folder {folder} with registered models; say a path (./{text}), a function "
            "(module:function), or where the models are with --data-dir or --database",
            field="model",
        )
    version = registered(text, SqliteCatalog(database, read_only=True))
    artifacts = FolderArtifacts(folder / "artifacts", read_only=True)
    artifacts.get(version.digest)
    return _fitted(artifacts.path_of(version.digest).absolute(), version, trust)


def model_in_database(text: str, url: str, trust: Trust, scratch: Path) -> FittedModel:
    """As `registered`; its bytes as a file in `scratch`, for workers to read."""
    from everloop.stores.postgres import Database, PostgresArtifacts, PostgresCatalog

    database = Database(url)
    version = registered(text, PostgresCatalog(database))
    path = scratch / version.digest
    path.write_bytes(PostgresArtifacts(database).get(version.digest))
    return _fitted(path, version, trust)


def registered(text: str, catalog: Catalog) -> VersionRecord:
    """`NAME` (the version that serves), `NAME@3`, `NAME@v1.0` or `NAME@champion`. Closes the catalog. Raises ModelNotFound,
    VersionNotFound, ModelUntrained, Conflict (its artifact was collected)."""
    name, wanted = split_reference(text)
    try:
        with catalog.look(name) as shelf:
            if wanted is None and shelf.model.live_version is None:
                raise ModelUntrained(f"{name} has no version yet: it has not seen enough labelled examples")
            version = shelf.version(number_of(shelf, "champion" if wanted is None else wanted))
    finally:
        catalog.close()
    check_there(version)
    return version


def _fitted(path: Path, version: VersionRecord, trust: Trust) -> FittedModel:
    return FittedModel(path, version.digest, version.manifest, trust, version.model, version.version)


def import_function(text: str) -> Callable[..., Any]:
    """Raises as `import_object`, and InvalidInput for what is no function."""
    return as_function(import_object(text), text)


def is_model(found: Any) -> bool:
    """Whether it is a model in Python (`runtime.python`) rather than a function of rows."""
    return inspect.isclass(found) or any(hasattr(found, name) for name in ("predict", "features", "example"))


def as_function(found: Any, text: str) -> Callable[..., Any]:
    """Raises InvalidInput."""
    if not callable(found):
        raise InvalidInput(f"{text} is a {type(found).__name__}, not a function", field="model")
    return found  # type: ignore[no-any-return]


def import_object(text: str) -> Any:
    """Raises InvalidInput for a module that is not there or fails, and for what it does not have, with near names."""
    name, _, attribute = text.partition(":")
    if not name or not attribute:
        raise InvalidInput(
            f"{text}: which function? Say MODULE:FUNCTION, as in mypackage.cleaning:clean", field="model"
        )
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:  # as `python -m` would have it
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InvalidInput(f"{text}: there is no module {name} here ({here})", field="model") from error
        raise InvalidInput(
            f"{text}: {name} needs the module {error.name}, which is not installed", field="model"
        ) from error
    except EverloopError:
        raise
    except Exception as error:  # whatever a user's module raises
        raise InvalidInput(
            f"{text}: importing {name} failed: {type(error).__name__}: {error}", field="model"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = near_names(part, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InvalidInput(f"{text}: {name} has no {part}{hint}", field="model")
        found = getattr(found, part)
    return found


def source_digest(function: Callable[..., Any]) -> str:
    """What tells two states of a function's module apart; of a function without a source file, its name."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        file = None
    if file is None or not Path(file).is_file():
        return hashlib.sha256(repr(getattr(function, "__qualname__", function)).encode()).hexdigest()
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _all_there(names: Sequence[str], available: Sequence[str], option: str) -> None:
    for name in names:
        if name not in available:
            near = near_names(name, available, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {_some(available)}"
            raise InvalidInput(f"{option}: the input has no column {name!r}{hint}", field=option.lstrip("-"))


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")

"""MLflow models: folders, and versions of a registry by their URI.

A folder whose model is a file that a runtime here reads becomes that runtime's artifact (`mlflow_folder.unwrap`). Any other is packed whole
(a zip with the same bytes for the same files) and answered through MLflow's `pyfunc`, which imports and unpickles what the folder names:
that takes trust in pickles, and says so.

The registry is the one of the user's tracking URI, as MLflow finds it. MLflow would report its use to its makers; here it is told not to,
unless the environment says otherwise.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import threading
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import ArtifactCorrupt, InvalidInput, ModelFailed, NotSupported, Untrusted
from everloop.core.schema import Schema, Target
from everloop.runtime.artifact import Trust, library_versions
from everloop.runtime.mlflow_folder import Folder, read_folder, schema_of, target_of, unwrap
from everloop.runtime.session import Matrix
from everloop.runtime.zips import UNREADABLE
from everloop.stores.ports import Manifest

log = logging.getLogger(__name__)

_DTYPES = {
    "double": "float64",
    "float": "float32",
    "long": "int64",
    "integer": "int32",
    "boolean": "bool",
    "string": "object",
}
_ALSO = {"xgboost": ("xgboost-cpu",)}
"""Distributions that bring the same package."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can tell."""


def pack_uri(uri: str, trust: Trust) -> tuple[Manifest, bytes]:
    """`models:/name@alias`, `models:/name/3` or `runs:/id/path`. Raises InvalidInput (not found), and as `pack_folder`."""
    with tempfile.TemporaryDirectory(prefix="everloop-mlflow-") as folder:
        manifest, payload = pack_folder(fetch(uri, Path(folder)), trust)
    told = {**manifest.lineage.get("mlflow", {}), "uri": uri}
    return msgspec.structs.replace(manifest, lineage={**manifest.lineage, "mlflow": told}), payload


def fetch(uri: str, into: Path) -> Path:
    """Download what the URI names; gives the folder with its MLmodel. Raises InvalidInput."""
    mlflow = _mlflow()
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        found = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into)))
    except ImportError as error:
        raise InvalidInput(
            f"{uri}: MLflow keeps its registry at {mlflow.get_tracking_uri()}, and lacks a package for that ({error}): set "
            "MLFLOW_TRACKING_URI to your server's, or pip install mlflow",
            field="model",
        ) from error
    except (MlflowException, RequestException, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInput(
            f"{uri} was not found at {mlflow.get_tracking_uri()} (MLFLOW_TRACKING_URI says where): {first}",
            field="model",
        ) from error
    if not (found / "MLmodel").is_file():
        raise InvalidInput(f"{uri} is no model: it has no file MLmodel", field="model")
    return found


def pack_folder(path: Path, trust: Trust) -> tuple[Manifest, bytes]:
    """The artifact of a folder with an MLmodel file. Raises ArtifactCorrupt, NotSupported (no signature, values that no feature holds),
    Untrusted (its code or pickles would run), MissingExtra."""
    folder = read_folder(path)
    differing = mismatches(path)
    if differing:
        log.warning("%s was made with other libraries than there are here: %s", path, "; ".join(differing))
    made = unwrap(folder, trust)
    if made is None:
        _check_trust(trust, str(path))
        made = _whole(folder)
    told = {**folder.about, "flavors": sorted(folder.flavors)}
    if differing:
        told["mismatches"] = differing
    manifest, payload = made
    return msgspec.structs.replace(manifest, lineage={**manifest.lineage, "mlflow": told}), payload


def mismatches(path: Path) -> list[str]:
    """In which requirements of the folder this environment differs, in words."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        lines = (path / "requirements.txt").read_text("utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            wanted = Requirement(line.split(" #")[0].strip())
        except InvalidRequirement:
            continue  # options of pip and URLs
        if wanted.name in ("mlflow", "mlflow-skinny") or (wanted.marker is not None and not wanted.marker.evaluate()):
            continue
        here = library_versions(*_ALSO.get(wanted.name, ()), wanted.name)
        if not here:
            found.append(f"{wanted} is not installed")
        elif not any(wanted.specifier.contains(each, prereleases=True) for each in here.values()):
            found.append(f"{wanted}, and {', '.join(here.values())} is installed")
    return found


def _check_trust(trust: Trust, source: str) -> None:
    if trust.network or not trust.pickle:
        raise Untrusted(
            f"{source} is answered by MLflow's pyfunc, which imports the code and loads the pickles of its folder: whoever wrote it can run "
            "anything here. Pass trust_pickle=True (--trust-pickle) where the server starts, if you know where it comes from"
        )


def _whole(folder: Folder) -> tuple[Manifest, bytes]:
    if "python_function" not in folder.flavors:
        raise NotSupported(f"{folder.path} has no flavour that MLflow can answer with, but {', '.join(folder.flavors)}")
    schema, target = schema_of(folder), target_of(folder)
    columns = {column.name: column.kind for column in folder.columns or ()}
    manifest = Manifest(
        runtime="mlflow",
        task=target.task,
        schema=schema,
        target=target,
        libraries=library_versions("mlflow", "mlflow-skinny", "pandas"),
        options={"columns": columns} if columns else {"dtype": folder.dtype},
    )
    return manifest, pack_files(folder.path)


def pack_files(path: Path) -> bytes:
    """The files of a folder, the same bytes whenever they are the same."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(path.rglob("*")):
            if each.is_file() and "__pycache__" not in each.parts:
                entry = zipfile.ZipInfo(each.relative_to(path).as_posix(), _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, each.read_bytes())
    return buffer.getvalue()


def _unpack(payload: bytes, into: Path) -> None:
    """Raises ArtifactCorrupt."""
    try:
        with zipfile.ZipFile(BytesIO(payload)) as archive:
            for entry in archive.infolist():
                _check_place(entry, into)
            archive.extractall(into)
    except ArtifactCorrupt:
        raise
    except UNREADABLE as error:
        raise ArtifactCorrupt(f"the MLflow artifact cannot be unpacked: {error}") from error


def _check_place(entry: zipfile.ZipInfo, into: Path) -> None:
    if stat.S_ISLNK(entry.external_attr >> 16) or not (into / entry.filename).resolve().is_relative_to(into):
        raise ArtifactCorrupt(f"the MLflow artifact holds {entry.filename!r}, which leads out of its folder")


def load(manifest: Manifest, payload: bytes, trust: Trust) -> PyfuncSession:
    """Raises Untrusted, ArtifactCorrupt (what its folder needs is missing here, too)."""
    _check_trust(trust, "the model")
    folder = tempfile.TemporaryDirectory(prefix="everloop-mlflow-")
    try:
        root = Path(folder.name).resolve()
        _unpack(payload, root)
        differing = mismatches(root)
        try:
            model = _load(root)
        except Exception as error:
            hint = f" (the model was made with other libraries: {'; '.join(differing)})" if differing else ""
            raise ArtifactCorrupt(f"MLflow cannot load the model: {type(error).__name__}: {error}{hint}") from error
        return PyfuncSession(manifest, model, folder)
    except BaseException:
        folder.cleanup()
        raise


def _load(root: Path) -> Any:
    _mlflow()
    from mlflow import pyfunc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to who wrote the model: type hints, other formats
        return pyfunc.load_model(str(root), suppress_warnings=True)


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    logging.getLogger("mlflow.utils.requirements_utils").setLevel(logging.ERROR)  # `mismatches` tells, once
    return mlflow


class PyfuncSession:
    """MLflow's own answer to a frame, or to an array where the signature is a tensor. One call at a time: what is inside is not known."""

    def __init__(self, manifest: Manifest, model: Any, folder: tempfile.TemporaryDirectory[str]) -> None:
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = manifest.classes
        self.dtype: Any = np.float64 if manifest.schema.numeric else object
        self.scored = False
        self._columns = [manifest.options.get("columns", {}).get(name, "double") for name in self.schema.names]
        self._array = manifest.options.get("dtype")
        self._model = model
        self._folder = folder
        self._lock = threading.Lock()

    def run(self, X: Matrix) -> Matrix:
        with self._lock:
            out = self._model.predict(self._frame(X))
        answers = np.asarray(out)
        if answers.ndim == 2 and answers.shape[1] == 1:
            answers = answers[:, 0]
        if answers.shape != (len(X),):
            error = ModelFailed(f"the MLflow model answered an array of shape {answers.shape} to {len(X)} rows")
            error.how = "shape"
            raise error
        return answers.astype(np.float64) if self.target.task == "regression" else answers

    def scores(self, X: Matrix) -> None:
        """MLflow's models answer once: no probabilities besides the label."""

    def close(self) -> None:
        self._model = None
        self._folder.cleanup()

    def _frame(self, X: Matrix) -> Any:
        if self._array is not None:
            return np.ascontiguousarray(X, self._array)
        import pandas as pd

        columns = {}
        for i, (name, kind) in enumerate(zip(self.schema.names, self._columns, strict=True)):
            column = X[:, i]
            if kind != "string":
                column = column.astype(np.float64)
                if not np.isnan(column).any():
                    column = column.astype(_DTYPES[kind])
            columns[name] = column
        return pd.DataFrame(columns)

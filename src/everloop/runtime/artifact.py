"""From bytes to a session: the one place that knows which runtime loads what, and what may be trusted."""

from __future__ import annotations

from dataclasses import dataclass

from everloop.core.errors import ArtifactCorrupt, EverloopError, NotSupported
from everloop.runtime.session import Session
from everloop.stores.ports import Manifest


@dataclass(frozen=True)
class Trust:
    """What may be loaded although it can run code. Nothing, unless somebody said so."""

    pickle: bool = False
    """Whether pickled models may be loaded. Whoever wrote them can then run anything here."""
    types: tuple[str, ...] = ()
    """Full names of types, such as `mypackage.MyTransformer`, that a skops file may contain besides scikit-learn's own."""


def load_session(manifest: Manifest, payload: bytes, *, trust: Trust) -> Session:
    """The session of an artifact. Raises ArtifactCorrupt (its runtime cannot read it), Untrusted, NotSupported."""
    try:
        if manifest.runtime == "linear":
            from everloop.runtime import linear

            return linear.load(manifest, payload)
        if manifest.runtime == "sklearn":
            from everloop.runtime import sklearn

            return sklearn.load(manifest, payload, trust)
        if manifest.runtime == "onnx":
            from everloop.runtime import onnx

            return onnx.load(manifest, payload)
        if manifest.runtime == "river":
            from everloop.runtime import river

            return river.load(manifest, payload, trust)
    except EverloopError:
        raise
    except Exception as error:
        raise ArtifactCorrupt(
            f"the {manifest.runtime} artifact cannot be read: {type(error).__name__}: {error}"
        ) from error
    raise NotSupported(f"no runtime named {manifest.runtime!r}; known are linear, sklearn, onnx, river")


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

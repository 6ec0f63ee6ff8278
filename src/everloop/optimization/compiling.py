"""Linear models and small trees without the library that made them: the artifact of `runtime.linear` or `runtime.tree`.

Nothing is approximated. Trees answer to the last bit as the estimator does; a linear model's sum is added in another order.
"""

from __future__ import annotations

from everloop.core.errors import NotSupported
from everloop.runtime.artifact import Trust
from everloop.runtime.compiled import compile_estimator
from everloop.runtime.formats import format_of
from everloop.stores.ports import Manifest


def compile_artifact(manifest: Manifest, payload: bytes, *, trust: Trust) -> tuple[Manifest, bytes]:
    """Raises NotSupported, saying why, for what is not linear and no small tree; Untrusted, ArtifactCorrupt as loading it does."""
    if manifest.runtime != "sklearn":
        raise NotSupported(f"{format_of(manifest.runtime).what} is not compiled: scikit-learn estimators are")
    from everloop.runtime.sklearn import load_estimator

    made, model = compile_estimator(manifest, load_estimator(payload, trust))
    return made, model.pack()

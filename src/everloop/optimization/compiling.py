"""Linear models and small trees without the library that made them: the artifact of `runtime.linear` or `runtime.tree`.

Nothing is approximated. Trees of scikit-learn and LightGBM answer to the last bit as they do there; a linear model's sum is added in
another order, and XGBoost's leaves are added in double precision.
"""

from __future__ import annotations

import msgspec

from everloop.core.errors import NotSupported
from everloop.runtime.artifact import Trust
from everloop.runtime.compiled import compile_estimator
from everloop.runtime.formats import format_of
from everloop.stores.ports import Manifest


def compile_artifact(manifest: Manifest, payload: bytes, *, trust: Trust) -> tuple[Manifest, bytes]:
    """Raises NotSupported, saying why, for what is not linear and no small tree; Untrusted, ArtifactCorrupt as loading it does."""
    if manifest.runtime == "sklearn":
        from everloop.runtime.sklearn import load_estimator

        made, model = compile_estimator(manifest, load_estimator(payload, trust))
        return made, model.pack()
    if manifest.runtime in ("xgboost", "lightgbm"):
        return _boosted(manifest, payload)
    raise NotSupported(f"{format_of(manifest.runtime).what} is not compiled: linear models and small trees are")


def _boosted(manifest: Manifest, payload: bytes) -> tuple[Manifest, bytes]:
    from everloop.runtime.boosted_reading import read_lightgbm, read_xgboost

    if not manifest.schema.numeric:
        raise NotSupported("features of text cannot be compiled")
    trees, what = read_xgboost(manifest, payload) if manifest.runtime == "xgboost" else read_lightgbm(payload)
    return msgspec.structs.replace(manifest, runtime="tree", options={"compiled_from": what}), trees.pack()

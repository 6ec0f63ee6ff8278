"""Boosted trees to ONNX: the same answers, or a reason."""

from __future__ import annotations

import numpy as np
import pytest

from everloop.core.errors import NotSupported
from everloop.optimization.onnx import convert_artifact
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.packing import pack

TRUST = Trust()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 5)).astype(np.float32)
X[::9, 1] = np.nan
SCORE = X[:, 0] + np.nan_to_num(X[:, 1]) * X[:, 2]
NAMES = np.array(["low", "mid", "high"])[np.digitize(SCORE, [-0.5, 0.5])]


def xgboost(kind, **options):
    import xgboost as library

    return getattr(library, f"XGB{kind}")(n_estimators=6, max_depth=3, n_jobs=1, **options)


def lightgbm(kind, **options):
    import lightgbm as library

    return getattr(library, f"LGBM{kind}")(n_estimators=6, num_leaves=8, n_jobs=1, verbose=-1, **options)


def catboost(kind, **options):
    import catboost as library

    return getattr(library, f"CatBoost{kind}")(
        iterations=6, depth=3, verbose=0, thread_count=1, allow_writing_files=False, **options
    )


def fitted(make, y):
    model = make("Regressor" if np.asarray(y).dtype.kind == "f" else "Classifier")
    return model.fit(X, np.unique(y, return_inverse=True)[1] if make is xgboost and y.dtype.kind == "U" else y)


@pytest.mark.parametrize("y", [SCORE, NAMES, SCORE > 0], ids=["values", "three names", "two"])
@pytest.mark.parametrize("make", [xgboost, lightgbm, catboost])
def test_answers_as_the_library_does(make, y):
    manifest, payload = pack(fitted(make, y.astype(int) if y.dtype == bool else y), trust=TRUST)
    rows = [[None if v != v else v for v in row] for row in X.tolist()]
    made, graph = convert_artifact(manifest, payload, trust=TRUST, rows=rows)
    assert (made.runtime, made.schema, made.classes) == ("onnx", manifest.schema, manifest.classes)
    with load(manifest, payload) as original, load(made, graph) as session:
        matrix = original.schema.matrix(rows, original.dtype)
        a, b = original.run(matrix), session.run(matrix.astype(session.dtype))
        if manifest.task == "regression":
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
        else:
            assert a.tolist() == b.tolist()
            np.testing.assert_allclose(session.scores(matrix.astype(session.dtype)), original.scores(matrix), atol=1e-5)


class load:
    """A session that is closed."""

    def __init__(self, manifest, payload):
        self.session = load_session(manifest, payload, trust=TRUST)

    def __enter__(self):
        return self.session

    def __exit__(self, *_):
        self.session.close()


def test_a_reason_where_it_cannot():
    model = catboost("Regressor", cat_features=[0])
    rows = [[str(i % 3), float(i)] for i in range(60)]
    manifest, payload = pack(model.fit(rows, [float(i % 3) for i in range(60)]), trust=TRUST)
    with pytest.raises(NotSupported, match="looks texts up by itself"):
        convert_artifact(manifest, payload, trust=TRUST, rows=rows)

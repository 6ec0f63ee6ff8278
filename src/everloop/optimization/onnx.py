"""An artifact of another runtime as ONNX that answers the same.

Single precision comes first: it is the fastest, and what most models were made for. Where that would answer otherwise on the rows at hand
(numbers too large or too close for 24 bits), double precision is tried, and where that differs as well the conversion is refused: a
converter that misreads an estimator raises no error, so its graph is believed only after it has answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from everloop.core.errors import EverloopError, NotSupported, explain
from everloop.core.types import Row
from everloop.optimization.evidence import Evidence, gather
from everloop.optimization.parity import judge
from everloop.runtime.artifact import Trust, library_versions, load_session
from everloop.runtime.session import Session
from everloop.stores.ports import Manifest

OPSET = 18
"""Of what is converted for serving here. The dynamo exporter writes it, and every ONNX Runtime that everloop works with reads it."""
COMPARED = 20_000
"""Rows on which a graph is compared with its original: the given ones, and more drawn from them …"""
SECONDS = 3.0
"""… if the original answers them in about so long."""
SEED = 20

_CONVERTERS = {
    "sklearn": ("scikit-learn", "skl2onnx"),
    "xgboost": ("onnxmltools",),
    "lightgbm": ("onnxmltools",),
    "catboost": ("catboost",),
    "torch": ("torch", "onnxscript"),
}
"""Runtime -> the distributions that make its graphs."""

Maker = Callable[[Manifest, bytes, Trust, str, int], tuple[bytes, dict[str, Any]]]
"""(manifest, payload, trust, precision, opset) -> the graph, and the options of its manifest. Raises NotSupported."""


def convert_artifact(
    manifest: Manifest, payload: bytes, *, trust: Trust, rows: Sequence[Row] | None = None, opset: int = OPSET
) -> tuple[Manifest, bytes]:
    """`rows`: as `Schema.rows` gives them, on which the graph must answer as the original does; none: it is only opened.

    Schema, target, classes, metrics and lineage stay, and so do the tensors that it is asked with, which follow from the features where the
    original has none of its own. Raises NotSupported with the reason in words; and what opening the original raises."""
    makers = _makers(manifest)
    evidence = _evidence(manifest, payload, trust, rows) if rows else None
    reasons: list[str] = []
    for precision, make in makers:
        try:
            graph, options = make(manifest, payload, trust, precision, opset)
            if manifest.runtime != "torch":
                options = {**options, "tensors": "rows"}
            made = msgspec.structs.replace(
                manifest,
                runtime="onnx",
                options=options,
                libraries=library_versions("onnxruntime", *_CONVERTERS[manifest.runtime]),
            )
            reason = _difference(made, graph, evidence)
        except NotSupported as error:
            reason = error.message
        if not reason:
            return made, graph
        if reason not in reasons:
            reasons.append(reason)
    raise NotSupported("; ".join(reasons))


def _makers(manifest: Manifest) -> list[tuple[str, Maker]]:
    if manifest.runtime == "sklearn":
        return [("float32", _of_sklearn), ("float64", _of_sklearn)]
    if manifest.runtime == "torch":
        return [("as it is", _of_torch)]
    if manifest.runtime in ("xgboost", "lightgbm", "catboost"):
        return [("float32", _of_boosted)]
    if manifest.runtime == "onnx":
        raise NotSupported("it is an ONNX model already")
    raise NotSupported(f"there is no way from the runtime {manifest.runtime!r} to ONNX")


def _of_sklearn(
    manifest: Manifest, payload: bytes, trust: Trust, precision: Any, opset: int
) -> tuple[bytes, dict[str, Any]]:
    from everloop.optimization.onnx_sklearn import MISSING_TEXT, graph_of
    from everloop.runtime.inputs import input_form
    from everloop.runtime.sklearn import load_estimator

    estimator = load_estimator(payload, trust)
    texts = input_form(estimator, manifest.schema) == "texts"
    options: dict[str, Any] = {}
    if not texts and not manifest.schema.numeric:
        options["missing_text"] = MISSING_TEXT
    if precision == "float64":
        options["graph"] = "basic"  # fusing beyond that puts factors into attributes, which are single precision
    return graph_of(estimator, manifest.schema, precision=precision, opset=opset), options


def _of_boosted(manifest: Manifest, payload: bytes, trust: Trust, _: str, opset: int) -> tuple[bytes, dict[str, Any]]:
    """In single precision, which is what trees of ONNX answer."""
    from everloop.optimization.onnx_boosted import graph_of

    return graph_of(manifest, payload, trust, opset), {}


def _of_torch(manifest: Manifest, payload: bytes, trust: Trust, _: str, opset: int) -> tuple[bytes, dict[str, Any]]:
    """In the module's own precision."""
    from everloop.optimization.onnx_torch import export_module
    from everloop.runtime.torch_wrapped import answering_module

    module, example, inputs, outputs = answering_module(manifest, payload, trust)
    graph, _opset = export_module(module, example, opset=opset, input_names=inputs, output_names=outputs)
    return graph, {}


def _evidence(manifest: Manifest, payload: bytes, trust: Trust, rows: Sequence[Row]) -> Evidence:
    original = load_session(manifest, payload, trust=trust)
    try:
        return gather(
            original, rows, None, total=COMPARED, drawn=None, seconds=SECONDS, calibrate=False, loss=0.0, seed=SEED
        )
    finally:
        original.close()


def _difference(made: Manifest, graph: bytes, evidence: Evidence | None) -> str:
    """What the graph answers otherwise, or why it cannot be opened; empty where it agrees."""
    session: Session | None = None
    try:
        session = load_session(made, graph, trust=Trust())
        if evidence is None:
            return ""
        parity = judge(evidence, session, exact=True)
        return "" if parity.passed else f"its ONNX form answers otherwise: {parity.why}"
    except EverloopError as error:
        return f"its ONNX form does not answer: {error.message}"
    except Exception as error:  # whatever ONNX Runtime raises on these rows
        return f"its ONNX form does not answer: {explain(error)}"
    finally:
        if session is not None:
            session.close()

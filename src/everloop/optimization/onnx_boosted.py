"""Boosted trees as ONNX: XGBoost and LightGBM by onnxmltools, CatBoost by itself.

Of a classifier's graph the table of probabilities is kept alone: its label would be a place among the classes, and which class that is the
manifest tells. The library's own reader has seen the bytes before anything is converted, since converters trust what they read.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

from everloop.core.errors import EverloopError, MissingExtra, NotSupported
from everloop.runtime.artifact import Trust, load_session
from everloop.stores.ports import Manifest

NEWEST = 15
"""The newest opset that onnxmltools is asked for: trees have not changed since."""
INPUT = "X"


def graph_of(manifest: Manifest, payload: bytes, trust: Trust, opset: int) -> bytes:
    """Raises NotSupported in words, MissingExtra."""
    load_session(manifest, payload, trust=trust).close()
    if not manifest.schema.numeric:
        raise NotSupported(f"{manifest.runtime} looks texts up by itself, and its trees in ONNX know numbers alone")
    if manifest.options.get("missing") is not None:
        raise NotSupported(
            f"{manifest.options['missing']!r} stands for a missing value in it, and ONNX knows NaN alone"
        )
    convert = {"xgboost": _of_xgboost, "lightgbm": _of_lightgbm, "catboost": _of_catboost}[manifest.runtime]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = convert(payload, len(manifest.schema.fields), min(opset, NEWEST))
    except EverloopError:
        raise
    except Exception as error:  # converters raise whatever a model's attributes make them raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise NotSupported(f"it cannot be converted: {lines[0][:300]}") from error
    if manifest.task == "classification":
        _keep_probabilities(model.graph, len(manifest.classes or ()))
    made: bytes = model.SerializeToString()
    return made


def _of_xgboost(payload: bytes, width: int, opset: int) -> Any:
    import xgboost

    tools, inputs = _tools(width)
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(payload))
    best = booster.attr("best_iteration")
    if best is not None:
        booster = booster[: int(best) + 1]
    booster.feature_names = None  # the converter wants f0, f1, …
    return tools.convert_xgboost(booster, initial_types=inputs, target_opset=opset)


def _of_lightgbm(payload: bytes, width: int, opset: int) -> Any:
    import lightgbm

    from everloop.runtime.lightgbm_file import read_facts

    tools, inputs = _tools(width)
    booster = lightgbm.Booster(model_str=read_facts(payload).checked)
    return tools.convert_lightgbm(booster, initial_types=inputs, target_opset=opset, zipmap=False)


def _of_catboost(payload: bytes, width: int, opset: int) -> Any:  # noqa: ARG001  CatBoost's own choice
    import catboost
    import onnx

    model = catboost.CatBoost()
    model.load_model(blob=payload)
    with tempfile.TemporaryDirectory(prefix="everloop-onnx-") as folder:
        written = Path(folder) / "model.onnx"
        model.save_model(str(written), format="onnx")
        return onnx.load(str(written))


def _tools(width: int) -> tuple[Any, list[tuple[str, Any]]]:
    try:
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType
    except ImportError as error:
        raise MissingExtra.of("boost", "converting boosted trees to ONNX") from error
    return onnxmltools, [(INPUT, FloatTensorType([None, width]))]


def _keep_probabilities(graph: Any, classes: int) -> None:
    """As the graph's one output: the table from which `ZipMap`, if there is one, would make mappings."""
    from onnx import TensorProto, helper

    maps = [node for node in graph.node if node.op_type == "ZipMap"]
    name = maps[0].input[0] if maps else graph.output[-1].name
    for node in maps:
        graph.node.remove(node)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, classes]))

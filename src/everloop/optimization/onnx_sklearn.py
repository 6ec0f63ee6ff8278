"""A fitted scikit-learn estimator or pipeline as an ONNX graph, by skl2onnx, made to answer as the estimator does.

The converter is taken by the hand where it is known to go astray: text is split as scikit-learn splits it, a missing category gets a
name that a string can hold, truth values become numbers, probabilities stay a table, and a decision function is not passed off as
probabilities. What it would convert wrongly without a word is refused here.

The inputs: one matrix where all columns are numbers and none is chosen by its name; else an input a column, named as the field.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from everloop.core.errors import NotSupported
from everloop.core.schema import Schema
from everloop.runtime.inputs import input_form

Precision = Literal["float32", "float64"]

MISSING_TEXT = "\N{SYMBOL FOR NULL}"
"""What stands for a missing text in the graph: its strings know no gap."""
_NEVER = MISSING_TEXT * 2
"""A category that no text is."""
_TOKENS = {r"(?u)\b\w\w+\b": r"[\pL\pN_][\pL\pN_]+", r"(?u)\b\w+\b": r"[\pL\pN_]+"}
"""Patterns of scikit-learn -> the same in RE2, which ONNX Runtime uses. RE2's own `\\w` knows ASCII only."""
_LOCALE = "C.UTF-8"
"""By which letters are lowered; the converter's own choice, en_US, is not on every machine."""
_UNEVEN = ("\N{GREEK SMALL LETTER FINAL SIGMA}", "\N{COMBINING DOT ABOVE}")
"""What Python alone makes of a capital letter."""
_VECTORISERS = ("CountVectorizer", "TfidfVectorizer")


def graph_of(estimator: Any, schema: Schema, *, precision: Precision, opset: int) -> bytes:
    """The graph. `estimator` is the caller's own copy and is changed. Raises NotSupported in words."""
    parts = list(_parts(estimator))
    # as `inputs.shape_rows` gives a missing text to the estimator; as the other of the two it never comes
    gap = None if input_form(estimator, schema) == "matrix" else math.nan
    for part in parts:
        _refuse(part)
        _prepare(part, gap)
    from skl2onnx import convert_sklearn
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries that are a version apart, which their user cannot help
            made = convert_sklearn(
                estimator,
                initial_types=_inputs(estimator, schema, parts, precision),
                target_opset={"": opset, "ai.onnx.ml": 3},
                options={
                    id(part): {"tokenexp": _TOKENS[part.token_pattern], "locale": _LOCALE}
                    for part in parts
                    if type(part).__name__ in _VECTORISERS
                },
            )
    except (MissingConverter, MissingShapeCalculator) as error:
        raise NotSupported(f"skl2onnx knows no ONNX for it: {_first_line(error)}") from error
    except Exception as error:  # converters raise whatever a part's attributes make them raise
        raise NotSupported(f"skl2onnx cannot convert it: {type(error).__name__}: {_first_line(error)}") from error
    if hasattr(estimator, "classes_"):
        _without_maps(made, len(estimator.classes_), precision)
    if hasattr(estimator, "classes_") and not hasattr(estimator, "predict_proba") and len(made.graph.output) > 1:
        del made.graph.output[1:]  # decision values under the name of probabilities
    payload: bytes = made.SerializeToString()
    return payload


def _parts(estimator: Any) -> Iterator[Any]:
    """The estimator and all that it is built of, fitted parts too."""
    seen: set[int] = set()
    waiting = [estimator]
    while waiting:
        part = waiting.pop()
        if isinstance(part, (list, tuple)):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, np.ndarray):
            waiting += part.ravel().tolist() if part.dtype == object else []
        elif hasattr(part, "get_params") and not isinstance(part, type) and id(part) not in seen:
            seen.add(id(part))
            yield part
            waiting += vars(part).values()


def _refuse(part: Any) -> None:
    """What skl2onnx would convert without an error, to something else."""
    name = type(part).__name__
    if name.startswith("HistGradientBoosting"):
        if getattr(part, "is_categorical_", None) is not None and np.any(part.is_categorical_):
            raise NotSupported(f"{name} splits categories into sets, which skl2onnx takes for thresholds")
        loss = getattr(part, "loss", "")
        if loss in ("poisson", "gamma"):
            raise NotSupported(f"{name}(loss={loss!r}) answers through an exponential, which skl2onnx leaves out")
    if name in _VECTORISERS:
        _refuse_vectoriser(name, part)
    if name == "HashingVectorizer":
        raise NotSupported(f"{name}: ONNX has no operator that hashes as it does")


def _refuse_vectoriser(name: str, part: Any) -> None:
    for option in ("preprocessor", "tokenizer", "strip_accents"):
        if getattr(part, option, None) is not None:
            raise NotSupported(f"{name}({option}=…): ONNX has no operator for it")
    if part.analyzer != "word":
        raise NotSupported(f"{name}(analyzer={part.analyzer!r}): skl2onnx splits only words as scikit-learn does")
    if part.token_pattern not in _TOKENS:
        raise NotSupported(f"{name}(token_pattern={part.token_pattern!r}): it is not known to split alike in ONNX")
    if part.stop_words and tuple(part.ngram_range) != (1, 1):
        raise NotSupported(
            f"{name}(stop_words=…, ngram_range={part.ngram_range}): ONNX leaves stop words between words"
        )
    if getattr(part, "sublinear_tf", False):
        raise NotSupported(f"{name}(sublinear_tf=True): skl2onnx takes another logarithm")
    if part.lowercase and any(letter in word for word in getattr(part, "vocabulary_", ()) for letter in _UNEVEN):
        raise NotSupported(
            f"{name}(lowercase=True): ONNX lowers letter by letter, so its Greek and Turkish words differ"
        )


def _prepare(part: Any, gap: float | None) -> None:
    """Make a part such that its conversion answers as it does."""
    classes = getattr(part, "__dict__", {}).get("classes_")
    if isinstance(classes, np.ndarray) and classes.dtype == bool:
        part.classes_ = classes.astype(np.int64)
    if type(part).__name__ == "VotingClassifier":
        part.flatten_transform = False  # the only form that skl2onnx knows; `predict` does not read it
    learned = getattr(part, "__dict__", {}).get("categories_")
    if isinstance(learned, list):
        part.categories_ = [_without_gaps(values, gap) for values in learned]


def _without_gaps(values: Any, gap: float | None) -> Any:
    """Categories, as strings alone. `gap`: what a missing text is when it comes to the encoder."""
    if not isinstance(values, np.ndarray) or values.dtype != object:
        return values
    names = {True: MISSING_TEXT if gap is None else _NEVER, False: _NEVER if gap is None else MISSING_TEXT}
    return np.array([names[v is None] if v is None or v != v else v for v in values], dtype=object)


def _inputs(estimator: Any, schema: Schema, parts: list[Any], precision: Precision) -> list[tuple[str, Any]]:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    number = FloatTensorType if precision == "float32" else DoubleTensorType
    by_name = input_form(estimator, schema) == "frame" and any(type(p).__name__ == "ColumnTransformer" for p in parts)
    if schema.numeric and not by_name:
        return [("X", number([None, len(schema.fields)]))]
    return [(f.name, StringTensorType([None, 1]) if f.kind == "text" else number([None, 1])) for f in schema.fields]


def _without_maps(model: Any, classes: int, precision: Precision) -> None:
    """The table of scores as it was before `ZipMap` made a mapping a row of it, which costs more than most models."""
    from onnx import TensorProto, helper, shape_inference

    graph = model.graph
    usual = TensorProto.FLOAT if precision == "float32" else TensorProto.DOUBLE
    types = {
        info.name: info.type.tensor_type.elem_type for info in shape_inference.infer_shapes(model).graph.value_info
    }
    for node in [node for node in graph.node if node.op_type == "ZipMap"]:
        name = node.input[0]
        table = helper.make_tensor_value_info(name, types.get(name, usual), [None, classes])
        place = next(i for i, out in enumerate(graph.output) if out.name == node.output[0])
        graph.output[place].CopyFrom(table)
        graph.node.remove(node)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__

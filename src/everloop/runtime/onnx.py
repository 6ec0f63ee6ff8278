"""ONNX models: what a file says of its inputs and outputs, and the session that answers through ONNX Runtime.

One thread, no spinning: a server answers many small requests at once, and ONNX Runtime's own pool would only get in its way. `run` asks
for the one output that holds the answer; the probabilities beside it are computed when `scores` asks.

Options of a manifest: `threads`; `graph`, how far ONNX Runtime rewrites the graph when it is opened (`none`, `basic`, `extended` or `all`,
as where nothing is said); `missing_text`, what is put in for a text that is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from everloop.core.errors import ArtifactCorrupt, InvalidInput, ModelFailed, NotSupported
from everloop.core.schema import Field, Schema, Target
from everloop.core.types import Task
from everloop.runtime.artifact import Trust, library_versions, threads_of
from everloop.runtime.onnx_tensors import OnnxTensors, signature_of, tensors_only
from everloop.runtime.own_tensors import Rows, TensorSession
from everloop.runtime.protobuf import class_labels, points_elsewhere
from everloop.runtime.session import Matrix, labels_by_place
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_FIELDS = 1_000_000
MOST_FOLDED = 10_000
"""Values of a row of which some axes were folded into one: an image is asked for as the tensor that it is."""
_NUMBERS: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")
_GRAPH_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_LABELS = ("tensor(int64)", "tensor(string)", "tensor(int32)", "tensor(bool)")
_MAPS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")


@dataclass(frozen=True)
class Input:
    """`width` neighbouring fields of a row go into the input `name`, as an array of shape (n, *shape)."""

    name: str
    type: str
    shape: tuple[int, ...]
    single: bool
    """Whether its batch axis is fixed at one: rows then go one by one."""

    @property
    def width(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Answer:
    """Which output holds the answer, how it is read, and which output holds the probabilities."""

    name: str
    how: Literal["value", "label", "argmax"]
    scores: str | None = None
    scores_are_maps: bool = False

    @property
    def task(self) -> Task:
        return "regression" if self.how == "value" else "classification"


class OnnxSession:
    def __init__(self, manifest: Manifest, runtime: Any) -> None:
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = manifest.classes
        self._inputs = read_inputs(runtime)
        self._answer = find_answer(runtime)
        if sum(each.width for each in self._inputs) != len(self.schema.fields) or self._answer.task != manifest.task:
            raise ArtifactCorrupt("the ONNX model has other inputs or outputs than its manifest tells")
        self.tabular = self._answer.how == "argmax"
        """Whether the graph itself answers scores, and no label or value."""
        self._by_place = labels_by_place(self.classes) if self._answer.how == "argmax" else None
        first = self._inputs[0]
        self._plain = len(self._inputs) == 1 and first.type in _FLOATS and len(first.shape) == 1 and not first.single
        self.single = any(each.single for each in self._inputs)
        """Whether the graph takes one row at a time."""
        self.dtype: Any = object
        if self.schema.numeric:
            self.dtype = np.float32 if all(each.type == "tensor(float)" for each in self._inputs) else np.float64
        self._kind = _NUMBERS.get(first.type, object)
        self._run: Any = direct(runtime)
        self._missing_text = str(manifest.options.get("missing_text", ""))
        # a graph knows no truth values and no floats for labels: it answers whole numbers
        self._labels = (
            np.asarray(self.classes).dtype if self.classes and type(self.classes[0]) in (bool, float) else None
        )
        self._wanted = [self._answer.name]
        self._first_name = first.name
        self.scored = self._answer.scores is not None and self.classes is not None
        if manifest.options.get("tensors") != "rows":  # `rows`: a form of a model that is asked as its features say
            self.tensors = OnnxTensors(runtime, self.classes, Rows(self._answer.name, self._read))

    def run(self, X: Matrix) -> Matrix:
        if self._plain:
            feed = {self._first_name: np.ascontiguousarray(X, dtype=self._kind)}
            return self._read(self._run(self._wanted, feed)[0], len(X))
        if self.single:
            rows = [self._read(self._run(self._wanted, self.feed(X[i : i + 1]))[0], 1) for i in range(len(X))]
            return np.concatenate(rows) if rows else np.empty(0)
        return self._read(self._run(self._wanted, self.feed(X))[0], len(X))

    def scores(self, X: Matrix) -> NDArray[np.float64] | None:
        if not self.scored or self.classes is None:
            return None
        batches = [X[i : i + 1] for i in range(len(X))] if self.single else [X]
        parts = []
        for batch in batches:
            (out,) = self._run([self._answer.scores], self.feed(batch))
            if self._answer.scores_are_maps:
                parts.append(np.array([[row[label] for label in self.classes] for row in out], np.float64))
            else:
                parts.append(np.asarray(out, np.float64).reshape(len(batch), -1))
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes)))

    def close(self) -> None:
        """ONNX Runtime frees the model when the last reference goes."""
        self._run = _closed
        if hasattr(self, "tensors"):
            self.tensors.close()

    def feed(self, X: Matrix) -> dict[str, Any]:
        """(n, fields) as what ONNX Runtime takes: an array an input. Raises InvalidInput (an integer input and a fraction)."""
        feed: dict[str, Any] = {}
        start = 0
        for each in self._inputs:
            part = X[:, start : start + each.width]
            start += each.width
            if each.type == "tensor(string)":
                typed = self._texts(part)
            else:
                typed = _typed(part, each.type, self.schema, start - each.width)
            feed[each.name] = typed.reshape(len(X), *each.shape)
        return feed

    def _texts(self, part: Matrix) -> Matrix:
        texts = part.astype(object)  # a copy
        texts[texts == None] = self._missing_text  # noqa: E711  element by element
        return texts

    def _read(self, out: Any, rows: int) -> Matrix:
        values = np.asarray(out)
        if self._answer.how == "argmax":
            best: Matrix = values.reshape(rows, -1).argmax(axis=1)
            return best if self._by_place is None else self._by_place[best]
        if values.size != rows:
            raise ModelFailed(
                f"the ONNX model's output {self._answer.name!r} has shape {values.shape} for {rows} rows: one answer a row is expected"
            )
        values = values.reshape(rows)
        if self._answer.how == "value":
            return values.astype(np.float64)
        return values if self._labels is None else values.astype(self._labels)


def _closed(*_: Any) -> Any:
    raise ModelFailed("this ONNX session is closed")


def load(manifest: Manifest, payload: bytes, trust: Trust | None = None) -> OnnxSession | TensorSession:  # noqa: ARG001  as in `linear`
    level = manifest.options.get("graph", "all")
    if level not in _GRAPH_LEVELS:
        raise ArtifactCorrupt(f"options.graph: expected one of {', '.join(_GRAPH_LEVELS)}, got {level!r}")
    runtime = open_runtime(payload, threads=threads_of(manifest), graph=level)
    if manifest.task == "tensors":
        return tensors_only(manifest, runtime, why_no_rows(runtime))
    return OnnxSession(manifest, runtime)


def open_runtime(payload: bytes, *, threads: int = 1, graph: str = "all") -> Any:
    """An `onnxruntime.InferenceSession`. Raises ArtifactCorrupt, NotSupported (`check_whole`)."""
    import onnxruntime

    check_whole(payload)
    options = session_options(graph)
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions derive from nothing more special
        raise ArtifactCorrupt(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error


def check_whole(payload: bytes) -> None:
    """Raises NotSupported for a model that keeps numbers in other files: loading it would read whatever file of this machine it names."""
    if payload[4:8] == b"ORTM":
        return
    try:
        elsewhere = points_elsewhere(payload)
    except (IndexError, ValueError) as error:
        raise ArtifactCorrupt(f"the ONNX model cannot be read: {error}") from error
    if elsewhere:
        raise NotSupported(
            "the ONNX model keeps its weights in another file: put them into one, onnx.save(onnx.load(path), 'whole.onnx')"
        )


def direct(runtime: Any) -> Any:
    """`(outputs, feed) -> arrays`: an `InferenceSession.run` without its look at the feed's names, which costs a fifth of a small model's
    time and which ONNX Runtime repeats inside."""
    inner = getattr(runtime, "_sess", None)
    if inner is None:
        return runtime.run

    def run(outputs: list[str], feed: dict[str, Any]) -> Any:
        return inner.run(outputs, feed, None)

    return run


def session_options(graph: str = "all") -> Any:
    """`onnxruntime.SessionOptions` of one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _GRAPH_LEVELS[graph])
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # a plan is kept for each batch size, and batches come in all sizes
    options.log_severity_level = 4  # it raises what it would log
    return options


def read_file(payload: bytes, trust: Trust | None = None) -> Manifest:  # noqa: ARG001  as in `sklearn`
    """What an ONNX file tells of itself. Raises ArtifactCorrupt, NotSupported."""
    runtime = open_runtime(payload)
    why = why_no_rows(runtime)
    if why:
        return _tensors_manifest(runtime, why)
    inputs, answer = read_inputs(runtime), find_answer(runtime)
    classes = _classes(payload, runtime, inputs, answer)
    if answer.task == "regression":
        target = Target("regression")
    elif classes:
        target = Target.infer("classification", classes[0])
    else:
        kind = next(out.type for out in runtime.get_outputs() if out.name == answer.name)
        target = Target("classification", _label_kind(kind))
    return Manifest(
        runtime="onnx",
        task=answer.task,
        schema=_schema(inputs),
        target=target,
        classes=classes,
        libraries=library_versions("onnxruntime"),
    )


def why_no_rows(runtime: Any) -> str:
    """Why no row of features can fill the inputs, or no output is an answer a row; empty where both are so."""
    try:
        inputs = read_inputs(runtime)
        find_answer(runtime)
    except NotSupported as error:
        return error.message
    width = sum(each.width for each in inputs)
    if width > MOST_FOLDED and any(len(each.shape) > 1 for each in inputs):
        return f"the ONNX model's inputs have {width:,} values a row, in several axes"
    return ""


def _tensors_manifest(runtime: Any, why: str) -> Manifest:
    """Raises NotSupported where it can be asked neither by rows nor by tensors."""
    try:
        signature_of(runtime, None, strict=True)
    except NotSupported as error:
        raise NotSupported(f"{why}; and as tensors: {error.message}") from error
    libraries = library_versions("onnxruntime")
    return Manifest("onnx", "tensors", Schema(()), Target("tensors"), libraries=libraries)


def read_inputs(runtime: Any) -> list[Input]:
    """Raises NotSupported for inputs that a row of features cannot fill."""
    inputs = []
    for each in runtime.get_inputs():
        shape = each.shape
        told = f"the ONNX model's input {each.name!r} has type {each.type} and shape {_shown(shape)}"
        if each.type not in _NUMBERS and each.type != "tensor(string)":
            raise NotSupported(f"{told}: numbers and text are what a row of features can fill")
        if not shape:
            raise NotSupported(f"{told}: an input with one row an example is needed")
        inner = shape[1:]
        if not all(isinstance(size, int) and size > 0 for size in inner):
            raise NotSupported(f"{told}: export it with a fixed number of features, such as (batch, 30)")
        if isinstance(shape[0], int) and shape[0] > 1:
            wanted = "export it with a variable first axis (dynamic_axes, or a first dimension of None)"
            raise NotSupported(f"{told}: the size of its batch is fixed at {shape[0]}; {wanted}")
        made = Input(each.name, each.type, tuple(inner), shape[0] == 1)
        if made.width > MOST_FIELDS:
            raise NotSupported(f"{told}: more than {MOST_FIELDS:,} features a row")
        inputs.append(made)
    if not inputs:
        raise NotSupported("the ONNX model has no inputs")
    return inputs


def find_answer(runtime: Any) -> Answer:
    """Labels where there are any; then a value a row; then the greatest of several scores. Raises NotSupported."""
    outputs = runtime.get_outputs()
    labels = [out for out in outputs if out.type in _LABELS and _per_row(out.shape) == 1]
    maps = [out for out in outputs if out.type in _MAPS]
    floats = [out for out in outputs if out.type in _FLOATS]
    values = [out for out in floats if _per_row(out.shape) == 1]
    tables = [out for out in floats if out not in values and len(out.shape) == 2]
    if labels:
        chosen = next((out for out in labels if "label" in out.name.lower()), labels[0])
        if maps:
            return Answer(chosen.name, "label", maps[0].name, scores_are_maps=True)
        return Answer(chosen.name, "label", tables[0].name if tables else None)
    if values and (len(outputs) == 1 or not tables):
        return Answer(values[0].name, "value")
    if tables:
        return Answer(tables[0].name, "argmax", tables[0].name)
    shown = ", ".join(f"{out.name}: {out.type} {_shown(out.shape)}" for out in outputs)
    raise NotSupported(
        f"no output of the ONNX model is one number or one label a row, or one score a class; it has {shown}"
    )


def _per_row(shape: Any) -> int | None:
    """How many values a row an output has; None where that is not known."""
    inner = (shape or [])[1:]
    return math.prod(inner) if all(isinstance(size, int) for size in inner) else None


def _classes(payload: bytes, runtime: Any, inputs: list[Input], answer: Answer) -> list[Any] | None:
    """From the model's own nodes; where they say nothing, from what it answers to a row of zeros. None where neither tells."""
    if answer.task == "regression":
        return None
    if answer.how == "label":
        found = class_labels(payload)
        if found:
            return found
    if answer.scores is None:
        return None
    feed = {each.name: _zeros(each) for each in inputs}
    try:
        (out,) = runtime.run([answer.scores], feed)
    except Exception:  # an encoder inside may not know the zeros: then the classes stay unknown until it answers
        return None
    if answer.scores_are_maps:
        return sorted(out[0])
    return list(range(np.asarray(out).shape[-1])) if answer.how == "argmax" else None


def _zeros(each: Input) -> Any:
    if each.type == "tensor(string)":
        return np.full((1, *each.shape), "", dtype=object)
    return np.zeros((1, *each.shape), _NUMBERS[each.type])


def _schema(inputs: list[Input]) -> Schema:
    if len(inputs) == 1 and inputs[0].type != "tensor(string)" and inputs[0].width > 1:
        return Schema.unnamed(inputs[0].width)
    fields = []
    for each in inputs:
        kind: Literal["text", "number"] = "text" if each.type == "tensor(string)" else "number"
        names = [each.name] if each.width == 1 else [f"{each.name}_{i}" for i in range(each.width)]
        fields += [Field(name, kind) for name in names]
    return Schema(tuple(fields), named=True)


def _typed(part: Matrix, kind: str, schema: Schema, start: int) -> Any:
    if kind in _FLOATS:
        return np.ascontiguousarray(part, dtype=_NUMBERS[kind])
    numbers = np.asarray(part, np.float64)
    with np.errstate(invalid="ignore"):  # numbers beyond the type's range come out different, which is noticed below
        whole = numbers.astype(_NUMBERS[kind])
    wrong = np.argwhere(whole != numbers)
    if len(wrong):
        row, column = wrong[0]
        name = schema.fields[start + column].name
        raise InvalidInput(
            f"features.{name}: the model takes whole numbers here, got {numbers[row, column].item()!r}",
            field=f"features.{name}",
        )
    return whole


def _label_kind(kind: str) -> Literal["integer", "text", "boolean"]:
    return "text" if kind == "tensor(string)" else "boolean" if kind == "tensor(bool)" else "integer"


def _shown(shape: Any) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

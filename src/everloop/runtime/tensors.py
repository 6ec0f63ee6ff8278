"""A loaded model as tensors see it: what it takes and gives by name, and how it answers.

An ONNX model brings its own inputs and outputs (`runtime.onnx_tensors`). Any other is a model of rows, and its tensors follow from its
schema:

    named fields            one input a field, [-1] or [-1, 1]; where all are numbers, also one `features` [-1, fields]
    fields without names    one input `features` [-1, fields]
    outputs                 `prediction` [-1]; `probabilities` [-1, classes] of a classifier that has them

A number takes every datatype of numbers, since any of them is a float that the model may see; text is BYTES in UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from everloop.core.errors import InvalidInput, ModelFailed
from everloop.core.schema import Field, LabelKind, Schema
from everloop.core.tensors import Array, Signature, Tensor, Tensors, TensorSpec
from everloop.runtime.session import Matrix, Session, plain_answers

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEATURES, PREDICTION, PROBABILITIES = "features", "prediction", "probabilities"
_MOST_FIELDS_EACH = 256
"""A named schema of more numbers than that is told as one tensor `features`."""
_LABEL_TYPES: dict[LabelKind, tuple[str, Any]] = {
    "number": ("FP64", np.float64),
    "integer": ("INT64", np.int64),
    "boolean": ("BOOL", np.bool_),
    "text": ("BYTES", object),
}


class Answered(NamedTuple):
    """What the journal keeps of an inference: the rows as a model of rows takes them, and one answer for each."""

    X: Matrix
    values: list[Any]


class TensorModel(Protocol):
    """Callable from several threads at once."""

    @property
    def signature(self) -> Signature: ...

    @property
    def batched(self) -> bool:
        """Whether requests can be put together along the first axis."""

    @property
    def always(self) -> tuple[str, ...]:
        """Outputs that every run needs, asked for or not: what is recorded."""

    def take(self, tensors: Sequence[Tensor]) -> list[Array]:
        """What came, checked and in the model's own order and types. Raises InvalidInput naming the input."""

    def infer(self, arrays: list[Array], outputs: Sequence[str]) -> Tensors:
        """Of what `take` gave. May raise anything."""

    def answered(self, arrays: list[Array], answers: Tensors) -> Answered | None:
        """None where no row stands for it."""


def tensor_model(session: Session) -> TensorModel:
    """The session's own, or the one that follows from its schema."""
    own: TensorModel | None = getattr(session, "tensors", None)
    return RowTensors(session) if own is None else own


class RowTensors:
    """Any session that answers rows. One array of `take` is the matrix of rows."""

    batched = True
    always = (PREDICTION,)

    def __init__(self, session: Session) -> None:
        self._session = session
        schema = self._schema = session.schema
        self._regression = session.target.task == "regression"
        self._dtype = session.dtype if schema.numeric and np.dtype(session.dtype).kind == "f" else None
        datatype, self._answer_type = _LABEL_TYPES[session.target.kind]
        outputs = [TensorSpec(PREDICTION, datatype, (-1,))]
        if session.classes is not None and getattr(session, "scored", True):
            outputs.append(TensorSpec(PROBABILITIES, "FP64", (-1, len(session.classes))))
        self.signature = Signature(_inputs(schema), tuple(outputs))

    def take(self, tensors: Sequence[Tensor]) -> list[Array]:
        schema = self._schema
        if len(tensors) == 1 and tensors[0].name == FEATURES and (schema.numeric or not schema.named):
            X = self._table(tensors[0])
        else:
            X = self._columns(tensors)
        return [X]

    def infer(self, arrays: list[Array], outputs: Sequence[str]) -> Tensors:
        (X,) = arrays
        answers: Tensors = {}
        if PREDICTION in outputs:
            answers[PREDICTION] = self._predictions(X)
        if PROBABILITIES in outputs:
            scores = self._session.scores(X)
            if scores is None:
                raise ModelFailed("the model gives no probabilities")
            answers[PROBABILITIES] = scores
        return answers

    def answered(self, arrays: list[Array], answers: Tensors) -> Answered | None:
        return Answered(arrays[0], answers[PREDICTION].tolist())

    def _predictions(self, X: Matrix) -> Array:
        Y = self._session.run(X)
        if Y.shape != (len(X),):
            return Y  # whoever runs it sees that it is not an answer a row
        if self._regression:
            return Y.astype(np.float64, copy=False)
        return np.array(plain_answers(Y, regression=False), self._answer_type)

    def _table(self, tensor: Tensor) -> Matrix:
        fields = self._schema.fields
        if len(tensor.shape) != 2 or tensor.shape[1] != len(fields):
            raise wrong_shape(tensor, (-1, len(fields)))
        if self._dtype is None:
            return self._schema.matrix(
                self._schema.rows([[_plain(value) for value in row] for row in tensor.data], "inputs")
            )
        X = _numbers(tensor)
        if not np.isfinite(X).all():
            _check_finite(X, fields, tensor.name)
        return np.ascontiguousarray(X, self._dtype)

    def _columns(self, tensors: Sequence[Tensor]) -> Matrix:
        schema = self._schema
        if not schema.named:
            raise unknown_inputs(tensors, self.signature)
        by_name = by_names(tensors, schema.names)
        columns = []
        for field in schema.fields:
            tensor = by_name[field.name]
            shape = tensor.shape
            if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
                raise wrong_shape(tensor, (-1,))
            columns.append(_column(field, tensor, self._dtype is None))
        if len({len(column) for column in columns}) != 1:
            raise different_rows(columns)
        if self._dtype is not None:
            return np.ascontiguousarray(np.stack(columns, axis=1), self._dtype)
        return schema.matrix(schema.rows([list(row) for row in zip(*columns, strict=True)], "inputs"))


def _inputs(schema: Schema) -> tuple[TensorSpec, ...]:
    if schema.named and (len(schema.fields) <= _MOST_FIELDS_EACH or not schema.numeric):
        return tuple(TensorSpec(f.name, "FP64" if f.kind == "number" else "BYTES", (-1,)) for f in schema.fields)
    return (TensorSpec(FEATURES, "FP64" if schema.numeric else "BYTES", (-1, len(schema.fields))),)


def by_names(tensors: Sequence[Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Exactly those. Raises InvalidInput."""
    if len(tensors) == 1 == len(names) and tensors[0].name == names[0]:
        return {names[0]: tensors[0]}
    found = {tensor.name: tensor for tensor in tensors}
    if len(found) != len(tensors):
        raise InvalidInput("inputs: the same name is given twice", field="inputs")
    missing = [name for name in names if name not in found]
    if missing or len(found) != len(names):
        extra = sorted(set(found).difference(names))
        told = "; ".join(f"{what} {_some(some)}" for what, some in (("missing", missing), ("got", extra)) if some)
        raise InvalidInput(
            f"inputs: expected {len(names)} inputs ({_some(names)}), got {len(found)}; {told}", field="inputs"
        )
    return found


def unknown_inputs(tensors: Sequence[Tensor], signature: Signature) -> InvalidInput:
    wanted = [spec.name for spec in signature.inputs]
    got = [tensor.name for tensor in tensors]
    return InvalidInput(f"inputs: expected {_some(wanted)}, got {_some(got)}", field="inputs")


def wrong_shape(tensor: Tensor, wanted: tuple[int, ...]) -> InvalidInput:
    return InvalidInput(
        f"inputs.{tensor.name}: unexpected shape for input {tensor.name!r}: expected {_shown(wanted)}, got {_shown(tensor.shape)}",
        field=f"inputs.{tensor.name}",
    )


def wrong_type(tensor: Tensor, wanted: str) -> InvalidInput:
    return InvalidInput(
        f"inputs.{tensor.name}: unexpected datatype for input {tensor.name!r}: expected {wanted}, got {tensor.datatype}",
        field=f"inputs.{tensor.name}",
    )


def different_rows(arrays: Sequence[Array]) -> InvalidInput:
    rows = sorted({len(array) for array in arrays})
    return InvalidInput(f"inputs: all need the same number of rows, got {', '.join(map(str, rows))}", field="inputs")


def texts(tensor: Tensor) -> NDArray[np.object_]:
    """BYTES as `str`. Raises InvalidInput."""
    out = np.empty(tensor.data.size, object)
    try:
        for i, value in enumerate(tensor.data.flat):
            out[i] = value if isinstance(value, str) else bytes(value).decode()
    except UnicodeDecodeError:
        raise InvalidInput(
            f"inputs.{tensor.name}: element {i} is not UTF-8, which text is", field=f"inputs.{tensor.name}"
        ) from None
    return out.reshape(tensor.data.shape)


def _column(field: Field, tensor: Tensor, checked_later: bool) -> Array:
    if field.kind == "text":
        if tensor.datatype != "BYTES":
            raise wrong_type(tensor, "BYTES")
        column: Array = texts(tensor).reshape(-1)
        return column
    numbers = _numbers(tensor).reshape(-1)
    if not checked_later and not np.isfinite(numbers).all():
        _check_finite(numbers.reshape(-1, 1), (field,), tensor.name)
    return numbers


def _numbers(tensor: Tensor) -> Array:
    """An array of numbers, as it came. Raises InvalidInput."""
    if tensor.datatype == "BYTES":
        raise wrong_type(tensor, "FP64")
    data: Array = tensor.data
    return data


def _check_finite(X: Array, fields: Sequence[Field], name: str) -> None:
    """Raises InvalidInput for the first value that is infinite, or missing where the field may not be."""
    nullable = np.array([field.nullable for field in fields])
    wrong = np.argwhere(np.isinf(X) | (np.isnan(X) & ~nullable))
    if len(wrong):
        row, column = wrong[0]
        raise InvalidInput(
            f"inputs.{name}: {fields[column].name} of row {row} is {X[row, column]!s}, expected a finite number",
            field=f"inputs.{name}",
        )


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(repr(name) for name in names[:most]) + (", …" if len(names) > most else "")


def _shown(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"

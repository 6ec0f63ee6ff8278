"""What a model takes and gives: named fields in order, and the kind of its target.

A schema is inferred from the first examples (or read from an artifact), kept, and enforced on every way in. `row` is the one
place where a caller's features become a list in schema order; its errors name the feature and say what was expected.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from everloop.core.errors import InvalidInput, NotSupported
from everloop.core.types import Features, Row, Scalar, Task
from everloop.core.wording import near_names

if TYPE_CHECKING:
    import numpy as np

FieldKind = Literal["number", "text"]
LabelKind = Literal["number", "integer", "boolean", "text"]
_LARGEST = sys.float_info.max
Encoding = Literal["f4", "f8", "msgpack"]
LONGEST_CLASS = 256
"""Characters of a label that is text: it is a name, which answers and metrics tell again."""


class Field(msgspec.Struct, frozen=True):
    name: str
    kind: FieldKind = "number"
    nullable: bool = False
    """Whether a missing value (None, NaN) is allowed."""


class Target(msgspec.Struct, frozen=True):
    """The kind of a label. Regression takes finite numbers; classification takes labels of one kind."""

    task: Task
    kind: LabelKind = "number"

    @classmethod
    def infer(cls, task: Task, label: Any) -> Target:
        if task == "regression":
            return cls(task, "number")
        label = plain(label)
        if isinstance(label, bool):
            return cls(task, "boolean")
        if isinstance(label, str):
            return cls(task, "text")
        if isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
            return cls(task, "integer")
        raise InvalidInput(f"a class label is an integer, a boolean or a string, not {label!r}", field="label")

    def check(self, label: Any) -> Scalar:
        """The label in its canonical Python type. Raises InvalidInput."""
        label = plain(label)
        if self.kind == "number":
            if isinstance(label, (int, float)) and not isinstance(label, bool) and -_LARGEST <= label <= _LARGEST:
                return float(label)
            raise InvalidInput(f"label: expected a finite number, got {_short(label)}", field="label")
        if self.kind == "text":
            if isinstance(label, str):
                if 1 <= len(label) <= LONGEST_CLASS:
                    return label
                raise InvalidInput(
                    f"label: expected 1 to {LONGEST_CLASS} characters, got {len(label):,}", field="label"
                )
        elif self.kind == "boolean":
            if isinstance(label, bool) or (isinstance(label, int) and label in (0, 1)):
                return bool(label)
        elif (
            isinstance(label, (int, float))
            and not isinstance(label, bool)
            and -(2**63) <= label < 2**63
            and label == int(label)
        ):
            return int(label)
        raise InvalidInput(f"label: expected a class label of kind {self.kind}, got {_short(label)}", field="label")


class Schema(msgspec.Struct, frozen=True):
    """`named` tells whether callers may give mappings; lists in field order are always welcome."""

    fields: tuple[Field, ...]
    named: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def numeric(self) -> bool:
        return all(field.kind == "number" for field in self.fields)

    @classmethod
    def unnamed(cls, width: int) -> Schema:
        return cls(tuple(Field(f"x{i}") for i in range(width)))

    @classmethod
    def of_names(cls, names: Iterable[str]) -> Schema:
        return cls(tuple(Field(str(name)) for name in names), named=True)

    @classmethod
    def infer(cls, examples: Sequence[Features]) -> Schema:
        """From the first examples: mappings give names, values give kinds, a missing value makes a field nullable."""
        if not examples:
            raise InvalidInput("cannot infer a schema from no examples", field="features")
        first = examples[0]
        if isinstance(first, Mapping):
            names = [str(key) for key in first]
            columns = [[plain(e[n]) for e in examples if isinstance(e, Mapping) and n in e] for n in first]
            named = True
        else:
            rows = [_as_list(example) for example in examples]
            names = [f"x{i}" for i in range(len(rows[0]))]
            columns = [[plain(row[i]) for row in rows if i < len(row)] for i in range(len(rows[0]))]
            named = False
        if not names:
            raise InvalidInput("an example needs at least one feature", field="features")
        return cls(tuple(_infer_field(n, c) for n, c in zip(names, columns, strict=True)), named=named)

    def row(self, features: Features, at: str = "features") -> Row:
        """`features` as a list in field order. Raises InvalidInput naming the feature; `at` prefixes its path."""
        if type(features) is list and len(features) == len(self.fields) and _plain_floats(features) and self.numeric:
            return features.copy()
        if isinstance(features, Mapping):
            values = self._by_name(features, at)
        else:
            values = _as_list(features, at)
            if len(values) != len(self.fields):
                raise InvalidInput(
                    f"{at}: expected {_features(len(self.fields))} ({_some(self.names)}), got {len(values)}", field=at
                )
        return [
            _check(field, value, f"{at}.{field.name}" if self.named else f"{at}[{i}]")
            for i, (field, value) in enumerate(zip(self.fields, values, strict=True))
        ]

    def rows(self, instances: Iterable[Features], at: str = "instances") -> list[Row]:
        return [self.row(features, f"{at}[{i}]") for i, features in enumerate(instances)]

    def matrix(self, rows: Sequence[Row], dtype: Any = None) -> np.ndarray[Any, Any]:
        """Checked rows as an array (n, fields): floats (NaN for missing) if all fields are numbers, objects otherwise."""
        import numpy as np

        if self.numeric:
            return np.array(rows, dtype=dtype or np.float64).reshape(len(rows), len(self.fields))
        out = np.empty((len(rows), len(self.fields)), dtype=object)
        for i, row in enumerate(rows):
            out[i, :] = row
        return out

    def _by_name(self, features: Mapping[str, Any], at: str) -> list[Any]:
        if not self.named:
            raise InvalidInput(
                f"{at}: this model's features have no names; give a list of {len(self.fields)} values", field=at
            )
        if len(features) > len(self.fields) or any(key not in self.names for key in features):
            for key in features:
                if key not in self.names:
                    near = near_names(str(key), self.names, n=1)
                    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {_some(self.names)}"
                    raise InvalidInput(f"{at}.{key}: unknown feature{hint}", field=f"{at}.{key}")
        values = []
        for field in self.fields:
            if field.name in features:
                values.append(features[field.name])
            elif field.nullable:
                values.append(None)
            else:
                raise InvalidInput(f"{at}.{field.name}: missing", field=f"{at}.{field.name}")
        return values


class NoRows(Schema, frozen=True):
    """Of a model that no row of features can fill; `why`, in words."""

    why: str = ""

    @property
    def numeric(self) -> bool:
        return False

    def row(self, features: Features, at: str = "features") -> Row:  # noqa: ARG002  whatever they are
        raise NotSupported(
            f"this model is asked by tensors, with the Open Inference Protocol, and not by rows of features: {self.why}",
            field=at,
        )


def pack_rows(rows: Sequence[Row], schema: Schema) -> tuple[Encoding, bytes]:
    """Checked rows as bytes for the journal: little-endian float64 if all are numbers, msgpack otherwise."""
    if schema.numeric:
        return "f8", schema.matrix(rows).astype("<f8", copy=False).tobytes()
    return "msgpack", msgspec.msgpack.encode(rows)


def unpack_rows(encoding: Encoding, data: bytes, count: int) -> list[Row]:
    """The inverse of `pack_rows`: `count` rows; NaN comes back as None."""
    if encoding == "msgpack":
        rows: list[Row] = msgspec.msgpack.decode(data)
        return rows
    import numpy as np

    values = np.frombuffer(data, dtype="<" + encoding).astype(np.float64).reshape(count, -1)
    listed: list[Row] = values.tolist()
    if np.isnan(values).any():
        return [[None if v != v else v for v in row] for row in listed]
    return listed


def _infer_field(name: str, values: list[Any]) -> Field:
    present = [v for v in values if not _missing(v)]
    nullable = len(present) < len(values)
    if present and all(isinstance(v, str) for v in present):
        return Field(name, "text", nullable)
    for value in present:
        if not isinstance(value, (int, float)):
            raise InvalidInput(
                f"features.{name}: a feature is a number, a boolean or a string, not {type(value).__name__}",
                field=f"features.{name}",
            )
    return Field(name, "number", nullable)


def _check(field: Field, value: Any, path: str) -> Any:
    value = plain(value)
    if _missing(value):
        if field.nullable:
            return None
        raise InvalidInput(f"{path}: a value is required, got {value!r}", field=path)
    if field.kind == "number":
        if isinstance(value, (int, float)):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return number
        raise InvalidInput(f"{path}: expected a finite number, got {_short(value)}", field=path)
    if isinstance(value, str):
        return value
    raise InvalidInput(f"{path}: expected a string, got {_short(value)}", field=path)


_FLOATS = {float}


def _plain_floats(values: list[Any]) -> bool:
    """Whether all are finite floats: what nearly every request has, told without a look at each. A sum that overflows although
    no value does only costs the slow way."""
    if set(map(type, values)) != _FLOATS:
        return False
    total: float = sum(values)
    return total - total == 0.0


def plain(value: Any) -> Any:
    """A NumPy scalar as the Python one; anything else as it is."""
    if type(value) in (float, int, str, bool) or value is None:
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return value.item()
    return value


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _as_list(features: Any, at: str = "features") -> list[Any]:
    if isinstance(features, list):
        return features
    if isinstance(features, tuple):
        return list(features)
    if hasattr(features, "tolist") and getattr(features, "ndim", 1) == 1:  # arrays, pandas and polars series
        listed: list[Any] = features.tolist()
        return listed
    kind = type(features).__name__
    shape = f" of shape {features.shape}" if hasattr(features, "shape") else ""
    raise InvalidInput(f"{at}: expected a list, a mapping or a one-dimensional array, got {kind}{shape}", field=at)


def _features(count: int) -> str:
    return "1 feature" if count == 1 else f"{count} features"


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to write thousands of digits
        return "a huge integer"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"

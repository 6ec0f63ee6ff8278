"""Scored rows as the bytes of the output: lines of CSV or NDJSON, gzip members of them, or Arrow streams.

An encoder first `prepare`s a block, before anything is predicted: what the output cannot hold is then an error of that row like any
other. Then it writes the rows that are wanted.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, Literal

import msgspec

from everloop.app.scoring.decoding import CsvRows, JsonRows, Rows
from everloop.app.scoring.kinds import is_missing
from everloop.app.scoring.predicting import Answers
from everloop.app.scoring.rows import RowError


@dataclass(frozen=True)
class Layout:
    """The columns of the output, in order: of the input, the prediction, scores, what is the same in every row, the error."""

    keep: tuple[str, ...] | None
    """Columns of the input; None: all, whatever they are (NDJSON to NDJSON alone)."""
    closed: bool = False
    """Whether a row of NDJSON with further columns is bad: `keep` are all that there were at the beginning."""
    prediction: str = "prediction"
    scores: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    """The column that says why a row has no prediction, where bad rows are kept."""

    @property
    def added(self) -> tuple[str, ...]:
        return (self.prediction, *self.scores, *self.constants, *([self.error] if self.error else ()))

    def columns(self, rows: Rows, chosen: Sequence[int], answers: Answers) -> list[list[Any]]:
        """The values of the added columns in the rows at the positions `chosen`."""
        columns = [[answers.values[i] for i in chosen]]
        for at in range(len(self.scores)):
            column = answers.scores[at] if answers.scores is not None else [None] * len(rows)
            columns.append([column[i] for i in chosen])
        columns += [[value] * len(chosen) for value in self.constants.values()]
        if self.error:
            errors = rows.errors
            columns.append([errors[i].text() if i in errors else None for i in chosen])
        return columns


class Encoder(ABC):
    types: bytes | None = b""
    """Parquet: the schema of the added columns, None as long as it is not known; of text nothing has to be known."""

    def header(self) -> bytes:
        """What the output begins with."""
        return b""

    @abstractmethod
    def prepare(self, rows: Rows) -> Any:
        """Adds to `rows.errors`. What it returns is for `encode`."""

    @abstractmethod
    def encode(self, rows: Rows, prepared: Any, chosen: Sequence[int], answers: Answers) -> bytes:
        """The rows at the positions `chosen`. Raises Unfitting for an answer that the output cannot hold."""

    def learn_types(self, values: Sequence[Any]) -> None:  # noqa: B027 - most formats have no types
        """Of a function's answers, from the first ones: a number may be any number, a dict is kept as JSON."""

    def schema(self) -> Any:
        """Of the whole output, for Parquet."""
        return None


class CsvEncoder(Encoder):
    def __init__(self, layout: Layout, delimiter: str, *, gz: bool) -> None:
        assert layout.keep is not None
        self._layout = layout
        self._keep = layout.keep
        self._delimiter = delimiter
        self._gz = gz

    def header(self) -> bytes:
        return self._text([[*self._keep, *self._layout.added]])

    def prepare(self, rows: Rows) -> None:
        _refuse_further(rows, self._layout)

    def encode(self, rows: Rows, prepared: Any, chosen: Sequence[int], answers: Answers) -> bytes:  # noqa: ARG002
        kept: Sequence[Sequence[str]]
        if isinstance(rows, CsvRows) and tuple(rows.names) == self._keep:
            kept = rows.records
        else:
            columns = [
                rows.cells(name) if isinstance(rows, CsvRows) else list(map(as_cell, rows.values(name)))
                for name in self._keep
            ]
            kept = list(zip(*columns, strict=True)) if columns else [()] * len(rows)
        added = [list(map(as_cell, column)) for column in self._layout.columns(rows, chosen, answers)]
        return self._text([[*kept[i], *cells] for i, *cells in zip(chosen, *added, strict=True)])

    def _text(self, lines: Sequence[Sequence[str]]) -> bytes:
        text = self._written(lines, csv.QUOTE_MINIMAL)
        if "\r" in text:  # Python before 3.13 leaves these unquoted
            text = self._written(lines, csv.QUOTE_ALL)
        return _packed(text.encode(), gz=self._gz)

    def _written(self, lines: Sequence[Sequence[str]], quoting: Literal[0, 1]) -> str:
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=self._delimiter, lineterminator="\n", quoting=quoting).writerows(lines)
        return out.getvalue()


class NdjsonEncoder(Encoder):
    def __init__(self, layout: Layout, *, gz: bool) -> None:
        self._layout = layout
        self._gz = gz

    def prepare(self, rows: Rows) -> None:
        if isinstance(rows, JsonRows) and self._layout.keep is None:
            for i, record in enumerate(rows.records):
                for name in self._layout.added:
                    if name in record:
                        message = "the row has this column already; name the new one otherwise (--prediction)"
                        rows.bad(i, name, message)
            return
        for name in self._layout.keep or ():
            values = rows.values(name)
            if isinstance(rows, CsvRows):  # where no number is infinite
                continue
            for i, value in enumerate(values):
                if isinstance(value, (float, list, dict, tuple)) and _infinite(value):
                    message = "JSON has no infinity; leave the column out with --keep, or write CSV or Parquet"
                    rows.bad(i, name, message)

    def encode(self, rows: Rows, prepared: Any, chosen: Sequence[int], answers: Answers) -> bytes:  # noqa: ARG002
        keep, names = self._layout.keep, self._layout.added
        added = [
            dict(zip(names, row, strict=True)) for row in zip(*self._layout.columns(rows, chosen, answers), strict=True)
        ]
        lines: list[bytes] = []
        if isinstance(rows, JsonRows) and keep is None:
            lines += [self._spliced(rows, i, found) for i, found in zip(chosen, added, strict=True)]
        else:
            columns = {name: rows.values(name) for name in keep or ()}
            for i, found in zip(chosen, added, strict=True):
                record = {name: column[i] for name, column in columns.items()}
                if i in rows.errors and isinstance(rows, CsvRows):
                    record = {name: _or_cell(value, rows, i, name) for name, value in record.items()}
                lines.append(_json({**record, **found}))
        lines.append(b"")
        return _packed(b"\n".join(lines), gz=self._gz)

    def _spliced(self, rows: JsonRows, i: int, found: dict[str, Any]) -> bytes:
        """The line as it is, byte for byte, with more members at its end."""
        more = _json(found)
        if not rows.records[i]:
            return more if rows.raw[i] == b"{}" else _json({"line": rows.source(i), **found})
        if i in rows.errors:  # it may have a member of that name
            return _json({**rows.records[i], **found})
        raw = rows.raw[i]
        return raw[:-1].rstrip() + b"," + more[1:]


class ArrowEncoder(Encoder):
    def __init__(self, layout: Layout, inputs: bytes, types: bytes | None) -> None:
        """`inputs`, `types`: the schemas of the columns that are kept and added, as Arrow serialises them."""
        assert layout.keep is not None
        self._layout = layout
        self._keep = layout.keep
        self._inputs = inputs
        self.types = types

    def prepare(self, rows: Rows) -> list[Any]:
        import pyarrow as pa

        from everloop.app.scoring.arrow import ArrowRows, read_schema, to_array

        _refuse_further(rows, self._layout)
        if isinstance(rows, ArrowRows):
            return [rows.batch.column(name) for name in self._keep]
        inputs, columns = read_schema(self._inputs), []
        for name in self._keep:
            kind = inputs.field(name).type
            if isinstance(rows, CsvRows) and rows.is_float(name) and pa.types.is_floating(kind):
                columns.append(pa.array(rows.numbers(name), from_pandas=True))  # NaN is a missing number
                continue
            array, wrong = to_array(rows.values(name), kind)
            for i, message in wrong.items():
                rows.errors.setdefault(i, RowError(rows.lines[i], name, message))
            columns.append(array)
        return columns

    def encode(self, rows: Rows, prepared: Any, chosen: Sequence[int], answers: Answers) -> bytes:
        import pyarrow as pa

        from everloop.app.scoring.arrow import read_schema, to_array, to_stream

        assert self.types is not None
        types = read_schema(self.types)
        arrays = [column.take(pa.array(chosen, pa.int64())) for column in prepared]
        added = self._layout.columns(rows, chosen, answers)
        for name, values in zip(self._layout.added, added, strict=True):
            kind = types.field(name).type
            texts = pa.types.is_string(kind)
            array, wrong = to_array([_as_text(value) for value in values] if texts else values, kind)
            if wrong:
                i, message = next(iter(wrong.items()))
                raise Unfitting(RowError(rows.lines[chosen[i]], name, message), chosen[i])
            arrays.append(array)
        return to_stream(pa.record_batch(arrays, schema=self.schema()))

    def learn_types(self, values: Sequence[Any]) -> None:
        from everloop.app.scoring.arrow import answer_schema

        if self.types is None:
            self.types = answer_schema(self._layout, next((value for value in values if value is not None), None))

    def schema(self) -> Any:
        import pyarrow as pa

        from everloop.app.scoring.arrow import read_schema

        assert self.types is not None
        inputs = read_schema(self._inputs)
        return pa.schema([*inputs, *read_schema(self.types)], metadata=inputs.metadata)


def _refuse_further(rows: Rows, layout: Layout) -> None:
    if not layout.closed or not isinstance(rows, JsonRows):
        return
    known = frozenset(layout.keep or ())
    for i, record in enumerate(rows.records):
        if not known.issuperset(record):
            name = next(name for name in record if name not in known)
            message = "not among the columns at the beginning of the file; choose with --keep, or write NDJSON"
            rows.errors.setdefault(i, RowError(rows.lines[i], name, message))


class Unfitting(Exception):
    """An answer that the output's column cannot hold."""

    def __init__(self, error: RowError, i: int) -> None:
        super().__init__(error.text())
        self.error = error
        self.i = i


_json = msgspec.json.Encoder(enc_hook=str).encode
"""Not an attribute of the encoder, which travels to the workers: it could not."""


def _infinite(value: Any) -> bool:
    """Whether there is an infinite number in it."""
    if isinstance(value, float):
        return math.isinf(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(map(_infinite, parts))


def _or_cell(value: Any, rows: CsvRows, i: int, name: str) -> Any:
    """Of a bad row: the value, or where it is the cell that is bad its text."""
    if value is not None:
        return value
    cell = rows.cell(i, name)
    return None if is_missing(cell) else cell


def _as_text(value: Any) -> Any:
    """What has parts as JSON; anything else as it is."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list, tuple)) else value


def as_cell(value: Any) -> str:
    """A value as the text of a CSV cell: numbers in their shortest exact form, nothing for what is missing."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return "" if value != value else repr(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value.hex() if isinstance(value, bytes) else str(value)


def _packed(data: bytes, *, gz: bool) -> bytes:
    """As it is, or as a gzip member of its own: members one behind the other are a gzip file."""
    return gzip.compress(data, 6, mtime=0) if gz and data else data

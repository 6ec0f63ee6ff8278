"""Parquet: read in batches, written as a sequence of Arrow streams that the end of the run turns into one Parquet file.

A Parquet file has its table of contents at its end, so it cannot be appended to after a crash. Arrow streams can: each block's output is
one, complete in itself. `to_parquet` then copies them, row group by row group, in flat memory; if it is interrupted it is done again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everloop.app.scoring.decoding import Floats, Rows
from everloop.app.scoring.formats import Place, check_readable
from everloop.app.scoring.kinds import short
from everloop.app.scoring.rows import Block, Position
from everloop.core.errors import InvalidInput

if TYPE_CHECKING:
    from everloop.app.scoring.encoding import Layout
    from everloop.core.schema import LabelKind

BATCH = 1 << 16
"""Rows that are decoded at once, at most."""
BATCH_BYTES = 8 << 20
"""About as many bytes as they may have."""
ROW_GROUP = 1 << 17
"""Rows of a group in a file that is written."""


class ParquetReader:
    """A `Reader` whose lines are rows. Row groups before the place that it goes on at are not read."""

    def __init__(self, place: Place) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        assert place.path is not None
        self._place = place
        check_readable(place.path)
        self._opened = place.path.stat()
        try:
            # no prefetch: it would hold whole row groups
            self._file = pq.ParquetFile(place.path, pre_buffer=False, memory_map=False, buffer_size=1 << 20)
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"{place.path} cannot be read as Parquet: {error}", field="input") from error
        self.schema: Any = self._file.schema_arrow
        self.rows: int = self._file.metadata.num_rows
        self._batches: Iterator[Any] | None = None
        self._batch: Any = None
        self._taken = 0

    @property
    def position(self) -> Position:
        return Position(self._taken, self._taken)

    def take(self, rows: int, most_bytes: int) -> Block | None:
        import pyarrow as pa

        if self._batch is None or not self._batch.num_rows:
            self._batch = self._next()
            if self._batch is None:
                return None
        whole = self._batch
        fitting = max(1, int(whole.num_rows * most_bytes / max(1, whole.get_total_buffer_size())))
        part = whole.slice(0, min(rows, fitting))
        self._batch = whole.slice(part.num_rows)
        block = Block(to_stream(pa.record_batch(part.columns, schema=self.schema)), self._taken + 1)
        self._taken += part.num_rows
        return block

    def seek(self, position: Position) -> None:
        self._batches, self._batch, self._taken = None, None, position.offset

    def fraction(self) -> float | None:
        return self._taken / self.rows if self.rows else None

    def changed(self) -> bool:
        assert self._place.path is not None
        try:
            now = self._place.path.stat()
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns)

    def close(self) -> None:
        self._batches = None
        self._file.close()

    def _next(self) -> Any:
        import pyarrow as pa

        try:
            if self._batches is None:
                self._batches = self._open()
            for batch in self._batches:
                if batch.num_rows:
                    return batch
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(
                f"{self._place.path} is damaged near row {self._taken + 1}: {error}", field="input"
            ) from error
        return None

    def _open(self) -> Iterator[Any]:
        """From `_taken` on."""
        metadata = self._file.metadata
        before, group = 0, 0
        while group < metadata.num_row_groups and before + metadata.row_group(group).num_rows <= self._taken:
            before += metadata.row_group(group).num_rows
            group += 1
        skip = self._taken - before
        groups = list(range(group, metadata.num_row_groups))
        if not groups:
            return
        size = sum(metadata.row_group(each).total_byte_size for each in groups)
        count = max(1, sum(metadata.row_group(each).num_rows for each in groups))
        batch_rows = int(min(BATCH, max(1, BATCH_BYTES * count // max(1, size))))
        for batch in self._file.iter_batches(batch_size=batch_rows, row_groups=groups, use_threads=False):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            yield batch.slice(skip)
            skip = 0


class ArrowRows(Rows):
    """A batch of a table."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.batch: Any = from_stream(block.data)
        self.lines = range(block.line, block.line + self.batch.num_rows)

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def numbers(self, name: str) -> Floats:
        import pyarrow as pa

        column = _plain(self.batch.column(name))
        kind = column.type
        if pa.types.is_null(kind):
            return np.full(len(column), np.nan)
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind)
        ):
            for i in range(len(self)):
                self.bad(i, name, f"expected a number, the column holds {kind}")
            return np.full(len(self), np.nan)
        if pa.types.is_boolean(kind):
            column = column.cast(pa.int8())
        out: Floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        infinite = np.flatnonzero(np.isinf(out))
        if len(infinite):
            out = out.copy()
            for i in infinite.tolist():
                self.bad(i, name, f"expected a finite number, got {out[i]}")
                out[i] = np.nan
        return out

    def texts(self, name: str) -> list[str | None]:
        import pyarrow as pa

        column = _plain(self.batch.column(name))
        kind = column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            for i in range(len(self)):
                self.bad(i, name, f"expected a string, the column holds {kind}")
            return [None] * len(self)
        found: list[str | None] = column.to_pylist()
        return found

    def values(self, name: str) -> list[Any]:
        found: list[Any] = self.batch.column(name).to_pylist()
        return found

    def mappings(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.batch.to_pylist()
        return found

    def source(self, i: int) -> Any:
        return self.batch.slice(i, 1).to_pylist()[0]


def to_stream(batch: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def from_stream(data: bytes) -> Any:
    """The one batch of a stream."""
    import pyarrow as pa

    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()


def cut_stream(data: bytes, rows: int) -> tuple[bytes, bytes]:
    """The first `rows` rows of its batch, and the rest, each a stream."""
    batch = from_stream(data)
    return to_stream(batch.slice(0, rows)), to_stream(batch.slice(rows))


def to_parquet(streams: Path, target: Path, schema: Any) -> None:
    """Copy a file of streams into a new Parquet file, and make that durable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with target.open("wb") as file:
        with pq.ParquetWriter(file, schema) as writer, pa.OSFile(str(streams), "rb") as source:
            held: list[Any] = []
            rows, size = 0, 0
            while source.tell() < source.size():
                with pa.ipc.open_stream(source) as reader:
                    for batch in reader:
                        held.append(batch)
                        rows += batch.num_rows
                        size += batch.get_total_buffer_size()
                if rows >= ROW_GROUP or size >= 8 * BATCH_BYTES:
                    _write(writer, held, schema)
                    held, rows, size = [], 0, 0
            _write(writer, held, schema)
        file.flush()
        os.fsync(file.fileno())


def _write(writer: Any, batches: list[Any], schema: Any) -> None:
    import pyarrow as pa

    if batches:
        writer.write_table(pa.Table.from_batches(batches, schema=schema).unify_dictionaries())


def arrow_type(values: Sequence[Any], column: str) -> Any:
    """The type of a column, told by its beginning: whole numbers stay whole, everything unknown yet is text. Raises InvalidInput."""
    import pyarrow as pa

    present = [value for value in values if value is not None]
    if not present:
        return pa.string()
    if {type(value) for value in present} == {int, float}:
        return pa.float64()
    try:
        found = pa.infer_type(present)
    except (pa.ArrowException, OverflowError) as error:
        raise InvalidInput(
            f"column {column!r} holds values of several kinds ({error}); Parquet needs one: leave it out with --keep, or write NDJSON",
            field="output",
        ) from error
    return found


def input_schema(source: Any, keep: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Of the columns that are kept: those of the file (`source`, a schema), or told by the beginning of each column."""
    import pyarrow as pa

    if source is not None:
        return _bytes(pa.schema([source.field(name) for name in keep], metadata=source.metadata))
    return _bytes(pa.schema([pa.field(name, arrow_type(columns[name], name)) for name in keep]))


def answer_schema(layout: Layout, prediction: Any) -> bytes:
    """Of the columns that are added, where `prediction` is a value like those that will come."""
    import pyarrow as pa

    kind = pa.float64()
    if isinstance(prediction, bool):
        kind = pa.bool_()
    elif isinstance(prediction, (str, dict)):
        kind = pa.string()
    elif isinstance(prediction, (list, tuple)):
        numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in prediction)
        kind = pa.list_(pa.float64()) if numbers else pa.string()
    fields = [pa.field(layout.prediction, kind), *(pa.field(name, pa.float64()) for name in layout.scores)]
    fields += [
        pa.field(name, pa.int64() if isinstance(value, int) else pa.string())
        for name, value in layout.constants.items()
    ]
    if layout.error:
        fields.append(pa.field(layout.error, pa.string()))
    return _bytes(pa.schema(fields))


def model_answer_schema(layout: Layout, kind: LabelKind) -> bytes:
    """The same for a model, whose target is known."""
    import pyarrow as pa

    samples = {"text": "", "boolean": True}
    schema = read_schema(answer_schema(layout, samples.get(kind, 0.0)))
    if kind == "integer":
        schema = schema.set(0, pa.field(layout.prediction, pa.int64()))
    return _bytes(schema)


def read_schema(data: bytes) -> Any:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(data))


def _bytes(schema: Any) -> bytes:
    return bytes(schema.serialize())


def to_array(values: Sequence[Any], kind: Any) -> tuple[Any, dict[int, str]]:
    """Values as an array of a type, and what is wrong with those that do not fit (they are null in it)."""
    import pyarrow as pa

    try:
        return pa.array(values, type=kind), {}
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        wrong: dict[int, str] = {}
        fitting: list[Any] = list(values)
        for i, value in enumerate(values):
            try:
                pa.array([value], type=kind)
            except (pa.ArrowException, OverflowError, TypeError, ValueError):
                wrong[i] = f"expected {kind}, as further up in the file, got {short(value)}"
                fitting[i] = None
        return pa.array(fitting, type=kind), wrong


def _plain(column: Any) -> Any:
    import pyarrow as pa

    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

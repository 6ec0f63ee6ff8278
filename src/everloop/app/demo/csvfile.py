"""Any CSV file as a stream: columns typed from all of the data, errors that name the line and the column.

The file is read twice, never held: once to know every column's kind (so that a value that is missing only on line 90,000 is
allowed from the first row on), once to play it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from everloop.core.errors import InvalidInput
from everloop.core.schema import Field, Schema
from everloop.core.wording import near_names

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""How files say that a value is missing, in any case of letters."""
DELIMITERS = ",;\t|"
MOST_COLUMNS = 10_000
csv.field_size_limit(1 << 24)


@dataclass
class Column:
    name: str
    position: int
    numbers: int = 0
    texts: int = 0
    missing: int = 0
    whole: bool = True
    """Whether all of its numbers are whole."""
    distinct: set[str] = field(default_factory=set)
    """Its different values, up to a few more than matter."""
    first_text: tuple[int, str] | None = None
    """Line and value of the first text."""

    @property
    def kind(self) -> Literal["number", "text", "empty"]:
        if self.texts:
            return "text"
        return "number" if self.numbers else "empty"

    def see(self, value: str, line: int) -> None:
        if is_missing(value):
            self.missing += 1
            return
        if len(self.distinct) < 1000:
            self.distinct.add(value)
        number = as_number(value)
        if number is None:
            self.texts += 1
            if self.first_text is None:
                self.first_text = (line, value)
        else:
            self.numbers += 1
            self.whole = self.whole and number.is_integer()

    def read(self, value: str) -> float | str | None:
        if is_missing(value):
            return None
        return float(value) if self.kind == "number" else value


@dataclass(frozen=True)
class CsvFile:
    """A file whose columns are known. `rows` can be called again and again."""

    path: Path
    delimiter: str
    columns: tuple[Column, ...]
    """The features, in the order of the file; columns without any value are left out."""
    target: Column
    count: int
    width: int
    left_out: tuple[str, ...]

    @property
    def schema(self) -> Schema:
        return Schema(
            tuple(Field(c.name, "text" if c.kind == "text" else "number", c.missing > 0) for c in self.columns),
            named=True,
        )

    @property
    def task(self) -> Literal["regression", "classification"]:
        """Texts are classes, and so are a few whole numbers; everything else is a quantity."""
        target = self.target
        few = len(target.distinct) <= min(20, max(2, self.count // 20))
        return "classification" if target.kind == "text" or (target.whole and few) else "regression"

    def label(self, value: str) -> float | int | str | None:
        if is_missing(value):
            return None
        if self.target.kind == "text":
            return value
        return int(float(value)) if self.task == "classification" else float(value)

    def rows(self) -> Iterator[tuple[dict[str, Any], Any]]:
        """(features by name, label); the label is None where the file has none."""
        for _, values in _lines(self.path, self.delimiter, self.width):
            yield {c.name: c.read(values[c.position]) for c in self.columns}, self.label(values[self.target.position])


def open_csv(path: Path, target: str) -> CsvFile:
    """Look at the whole file. Raises InvalidInput saying which line or column is wrong."""
    if path.is_dir() or not path.exists():
        raise InvalidInput(f"there is no file {path}" if not path.exists() else f"{path} is a folder", field="stream")
    delimiter, header = _header(path)
    if target not in header:
        near = near_names(target, header, n=1)
        hint = (
            f"; did you mean {near[0]!r}?"
            if near
            else f"; it has {', '.join(header[:12])}{' …' if len(header) > 12 else ''}"
        )
        raise InvalidInput(f"{path} has no column {target!r}{hint}", field="target")
    columns = [Column(name, i) for i, name in enumerate(header)]
    count = 0
    for line, values in _lines(path, delimiter, len(header)):
        count += 1
        for column, value in zip(columns, values, strict=True):
            column.see(value, line)
    if not count:
        raise InvalidInput(f"{path} has a header and no rows", field="stream")
    chosen = columns[header.index(target)]
    if chosen.kind == "empty":
        raise InvalidInput(f"{path}: the column {target!r} has no values to learn from", field="target")
    features = tuple(c for c in columns if c is not chosen and c.kind != "empty")
    if not features:
        raise InvalidInput(f"{path} has no column but {target!r} with a value in it", field="stream")
    left_out = tuple(c.name for c in columns if c is not chosen and c.kind == "empty")
    return CsvFile(path, delimiter, features, chosen, count, len(header), left_out)


def is_missing(value: str) -> bool:
    return value.strip().lower() in MISSING


def as_number(value: str) -> float | None:
    """A finite number, or None. `1_000` and `0x10`, which Python reads, are not numbers in a file."""
    if "_" in value:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _header(path: Path) -> tuple[str, list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(1 << 24)
    except UnicodeDecodeError:
        raise InvalidInput(
            f"{path} is not UTF-8 text; convert it first, e.g. iconv -f latin1 -t utf-8", field="stream"
        ) from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", field="stream") from None
    if "\x00" in first:
        raise InvalidInput(f"{path} is not a text file", field="stream")
    if not first.strip():
        raise InvalidInput(f"{path} is empty: expected a first line with the columns' names", field="stream")
    delimiter = max(DELIMITERS, key=first.count)
    header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]
    if len(header) > MOST_COLUMNS:
        raise InvalidInput(f"{path} has {len(header)} columns, at most {MOST_COLUMNS} can be played", field="stream")
    for i, name in enumerate(header):
        if not name:
            header[i] = f"column_{i + 1}"
    for name in header:
        if header.count(name) > 1:
            raise InvalidInput(f"{path}: two columns are named {name!r}", field="stream")
    if all(as_number(name) is not None for name in header):
        raise InvalidInput(f"{path}: the first line has only numbers; it should name the columns", field="stream")
    return delimiter, header


def _lines(path: Path, delimiter: str, width: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, values) of every row after the header; empty lines are skipped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            next(reader, None)
            for values in reader:
                if not values:
                    continue
                if len(values) != width:
                    raise InvalidInput(
                        f"{path}, line {reader.line_num}: {len(values)} values, but the header names {width} columns",
                        field="stream",
                    )
                yield reader.line_num, values
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {error.start}); convert it first", field="stream") from None
    except csv.Error as error:
        raise InvalidInput(f"{path} cannot be read as CSV: {error}", field="stream") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", field="stream") from None

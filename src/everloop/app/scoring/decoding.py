"""Blocks of text as rows: their values by column, and an error for each row that has something else than its column's kind.

`errors` grows as columns are asked for; a row that is in it has None (NaN among numbers) wherever its value cannot be told, so that its
neighbours never suffer. Line numbers are those of the file.
"""

from __future__ import annotations

import csv
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.app.scoring.kinds import BadCell, Kind, is_missing, read_cell, read_number, short
from everloop.app.scoring.readers import LARGEST_ROW
from everloop.app.scoring.rows import Block, RowError

Floats = npt.NDArray[np.float64]


class Rows(ABC):
    """The rows of one block."""

    lines: Sequence[int]
    """Where each begins: its line of text, or (Parquet) its number, from 1."""

    def __init__(self) -> None:
        self.errors: dict[int, RowError] = {}
        """By position in the block; the first thing that is wrong with a row."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def numbers(self, name: str) -> Floats:
        """A column, NaN where it is missing."""

    @abstractmethod
    def texts(self, name: str) -> list[str | None]: ...

    @abstractmethod
    def values(self, name: str) -> list[Any]:
        """A column in Python's own types, None where it is missing."""

    @abstractmethod
    def mappings(self) -> list[dict[str, Any]]:
        """Every row by name: what a function is given."""

    @abstractmethod
    def source(self, i: int) -> Any:
        """Row `i` as it was found, however bad, as something that JSON can hold."""

    def bad(self, i: int, column: str | None, message: str) -> None:
        if i not in self.errors:
            self.errors[i] = RowError(self.lines[i], column, message)


class CsvRows(Rows):
    def __init__(self, block: Block, names: Sequence[str], kinds: Mapping[str, Kind], delimiter: str) -> None:
        super().__init__()
        self.names = names
        self.records: list[list[str]] = []
        """Cells as text, as many as there are columns."""
        self._kinds = kinds
        self._numbers: dict[str, Floats] = {}
        self._position = {name: i for i, name in enumerate(names)}
        self._read(block, delimiter)

    def __len__(self) -> int:
        return len(self.records)

    def numbers(self, name: str) -> Floats:
        if name not in self._numbers:  # the model and the output may both want it
            self._numbers[name] = self._read_numbers(name)
        return self._numbers[name]

    def _read_numbers(self, name: str) -> Floats:
        cells = self.cells(name)
        if not self._underscores:
            with suppress(ValueError):
                found = np.fromiter(map(float, cells), np.float64, len(cells))
                if not np.isinf(found).any():
                    return found
        out = np.full(len(cells), np.nan)
        for i, cell in enumerate(cells):
            if not is_missing(cell):
                try:
                    out[i] = read_number(cell)
                except BadCell as error:
                    self.bad(i, name, str(error))
        return out

    def texts(self, name: str) -> list[str | None]:
        return [cell or None for cell in self.cells(name)]

    def values(self, name: str) -> list[Any]:
        kind = self._kinds[name]
        cells = self.cells(name)
        if kind == "text":
            return [cell or None for cell in cells]
        if kind != "boolean" and not self._underscores:
            with suppress(ValueError):
                quick = list(map(int, cells)) if kind == "integer" else [_int_or_float(cell) for cell in cells]
                if all(value - value == 0 for value in quick):
                    return quick
        out: list[Any] = [None] * len(cells)
        for i, cell in enumerate(cells):
            try:
                out[i] = read_cell(cell, kind)
            except BadCell as error:
                self.bad(i, name, f"{error} (`--type {name}=text` if it is no {kind})")
        return out

    def mappings(self) -> list[dict[str, Any]]:
        columns = [self.values(name) for name in self.names]
        return [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]

    def source(self, i: int) -> Any:
        return self._odd.get(i) or dict(zip(self.names, self.records[i], strict=True))

    def is_float(self, name: str) -> bool:
        """Whether its column holds numbers that need not be whole."""
        return self._kinds[name] == "number"

    def cells(self, name: str) -> list[str]:
        position = self._position[name]
        return [record[position] for record in self.records]

    def cell(self, i: int, name: str) -> str:
        return self.records[i][self._position[name]]

    def _read(self, block: Block, delimiter: str) -> None:
        self._odd: dict[int, Any] = {}
        csv.field_size_limit(2 * LARGEST_ROW)
        text = ""
        try:
            text = block.data.decode()
            self._underscores = "_" in text
            records = list(csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True))
        except (UnicodeDecodeError, csv.Error):
            records = []
        if len(records) == text.count("\n") and set(map(len, records)) == {len(self.names)}:
            self.records = records
            self.lines = range(block.line, block.line + len(records))
        else:
            self._read_carefully(block, delimiter)

    def _read_carefully(self, block: Block, delimiter: str) -> None:
        """Row by row: there are blank lines, cells with line ends in them, or bad rows."""
        text = block.data.decode(errors="surrogateescape")
        self._underscores = "_" in text
        self._lines: list[int] = []
        self.lines = self._lines
        encoded = not any("\udc80" <= each <= "\udcff" for each in text)
        reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
        while True:
            line = block.line + reader.line_num
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self._odd_row(line, [], f"not CSV: {error}")
                continue
            if not record:
                continue
            if len(record) != len(self.names):
                self._odd_row(line, record, f"{len(record)} values, but the header names {len(self.names)} columns")
                continue
            self.records.append(record)
            self._lines.append(line)
            if not encoded and not _encodes(record):
                self.records[-1] = [cell.encode(errors="surrogateescape").decode("latin-1") for cell in record]
                self.bad(len(self.records) - 1, None, "not UTF-8 text; convert it first, e.g. iconv -f latin1 -t utf-8")

    def _odd_row(self, line: int, record: list[str], message: str) -> None:
        """A row of no use, in its place."""
        width = len(self.names)
        cells = [cell.encode(errors="replace").decode() for cell in record]
        self._odd[len(self.records)] = cells or None
        self.records.append((cells + [""] * width)[:width])
        self._lines.append(line)
        self.bad(len(self.records) - 1, None, message)


def _int_or_float(cell: str) -> int | float:
    return int(cell) if cell.isdigit() else float(cell)


def _encodes(record: list[str]) -> bool:
    try:
        "".join(record).encode()
    except UnicodeEncodeError:
        return False
    return True


class JsonRows(Rows):
    """A mapping on each line; a list stands for the columns x0, x1, …"""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.records: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        """The lines, without blanks around them."""
        lines: list[int] = []
        self.lines = lines
        decode = msgspec.json.Decoder().decode
        for line, found in enumerate(block.data.split(b"\n"), block.line):
            raw = found.strip()
            if not raw:
                continue
            message, record = "", None
            try:
                record = decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError):
                record, message = _lenient(raw)
            if isinstance(record, list) and record and all(isinstance(each, dict) for each in record):
                message = "a list of objects: NDJSON has one object on each line; convert it first, e.g. jq -c '.[]'"
                record = {}
            if isinstance(record, list):
                record = {f"x{i}": value for i, value in enumerate(record)}
                raw = msgspec.json.encode(record)
            if not isinstance(record, dict):
                message = message or f"expected a JSON object, got {short(record)}"
                record = {}
            if message:
                self.errors[len(self.records)] = RowError(line, None, message)
            self.records.append(record)
            self.raw.append(raw)
            lines.append(line)

    def __len__(self) -> int:
        return len(self.records)

    def numbers(self, name: str) -> Floats:
        values = [record.get(name) for record in self.records]
        if set(map(type, values)) <= {int, float, bool}:
            try:
                found = np.array(values, np.float64)
            except OverflowError:
                pass
            else:
                if not np.isinf(found).any():
                    return found
        out = np.full(len(values), np.nan)
        for i, value in enumerate(values):
            if value is None:
                continue
            number = _float(value) if isinstance(value, (int, float)) else None
            if number is None:
                self.bad(i, name, f"expected a finite number, got {short(value)}")
            else:
                out[i] = number
        return out

    def texts(self, name: str) -> list[str | None]:
        out: list[str | None] = []
        for i, record in enumerate(self.records):
            value = record.get(name)
            if value is not None and not isinstance(value, str):
                self.bad(i, name, f"expected a string, got {short(value)}")
                value = None
            out.append(value)
        return out

    def values(self, name: str) -> list[Any]:
        return [record.get(name) for record in self.records]

    def mappings(self) -> list[dict[str, Any]]:
        return [dict(record) for record in self.records]

    def source(self, i: int) -> Any:
        return self.records[i] or self.raw[i].decode(errors="replace")


def _lenient(raw: bytes) -> tuple[Any, str]:
    """JSON as Python and pandas write it, where a missing number is NaN; or what is wrong with it."""
    try:
        return json.loads(raw, parse_constant=_missing), ""
    except UnicodeDecodeError:
        return None, "not UTF-8 text; convert it first, e.g. iconv -f latin1 -t utf-8"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"


def _missing(word: str) -> None:
    if word != "NaN":
        raise ValueError(f"{word} is no finite number")


def _float(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None

"""An input and what its beginning tells: the columns, what they hold, and how its blocks are decoded."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from everloop.app.scoring.arrow import ArrowRows, ParquetReader, cut_stream
from everloop.app.scoring.decoding import CsvRows, JsonRows, Rows
from everloop.app.scoring.formats import Format, Place
from everloop.app.scoring.kinds import KINDS, Kind, kinds_of_cells
from everloop.app.scoring.readers import Reader, TextReader, cut_text
from everloop.app.scoring.rows import Block
from everloop.core.errors import InvalidInput

DELIMITERS = ",;\t|"
MOST_COLUMNS = 100_000
LOOKED_AT = 1000
"""Rows of the beginning, at most."""


@dataclass(frozen=True)
class Decoder:
    """How blocks become rows; travels to the workers."""

    format: Format
    names: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    delimiter: str = ","

    def rows(self, block: Block) -> Rows:
        if self.format == "csv":
            return CsvRows(block, self.names, self.kinds, self.delimiter)
        return JsonRows(block) if self.format == "ndjson" else ArrowRows(block)

    def halves(self, block: Block) -> tuple[Block, ...]:
        """The block in two, each with half of its rows; none of one that has no two rows."""
        lines = self.rows(block).lines
        if len(lines) < 2:
            return ()
        middle = lines[len(lines) // 2]
        cut = cut_stream if self.format == "parquet" else cut_text
        first, second = cut(block.data, middle - block.line)
        return Block(first, block.line), Block(second, middle)


@dataclass
class Source:
    place: Place
    reader: Reader
    decoder: Decoder
    names: tuple[str, ...]
    """All columns; of NDJSON those at its beginning."""
    head: Rows | None
    """The first rows of NDJSON."""
    schema: Any = None
    """The Arrow schema of a Parquet file."""

    @property
    def closed(self) -> bool:
        """Whether there are no other columns than `names`."""
        return self.place.format != "ndjson"

    def close(self) -> None:
        self.reader.close()


def open_source(place: Place, *, delimiter: str | None, types: Mapping[str, Kind]) -> Source:
    """Raises InvalidInput for a file that is not there, cannot be read, or has no usable header."""
    if place.format == "parquet":
        if types:
            raise InvalidInput("--type: a Parquet file tells the types of its columns itself", field="type")
        parquet = ParquetReader(place)
        names = tuple(parquet.schema.names)
        _no_doubles(names, place)
        return Source(place, parquet, Decoder("parquet", names), names, None, parquet.schema)
    reader = TextReader(place)
    try:
        return _csv(place, reader, delimiter, types) if place.format == "csv" else _ndjson(place, reader, types)
    except BaseException:
        reader.close()
        raise


def _csv(place: Place, reader: TextReader, delimiter: str | None, types: Mapping[str, Kind]) -> Source:
    chosen = None if delimiter is None else parse_delimiter(delimiter)
    # The delimiter tells where a quoted name begins, which may have line ends in it: first that of the first line.
    reader.split_by(chosen or _likely(place, reader.peek().lstrip(b"\r\n").partition(b"\n")[0].decode("latin-1")))
    header = reader.take(1, 1)
    while header is not None and not header.data.strip():
        header = reader.take(1, 1)
    if header is not None and header.data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InvalidInput(
            f"{place.name} is UTF-16 text; convert it first, e.g. iconv -f utf-16 -t utf-8", field="input"
        )
    if header is None:
        raise InvalidInput(f"{place.name} is empty: expected a first line with the columns' names", field="input")
    try:
        text = header.data.decode()
    except UnicodeDecodeError:
        raise InvalidInput(
            f"{place.name} is not UTF-8 text; convert it first, e.g. iconv -f latin1 -t utf-8", field="input"
        ) from None
    if "\x00" in text:
        raise InvalidInput(f"{place.name} is not a text file", field="input")
    if "\r" in text.rstrip("\r\n"):
        raise InvalidInput(
            f"{place.name} has the line ends of old Macs; convert it first, e.g. tr '\\r' '\\n'", field="input"
        )
    reader.split_by(chosen or _likely(place, text))
    try:
        names = tuple(
            name.strip() for name in next(csv.reader(io.StringIO(text, newline="\n"), delimiter=reader.delimiter))
        )
    except csv.Error as error:
        raise InvalidInput(f"{place.name}: the header is not CSV: {error}", field="input") from error
    names = tuple(name or f"column_{i + 1}" for i, name in enumerate(names))
    if len(names) > MOST_COLUMNS:
        raise InvalidInput(f"{place.name} has {len(names)} columns, at most {MOST_COLUMNS} can be read", field="input")
    _no_doubles(names, place)
    # What is only half there at the end of the look is left out of it.
    rows = CsvRows(Block(reader.peek(), 1), names, {}, reader.delimiter)
    records = [record for i, record in enumerate(rows.records[:LOOKED_AT]) if i not in rows.errors]
    if all(kind in ("number", "integer") for kind in kinds_of_cells(len(names), [names])) and records:
        raise InvalidInput(f"{place.name}: the first line has only numbers; it should name the columns", field="input")
    kinds = dict(zip(names, kinds_of_cells(len(names), records), strict=True))
    for name, kind in types.items():
        if name not in kinds:
            raise InvalidInput(
                f"--type: the input has no column {name!r}; it has {', '.join(names[:12])}", field="type"
            )
        kinds[name] = kind
    return Source(place, reader, Decoder("csv", names, kinds, reader.delimiter), names, None)


def _likely(place: Place, text: str) -> str:
    """The delimiter of a header, or of its first line."""
    if place.tabs:
        return "\t"
    bare = re.sub(r'"[^"]*("|\Z)', "", text)
    return max(DELIMITERS, key=bare.count)


def parse_delimiter(text: str) -> str:
    """One character, or how one types a tab. Raises InvalidInput."""
    found = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(found) != 1 or not found.isascii() or found in '"\r\n\0':
        raise InvalidInput(
            f"--delimiter {text!r}: expected one character, e.g. ';', or tab (found out, if it is one of , ; | and tab)",
            field="delimiter",
        )
    return found


def _ndjson(place: Place, reader: TextReader, types: Mapping[str, Kind]) -> Source:
    if types:
        raise InvalidInput("--type is for CSV: values in NDJSON have types of their own", field="type")
    lines = reader.peek().split(b"\n")[:LOOKED_AT]
    head = JsonRows(Block(b"\n".join(lines), 1))
    names = tuple(dict.fromkeys(name for record in head.records for name in record))
    return Source(place, reader, Decoder("ndjson", names), names, head)


def parse_types(texts: Sequence[str]) -> dict[str, Kind]:
    """`COLUMN=KIND` each. Raises InvalidInput."""
    found: dict[str, Kind] = {}
    for text in texts:
        name, equals, kind = text.rpartition("=")
        if not equals or kind not in KINDS:
            raise InvalidInput(f"--type {text}: expected COLUMN={'|'.join(KINDS)}", field="type")
        found[name] = kind
    return found


def _no_doubles(names: Sequence[str], place: Place) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidInput(f"{place.name}: two columns are named {name!r}; rename one of them first", field="input")
        seen.add(name)

"""Cutting a text into blocks of whole rows, without parsing it.

A row of NDJSON is a line. A row of CSV is one, too, unless a quoted cell has line ends in it; only lines with a quotation mark are looked
at with the csv module, so that a block always ends where a row does. What is not a whole row yet is kept; memory is bounded by the
largest row that is allowed.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import os
import re
import stat
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Protocol

from everloop.app.scoring.formats import Place, open_text
from everloop.app.scoring.rows import Block, Position
from everloop.core.errors import InvalidInput

CHUNK = 1 << 18
"""Bytes that are read at once."""
HEAD = 1 << 18
"""Bytes of the beginning from which the kinds of columns are told."""
LARGEST_ROW = 1 << 24


class Reader(Protocol):
    """An input, cut into blocks."""

    @property
    def position(self) -> Position:
        """Where the next block begins."""

    def take(self, rows: int, most_bytes: int) -> Block | None:
        """About `rows` rows in about `most_bytes` bytes at most, at least one row; None at the end. Raises InvalidInput."""

    def seek(self, position: Position) -> None:
        """Go on at a place that `position` once told. Files only."""

    def fraction(self) -> float | None:
        """The share of the input that has been taken, where that is known."""

    def changed(self) -> bool:
        """Whether somebody has written to it since it was opened."""

    def close(self) -> None: ...


def cut_text(data: bytes, lines: int) -> tuple[bytes, bytes]:
    """The first `lines` lines of it, and the rest."""
    found = data.split(b"\n")
    return b"".join(line + b"\n" for line in found[:lines]), b"\n".join(found[lines:])


class TextReader:
    """CSV (its header is a row like any other here) or NDJSON."""

    def __init__(self, place: Place) -> None:
        """Raises InvalidInput for a file that is not there or may not be read."""
        self._place = place
        self._file: BinaryIO = open_text(place)
        self._opened = None if place.path is None else os.fstat(self._file.fileno())
        self._size = None if self._opened is None or not stat.S_ISREG(self._opened.st_mode) else self._opened.st_size
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False
        self._offset = 0
        self._line = 0
        self.split_by(",")

    def split_by(self, delimiter: str) -> None:
        """A quotation mark opens a quoted cell only at the beginning of a line or right behind a delimiter."""
        self.delimiter = delimiter
        ends = re.escape(delimiter).encode()
        self._quoted = re.compile(rb'[\n%b]"[^"]*"(?=[\r\n%b])' % (ends, ends))

    @property
    def position(self) -> Position:
        return Position(self._offset, self._line)

    def take(self, rows: int, most_bytes: int) -> Block | None:
        taken: list[bytes] = []
        size = 0
        while len(taken) < rows and (size < most_bytes or not taken):
            if not self._lines and not self._read():
                break
            line = self._lines.popleft()
            taken.append(line)
            size += len(line) + 1
        if not taken:
            return None
        if self._place.format == "csv":
            self._finish_row(taken)
        block = Block(b"\n".join(taken) + b"\n", self._line + 1)
        self._offset += len(block.data)
        self._line += len(taken)
        return block

    def peek(self) -> bytes:
        """The beginning of what comes next: whole lines, for a look. The last row may go on behind them."""
        while sum(map(len, self._lines)) < HEAD and self._read():
            continue
        size = 0
        lines: list[bytes] = []
        for line in self._lines:
            size += len(line)
            if lines and size > HEAD:
                break
            lines.append(line)
        return b"".join(line + b"\n" for line in lines)

    def seek(self, position: Position) -> None:
        self._lines.clear()
        self._rest, self._ended = b"", False
        self._offset, self._line = position
        with self._readable():
            self._file.seek(position.offset)

    def fraction(self) -> float | None:
        if not self._size:
            return None
        if self._place.gz:
            raw: Any = getattr(self._file, "fileobj", None)
            return None if raw is None else min(1.0, raw.tell() / self._size)
        return min(1.0, self._offset / self._size)

    def changed(self) -> bool:
        if self._size is None or self._opened is None:
            return False
        now = os.fstat(self._file.fileno())
        return (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns)

    def close(self) -> None:
        if self._place.path is not None:
            self._file.close()

    def _read(self) -> bool:
        """More whole lines; False at the end."""
        while not self._ended:
            with self._readable():
                chunk = self._file.read(CHUNK)
            if not chunk:
                self._ended = True
                self._refuse_shrunk()
                if self._rest:
                    self._lines.append(self._rest)
                    self._rest = b""
                    return True
                return False
            if not self._offset and not self._lines and not self._rest and chunk.startswith(codecs.BOM_UTF8):
                chunk = chunk[len(codecs.BOM_UTF8) :]
                self._offset = len(codecs.BOM_UTF8)
            lines = (self._rest + chunk).split(b"\n")
            self._rest = lines.pop()
            if len(self._rest) > LARGEST_ROW:
                raise self._too_long(self._line + len(self._lines) + len(lines) + 1, "this line")
            if lines:
                self._lines.extend(lines)
                return True
        return False

    def _refuse_shrunk(self) -> None:
        if self._size is not None and os.fstat(self._file.fileno()).st_size < self._size:
            raise InvalidInput(
                f"{self._place.name} was cut short while it was read: it had {self._size:,} bytes", field="input"
            )

    def _finish_row(self, taken: list[bytes]) -> None:
        """Add to `taken` the lines that its last row goes on with, where a quoted cell has line ends in it."""
        at = 0

        def lines() -> Iterator[str]:
            """From `at` on. Every byte is one character: only quotation marks, delimiters and line ends matter."""
            nonlocal at
            begun, size = at, 0
            while at < len(taken) or self._lines or self._read():
                if at == len(taken):
                    taken.append(self._lines.popleft())
                size += len(taken[at])
                if size > LARGEST_ROW:
                    raise self._too_long(self._line + begun + 1, "the quoted cell that begins in this row")
                at += 1
                yield taken[at - 1].decode("latin-1") + "\n"

        if self._plainly_whole(taken):
            return
        csv.field_size_limit(2 * LARGEST_ROW)  # `lines` refuses before
        while at < len(taken):
            if b'"' not in taken[at]:
                at += 1
                continue
            with suppress(csv.Error):  # what the worker will say, too, having read on to the same line
                next(csv.reader(lines(), delimiter=self.delimiter, strict=True))

    def _plainly_whole(self, taken: list[bytes]) -> bool:
        """Whether every quotation mark belongs to a cell that is quoted from end to end and has none inside: told in one pass."""
        text = b"\n".join((b"", *taken, b""))
        return b'"' not in text or b'"' not in self._quoted.sub(b"", text)

    def _too_long(self, line: int, what: str) -> InvalidInput:
        return InvalidInput(
            f"{self._place.name}, line {line}: {what} does not end within {LARGEST_ROW >> 20} MB", field="input"
        )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InvalidInput(f"{self._place.name} is not a whole gzip file: {error}", field="input") from error
        except OSError as error:
            raise InvalidInput(
                f"{self._place.name} cannot be read: {error.strerror or error}", field="input"
            ) from error

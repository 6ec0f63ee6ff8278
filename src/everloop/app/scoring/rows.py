"""What travels between the reader, the workers and the output: blocks of rows there, bytes and errors back."""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """A place between two rows of the input. All zero is the beginning of the file, before any header."""

    offset: int
    """Bytes (of text, decompressed) or rows (of Parquet) before it."""
    line: int
    """Lines of text before it; for Parquet the rows."""


class Block(NamedTuple):
    """Consecutive whole rows, not parsed yet."""

    data: bytes
    """Lines of text, or an Arrow stream."""
    line: int
    """Number of its first line of text, or (Parquet) of its first row, from 1."""


class RowError(NamedTuple):
    """Why one row could not be scored."""

    line: int
    """Line of text where the row begins, or (Parquet) its number, from 1."""
    column: str | None
    message: str

    def text(self) -> str:
        return f"column {self.column!r}: {self.message}" if self.column is not None else self.message


class Scored(NamedTuple):
    """What became of a block."""

    payload: bytes
    """To append to the output."""
    dead_letters: bytes
    """To append to the dead-letter file: a line of JSON for each bad row."""
    rows: int
    """Read, bad ones included; blank lines are no rows."""
    written: int
    errors: int
    first_error: RowError | None
    seconds: float
    """Without the time that loading the model took."""

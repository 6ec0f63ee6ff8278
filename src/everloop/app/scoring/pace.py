"""How many rows a block has: so many that it takes long enough to be worth sending, and so few that all workers have some and that
little is lost in a crash. Rows cost anything from a microsecond to a minute, so it is found while going."""

from __future__ import annotations

TARGET_SECONDS = 0.05
SETTLED_SECONDS = 0.02
"""A block that takes as long tells what a row costs."""
MOST_ROWS = 1 << 16
MOST_BYTES = 1 << 20
"""Of a block's text: the parsed rows are some times that."""


class Pace:
    def __init__(self, rows: int = 1) -> None:
        self.rows = rows
        self.settled = rows > 1

    def observe(self, rows: int, seconds: float) -> None:
        """A block of `rows` rows took `seconds`. Doubles or halves at most, or fourfold before anything is known."""
        if rows < self.rows // 2:  # cut by its bytes, or the end of the file: no reason to have more
            self.settled = True
            return
        wanted = rows * TARGET_SECONDS / max(seconds, 1e-6)
        growth = 2 if self.settled else 4
        self.rows = int(min(max(wanted, self.rows / 2, 1), self.rows * growth, MOST_ROWS))
        self.settled = self.settled or seconds >= SETTLED_SECONDS or self.rows == MOST_ROWS

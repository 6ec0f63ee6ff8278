"""How much the file holds, and how it gives back what it no longer needs."""

from __future__ import annotations

import sqlite3

_VACUUM_PAGES = 500

_USED_BYTES = """
SELECT (SELECT page_count FROM pragma_page_count) - (SELECT freelist_count FROM pragma_freelist_count),
       (SELECT page_size FROM pragma_page_size)
"""


def used_bytes(connection: sqlite3.Connection) -> int:
    """What the file holds, free pages aside."""
    pages, size = connection.execute(_USED_BYTES).fetchone()
    return int(pages * size)


def give_back(connection: sqlite3.Connection) -> int:
    """Shrink the file once a quarter of it is free; less is soon used again."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    if free <= max(_VACUUM_PAGES, pages // 4):
        return 0
    for _ in range(_VACUUM_PAGES):  # the driver steps the pragma once, which is one page, whatever number it is given
        connection.execute("PRAGMA incremental_vacuum(1)")
    return _VACUUM_PAGES

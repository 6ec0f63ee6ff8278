"""Files of who did what, as MovieLens has them, and files of the items: read line by line, errors naming line and field.

    interactions   user,item,rating,timestamp       a header names the columns (`userId`, `movieId` and their like too); without one they
                                                    are these four, in this order. Rating and timestamp may be missing
    items          item,title,category,genres …     a header is needed; `title` is what people call it, all else can be asked for;
                                                    several values of one stand between `|`

Columns are parted by a comma, a tab, a semicolon or `::`, told by the first line. What has no rating counts 1; what has no time is in the
order of the file. Times are numbers (seconds) or dates of ISO 8601.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from everloop.core.errors import InvalidInput
from everloop.runtime.factors import MOST_RATING
from everloop.runtime.factors_model import Catalogue, by_value
from everloop.runtime.recommending import check_id

USER, ITEM, RATING, TIME = "user", "item", "rating", "timestamp"
NAMES = {
    USER: ("user", "user_id", "userid", "customer", "customer_id", "visitorid", "visitor_id"),
    ITEM: (
        "item",
        "item_id",
        "itemid",
        "movie",
        "movieid",
        "movie_id",
        "product",
        "product_id",
        "productid",
        "book_id",
        "isbn",
    ),
    RATING: ("rating", "label", "score", "stars", "value", "count", "plays", "weight"),
    TIME: ("timestamp", "time", "date", "datetime", "created_at", "at"),
}
"""What a column may be called in a header, in any case."""
_PARTED = ("::", "\t", ";", ",")
_LONGEST_LINE = 1 << 20
_LARGEST_TIME = 1e18
"""Nanoseconds since 1970, and what is coarser."""


class Interaction(NamedTuple):
    user: str
    item: str
    label: float
    at: float


def read_interactions(path: str | Path) -> list[Interaction]:
    """In order of time. Raises InvalidInput: no such file, or the line and the field that is wrong."""
    lines = _rows(Path(path))
    first_at, first = next(lines, (0, []))
    if not first:
        raise InvalidInput(f"{path} is empty: expected lines of user,item,rating,timestamp", field="path")
    columns = _columns(path, first)
    width = len(first)
    found = [] if columns is not None else [_interaction(path, first_at, first, _by_place(path, first), width)]
    columns = columns or _by_place(path, first)
    found += [_interaction(path, at, row, columns, width) for at, row in lines]
    if not found:
        raise InvalidInput(f"{path} has a header and no interactions", field="path")
    if TIME in columns:
        found.sort(key=lambda each: each.at)
    return found


def read_items(path: str | Path, ids: Sequence[str] = ()) -> Catalogue:
    """`ids`: of items that are known already; those of the file come after them. Raises InvalidInput."""
    lines = _rows(Path(path))
    _, header = next(lines, (0, []))
    names = [name.strip().lower() for name in header]
    place = next((i for i, name in enumerate(names) if name in (*NAMES[ITEM], "id")), None)
    if place is None:
        raise InvalidInput(
            f"{path}, line 1: expected a header with a column item (or {', '.join(NAMES[ITEM][1:4])}), got {', '.join(header)[:120]}",
            field="items",
        )
    titles: dict[str, str] = {}
    values: dict[str, dict[str, list[str]]] = {
        name: {} for i, name in enumerate(names) if i != place and name not in ("", "title", "name")
    }
    known = dict.fromkeys(ids)
    for at, row in lines:
        if len(row) != len(names):
            raise InvalidInput(f"{path}, line {at}: expected {len(names)} columns, got {len(row)}", field="items")
        item = row[place].strip()
        _check_id(path, at, names[place], item)
        if item in titles or any(item in each for each in values.values()):
            raise InvalidInput(f"{path}, line {at}: item {item!r} is there twice", field="items")
        known[item] = None
        for name, value in zip(names, row, strict=True):
            if name in ("title", "name") and value.strip():
                titles[item] = value.strip()
            elif name in values:
                values[name][item] = [part.strip() for part in value.split("|") if part.strip()]
    catalogue = list(known)
    return Catalogue(catalogue, titles, {name: by_value(of, catalogue) for name, of in values.items()})


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number (of several: the first), and its columns; empty lines are passed over. Raises InvalidInput."""
    start = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(_LONGEST_LINE)
            parted = next((each for each in _PARTED if each in first), ",")
            file.seek(0)
            if parted == "::":
                lines = ((at, line.rstrip("\r\n").split("::")) for at, line in enumerate(file, 1))
                yield from ((at, row) for at, row in lines if row != [""])
                return
            reader = csv.reader(file, delimiter=parted, strict=True)
            for row in reader:
                if row:
                    yield start, row
                start = reader.line_num + 1
    except FileNotFoundError:
        raise InvalidInput(f"there is no file {path}", field="path") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8: {error.reason} at byte {error.start}", field="path") from error
    except csv.Error as error:
        begins = "" if reader.line_num <= start else " (a quote that begins here goes on over later lines)"
        raise InvalidInput(f"{path}, line {start}: {error}{begins}", field="path") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}", field="path") from error


def _columns(path: str | Path, header: list[str]) -> dict[str, int] | None:
    """Which column is what; None where the first line is no header but an interaction already."""
    names = [name.strip().lower() for name in header]
    found = {what: i for what, known in NAMES.items() for i, name in reversed(list(enumerate(names))) if name in known}
    if USER in found and ITEM in found:
        return found
    if found or not (len(header) < 3 or _number(header[2]) is not None):
        missing = " and ".join(what for what in (USER, ITEM) if what not in found)
        raise InvalidInput(
            f"{path}, line 1: the header has no column {missing}; expected user,item,rating,timestamp (or userId, movieId …), "
            f"got {', '.join(header)[:120]}",
            field="path",
        )
    return None


def _by_place(path: str | Path, row: list[str]) -> dict[str, int]:
    if not 2 <= len(row) <= 4:
        raise InvalidInput(
            f"{path}, line 1: expected user,item,rating,timestamp, got {len(row)} columns; a header tells which is which",
            field="path",
        )
    return {name: place for place, name in enumerate((USER, ITEM, RATING, TIME)[: len(row)])}


def _interaction(path: str | Path, at: int, row: list[str], columns: dict[str, int], width: int) -> Interaction:
    """Columns that nobody asks for may be missing at the end of a line; none may be there that the first line does not have."""
    if not max(columns.values()) < len(row) <= width:
        raise InvalidInput(f"{path}, line {at}: expected {width} columns, got {len(row)}", field="path")
    user, item = row[columns[USER]].strip(), row[columns[ITEM]].strip()
    _check_id(path, at, USER, user)
    _check_id(path, at, ITEM, item)
    label, time = 1.0, 0.0
    if RATING in columns:
        given = _number(row[columns[RATING]])
        if given is None:
            raise InvalidInput(
                f"{path}, line {at}: rating: expected a finite number, got {row[columns[RATING]][:60]!r}",
                field="rating",
            )
        if abs(given) > MOST_RATING:
            raise InvalidInput(
                f"{path}, line {at}: rating: expected a number from {-MOST_RATING:,.0f} to {MOST_RATING:,.0f}, got {given:g}",
                field="rating",
            )
        label = given
    if TIME in columns:
        told = _time(row[columns[TIME]])
        if told is None or abs(told) > _LARGEST_TIME:
            raise InvalidInput(
                f"{path}, line {at}: timestamp: expected seconds or a date as 2026-01-31T12:00:00, got {row[columns[TIME]][:60]!r}",
                field="timestamp",
            )
        time = told
    return Interaction(user, item, label, time)


def _check_id(path: str | Path, at: int, name: str, value: str) -> None:
    try:
        check_id(value, name)
    except InvalidInput as error:
        raise InvalidInput(f"{path}, line {at}: {error.message}", field=name) from error
    if any(each in value for each in "\0\r\n"):
        raise InvalidInput(f"{path}, line {at}: {name}: it goes over several lines, or holds NUL", field=name)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _time(text: str) -> float | None:
    number = _number(text)
    if number is not None:
        return number
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()

"""Which format a file has, told by its ending, and how it is opened."""

from __future__ import annotations

import gzip
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from everloop.core.errors import InvalidInput, MissingExtra
from everloop.core.wording import near_names

Format = Literal["csv", "ndjson", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".pq": "parquet",
}


@dataclass(frozen=True)
class Place:
    """A file, or a standard stream where `path` is None."""

    path: Path | None
    format: Format
    gz: bool = False
    tabs: bool = False
    """Whether its name says that tabs stand between its columns."""

    @property
    def name(self) -> str:
        return "-" if self.path is None else str(self.path)


def place(text: str, chosen: Format | None, default: Format | None, *, field: str) -> Place:
    """What a command line names. `chosen` is what `--format` said; `default` is for names that do not tell, and for `-`.

    Raises InvalidInput saying which endings are known, MissingExtra for Parquet without pyarrow."""
    path = None if text == "-" else Path(text).expanduser()
    ending, gz = "", False
    if path is not None:
        endings = [each.lower() for each in path.suffixes]
        gz = endings[-1:] == [".gz"]
        ending = (endings[:-1] if gz else endings)[-1:][0] if len(endings) > gz else ""
    found = chosen or ENDINGS.get(ending) or default
    if found is None:
        named = "stdin" if path is None else str(path)
        raise InvalidInput(
            f"{named}: its format is not clear; say one of --format {', '.join(FORMATS)} (known endings: "
            f"{' '.join(ENDINGS)}, and .gz after those of text)",
            field=field,
        )
    if found == "parquet":
        if path is None:
            raise InvalidInput("Parquet cannot be streamed: give the name of a file instead of -", field=field)
        if gz:
            raise InvalidInput(f"{path}: Parquet files are compressed inside, not by gzip", field=field)
        need_arrow()
    return Place(path, found, gz, ending == ".tsv")


def need_arrow() -> None:
    """Raises MissingExtra unless pyarrow is there."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingExtra.of("parquet", "Parquet") from error


def open_text(place: Place) -> BinaryIO:
    """Bytes of text, decompressed. Raises InvalidInput for a file that is not there or may not be read."""
    if place.path is None:
        return sys.stdin.buffer
    check_readable(place.path)
    if place.gz:
        return gzip.open(place.path, "rb")  # type: ignore[return-value]
    return place.path.open("rb")


def check_readable(path: Path) -> None:
    """Raises InvalidInput, with near names where there is no such file."""
    import os

    if path.is_dir():
        raise InvalidInput(f"{path} is a folder, not a file of rows", field="input")
    if not path.exists():
        names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        near = near_names(path.name, names, n=1)
        raise InvalidInput(
            f"there is no file {path}" + (f"; did you mean {path.parent / near[0]}?" if near else ""), field="input"
        )
    if not os.access(path, os.R_OK):
        raise InvalidInput(f"{path} cannot be read: permission denied", field="input")

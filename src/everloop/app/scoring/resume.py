"""What makes a run resumable: the state file beside OUT, and whether it belongs to the run that is asked for.

The state is written after what it counts is on the disk, and in one piece (a draft that is renamed). So at any instant it names a
length of OUT.part that is there, whole, and made of exactly the rows before `position`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

from everloop.app.scoring.formats import Place
from everloop.core.errors import CheckpointMismatch
from everloop.core.hashing import body_digest
from everloop.stores import folders

LAYOUT = 1
HEAD = 1 << 16


class Identity(msgspec.Struct, frozen=True):
    """What must be the same for the rows that are already there to be those that this run would make."""

    input: str
    size: int
    changed_at: int
    """Modification time in nanoseconds."""
    head: str
    """Digest of its first bytes."""
    model: str
    options: dict[str, Any]

    def differences(self, other: Identity) -> list[str]:
        """In words, from this one to `other`."""
        found = []
        if self.input != other.input:
            found.append(f"its input was {self.input}")
        elif self.size != other.size:
            found.append(f"the input had {self.size:,} bytes and has {other.size:,} now")
        elif self.head != other.head or self.changed_at != other.changed_at:
            found.append("the input was changed since")
        if self.model != other.model:
            found.append(f"its model was {self.model}, this is {other.model}")
        for name in sorted({*self.options, *other.options}):
            before, now = self.options.get(name), other.options.get(name)
            if before != now:
                found.append(f"{name} was {_told(before)} and is {_told(now)}")
        return found


class State(msgspec.Struct):
    identity: Identity
    layout: int = LAYOUT
    phase: Literal["scoring", "finished"] = "scoring"
    """`finished`: the whole output is written, only its place is not taken yet."""
    offset: int = 0
    line: int = 0
    """The position in the input that it goes on from; all zero before the first row."""
    rows: int = 0
    written: int = 0
    errors: int = 0
    output_bytes: int = 0
    dead_letter_bytes: int = 0
    dead_letter: str | None = None
    """The file of the bad rows so far."""
    block_rows: int = 1
    """Rows of a block, as they were found to be right."""
    seconds: float = 0.0
    """Spent so far, over all attempts."""
    types: bytes | None = None
    """Parquet: the schema of the columns that are added, which a function's first answers may have told."""


def identify(place: Place, model: str, options: dict[str, Any]) -> Identity | None:
    """None for an input that cannot be read twice."""
    if place.path is None or not place.path.is_file():
        return None
    found = place.path.stat()
    with place.path.open("rb") as file:
        head = body_digest(file.read(HEAD))
    return Identity(str(place.path.resolve()), found.st_size, found.st_mtime_ns, head, model, options)


def load(path: Path) -> State | None:
    """None where there is none. Raises CheckpointMismatch for one that cannot be read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        state = msgspec.json.decode(data, type=State)
    except msgspec.DecodeError as error:
        raise CheckpointMismatch(
            f"{path} is not the state of a run ({error}); --restart throws it away and begins anew"
        ) from error
    if state.layout != LAYOUT:
        raise CheckpointMismatch(
            f"{path} was written by another version of everloop; --restart throws it away and begins anew"
        )
    return state


def save(path: Path, state: State) -> None:
    """In one piece, and durable when it returns."""
    draft = path.with_name(f"{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(state))
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # the disk is full
        draft.unlink(missing_ok=True)
        raise
    draft.replace(path)
    folders.flush_folder(path.parent)


def check(state: State, identity: Identity, dead_letter: str | None, part: Path) -> None:
    """Raises CheckpointMismatch unless the rows that are there are those that this run would make."""
    differences = state.identity.differences(identity)
    if state.errors and state.dead_letter != dead_letter:
        differences.append(f"--dead-letter was {_told(state.dead_letter)} and is {_told(dead_letter)}")
    if differences:
        raise CheckpointMismatch(
            f"{part} is half of another run: {'; '.join(differences)}. Say --restart to throw its {state.rows:,} rows away and begin anew"
        )


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "nothing"
    return "not given" if value is None else str(value)

"""Where the bytes go: OUT.part, which becomes OUT when it is complete, or stdout.

Three instants matter, and a crash at any of them loses nothing that was counted and shows nothing that is not whole:
- a sync: first the part file (and the dead letters) to the disk, then the state that names their lengths;
- finished: the state says so before OUT is there, so that the next attempt only has to put it in its place;
- publishing: a rename in the same folder. Then the state goes.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

from everloop.app.scoring import resume
from everloop.app.scoring.formats import Place
from everloop.app.scoring.resume import State
from everloop.core.errors import Conflict, InvalidInput, StoreUnavailable
from everloop.stores import folders

SYNC_SECONDS = 1.0
SYNC_SHARE = 0.05
"""Syncing may take this much of the time: on a slow disk it happens less often."""


class Output(Protocol):
    def append(self, payload: bytes, dead_letters: bytes) -> None: ...

    def sync(self, state: State, *, force: bool = False) -> None:
        """Make durable what was appended, if it is time."""

    def finish(self, state: State, schema: Any) -> None: ...

    def close(self) -> None: ...


class StreamOutput:
    """stdout: nothing is kept, so nothing can be resumed."""

    def __init__(self, stdout: BinaryIO, dead_letters: Path | None) -> None:
        self._stdout = stdout
        self._letters: IO[bytes] | None = None if dead_letters is None else _open(dead_letters, "wb")

    def append(self, payload: bytes, dead_letters: bytes) -> None:
        self._stdout.write(payload)
        self._stdout.flush()
        if self._letters is not None:
            self._letters.write(dead_letters)

    def sync(self, state: State, *, force: bool = False) -> None:
        """Whoever reads the pipe has it."""

    def finish(self, state: State, schema: Any) -> None:  # noqa: ARG002 - as a file's
        self._stdout.flush()

    def close(self) -> None:
        if self._letters is not None:
            self._letters.close()


class FileOutput:
    """OUT.part and OUT.part.json beside OUT. Only one process at a time writes them."""

    def __init__(self, place: Place, dead_letters: Path | None, *, force: bool, resumable: bool) -> None:
        """Not `resumable`: the input cannot be read twice, so no state is kept. Raises InvalidInput for a place that cannot be."""
        assert place.path is not None
        self._place = place
        for path in filter(None, (place.path, dead_letters)):
            if path.is_dir():
                raise InvalidInput(f"{path} is a folder; give the name of a file", field="output")
            if path.exists() and not path.is_file():  # a rename would replace the device itself
                raise InvalidInput(
                    f"{path} is no ordinary file; for a pipe or a device say -o - > {path}", field="output"
                )
            if not path.parent.is_dir():
                raise InvalidInput(f"{path}: there is no folder {path.parent}", field="output")
        self.path = _through_links(place.path)
        dead_letters = None if dead_letters is None else _through_links(dead_letters)
        self.part = beside(self.path, ".part")
        self.state_path = beside(self.path, ".part.json")
        self._converted = beside(self.path, ".part.parquet")
        self._letters_path = dead_letters
        self._force = force
        self._resumable = resumable
        self._file: IO[bytes] | None = None
        self._letters: IO[bytes] | None = None
        self._synced = time.monotonic()
        self._wait = SYNC_SECONDS
        self.synced_rows = 0
        """As many are durable."""

    def state(self) -> State | None:
        """Of an attempt before this one. Raises CheckpointMismatch."""
        return resume.load(self.state_path)

    def refuse_to_overwrite(self) -> None:
        """Raises Conflict where OUT is there already, unless --force was said."""
        for path in filter(None, (self.path, self._letters_path)):
            if path.exists() and not self._force:
                raise Conflict(
                    f"{path} is there already; say --force to replace it, or choose another name", field="output"
                )

    def discard(self) -> None:
        """Throw away what an attempt before this one has left."""
        paths = [self.state_path, self.part, self._converted]
        if self._letters_path is not None:
            paths.append(beside(self._letters_path, ".part"))
        for path in paths:
            path.unlink(missing_ok=True)

    def open(self, state: State) -> None:
        """Cut the part files back to what `state` counts, and append from there. Raises Conflict, InvalidInput."""
        if self._resumable and not self.state_path.exists():
            if self.part.exists() and self.part.stat().st_size:
                raise Conflict(
                    f"{self.part} is there already, and nothing tells whose it is: remove it, or say --restart",
                    field="output",
                )
            try:
                resume.save(self.state_path, state)  # from here on what is in the part file is known to be ours
            except OSError as error:
                raise _unopened(self.part, error) from error
        self.synced_rows = state.rows
        self._file = self._appending(self.part, state.output_bytes)
        if self._letters_path is not None:
            self._letters = self._appending(beside(self._letters_path, ".part"), state.dead_letter_bytes)

    def append(self, payload: bytes, dead_letters: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(payload)
            if self._letters is not None:
                self._letters.write(dead_letters)
        except OSError as error:
            raise self._unwritable(error) from error

    def sync(self, state: State, *, force: bool = False) -> None:
        began = time.monotonic()
        if not self._resumable or self._file is None or (not force and began - self._synced < self._wait):
            return
        try:
            for file in filter(None, (self._file, self._letters)):
                file.flush()
                os.fsync(file.fileno())
            resume.save(self.state_path, state)
        except OSError as error:
            raise self._unwritable(error) from error
        self.synced_rows = state.rows
        self._synced = time.monotonic()
        self._wait = max(SYNC_SECONDS, (self._synced - began) / SYNC_SHARE)

    def finish(self, state: State, schema: Any) -> None:
        """Put OUT in its place. Raises Conflict if another has appeared there meanwhile."""
        assert self._file is not None
        try:
            for file in filter(None, (self._file, self._letters)):
                file.flush()
                os.fsync(file.fileno())
            if self._place.format == "parquet":
                from everloop.app.scoring.arrow import to_parquet

                to_parquet(self.part, self._converted, schema)
            state.phase = "finished"
            if self._resumable:
                resume.save(self.state_path, state)
            self.publish()
        except OSError as error:
            raise self._unwritable(error) from error

    def publish(self) -> None:
        """From `finished` on: rename what is not in its place yet, and forget the rest."""
        ready = self._converted if self._place.format == "parquet" else self.part
        if ready.exists() and self.path.exists() and not self._force:
            raise Conflict(
                f"{self.path} has appeared while this was at work; say --force to replace it: the same command then only renames",
                field="output",
            )
        if self._letters_path is not None:
            with suppress(FileNotFoundError):
                beside(self._letters_path, ".part").replace(self._letters_path)
                folders.flush_folder(self._letters_path.parent)
        with suppress(FileNotFoundError):  # an attempt before this one has come as far as that
            ready.replace(self.path)
        folders.flush_folder(self.path.parent)
        self.close()
        self.part.unlink(missing_ok=True)
        self.state_path.unlink(missing_ok=True)

    def close(self) -> None:
        for file in filter(None, (self._file, self._letters)):
            file.close()
        self._file = self._letters = None

    def _appending(self, path: Path, size: int) -> IO[bytes]:
        file = _open(path, "r+b" if path.exists() else "w+b")
        with ExitStack() as stack:
            stack.callback(file.close)
            _lock(file, path)
            _cut(file, path, size)
            stack.pop_all()
        return file

    def _unwritable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.part} cannot be written: {error.strerror or error}. What is there is kept: the same command goes on from it"
        )


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _open(path: Path, mode: str) -> IO[bytes]:
    try:
        return path.open(mode)
    except OSError as error:
        raise _unopened(path, error) from error


def _unopened(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput(f"{path} cannot be written: {error.strerror or error}", field="output")


def _through_links(path: Path) -> Path:
    """A symbolic link stays, and what it names is replaced."""
    return path.resolve() if path.is_symlink() else path


def _cut(file: IO[bytes], path: Path, size: int) -> None:
    there = file.seek(0, os.SEEK_END)
    if there < size:
        raise Conflict(
            f"{path} has {there:,} bytes, and should have {size:,}: somebody has changed it. Say --restart to begin anew"
        )
    file.truncate(size)
    file.seek(size)


def _lock(file: IO[bytes], path: Path) -> None:
    """Held until the file is closed or the process ends, in whatever way. Raises Conflict."""
    try:
        import fcntl
    except ImportError:  # Windows: an open file cannot be renamed away there
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"{path} is being written by another everloop; wait for it, or end it") from None

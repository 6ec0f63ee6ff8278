"""The checkpoint file: finished chunks, so that the same call after a crash goes on where it was.

    everloop checkpoint 1\\n{"function": "scoring:score"}\\n
    then for each chunk   crc32 of all that follows, first item, items, bytes    (28 bytes, little-endian)
                          8 bytes for each item: xxh3 of its pickle
                          pickle of (values, failures)

The file only grows. A record is one write, so whatever kills this process leaves whole records and at most one torn at the end, which is
cut off when the file is opened again; a sync at intervals bounds what a power failure can take. Finished items are still drawn from the
input, and compared by their digests: results are never given to other data. Results are read from the file when it is their turn, so
memory stays flat.

The records are pickles. A file that somebody else could have written is not opened.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pickle
import stat
import struct
import warnings
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from everloop.core.clock import Clock
from everloop.core.errors import CheckpointMismatch, Conflict, ItemFailed, NotPicklable, StoreUnavailable, Untrusted
from everloop.parallel.digests import digest_of
from everloop.parallel.identity import code_hash
from everloop.parallel.work import ItemFailure
from everloop.stores.folders import flush_folder

MAGIC = b"everloop checkpoint 1\n"
_RECORD = struct.Struct("<IQQQ")
_PIECE = 1 << 20
_PLAIN = frozenset((int, float, complex, str, bytes, bool, type(None)))


def identity_of(func: Callable[..., Any]) -> str:
    """A function by its name and what is bound to it, not by its code: who mends a bug and goes on keeps what was done. Lambdas have no
    name, so they are known by their code.

    Bound are a partial's arguments, a closure's variables, and the arguments that a callable object, or the object of a method, was made
    with and keeps under their names. Of these, plain values and arrays count: lists and dicts may be caches that fill on the way.
    """
    if isinstance(func, partial):
        return f"{identity_of(func.func)} with {digest_of((func.args, sorted(func.keywords.items()))):016x}"
    named = func if hasattr(func, "__qualname__") else type(func)
    name = f"{named.__module__}:{named.__qualname__}"
    if name.endswith("<lambda>"):
        name += f" {code_hash(func)}"
    bound = _bound(func)
    return f"{name} with {digest_of(bound):016x}" if bound else name


def _bound(func: Callable[..., Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    closure = getattr(func, "__closure__", None)
    if isinstance(closure, tuple):
        for name, cell in zip(func.__code__.co_freevars, closure, strict=True):
            with contextlib.suppress(ValueError):  # a cell that is still empty
                found.append((name, cell.cell_contents))
    owner = getattr(func, "__self__", None if hasattr(func, "__qualname__") else func)
    state = getattr(owner, "__dict__", None)
    if isinstance(state, dict) and not isinstance(owner, type):
        with contextlib.suppress(TypeError, ValueError):  # its constructor tells nothing
            found += [(name, state[name]) for name in inspect.signature(type(owner)).parameters if name in state]
    return [(name, value) for name, value in found if _plain(value)]


def _plain(value: Any) -> bool:
    if type(value) in (tuple, frozenset):
        return all(map(_plain, value))
    return type(value) in _PLAIN or (hasattr(value, "dtype") and hasattr(value, "nbytes"))


def finished_items(path: str | Path) -> int:
    """How many items a checkpoint file says are finished, without looking closer; 0 where there is none."""
    try:
        with Path(path).open("rb") as file:
            if file.readline() != MAGIC:
                return 0
            file.readline()
            items = 0
            while len(head := file.read(_RECORD.size)) == _RECORD.size:
                _, _, count, length = _RECORD.unpack(head)
                items += count
                file.seek(length, os.SEEK_CUR)
            return items
    except FileNotFoundError:
        return 0


class Checkpoint:
    """One run's hold on its file; a context manager that syncs and closes it. Made by `Checkpoint.open`."""

    def __init__(self, path: Path, handle: int, clock: Clock, interval: float) -> None:
        self._path = path
        self._handle = handle
        self._clock = clock
        self._interval = interval
        self._synced = clock.monotonic()
        self._dirty = False
        self._end = 0
        self._records: list[int] = []
        """Indices into the three columns below, by first item."""
        self._firsts, self._counts, self._offsets = array("Q"), array("Q"), array("Q")
        self._at = 0
        self._loaded: tuple[int, memoryview, list[Any], dict[int, ItemFailure]] | None = None

    @classmethod
    def open(cls, path: str | Path, func: Callable[..., Any], clock: Clock, interval: float = 1.0) -> Checkpoint:
        """Make the file, or take it up again. Raises CheckpointMismatch where it is of another function, Conflict where another run has
        it open, Untrusted where somebody else could have written it."""
        import fcntl

        path = Path(path)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreUnavailable(
                f"checkpoint: {path} cannot be opened: {_why(path, error)}", field="checkpoint"
            ) from error
        try:
            _must_be_ours(path, os.fstat(handle))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(f"checkpoint: another run has {path} open", field="checkpoint") from error
            checkpoint = cls(path, handle, clock, interval)
            checkpoint._read_header(identity_of(func), code_hash(func))
            checkpoint._read_records()
        except BaseException:
            os.close(handle)
            raise
        return checkpoint

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.sync()
        finally:
            os.close(self._handle)

    def kept(self, first: int, count: int) -> tuple[bool, int]:
        """How many of the `count` items from `first` on may be taken together, and whether they are here. `first` never goes back."""
        while self._at < len(self._records):
            record = self._records[self._at]
            start = self._firsts[record]
            end = start + self._counts[record]
            if end > first:
                return (True, min(count, end - first)) if start <= first else (False, min(count, start - first))
            self._at += 1
        return False, count

    def load(self, first: int, count: int, items: list[Any]) -> tuple[list[Any], dict[int, ItemFailure]]:
        """What became of `items`, by `kept` known to be here: values, and failures by index. Raises CheckpointMismatch where they are
        not the items that the results belong to."""
        if len(items) < count:
            self.must_end_by(first + len(items))
        record = self._records[self._at]
        if self._loaded is None or self._loaded[0] != record:
            self._loaded = (record, *self._read_record(record))
        _, digests, values, failed = self._loaded
        start = first - self._firsts[record]
        for offset, item in enumerate(items):
            known = digests[start + offset]
            if known and known != digest_of(item):
                raise self._mismatch(f"item {first + offset} is another one now")
        here = {}
        for index, failure in failed.items():
            if first <= index < first + count:
                here[index] = replace(failure, item=items[index - first])
        return values[start : start + count], here

    def must_end_by(self, count: int) -> None:
        """There are `count` items. Raises CheckpointMismatch where it was made from more."""
        items = max(map(int.__add__, self._firsts, self._counts), default=0)
        if items > count:
            raise self._mismatch(f"it has results of {items} items, there are only {count}")

    def record(self, first: int, items: list[Any], values: list[Any], failed: dict[int, ItemFailure]) -> None:
        """Write down a finished run of items. Raises NotPicklable where a result cannot be kept."""
        digests = array("Q", map(digest_of, items)).tobytes()
        payload = digests + _pickled(first, values, failed)
        head = _RECORD.pack(0, first, len(items), len(payload))[4:]
        crc = zlib.crc32(payload, zlib.crc32(head))
        self._write(crc.to_bytes(4, "little") + head + payload)
        if self._clock.monotonic() - self._synced >= self._interval:
            self.sync()

    def sync(self) -> None:
        """What was recorded until now survives a power failure."""
        if self._dirty:
            os.fsync(self._handle)
            self._dirty = False
        self._synced = self._clock.monotonic()

    def _read_header(self, identity: str, code: str) -> None:
        mine = MAGIC + json.dumps({"function": identity, "code": code}).encode() + b"\n"
        there = os.pread(self._handle, 1 << 16, 0)
        if mine.startswith(there):  # new, or torn while it was made
            if there != mine:
                self._write(mine)
                flush_folder(self._path.parent)
            self._end = len(mine)
            return
        if not there.startswith(MAGIC):
            raise self._mismatch("it is no checkpoint file")
        line = there[len(MAGIC) :].partition(b"\n")[0]
        header = _header(line)
        if header.get("function") != identity:
            raise self._mismatch(_another(str(header.get("function")), identity))
        if header.get("code") != code:
            warnings.warn(
                f"checkpoint: the code of {identity} has changed since {self._path} was begun; what is finished there keeps the results "
                "of the old code. Remove the file to begin anew",
                RuntimeWarning,
                stacklevel=2,
            )
        self._end = len(MAGIC) + len(line) + 1

    def _read_records(self) -> None:
        size = os.fstat(self._handle).st_size
        while (head := os.pread(self._handle, _RECORD.size, self._end)) and len(head) == _RECORD.size:
            crc, first, count, length = _RECORD.unpack(head)
            start = self._end + _RECORD.size
            if start + length > size:
                break
            check = zlib.crc32(head[4:])
            for piece in self._pieces(start, length):
                check = zlib.crc32(piece, check)
            if check != crc:
                break
            self._firsts.append(first)
            self._counts.append(count)
            self._offsets.append(start)
            self._end = start + length
        if self._end < size:
            os.ftruncate(self._handle, self._end)
        self._records = sorted(range(len(self._firsts)), key=self._firsts.__getitem__)

    def _read_record(self, record: int) -> tuple[memoryview, list[Any], dict[int, ItemFailure]]:
        offset, count = self._offsets[record], self._counts[record]
        head = os.pread(self._handle, _RECORD.size, offset - _RECORD.size)
        payload = b"".join(self._pieces(offset, _RECORD.unpack(head)[3]))
        values, failed = pickle.loads(memoryview(payload)[8 * count :])  # noqa: S301 - ours: `_must_be_ours`
        return memoryview(payload[: 8 * count]).cast("Q"), values, failed

    def _pieces(self, start: int, length: int) -> Iterator[bytes]:
        end = start + length
        while start < end:
            piece = os.pread(self._handle, min(_PIECE, end - start), start)
            if not piece:
                return
            yield piece
            start += len(piece)

    def _write(self, payload: bytes) -> None:
        view = memoryview(payload)
        try:
            while view:
                written = os.pwrite(self._handle, view, self._end)
                view = view[written:]
                self._end += written
        except OSError as error:
            raise StoreUnavailable(
                f"checkpoint: {self._path} cannot be written: {error.strerror}", field="checkpoint"
            ) from error
        self._dirty = True

    def _mismatch(self, what: str) -> CheckpointMismatch:
        return CheckpointMismatch(
            f"checkpoint: {self._path}: {what}. Nothing was changed; give another file, or delete this one to start anew",
            field="checkpoint",
        )


def _pickled(first: int, values: list[Any], failed: dict[int, ItemFailure]) -> bytes:
    kept = {index: replace(failure, item=None) for index, failure in failed.items()}
    try:
        return pickle.dumps((values, kept), 5)
    except Exception:  # which part it is, is looked for only now
        for index, failure in kept.items():
            if not _picklable(failure.error):
                told = ItemFailed(f"{type(failure.error).__name__}: {failure.error}")
                kept[index] = replace(failure, error=told)
        for offset, value in enumerate(values):
            if not _picklable(value):
                raise NotPicklable(
                    f"checkpoint: the result of item {first + offset}, a {type(value).__name__}, cannot be pickled, so it "
                    "cannot be kept; return plain data or leave out checkpoint",
                    field="checkpoint",
                ) from None
        return pickle.dumps((values, kept), 5)


def _picklable(value: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(value, 5))  # noqa: S301 - what was pickled here just now
    except Exception:
        return False
    return True


def _must_be_ours(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Untrusted(f"checkpoint: {path} is no regular file", field="checkpoint")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Untrusted(
            f"checkpoint: {path} can be written by others, and it holds pickles, which can run code; "
            "chmod 600 it if you know where it is from, or give another file",
            field="checkpoint",
        )


def _why(path: Path, error: OSError) -> str:
    return "it is a symbolic link; give the file that it leads to" if path.is_symlink() else str(error.strerror)


def _header(line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    return header if isinstance(header, dict) else {"function": line.decode(errors="replace")}


def _another(there: str, identity: str) -> str:
    if there.partition(" with ")[0] == identity.partition(" with ")[0]:
        return f"what is bound to {identity.partition(' with ')[0]} (arguments, variables) was something else then"
    return f"it is of another function, {there}; this is {identity}"

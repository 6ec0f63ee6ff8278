"""Artifacts: immutable bytes named by their SHA-256, in a folder or in memory.

The folder keeps `ab/abcdef…`. A file is written beside its place, flushed to the disk, and renamed; then the folder that now
names it is flushed. So after a crash at any instant a digest either names all of its bytes or nothing, and what is read is
verified every time: a disk that lies is noticed before a model serves.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from everloop.core.errors import ArtifactCorrupt, StoreUnavailable
from everloop.core.hashing import artifact_digest
from everloop.stores.folders import flush_folder

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class MemoryArtifacts:
    """The `ArtifactStore` port without a folder."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._payloads: dict[str, bytes] = {}
        self._put_at: dict[str, float] = {}

    def put(self, payload: bytes) -> str:
        digest = artifact_digest(payload)
        with self._lock:
            self._payloads[digest] = bytes(payload)
            self._put_at[digest] = time.monotonic()
        return digest

    def renew(self, digest: str) -> bool:
        with self._lock:
            if digest in self._payloads:
                self._put_at[digest] = time.monotonic()
            return digest in self._payloads

    def get(self, digest: str) -> bytes:
        try:
            return self._payloads[digest]
        except KeyError:
            raise _missing(digest) from None

    def now(self) -> float:
        return time.monotonic()

    def delete(self, digest: str, *, before: float | None = None) -> int | None:
        with self._lock:
            if digest not in self._payloads or (before is not None and self._put_at[digest] >= before):
                return None
            return len(self._payloads.pop(digest))

    def sweep(self, *, idle: float) -> int:  # noqa: ARG002 - the port's
        """Nothing is ever half written."""
        return 0

    def digests(self) -> list[str]:
        return sorted(self._payloads)


class FolderArtifacts:
    """The `ArtifactStore` port in a folder, which may be shared by several processes."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Raises StoreUnavailable if the folder cannot be made (`read_only`: is not made)."""
        self._path = Path(path)
        self._lock = threading.Lock()
        if read_only:
            return
        with _unavailable(f"cannot use {self._path} for artifacts"):
            self._path.mkdir(parents=True, exist_ok=True)

    def put(self, payload: bytes) -> str:
        digest = artifact_digest(payload)
        place = self._place(digest)
        with self._lock, _unavailable(f"cannot store artifact {digest[:12]}…"), self._among_processes(alone=False):
            if self._intact(place, digest):
                _touch(place)
                return digest
            if not place.parent.is_dir():
                place.parent.mkdir(exist_ok=True)
                flush_folder(self._path)
            draft = place.with_name(f".{digest[:12]}-{uuid.uuid4().hex}.tmp")
            try:
                with draft.open("xb") as file:
                    file.write(payload)
                    file.flush()
                    os.fsync(file.fileno())
                _touch(draft)
                draft.replace(place)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            flush_folder(place.parent)
        return digest

    def renew(self, digest: str) -> bool:
        place = self._place(digest)
        with self._lock, _unavailable(f"cannot renew artifact {digest[:12]}…"), self._among_processes(alone=False):
            try:
                _touch(place)
            except FileNotFoundError:
                return False
        return True

    def get(self, digest: str) -> bytes:
        place = self._place(digest)
        try:
            payload = place.read_bytes()
        except FileNotFoundError:
            raise _missing(digest) from None
        except OSError as error:
            raise StoreUnavailable(f"cannot read artifact {digest[:12]}…: {error}") from error
        if artifact_digest(payload) != digest:
            raise ArtifactCorrupt(
                f"artifact {digest[:12]}… is damaged: the {len(payload)} bytes of {place} are not those that were stored; "
                "restore the file from a backup or promote another version"
            )
        return payload

    def now(self) -> float:
        return time.time()

    def delete(self, digest: str, *, before: float | None = None) -> int | None:
        place = self._place(digest)
        with self._lock, _unavailable(f"cannot delete artifact {digest[:12]}…"), self._among_processes(alone=True):
            return _delete(place, before)

    def sweep(self, *, idle: float) -> int:
        with self._lock, _unavailable("cannot delete unfinished artifacts"), self._among_processes(alone=True):
            before = self.now() - idle
            return sum(_delete(draft, before) or 0 for draft in self._path.glob("??/.*.tmp"))

    def digests(self) -> list[str]:
        with _unavailable("cannot list artifacts"):
            return sorted(file.name for file in self._path.glob("??/*") if _DIGEST.match(file.name))

    def path_of(self, digest: str) -> Path:
        """The file that holds an artifact, for another process to read (and to verify)."""
        return self._place(digest)

    def _place(self, digest: str) -> Path:
        if not _DIGEST.match(digest):  # also keeps a forged digest from leaving the folder
            raise ArtifactCorrupt(f"{digest[:80]!r} is not the digest of an artifact (64 hexadecimal digits)")
        return self._path / digest[:2] / digest

    @contextlib.contextmanager
    def _among_processes(self, *, alone: bool) -> Iterator[None]:
        """Puts of all processes go side by side; a deletion is alone, so nothing is put between its look and its deed. Where there
        is no such lock (Windows, some network drives), the grace period of whoever deletes has to do."""
        handle = None
        try:
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                handle = os.open(self._path, os.O_RDONLY)
                fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def _intact(self, place: Path, digest: str) -> bool:
        """A damaged file is written anew by `put`, not trusted for its name."""
        try:
            return artifact_digest(place.read_bytes()) == digest
        except FileNotFoundError:
            return False


def _touch(place: Path) -> None:
    """By the clock that `_delete` asks: the file system's own is a few milliseconds behind it."""
    now = time.time_ns()
    os.utime(place, ns=(now, now))


def _delete(place: Path, before: float | None) -> int | None:
    try:
        there = place.stat()
        if before is not None and there.st_mtime >= before:
            return None
        place.unlink()
    except FileNotFoundError:
        return None
    return there.st_size


def _missing(digest: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"artifact {digest[:12]}… is missing from the store")


@contextlib.contextmanager
def _unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{what}: {error.strerror or error}") from error

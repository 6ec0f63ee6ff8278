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
        self._payloads: dict[str, bytes] = {}

    def put(self, payload: bytes) -> str:
        digest = artifact_digest(payload)
        self._payloads[digest] = bytes(payload)
        return digest

    def get(self, digest: str) -> bytes:
        try:
            return self._payloads[digest]
        except KeyError:
            raise _missing(digest) from None

    def delete(self, digest: str) -> None:
        self._payloads.pop(digest, None)

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
        with self._lock, _unavailable(f"cannot store artifact {digest[:12]}…"):
            if self._intact(place, digest):
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
                draft.replace(place)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            flush_folder(place.parent)
        return digest

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

    def delete(self, digest: str) -> None:
        with _unavailable(f"cannot delete artifact {digest[:12]}…"):
            self._place(digest).unlink(missing_ok=True)

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

    def _intact(self, place: Path, digest: str) -> bool:
        """A damaged file is written anew by `put`, not trusted for its name."""
        try:
            return artifact_digest(place.read_bytes()) == digest
        except FileNotFoundError:
            return False


def _missing(digest: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"artifact {digest[:12]}… is missing from the store")


@contextlib.contextmanager
def _unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{what}: {error.strerror or error}") from error

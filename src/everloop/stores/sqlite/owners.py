"""Whether the owner of a lease is still alive: a lock on a small file beside the database, which dies with its process.

    everloop.db      leases: name -> owner, until
    owners/OWNER     locked (flock) as long as that owner's process lives; empty

After `kill -9` a lease would otherwise hold up the next learner until it runs out. A file that nobody has locked is the dead's.
One that is missing, or a system that cannot tell (no flock, a network drive), proves nothing: then the lease has to run out.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from sqlite3 import Connection


class Owners:
    """Used by the journal's writer thread only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}

    def show(self, owner: str) -> None:
        """Lock this owner's file, from now until `close`."""
        if owner in self._held:
            return
        try:
            self._folder.mkdir(exist_ok=True)
            handle = os.open(self._file(owner), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:  # nobody will be able to tell: the lease runs out instead
            self._held[owner] = -1
            return
        if _locked(handle):
            self._held[owner] = handle
        else:
            os.close(handle)
            self._held[owner] = -1

    def bury(self, connection: Connection, owner: str) -> bool:
        """Whether this owner is known to be dead; all its leases are then gone."""
        if owner in self._held:
            return False
        try:
            handle = os.open(self._file(owner), os.O_RDWR)
        except OSError:
            return False
        try:
            if not _locked(handle):
                return False
            connection.execute("DELETE FROM leases WHERE owner = ?", (owner,))
            self._file(owner).unlink(missing_ok=True)
        finally:
            os.close(handle)
        return True

    def close(self) -> None:
        for owner, handle in self._held.items():
            if handle >= 0:
                self._file(owner).unlink(missing_ok=True)
                os.close(handle)
        self._held.clear()

    def _file(self, owner: str) -> Path:
        return self._folder / hashlib.sha256(owner.encode()).hexdigest()[:16]


def _locked(handle: int) -> bool:
    """Whether the lock is ours now."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

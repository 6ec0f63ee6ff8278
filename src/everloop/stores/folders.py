"""What makes a new or renamed file durable besides its own bytes: the folder that names it."""

from __future__ import annotations

import os
from pathlib import Path


def flush_folder(path: Path) -> None:
    """A rename, or a new name, survives a power failure once its folder `path` is on disk."""
    if os.name == "nt":  # there a folder cannot be opened, and a rename is durable by itself
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""What reading a zip file that somebody else made may raise: its names, sizes and offsets are only claims."""

from __future__ import annotations

import struct
import zipfile
import zlib

UNREADABLE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,  # encrypted; NotImplementedError: a later version of the format, a compression that is not known
    ValueError,  # a place before the file's beginning; UnicodeDecodeError: a name that is no text
)
"""Some errors of everloop's own are ValueErrors and RuntimeErrors as well: let those through first."""

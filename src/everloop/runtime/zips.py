"""Files of everloop's own kinds, which are zip files: what their list of contents begins with, and what reading one that somebody else made
may raise, since its names, sizes and offsets are only claims."""

from __future__ import annotations

import struct
import zipfile
import zlib

import msgspec

from everloop.core.structs import looked_into

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


@looked_into
class Header(msgspec.Struct, frozen=True):
    """Of a list of contents: read before the rest, which a newer layout may have changed."""

    format: str
    layout: int
    everloop: str = ""
    """The version that wrote it."""

"""Python's standard output and error where Node has them too.

Node makes the pipes and sockets among its descriptors 0 to 2 non-blocking, and that is a property of the pipe's open end, which
both languages share. A file object of Python's gives up in the middle when such a pipe is full; these wait for its reader.
"""

from __future__ import annotations

import io
import select
import sys
from typing import Any


class PatientFile(io.FileIO):
    """Writes all that it is given, however long its reader takes, whether or not the descriptor blocks."""

    def write(self, data: Any, /) -> int:
        with memoryview(data).cast("B") as rest:
            done = 0
            while done < len(rest):
                with rest[done:] as part:
                    written = super().write(part)
                if written is None:
                    wait_for_room(self.fileno())
                else:
                    done += written
            return done


def wait_for_room(fd: int) -> None:
    room = select.poll()
    room.register(fd, select.POLLOUT)
    room.poll()


def wait_when_full() -> None:
    """Have `sys.stdout` and `sys.stderr` wait for their readers; once is enough, twice does no harm."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, f"__{name}__")
        if type(stream) is not io.TextIOWrapper or stream.closed or stream.fileno() != fd:
            continue  # There is none, or it is not the descriptor that Node shares.
        raw = getattr(stream.buffer, "raw", stream.buffer)
        if isinstance(raw, PatientFile):
            continue
        stream.flush()
        patient = PatientFile(fd, "wb", closefd=False)
        patient.name = stream.name
        made = io.TextIOWrapper(
            patient if raw is stream.buffer else io.BufferedWriter(patient),  # The first with PYTHONUNBUFFERED.
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        made.mode = "w"  # type: ignore[misc]
        if getattr(sys, name) is stream:
            setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)

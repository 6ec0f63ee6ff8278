"""The program of a fitting process: reads fits from its standard input, answers on what was its standard output.

It is started with `python -c` and never imports the caller's `__main__`: a script without an `if __name__` guard must not run
twice. What an estimator prints goes to standard error, which the parent keeps for its error messages.

It must not outlive its parent, in whatever way that ends. Two things tell: the end of standard input, and another parent process
id (a third process may have inherited the pipe's other end and keep it open).

    frame   8 bytes little-endian length, then that many bytes
    in      cloudpickle of a `FitJob`
    out     msgpack of a `Reply`: the parent unpickles nothing that an estimator could have written
"""

from __future__ import annotations

import os
import queue
import signal
import struct
import sys
import threading
import time
from typing import BinaryIO, NoReturn

import msgspec

_LENGTH = struct.Struct("<Q")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Reply(msgspec.Struct):
    result: bytes | None = None
    """msgpack of a `FitResult`; None where the fit failed."""
    error: str = ""
    unreadable: bool = False
    """The job could not be unpickled here: its classes are from a module that only the parent can import."""


def write_frame(stream: BinaryIO, payload: bytes) -> None:
    stream.write(_LENGTH.pack(len(payload)))
    # In pieces: a blocked write of the whole would be fine, a copy of the whole would not.
    view = memoryview(payload)
    stream.writelines(view[start : start + (1 << 18)] for start in range(0, len(view), 1 << 18))
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes | None:
    """None at the end of the stream, also in the middle of a frame."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    payload = stream.read(length)
    return payload if len(payload) == length else None


def main(niceness: int, threads: int, parent: int) -> NoReturn:
    """Never returns: ends with the parent."""
    inbox, outbox = _take_over_standard_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us in its own order
    if hasattr(os, "nice"):
        os.nice(niceness)
    for name in _THREADS:
        os.environ.setdefault(name, str(threads))
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(inbox, jobs), daemon=True).start()
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    while True:
        payload = jobs.get()
        write_frame(outbox, msgspec.msgpack.encode(_answer(payload)))


def _take_over_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    inbox = os.fdopen(os.dup(0), "rb")
    outbox = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device, not a path of ours
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return inbox, outbox


def _read(inbox: BinaryIO, jobs: queue.SimpleQueue[bytes]) -> None:
    while (payload := read_frame(inbox)) is not None:
        jobs.put(payload)
    os._exit(0)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def _answer(payload: bytes) -> Reply:
    import cloudpickle

    from everloop.core.errors import explain
    from everloop.learning.challenge import run_fit, with_state

    try:
        job = cloudpickle.loads(payload)
    except Exception as error:
        return Reply(error=explain(error), unreadable=True)
    try:
        return Reply(result=msgspec.msgpack.encode(with_state(*run_fit(job))))
    except (Exception, SystemExit) as error:
        return Reply(error=explain(error))
    finally:
        sys.stderr.flush()

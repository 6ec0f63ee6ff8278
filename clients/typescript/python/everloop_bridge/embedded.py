"""Starts the bridge inside a Node process that has booted this interpreter, on one end of a socket pair."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import socket
import sys
import threading
import traceback
from typing import Any

from everloop_bridge import wire
from everloop_bridge.connection import Connection
from everloop_bridge.engine import Engine
from everloop_bridge.printing import wait_when_full

SWITCH_INTERVAL_S = 0.000_5
"""Python's own is 5 ms: a small call beside busy Python threads would wait that long for each of them."""

_bridges: set[Engine] = set()
_lock = threading.Lock()


def start(fd: int, options: dict[str, Any]) -> None:
    """Serve a new bridge on `fd`, greeting first; an error becomes the greeting. Called on Node's main thread."""
    os.set_inheritable(fd, False)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd)
    try:
        _prepare(options["modulePath"])
        engine = Engine(options["poolSize"], options["fast"], options["modulePath"])
        connection = Connection(sock, engine, same_process=True, ended=lambda asked: _ended(engine, asked))
    except BaseException as error:
        told = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        sock.sendall(wire.frame(wire.HELLO, 0, wire.Codec().encode(told)))
        sock.close()
        return
    with _lock:
        _bridges.add(engine)
    connection.hello()
    connection.start()


def _prepare(module_path: list[str]) -> None:
    for folder in reversed(module_path):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    if sys.getswitchinterval() > SWITCH_INTERVAL_S:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
    if not hasattr(sys, "argv") or not sys.argv:
        sys.argv = [""]
    # A fork of Node's process, with its threads and its engine, must not run on: children are started afresh.
    multiprocessing.set_start_method("spawn", force=True)
    # Node marks its own descriptors 0 to 2 as not for children; Python's children expect them.
    for fd in range(3):
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, True)
    wait_when_full()
    # Node may end without a word, and Python's buffers with it.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def _ended(engine: Engine, asked: bool) -> None:
    engine.close()
    with _lock:
        _bridges.discard(engine)
        last = not _bridges
    if asked and last:
        run_exit_hooks()


def run_exit_hooks() -> None:
    """What Python does when it ends, short of ending: Node's process goes on, or ends in its own way."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # What a program closed, or put in the stream's place, has nothing to write out.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()

